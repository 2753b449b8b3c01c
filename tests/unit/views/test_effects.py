"""What an act says that it did: the whole page, and what of it is unknown."""

from __future__ import annotations

from typing import Any

import pytest

from mematlas.actions.effects import Effect, Freed
from mematlas.actions.refaults import Refaults, VmaRefaults
from mematlas.frozen import replace
from mematlas.kernel.maps import parse_maps
from mematlas.model.page_set import PageSet
from mematlas.notes import Note
from mematlas.views.effects import Report, effect_table

PAGE = 4 << 10
TARGET = {"pid": 4211, "name": "shop"}
(ANON,) = parse_maps([b"7f0000000000-7f0002000000 rw-p 00000000 00:00 0"])


def pages(nr_pages: int) -> PageSet:
    moved = PageSet(PAGE)
    moved.add(ANON.start, b"\1" * nr_pages)
    return moved


EFFECT = Effect(
    advice="pageout",
    nr_requested=700,
    nr_advised=690,
    nr_moved=512,
    reasons={"shared": 178, "mlocked": 10},
    passes=2,
    seconds=0.0321,
    advise_s=0.03,
    swap=500 * PAGE,
    swap_cached=100 * PAGE,
    page_cached=2 * PAGE,
    nr_given_up=7,
    freed=None,
    moved=pages(512),
    kept=None,
    vmas=(),
    stopped="",
    gone=False,
    notes=(),
)


def text_of(effect: Effect, **more: Any) -> list[str]:
    """Return the whole page: what stands on standard output, then the notes."""
    table = effect_table(Report(effect, PAGE, **more), TARGET)
    return [*table.lines(), *(f"note: {note}" for note in table.notes)]


def test_pageout_the_whole_page() -> None:
    assert text_of(EFFECT) == [
        "pageout of shop, PID 4211: 2 MiB in 32 ms, 2 passes (62.3 MiB/s)",
        "MEASURE       PAGES      SIZE  MEANING",
        "requested       700  2.73 MiB  selected pages in RAM",
        "advised         690  2.70 MiB  of these, the kernel took the advice",
        "moved           512     2 MiB  out of the process now",
        "  to swap       500  1.95 MiB  the rest, if any, went back to its files",
        "  given up        7    28 KiB  freed, kept nowhere: the process had given them up (MADV_FREE, MAP_DROPPABLE)",
        "left RAM        410  1.60 MiB  of these, out of RAM too: their frames are free",
        "  swap cache    100   400 KiB  in swap or on the way there, still in RAM until the frame is needed",
        "  page cache      2     8 KiB  of files, still in RAM: not yet written, or in use elsewhere",
        "stayed          188   752 KiB  because:",
        "  shared        178   712 KiB  mapped more than once: the kernel leaves such pages alone",
        "  mlocked        10    40 KiB  locked into memory: mlock(2), mlockall(2)",
    ]


def test_what_is_unknown_is_no_number() -> None:
    why = Note("in-ram-unknown", "500 pages left the process; cannot tell whether they are still in RAM: no right")
    unknown = replace(EFFECT, swap=None, swap_cached=None, page_cached=None, notes=(why,))
    assert text_of(unknown)[5:] == [
        "  to swap         -         -  unknown: see the notes",
        "  given up        7    28 KiB  freed, kept nowhere: the process had given them up (MADV_FREE, MAP_DROPPABLE)",
        "left RAM          -         -  unknown: see the notes",
        "  swap cache      -         -  unknown: see the notes",
        "  page cache      -         -  unknown: see the notes",
        "stayed          188   752 KiB  because:",
        "  shared        178   712 KiB  mapped more than once: the kernel leaves such pages alone",
        "  mlocked        10    40 KiB  locked into memory: mlock(2), mlockall(2)",
        "note: 500 pages left the process; cannot tell whether they are still in RAM: no right",
    ]


def test_interrupted_and_freed_the_whole_page() -> None:
    freed = replace(
        EFFECT, nr_given_up=0, page_cached=0, swap_cached=0, freed=Freed(100, 90), stopped="interrupted", reasons={}
    )
    assert text_of(replace(freed, nr_requested=512, nr_advised=512)) == [
        "pageout of shop, PID 4211: 2 MiB in 32 ms, 2 passes (62.3 MiB/s)",
        "stopped early: interrupted",
        "MEASURE      PAGES      SIZE  MEANING",
        "requested      512     2 MiB  selected pages in RAM",
        "advised        512     2 MiB  of these, the kernel took the advice",
        "moved          512     2 MiB  out of the process now",
        "  to swap      500  1.95 MiB  the rest, if any, went back to its files",
        "left RAM       512     2 MiB  of these, out of RAM too: their frames are free",
        "  by --free     90   360 KiB  of 100 in the swap cache: read back, and paged out once more",
        "stayed           0         0",
    ]


def test_refaults_and_undo_the_whole_page() -> None:
    refaults = Refaults(
        seconds=2.04,
        nr_moved=512,
        nr_returned=97,
        nr_gone=5,
        curve=((0.1, 40), (0.5, 97)),
        vmas=(VmaRefaults(ANON, 510, 97, 3, 0.1, 0.5), VmaRefaults(None, 2, 0, 2, None, None)),
        never=pages(410),
        stopped="",
        gone=False,
    )
    undo = replace(EFFECT, advice="willneed", nr_requested=410, nr_moved=400, reasons={"busy": 10}, seconds=0.013)
    assert text_of(EFFECT, refaults=refaults, undo=undo)[13:] == [
        "",
        "watched for 2.0 s: 97 of 512 pages came back (18.9%)",
        "410 did not come back in 2.0 s: 1.60 MiB of cold memory",
        "5 are gone: given back or unmapped by the process",
        "SECONDS  BACK     SIZE",
        "  0.100    40  160 KiB",
        "  0.500    97  388 KiB",
        "START           MOVED  BACK  NOT BACK  GONE  FIRST AT  LAST AT  KIND  PATH",
        "0x7f0000000000    510    97       410     3     0.100    0.500  anon",
        "-                   2     0         0     2         -        -  -     -",
        "",
        "undo: 400 of 410 pages (1.56 MiB) brought back in 13 ms; not back: 10 busy",
    ]


@pytest.mark.parametrize(
    ("advice", "nr_reading", "head", "selected", "reached"),
    [
        ("cold", 0, "", "selected pages in RAM", "no longer referenced: first to go when memory is short"),
        ("willneed", 0, " (62.3 MiB/s)", "selected pages out of RAM", "in RAM now"),
        ("willneed", 3, "", "selected pages out of RAM", "in RAM, or being read"),
        ("collapse", 0, " (62.3 MiB/s)", "selected pages in RAM", "part of a huge page now"),
    ],
)
def test_each_advice_says_what_it_reached(advice: str, nr_reading: int, head: str, selected: str, reached: str) -> None:
    effect = replace(EFFECT, advice=advice, reasons={}, nr_requested=512, nr_advised=512, nr_reading=nr_reading)
    reading = ["  reading      3  12 KiB  of files, not read yet: the disk is busy with it"] if nr_reading else []
    assert text_of(effect) == [
        f"{advice} of shop, PID 4211: 2 MiB in 32 ms, 2 passes{head}",
        f"MEASURE    PAGES {'  ' if reading else ' '} SIZE  MEANING",
        f"requested    512 {' ' if reading else ''} 2 MiB  {selected}",
        f"advised      512 {' ' if reading else ''} 2 MiB  of these, the kernel took the advice",
        f"moved        512 {' ' if reading else ''} 2 MiB  {reached}",
        *reading,
        f"stayed         0 {' ' if reading else ''}     0",
    ]
