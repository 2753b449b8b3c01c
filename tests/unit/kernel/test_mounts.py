"""What of the mounts in mountinfo is seen, and where others are seen in their place."""

from __future__ import annotations

import pytest

from mematlas.kernel.mounts import parse_mounts

ROOT = b"27 1 254:0 / / rw - ext4 /dev/vda rw"
"""Later than what is mounted in it, by its number: as an initramfs leaves it."""


def line(number: int, parent: int, point: str) -> bytes:
    return b"%d %d 0:%d / %s rw - tmpfs none rw" % (number, parent, number, point.encode())


@pytest.mark.parametrize(
    ("others", "seen"),
    [
        ([line(22, 27, "/proc")], {"/": {"/proc"}, "/proc": set()}),
        ([line(30, 27, "/srv/a"), line(31, 27, "/srv")], {"/": {"/srv/a", "/srv"}, "/srv": set()}),
        ([line(30, 27, "/srv"), line(31, 30, "/srv/a")], {"/": {"/srv"}, "/srv": {"/srv/a"}, "/srv/a": set()}),
        ([line(30, 27, "/srv"), line(31, 30, "/srv/a"), line(32, 30, "/srv")], {"/": {"/srv"}, "/srv": set()}),
        ([line(30, 27, "/srv"), line(31, 30, "/srv/a/b"), line(32, 30, "/srv/a")], {
            "/": {"/srv"}, "/srv": {"/srv/a/b", "/srv/a"}, "/srv/a": set()
        }),
        ([line(30, 27, "/srv"), line(31, 27, "/srv")], {"/": {"/srv"}, "/srv": set()}),
    ],
    ids=["in the root", "above it", "in it", "over it", "above it, within", "twice at one place"],
)  # fmt: skip
def test_only_mounts_are_told_that_a_path_leads_to(others: list[bytes], seen: dict[str, set[str]]) -> None:
    found = parse_mounts([*others, ROOT])
    assert {
        mount.point.decode(): {place.decode() for places in mount.hidden.values() for place in places}
        for mount in found
    } == seen


def test_root_that_is_in_itself_is_seen_until_another_is_mounted_over_it() -> None:
    first = b"1 1 0:1 / / rw - rootfs none rw"
    assert [mount.fs for mount in parse_mounts([first, line(22, 1, "/proc")])] == ["rootfs", "tmpfs"]
    assert [mount.fs for mount in parse_mounts([first, ROOT])] == ["ext4"]


def test_mounts_in_one_another_without_end_are_not_seen() -> None:
    assert parse_mounts([line(30, 31, "/a/b"), line(31, 30, "/a/c")]) == []


def test_of_twice_the_same_place_the_last_is_seen() -> None:
    (mount,) = (one for one in parse_mounts([ROOT, line(30, 27, "/srv"), line(31, 30, "/srv")]) if one.fs == "tmpfs")
    assert mount.dev == "00:1f"
