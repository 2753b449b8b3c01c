"""What a dry run says: the answer first, and lines that add up to it."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest

from mematlas.actions.plans import Plan, PlannedVma, within
from mematlas.actions.rooms import NO_SWAP, SwapRoom
from mematlas.analysis.movable import ALL_PAGES
from mematlas.frozen import replace
from mematlas.kernel.maps import Vma, parse_maps
from mematlas.kernel.swaps import SwapArea
from mematlas.model.address_space import EVERYTHING
from mematlas.notes import Note
from mematlas.views.plans import plan_table, verdict
from mematlas.views.writers import write

if TYPE_CHECKING:
    from mematlas.kernel.madvise import AdviceName

PAGE = 4 << 10
SWAP = SwapRoom(
    (SwapArea(path="/dev/zram0", kind="partition", size=64 << 20, used=8 << 20, priority=100),),
    {"/dev/zram0": 3.2},
    None,
)
HEAP, ANON, FILE = parse_maps(
    [
        b"55d0c0000000-55d0c0800000 rw-p 00000000 00:00 0 [heap]",
        b"7f0000000000-7f0002000000 rw-p 00000000 00:00 0",
        b"7f0004000000-7f0004200000 r--p 00000000 fe:00 7 /lib/c.so",
    ]
)


def planned(vma: Vma, nr_requested: int, nr_needs_swap: int = 0, nr_of_file: int = 0, **reasons: int) -> PlannedVma:
    """Return a VMA of which all is asked for, and moves but for the reasons."""
    nr_movable = nr_needs_swap + nr_of_file
    return PlannedVma(vma, vma.start, vma.end, nr_requested, nr_movable, nr_needs_swap, 0, reasons)


ITEMS = (
    planned(HEAP, 700, nr_needs_swap=512, shared=188),
    planned(ANON, 6810, nr_needs_swap=6810),
    planned(FILE, 300, nr_of_file=256, shared=44),
)


def plan_of(room: SwapRoom, *items: PlannedVma, advice: AdviceName = "pageout", **more: Any) -> Plan:
    chosen = tuple(within(items, room, PAGE))
    made = Plan(advice, EVERYTHING, ALL_PAGES, None, chosen, PAGE, room, ())
    return replace(made, **more)


def text_of(plan: Plan, **how: Any) -> list[str]:
    """Return the whole page: what stands on standard output, then the notes."""
    table = plan_table(plan, {})
    lines = list(table.lines(**how))
    return [*lines, *(f"note: {note}" for note in table.notes)]


def test_with_swap_the_whole_page() -> None:
    assert text_of(plan_of(SWAP, *ITEMS)) == [
        "could page out 29.6 MiB of 30.5 MiB selected; 928 KiB stays: shared",
        "START             SIZE  PERM  SELECTED  CAN MOVE   TO SWAP  STAYS           KIND  PATH",
        "0x7f0000000000  32 MiB  rw-p  26.6 MiB  26.6 MiB  26.6 MiB  -               anon",
        "0x55d0c0000000   8 MiB  rw-p  2.73 MiB     2 MiB     2 MiB  752 KiB shared  heap  [heap]",
        "0x7f0004000000   2 MiB  r--p  1.17 MiB     1 MiB         0  176 KiB shared  file  /lib/c.so",
        "total           42 MiB        30.5 MiB  29.6 MiB  28.6 MiB  928 KiB shared        3 VMAs",
        "note: shared: mapped more than once: the kernel leaves such pages alone",
        "note: swap: /dev/zram0, 56 MiB free of 64 MiB, 3:1 so far",
    ]


def test_beyond_the_limit_vmas_are_a_sum() -> None:
    plan = plan_of(SWAP, *ITEMS)
    assert list(plan_table(plan, {}, limit=1).lines()) == [
        "could page out 29.6 MiB of 30.5 MiB selected; 928 KiB stays: shared",
        "START             SIZE  PERM  SELECTED  CAN MOVE   TO SWAP  STAYS           KIND  PATH",
        "0x7f0000000000  32 MiB  rw-p  26.6 MiB  26.6 MiB  26.6 MiB  -               anon",
        "others          10 MiB        3.91 MiB     3 MiB     2 MiB  928 KiB shared        2 VMAs",
        "total           42 MiB        30.5 MiB  29.6 MiB  28.6 MiB  928 KiB shared        3 VMAs",
    ]
    assert [row["start"] for row in plan_table(plan, {}, limit=1).records()] == [ANON.start]


def test_on_a_screen_vmas_of_which_nothing_can_move_are_a_sum_but_for_a_few() -> None:
    idle = [planned(replace(FILE, start=FILE.start + (number << 30)), 10, shared=10) for number in range(20)]
    table = plan_table(plan_of(SWAP, *ITEMS, *idle), {})

    on_screen = [line.split()[0] for line in table.lines(width=120)]
    assert on_screen.count("others") == 1
    assert sum(word.startswith("0x") for word in on_screen) == 5
    assert sum(line.startswith("0x") for line in table.lines()) == 23


def test_without_swap_the_whole_page() -> None:
    file = "/var/tmp/swapfile"
    assert text_of(plan_of(NO_SWAP, *ITEMS)) == [
        "could page out 1 MiB of 30.5 MiB selected; 29.5 MiB stays: 28.6 MiB no swap, 928 KiB shared",
        "START             SIZE  PERM  SELECTED  CAN MOVE  TO SWAP  STAYS                             KIND  PATH",
        "0x7f0004000000   2 MiB  r--p  1.17 MiB     1 MiB        0  176 KiB shared                    file  /lib/c.so",
        "0x7f0000000000  32 MiB  rw-p  26.6 MiB         0        0  26.6 MiB no swap                  anon",
        "0x55d0c0000000   8 MiB  rw-p  2.73 MiB         0        0  752 KiB shared, 2 MiB no swap     heap  [heap]",
        "total           42 MiB        30.5 MiB     1 MiB        0  928 KiB shared, 28.6 MiB no swap        3 VMAs",
        "note: shared: mapped more than once: the kernel leaves such pages alone",
        "note: no swap space: 28.6 MiB of memory without a file has nowhere to go;"
        " for this run alone, as root: --temporary-swap 64M",
        "note: swap space that stays, as root:"
        f" fallocate -l 64M {file} && chmod 600 {file} && mkswap {file} && swapon {file}",
    ]


@pytest.mark.parametrize("nr_free", [0, 1, 511, 512, 7000, 1 << 20])
def test_lines_and_answer_agree_whatever_room_there_is(nr_free: int) -> None:
    room = SwapRoom((SwapArea(path="/swap", kind="file", size=nr_free * PAGE, used=0, priority=-2),), {}, None)
    plan = plan_of(room, *ITEMS)
    rows = list(plan_table(plan, {}).records())

    nr_selected = sum(row["nr_requested"] for row in rows)
    nr_movable = sum(row["nr_movable"] for row in rows)
    assert (nr_selected, nr_movable) == (7810, 256 + min(nr_free, 7322))
    for row in rows:
        assert row["size_requested"] == row["size_movable"] + sum(row["staying"].values())
        assert row["staying"] == {reason: nr_pages * PAGE for reason, nr_pages in row["reasons"].items()}
    assert verdict(plan, in_bytes=True).startswith(
        f"could page out {nr_movable * PAGE} of {nr_selected * PAGE} selected"
    )


def test_sizes_are_integers_where_that_is_asked_for() -> None:
    first, _, *rows = text_of(plan_of(SWAP, ITEMS[0]), in_bytes=True)
    assert first == "could page out 2097152 of 2867200 selected; 770048 stays: shared"
    assert rows[0].split()[3:] == ["2867200", "2097152", "2097152", "770048", "shared", "heap", "[heap]"]


def test_what_may_not_be_exceeded_is_the_limit_of_the_cgroup() -> None:
    plan = plan_of(replace(SWAP, allowed=1 << 20), ITEMS[1])
    assert verdict(plan) == "could page out 1 MiB of 26.6 MiB selected; 25.6 MiB stays: cgroup"
    assert text_of(plan)[-1] == (
        "note: the memory cgroup of the process allows too little swap: 25.6 MiB of memory has nowhere to go"
    )


@pytest.mark.parametrize(
    ("advice", "answer"),
    [
        ("cold", "could mark as cold 26.6 MiB of 26.6 MiB selected"),
        ("willneed", "could bring back 26.6 MiB of 26.6 MiB selected"),
        ("collapse", "could collapse 26.6 MiB of 26.6 MiB selected"),
    ],
)
def test_each_advice_has_its_word(advice: AdviceName, answer: str) -> None:
    assert verdict(plan_of(SWAP, ITEMS[1], advice=advice)) == answer


def test_what_goes_to_swap_is_said_of_a_pageout_alone() -> None:
    assert text_of(plan_of(SWAP, ITEMS[1], advice="cold")) == [
        "could mark as cold 26.6 MiB of 26.6 MiB selected",
        "START             SIZE  PERM  SELECTED  CAN MARK  STAYS  KIND  PATH",
        "0x7f0000000000  32 MiB  rw-p  26.6 MiB  26.6 MiB  -      anon",
    ]


def test_nothing_to_do_is_one_line_and_its_reason() -> None:
    why = Note("nothing-to-do", "nothing to do: the selected VMA has no pages in RAM")
    assert text_of(plan_of(SWAP, advice="cold", notes=(why,))) == ["nothing to mark as cold", f"note: {why}"]


@pytest.mark.parametrize("width", [60, 80, 100])
def test_no_line_is_wider_than_the_screen(width: int) -> None:
    lines = list(plan_table(plan_of(NO_SWAP, *ITEMS), {}).lines(width=width))
    assert max(map(len, lines)) <= width
    assert any("/lib/c.so" in line for line in lines)


def test_json_has_pages_and_bytes() -> None:
    out = io.StringIO()
    write(plan_table(plan_of(SWAP, ITEMS[0]), {}), "json", out, {})
    (row,) = json.loads(out.getvalue())["rows"]
    assert (row["nr_requested"], row["nr_movable"], row["nr_needs_swap"]) == (700, 512, 512)
    assert (row["size_requested"], row["size_movable"], row["size_needs_swap"]) == (2867200, 2 << 20, 2 << 20)
    assert (row["reasons"], row["staying"]) == ({"shared": 188}, {"shared": 188 * PAGE})
