"""Frames listed from files that were made: what is asked for is found, wherever a lot or a range of RAM ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers import write_words
from mematlas.analysis.frame_list import parse_frame_flags
from mematlas.errors import TargetNotFound
from mematlas.kernel.kpage import RUN, tells_ksm
from mematlas.kernel.procfs import ProcFS
from mematlas.model.census.kernelfiles import census_of_files
from mematlas.model.census.kinds import Kind
from mematlas.model.page_frames import KSM_NOT_SHOWN
from mematlas.observe import frames
from mematlas.observe.frame_list import FrameList

PAGE = 4096
BUDDY, ANON, SLAB, HEAD, TAIL, NOPAGE = (1 << bit for bit in (10, 12, 7, 15, 16, 20))
FIRST, END = 16, 3 * RUN
HUGE, NR_HUGE = RUN, 32
"""A folio that reaches into the next lot, which begins half-way in it."""


@pytest.fixture
def procfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProcFS:
    monkeypatch.setattr(frames, "read_memory_blocks", list)
    (tmp_path / "iomem").write_text(
        f"{FIRST * PAGE:08x}-{2 * RUN * PAGE - 1:08x} : System RAM\n"
        f"{(2 * RUN + 64) * PAGE:08x}-{END * PAGE - 1:08x} : System RAM\n"
    )
    words = dict.fromkeys(range(FIRST, END), BUDDY)
    words |= {HUGE: ANON | HEAD} | dict.fromkeys(range(HUGE + 1, HUGE + NR_HUGE), TAIL)
    words |= {100: SLAB | ANON, 101: SLAB | 1 << 27, END - 1: NOPAGE}
    write_words(tmp_path / "kpageflags", words)
    write_words(tmp_path / "kpagecount", dict.fromkeys(range(HUGE, HUGE + NR_HUGE), 2) | {END: 0})
    return ProcFS(str(tmp_path), PAGE)


def runs(procfs: ProcFS, flags: str, spans: list[tuple[int, int]] | None = None) -> list[tuple[int, int, str]]:
    listed = FrameList(procfs, parse_frame_flags(flags), spans)
    return [row for rows in listed.runs() for row in zip(rows.pfns, rows.nr_pages, rows.kinds, strict=True)]


def test_a_run_ends_where_ram_does_and_not_where_a_lot_does(procfs: ProcFS) -> None:
    assert runs(procfs, "buddy,!bit_27") == [
        (FIRST, 100 - FIRST, "free"),
        (102, HUGE - 102, "free"),
        (HUGE + NR_HUGE, 2 * RUN - HUGE - NR_HUGE, "free"),
        (2 * RUN + 64, END - 1 - 2 * RUN - 64, "free"),
    ]


def test_a_tail_is_of_the_kind_of_its_head_in_another_lot_and_before_the_range(procfs: ProcFS) -> None:
    assert runs(procfs, "compound_tail") == [(HUGE + 1, NR_HUGE - 1, "anon")]
    assert runs(procfs, "compound_tail", [(HUGE + 19, HUGE + 22)]) == [(HUGE + 19, 3, "anon")]


def test_ram_without_a_frame_is_offline(procfs: ProcFS) -> None:
    assert runs(procfs, "nopage") == [(END - 1, 1, "offline")]


def test_single_frames_have_their_flags_and_how_often_they_are_mapped(procfs: ProcFS) -> None:
    (rows,) = FrameList(procfs, parse_frame_flags("slab")).batches()
    assert (rows.pfns, rows.flags, rows.counts) == ([100, 101], [("slab",), ("slab", "bit_27")], [0, 0])
    (rows,) = FrameList(procfs, parse_frame_flags("compound"), limit=3).batches()
    assert (rows.pfns, rows.counts) == ([HUGE, HUGE + 1, HUGE + 2], [2, 2, 2])
    assert rows.kinds == ["anon"] * 3


def test_ksm_is_not_believed_where_what_it_means_cannot_be_found_out(procfs: ProcFS) -> None:
    assert tells_ksm(procfs) is None  # no page of ours is in files that were made
    write_words(Path(procfs.root) / "kpageflags", {FIRST: ANON | 1 << 21, FIRST + 1: ANON | 1 << 21})
    listed = FrameList(procfs, parse_frame_flags("anon"))

    assert [rows.kinds for rows in listed.runs()] == [["anon"]]
    assert KSM_NOT_SHOWN in listed.notes
    assert census_of_files(procfs, [(FIRST, FIRST + 2)], []).counts()[Kind.ANON].sum() == 2


def test_counts_by_flags_add_up_to_all_of_ram(procfs: ProcFS) -> None:
    result = FrameList(procfs).count()
    assert sum(use.nr_pages for use in result.uses) == result.nr_frames == END - FIRST - 64
    assert {use.flags: use.nr_pages for use in result.uses}["slab",] == 1


def test_a_range_without_ram_has_no_frames(procfs: ProcFS) -> None:
    for span in ((0, FIRST), (2 * RUN, 2 * RUN + 64), (END, END + 1)):
        with pytest.raises(TargetNotFound, match="no such frames"):
            FrameList(procfs, spans=[span])
