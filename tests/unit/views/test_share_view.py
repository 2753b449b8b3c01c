"""Who shares with whom, compared whole: a matrix, pairs, sets and VMAs, on screens of several widths."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mematlas.analysis.results import Reading
from mematlas.analysis.sharing import KINDS, SharedPair, SharedSet, SharedVma, Sharer, ShareResult, Through
from mematlas.frozen import replace
from mematlas.views.share import sets_view, share_view
from mematlas.views.table import Table
from mematlas.views.writers import write

EXPECTED = Path(__file__).parent / "expected"
MIB = 1 << 20
LIBRARY = Through("file", "/usr/lib/x86_64-linux-gnu/libcrypto.so.3", ("fe:00", 31))
MEMORY = Through("shmem", "/dev/zero (deleted)", ("00:01", 57))
HEAP = Through("cow", "[heap]", None, (0x55D0C1A2F000, 0x55D0C1B2F000))
MAPPED = Through("shmem", "/dev/zero (deleted)", ("00:01", 57), (0x7F0000000000, 0x7F0008000000))
NAUGHTY = Through("file", "/tmp/a\nb\x1b[2J\udcff", ("fe:00", 33))
VMAS = (
    SharedVma(MAPPED, (0x7F1000000000, 0x7F1008000000), "/dev/zero (deleted)", 128 * MIB),
    SharedVma(HEAP, (0x55D0C1A2F000, 0x55D0C1B2F000), "[anon:arena]", MIB),
)


def sharer(pid: int, size: int, hugetlb: int) -> Sharer:
    return Sharer(
        name="postgres\x1b",
        pids=(pid,),
        rss=(size + 30) * MIB,
        pss=size * MIB // 2,
        uss=5 * MIB,
        alone=6 * MIB,
        shared=size * MIB,
        others=8 * MIB,
        others_only=2 * MIB,
        hugetlb=hugetlb * MIB,
        hugetlb_shared=hugetlb * MIB,
    )


def result(nr: int, hugetlb: int = 0, vmas: tuple[SharedVma, ...] | None = None, nr_pairs: int = 100) -> ShareResult:
    """Return what a database of so many processes would share."""
    sharers = tuple(sharer(4211 + index, 600 - index, hugetlb) for index in range(nr))
    kinds = dict.fromkeys(KINDS, 0) | {"shmem": 128 * MIB, "file": 9 * MIB, "cow": MIB, "hugetlb": hugetlb * MIB}
    pairs = [
        SharedPair(one, other, tuple(kinds.values()), MEMORY, 128 * MIB)
        for index, one in enumerate(sharers)
        for other in sharers[index + 1 :]
    ]
    sets = (
        SharedSet(sharers, MEMORY, 128 * MIB, 0),
        SharedSet(sharers[:2], LIBRARY, 9 * MIB, 3 * MIB),
        SharedSet(sharers[1:], Through("cow", ""), MIB, 0),
        SharedSet(sharers[:2], NAUGHTY, 4096, 0),
    )
    return ShareResult(
        sharers=sharers,
        pairs=tuple(pairs[:nr_pairs]),
        nr_pairs=len(pairs),
        sets=sets,
        nr_sets=9,
        vmas=vmas,
        sharing={},
        refused=(),
        reading=Reading(source="pagemap", duration_s=0.5, torn=False, notes=()),
    )


VIEWS: dict[str, Callable[[], Table]] = {
    "vmas": lambda: share_view(result(2, vmas=VMAS), 20),
    "matrix": lambda: share_view(result(4), 20),
    "matrix-hugetlb": lambda: share_view(result(3, hugetlb=64), 20),
    "pairs": lambda: share_view(result(12, hugetlb=64, nr_pairs=5), 5),
    "sets": lambda: sets_view(result(12), 3),
}


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("width", [80, 0])
def test_text_stands_as_it_was_looked_at(name: str, width: int) -> None:
    lines = list(VIEWS[name]().lines(width=width))
    path = EXPECTED / f"share-{name}-{width or 'wide'}.txt"
    text = "\n".join([*lines, ""])
    if "MEMATLAS_RECORD" in os.environ:
        path.write_text(text)

    assert text == path.read_text()
    assert not width or max(map(len, lines)) <= width


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("width", range(60, 161, 7))
def test_no_line_is_wider_than_the_screen(name: str, width: int) -> None:
    lines = list(VIEWS[name]().lines(width=width))

    assert [line for line in lines if len(line) > width] == []
    assert all(line.isprintable() for line in lines)


def test_matrix_that_has_no_room_gives_way_to_pairs() -> None:
    view = share_view(result(8), 28)

    assert next(line.split()[:2] for line in view.lines(width=80)) == ["PID", "NAME"]
    assert next(line.split()[:2] for line in view.lines(width=160)) == ["PID", "4211"]
    assert len(list(share_view(result(9), 36).lines(width=200))) == 37


def test_process_beside_a_group_is_in_rows_and_columns_by_its_pid() -> None:
    shop, other = replace(sharer(4211, 60, 0), name="name:shop", pids=(4211, 4212)), sharer(4300, 40, 0)
    pair = SharedPair(shop, other, (0, MIB, 0, 0, 0, 0), MEMORY, MIB)
    both = replace(result(2), sharers=(shop, other), pairs=(pair,), sets=())
    lines = list(share_view(both, 20).lines())

    assert lines[0].split()[:3] == ["GROUP", "name:shop", "4300"]
    assert [line.split()[0] for line in lines[1:]] == ["name:shop", "4300"]


def test_rows_are_pairs_and_the_target_has_everybody() -> None:
    out = io.StringIO()
    write(share_view(result(3, hugetlb=64), 20), "json", out, {})
    told = json.loads(out.getvalue())

    assert told["schema"] == "mematlas.share/1"
    row = told["rows"][0]
    assert (row["pid"], row["other_pid"], row["size"], row["hugetlb"]) == (4211, 4212, 138 * MIB, 64 * MIB)
    assert row["size"] == sum(row[kind] for kind in KINDS[:-1])
    assert (row["through"], row["through_size"]) == ("/dev/zero (deleted)", 128 * MIB)
    assert [one["pids"] for one in told["target"]["sharers"]] == [[4211], [4212], [4213]]
    assert told["target"]["sharers"][0]["alone"] == 6 * MIB


def test_rows_of_two_are_vmas() -> None:
    out = io.StringIO()
    write(share_view(result(2, vmas=VMAS), 20), "json", out, {})
    told = json.loads(out.getvalue())

    assert told["schema"] == "mematlas.share-vmas/1"
    assert [(row["start"], row["other_start"], row["path"], row["other_path"]) for row in told["rows"]] == [
        ("0x7f0000000000", "0x7f1000000000", "/dev/zero (deleted)", "/dev/zero (deleted)"),
        ("0x55d0c1a2f000", "0x55d0c1a2f000", "[heap]", "[anon:arena]"),
    ]


def test_one_that_is_alone_has_a_row_and_nothing_to_compare_with() -> None:
    lines = list(share_view(replace(result(1), pairs=(), nr_pairs=0, sets=(), nr_sets=0), 20).lines())

    assert [line.split() for line in lines] == [
        ["PID", "OTHERS", "ALONE", "PSS", "NAME"],
        ["4211", "8", "MiB", "6", "MiB", "300", "MiB", "postgres\\x1b"],
    ]


def test_what_is_left_out_is_said() -> None:
    assert [note.text for note in VIEWS["pairs"]().notes] == ["61 of 66 pairs are left out (--limit)"]
    assert [note.text for note in VIEWS["sets"]().notes] == ["6 of 9 sets are left out (--limit)"]
