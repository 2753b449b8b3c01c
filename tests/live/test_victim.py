"""The victims' truth, proved with the kernel's own smaps; and with that, facts about the kernel."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Outcome
from victim import FIXTURES, KINDS, PATH_KINDS, PLAIN_KINDS, Area, Victim, process_state

Start = Callable[..., Victim]


def smaps(area: Area) -> dict[str, int]:
    """Return what smaps says about the VMA that starts where the area does: bytes, and ``end``."""
    found: dict[str, int] = {}
    for line in Path(f"/proc/{area.pid}/smaps").read_bytes().split(b"\n"):
        name, _, rest = line.partition(b" ")
        if name and not name.endswith(b":"):
            start, end = (int(part, 16) for part in name.split(b"-"))
            if found:
                break
            if start == area.address:
                found["end"] = end
        elif found and rest.endswith(b"kB"):
            found[name[:-1].decode()] = int(rest.split()[0]) * 1024
    return found


def entries(area: Area) -> tuple[int, ...]:
    """Return the area's pagemap entries."""
    with open(f"/proc/{area.pid}/pagemap", "rb", buffering=0) as file:
        words = os.pread(file.fileno(), area.nr_pages * 8, area.address // area.page_size * 8)
    return struct.unpack(f"{area.nr_pages}Q", words)


def maps_path(area: Area) -> bytes:
    """Return the raw path of the area's line in maps, as the kernel wrote it."""
    for line in Path(f"/proc/{area.pid}/maps").read_bytes().split(b"\n"):
        if line.startswith(b"%08x-" % area.address):
            return line.split(maxsplit=5)[5] if len(line.split(maxsplit=5)) > 5 else b""
    raise AssertionError("no such VMA")


def assert_true(area: Area) -> None:
    """Compare every count of the area's truth with smaps, and every page with pagemap."""
    page, fields, words = area.page_size, smaps(area), entries(area)
    assert fields["end"] == area.end
    assert fields["Rss"] == area.nr_resident * page
    assert fields["Private_Clean"] + fields["Private_Dirty"] == area.nr_exclusive * page
    assert fields["Swap"] == area.nr_swapped * page
    assert fields["Private_Hugetlb"] == area.nr_hugetlb * page
    there = ("present", "shared", "zero", "hugetlb")
    assert [word >> 63 for word in words] == [int(state in there) for state in area.states]
    marked = ("swapped", "guard", "marker", "marker_swapped", "guard_swapped")
    assert [word >> 62 & 1 for word in words] == [int(state in marked) for state in area.states]


@pytest.mark.machine
@pytest.mark.parametrize("kind", KINDS)
def test_truth_of_each_kind_is_what_smaps_and_pagemap_say(
    kind: str, victim: Start, request: pytest.FixtureRequest
) -> None:
    if fixture := FIXTURES.get(kind):
        request.getfixturevalue(fixture)
    assert_true(victim(kind)[kind])


def test_many_kinds_live_in_one_process_each_in_its_own_vma(victim: Start) -> None:
    with victim(*PLAIN_KINDS, *PATH_KINDS) as process, process.stopped():
        assert process_state(process.pid) == "T"
        for area in process.areas.values():
            assert_true(area)
    assert not os.path.exists(process.directory)


def test_truth_follows_what_the_process_is_told_to_do(victim: Start) -> None:
    process = victim("anon")

    assert process.touch("anon", 1, 2, 3).nr_resident == 26
    assert process.read("anon", 5).nr_zero == 1
    assert process.drop("anon", 0, 2).nr_resident == 24

    assert_true(process["anon"])


def test_zero_page_is_present_but_not_resident(victim: Start) -> None:
    area = victim("zero")["zero"]

    assert (area.nr_present, area.nr_resident, area.nr_zero) == (36, 7, 29)
    assert smaps(area)["Rss"] == 7 * area.page_size


def test_forked_pages_are_shared_until_one_side_writes(victim: Start) -> None:
    process = victim("anon", "forked")
    child = process.fork()
    for area in (process["forked"], child):
        assert area.nr_exclusive == 0
        assert_true(area)

    parent = process.rewrite_half()
    assert (parent.nr_exclusive, parent.count("shared")) == (31, 30)
    assert_true(parent)
    assert_true(process["forked_child"])
    assert_true(process["anon"])


def test_child_ends_with_the_victim() -> None:
    with Victim("forked") as process:
        child = process.fork()
        with process.stopped():
            assert process_state(child.pid) == "T"
    state = process_state(child.pid) if os.path.exists(f"/proc/{child.pid}") else "gone"
    assert state in ("gone", "Z", "X")


def test_huge_pages_are_reported_by_smaps(victim: Start) -> None:
    area = victim("thp")["thp"]

    assert area.nr_resident == 2 * area.nr_pages // 3
    assert smaps(area)["AnonHugePages"] == area.facts["nr_huge"] * area.page_size


def test_huge_zero_page_is_not_resident(victim: Start) -> None:
    area = victim("huge_zero")["huge_zero"]

    assert area.nr_zero == area.nr_pages // 3
    assert smaps(area)["Rss"] == 0


@pytest.mark.root("CAP_SYS_ADMIN")
def test_ksm_pages_are_one_frame_mapped_many_times(ksm: None, victim: Start) -> None:
    area = victim("ksm")["ksm"]

    frames = {entry & (1 << 55) - 1 for entry in entries(area) if entry >> 63}
    assert len(frames) == 1
    assert smaps(area)["Shared_Dirty"] + smaps(area)["Shared_Clean"] == 47 * area.page_size


def test_shared_memory_in_swap_has_empty_entries(swap: Path, victim: Start) -> None:
    area = victim("shared_anon_swapped")["shared_anon_swapped"]

    assert area.nr_swapped == 41
    # But for the soft-dirty bit, which is that of the VMA.
    assert {entries(area)[page] & ~(1 << 55) for page in range(41)} == {0}


def test_swapped_pages_come_back_when_they_are_touched(swap: Path, victim: Start) -> None:
    process = victim("swapped")
    assert process["swapped"].nr_swapped == 53

    area = process.touch("swapped", *range(0, 53, 2))
    assert area.nr_swapped == 26
    assert_true(area)


def test_guard_markers_are_not_swap(victim: Start) -> None:
    area = victim("guard")["guard"]

    assert area.nr_guard == 13
    assert smaps(area)["Swap"] == 0


def test_locked_memory_is_all_there(victim: Start) -> None:
    area = victim("locked")["locked"]

    assert area.nr_resident == area.nr_pages
    assert smaps(area)["Locked"] == area.size


@pytest.mark.parametrize("kind", PATH_KINDS)
def test_maps_shows_the_path_raw_but_for_newlines(kind: str, victim: Start) -> None:
    area = victim(kind)[kind]

    name = os.fsencode(area.path).replace(b"\n", rb"\012")
    assert maps_path(area) == name + (b" (deleted)" if area.deleted else b"")


def test_private_file_pages_that_were_written_are_anonymous(victim: Start) -> None:
    area = victim("private_file")["private_file"]

    assert smaps(area)["Anonymous"] == area.facts["nr_anon"] * area.page_size


def test_process_that_ended_is_gone(victim: Start) -> None:
    process = victim("anon")
    process.exit()
    assert not os.path.exists(f"/proc/{process.pid}")


# --- other users


def test_function_runs_as_nobody_and_says_what_it_printed(as_nobody: Callable[..., Outcome]) -> None:
    def look() -> tuple[int, int]:
        print("heard")
        return os.geteuid(), os.getegid()

    outcome = as_nobody(look)
    assert outcome == Outcome(0, "heard\n", "", (65534, 65534))


def test_nobody_sees_its_own_pages_but_no_frames(as_nobody: Callable[..., Outcome], victim: Start) -> None:
    area = victim("anon_full", uid=65534)["anon_full"]

    words = as_nobody(lambda: entries(area)).value
    assert all(word >> 63 for word in words)
    assert {word & (1 << 55) - 1 for word in words} == {0}
    assert {word & (1 << 55) - 1 for word in entries(area)} != {0}


@pytest.mark.parametrize(
    ("caps", "file", "opens"),
    [
        ((), "maps", False),
        (("CAP_SYS_PTRACE",), "maps", True),
        (("CAP_SYS_PTRACE",), "smaps", True),
        (("CAP_SYS_PTRACE",), "pagemap", False),
        (("CAP_DAC_READ_SEARCH",), "pagemap", False),
        (("CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"), "pagemap", True),
    ],
)
def test_capabilities_that_open_the_files_of_another_user(
    caps: tuple[str, ...], file: str, opens: bool, as_nobody: Callable[..., Outcome], victim: Start
) -> None:
    path = f"/proc/{victim('anon').pid}/{file}"

    outcome = as_nobody(lambda: os.close(os.open(path, os.O_RDONLY)), caps=caps)
    assert (outcome.code == 0) == opens, outcome.stderr
    assert opens or "PermissionError" in outcome.stderr


def test_process_that_is_not_dumpable_is_closed_to_its_own_user(
    as_nobody: Callable[..., Outcome], victim: Start
) -> None:
    process = victim("anon", uid=65534)
    read = as_nobody(lambda: len(Path(f"/proc/{process.pid}/maps").read_bytes()))
    assert read.value > 0

    process.set_dumpable(False)
    refused = as_nobody(lambda: Path(f"/proc/{process.pid}/maps").read_bytes())
    assert "PermissionError" in refused.stderr
