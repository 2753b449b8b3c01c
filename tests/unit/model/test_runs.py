"""Small VMAs side by side are read in one go: which ones, and that nothing is lost."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

import helpers  # noqa: F401  (the settings of hypothesis)
from mematlas.kernel.maps import Vma
from mematlas.kernel.pagemap import GAP, LAST_ADDRESS
from mematlas.model.runs import key_of, runs_of
from mematlas.words import Kind

PAGE = 4096
PER_TABLE = 512
MOST = 1024
GAPS = (0, 0, 1, GAP, GAP + 1, PER_TABLE)
SIZES = (1, 2, 3, 300, PER_TABLE, 2 * PER_TABLE - 1, 2 * PER_TABLE)
STYLES = (
    ("anon", "rw-p"),
    ("heap", "rw-p"),
    ("file", "r--p"),
    ("file", "r--s"),
    ("shmem", "rw-s"),
    ("special", "r--p"),
)


def vmas_of(told: list[tuple[int, int, tuple[Kind, str]]], start: int = 16 * PAGE) -> list[Vma]:
    vmas = []
    for gap, size, (kind, perms) in told:
        start += gap * PAGE
        vmas.append(
            Vma(start=start, end=start + size * PAGE, perms=perms, offset=0, dev="00:00", inode=0, path="", kind=kind)
        )
        start = vmas[-1].end
    return vmas


@given(st.lists(st.tuples(st.sampled_from(GAPS), st.sampled_from(SIZES), st.sampled_from(STYLES)), max_size=40))
def test_runs_are_all_vmas_in_order_and_each_can_be_read_as_one(told: list[tuple[int, int, tuple[Kind, str]]]) -> None:
    vmas = vmas_of(told)
    runs = list(runs_of(vmas, PAGE, MOST))

    assert [vma for run in runs for vma in run] == vmas
    for run in runs:
        if len(run) == 1:
            continue
        assert run[-1].end - run[0].start <= MOST * PAGE
        assert len(set(map(key_of, run))) == 1
        assert key_of(run[0]) is not None
        assert all(high.start - low.end <= GAP * PAGE for low, high in pairwise(run))
        table = PER_TABLE * PAGE
        assert not any(-(-vma.start // table) * table + table <= vma.end for vma in run), "room for a huge entry"


def test_small_neighbours_are_one_run() -> None:
    told: list[tuple[int, int, tuple[Kind, str]]] = [
        (0, 1, ("anon", "rw-p")),
        (0, 3, ("anon", "r--p")),
        (GAP, 1, ("heap", "rw-p")),
    ]

    assert [len(run) for run in runs_of(vmas_of(told), PAGE, MOST)] == [3]


def test_parts_of_a_file_in_memory_are_a_run_only_where_it_goes_on() -> None:
    def part(number: int, offset: int, perms: str = "rw-s", inode: int = 7) -> Vma:
        return Vma(
            start=number * PAGE,
            end=(number + 1) * PAGE,
            perms=perms,
            offset=offset * PAGE,
            dev="00:01",
            inode=inode,
            path="/memfd:x",
            kind="shmem",
        )

    parts = [part(1, 4), part(2, 5, "r--s"), part(3, 9), part(4, 10, inode=8), part(5, 11, "r--p", 8)]
    parts += [part(6, 12, "rw-p", 8), part(7, 13, "rwxp", 8), part(9, 15, "rw-p", 8)]

    assert [len(run) for run in runs_of(parts, PAGE, MOST)] == [2, 1, 1, 1, 3]


def test_what_pagemap_does_not_show_is_alone() -> None:
    told: list[tuple[int, int, tuple[Kind, str]]] = [(0, 1, ("anon", "rw-p"))] * 4

    assert [len(run) for run in runs_of(vmas_of(told, LAST_ADDRESS - 2 * PAGE), PAGE, MOST)] == [2, 1, 1]
