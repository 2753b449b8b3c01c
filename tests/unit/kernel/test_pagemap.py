"""Entries, blocks, marks, and PAGEMAP_SCAN with what stands in for it on older kernels."""

from __future__ import annotations

import errno
import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import PAGE, make_process, no_scan, sparse
from mematlas import Process
from mematlas.errors import NotSupported, ProcessGone
from mematlas.kernel.pagemap import (
    BLOCK_SIZE,
    FIRST_SPECIAL_TYPE,
    GUARD,
    MARK_A,
    MARKER_GUARD,
    MARKER_TYPE,
    NOWHERE,
    PACED_BLOCK_SIZE,
    PAGE_IS_PRESENT,
    PRESENT,
    SCAN_REGIONS,
    SWAP,
    Block,
    Pacer,
    Pagemap,
    Scanner,
    histogram,
    is_guard_marker,
    mark_special,
)
from mematlas.kernel.procfs import ProcFS
from mematlas.model.pages import STATE_OF_BYTE

NR_SPARSE = 1301
WIDE = (16 << 20) * PAGE
PRESENT_WORD = 1 << 63 | 1 << 56 | 0x1234
SWAP_WORD = 1 << 62 | 0x5678 << 5


def special_slowly(states: bytes, words: list[int]) -> bytes:
    """Say the same as `mark_special`, entry by entry, from the kernel's definitions."""
    marked = []
    for state, word in zip(states, words, strict=True):
        swap_type, offset = word & 0x1F, word >> 5 & (1 << 50) - 1
        if state & SWAP and not state & PRESENT and swap_type >= FIRST_SPECIAL_TYPE:
            state |= MARK_A
            if swap_type == MARKER_TYPE and offset & MARKER_GUARD:
                state |= GUARD
        marked.append(state)
    return bytes(marked)


# Bits 59 and 60 are ours: the kernel leaves them zero.
entries = st.one_of(
    st.just(0),
    st.integers(0, (1 << 64) - 1).map(lambda word: word & ~(0b11 << 59)),
    st.builds(lambda kind, offset: 1 << 62 | offset << 5 | kind, st.integers(20, 31), st.integers(0, 7)),
)


@given(st.lists(entries, max_size=80))
def test_special_entries_are_marked_as_entry_by_entry(words: list[int]) -> None:
    raw = memoryview(bytearray(struct.pack(f"={len(words)}Q", *words)))
    states = bytes(raw[7::8])

    assert mark_special(states, raw) == special_slowly(states, words)


@pytest.mark.parametrize(
    ("swap_type", "offset", "state"),
    [
        (0, 77, "swapped"),
        (22, 4, "swapped"),
        (23, 4, "special"),
        (31, 2, "special"),
        (31, 4, "guard"),
        (31, 5, "guard"),
    ],
)
def test_swap_types_from_23_up_are_no_swap(swap_type: int, offset: int, state: str) -> None:
    word = 1 << 62 | offset << 5 | swap_type
    raw = memoryview(struct.pack("=Q", word))

    assert STATE_OF_BYTE[mark_special(bytes(raw[7:]), raw)[0]] == state


def test_guard_has_a_bit_of_its_own_since_linux_6_15() -> None:
    word = 1 << 62 | 1 << 58 | 0x9F

    assert STATE_OF_BYTE[word >> 56] == "guard"
    assert is_guard_marker(word)


@given(st.binary(max_size=400), st.sampled_from([1, 7, 200]))
def test_histogram_counts_each_byte(states: bytes, times: int) -> None:
    states *= times

    assert histogram(states) == {byte: states.count(byte) for byte in set(states)}


def test_block_follows_its_states() -> None:
    block = Block(0, memoryview(struct.pack("=2Q", PRESENT_WORD, 0)), b"\x81\x00")
    assert (len(block), block.kinds, block.entries[0]) == (2, {0x81: 1, 0: 1}, PRESENT_WORD)

    block.states = b"\x81\x18"
    assert block.kinds == {0x81: 1, 0x18: 1}


# --- PAGEMAP_SCAN


class FakeScanner(Scanner):
    """A kernel that returns ranges from a list, and at the end a walk_end that is stale."""

    def __init__(self, ranges: list[tuple[int, int]]) -> None:
        super().__init__(-1, lambda: ProcessGone(1))
        self.make_room()
        self.here = ranges
        self.calls = 0

    def _call(self, start: int, end: int, any_of: int, nr_regions: int, max_pages: int, told: int = 0) -> int:
        self.calls += 1
        found = [(max(low, start), min(high, end)) for low, high in self.here if low < end and high > start]
        found = found[:nr_regions]
        for place, (low, high) in enumerate(found):
            self.regions[3 * place], self.regions[3 * place + 1] = low, high
        # Behind the last region returned, as seen on 6.18.
        self.argument[4] = found[-1][0] if found else end
        return len(found)


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), max_size=1600))
def test_scan_goes_on_behind_a_full_answer(steps: list[tuple[int, int]]) -> None:
    ranges = []
    at = 0
    for gap, size in steps:
        ranges.append((at + gap, at + gap + size))
        at += gap + size
    scanner = FakeScanner(ranges)

    assert list(scanner.ranges(0, at + 1, PAGE_IS_PRESENT)) == ranges
    assert scanner.calls == len(ranges) // SCAN_REGIONS + 1


def test_search_needs_memory_only_once_it_finds_something() -> None:
    with sparse(1 << 20, [3]) as target, ProcFS().process(target.pid) as process, Pagemap(process) as pagemap:
        page = target.told + 3 * PAGE
        try:
            nothing = pagemap.scanner.first(page + PAGE, target.told + (1 << 20), PAGE_IS_PRESENT)
        except NotSupported as why:
            pytest.skip(str(why))
        was_needed = pagemap.scanner.address != NOWHERE
        found = list(pagemap.scanner.ranges(target.told, target.told + (1 << 20), PAGE_IS_PRESENT))

    assert (nothing, was_needed, found) == (None, False, [(page, page + PAGE)])


def test_process_that_ends_while_its_holes_are_searched_is_gone() -> None:
    with sparse(8 << 30, [3]) as target, ProcFS().process(target.pid) as process, Pagemap(process) as pagemap:
        blocks = pagemap.blocks(target.told, target.told + (8 << 30))
        assert next(blocks).states[3] & PRESENT
        target.kill()
        with pytest.raises(ProcessGone):
            list(blocks)


@pytest.fixture(scope="module")
def scattered() -> Iterator[tuple[int, int]]:
    """A process of 16 Mi pages with 1,301 single pages: more regions than fit one answer. Its PID and the address."""
    with sparse(WIDE, range(0, NR_SPARSE * 9000, 9000)) as target:
        yield target.pid, target.told


def present_pages(pid: int, address: int, pacer: Pacer | None = None) -> list[int]:
    """Return the numbers of the present pages of the area."""
    found = []
    with ProcFS().process(pid) as process, Pagemap(process, pacer) as pagemap:
        for block in pagemap.blocks(address, address + WIDE):
            first = (block.address - address) // PAGE
            found += [first + place for place, state in enumerate(block.states) if state & PRESENT]
    return found


@pytest.mark.parametrize("pacer", [None, Pacer()], ids=["unpaced", "paced"])
def test_scattered_pages_are_found_exactly(pacer: Pacer | None, scattered: tuple[int, int]) -> None:
    assert present_pages(*scattered, pacer) == list(range(0, NR_SPARSE * 9000, 9000))


def test_more_than_512_regions_are_each_found_once(scattered: tuple[int, int]) -> None:
    pid, address = scattered

    with ProcFS().process(pid) as process, Pagemap(process) as pagemap:
        try:
            found = list(pagemap.scanner.ranges(address, address + WIDE, PAGE_IS_PRESENT))
        except NotSupported as why:
            pytest.skip(str(why))
    assert found == [(address + page * PAGE, address + (page + 1) * PAGE) for page in range(0, NR_SPARSE * 9000, 9000)]


def test_without_scan_holes_are_read_plainly_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = list(range(0, 301 * 1900, 1900))
    with sparse((1 << 20) * PAGE, pages) as target, Process(target.pid) as process:
        newest = process.maps("pagemap")
        monkeypatch.setattr(Scanner, "_call", no_scan)
        older = process.maps("pagemap")

    before, after = (
        next(item.usage for item in result.vmas if item.vma.start == target.told) for result in (newest, older)
    )
    assert (before.nr_present, after.nr_present) == (len(pages), len(pages))
    assert (before.rss, before.uss, before.swap) == (after.rss, after.uss, after.swap)


# --- files in place of a kernel


@pytest.mark.parametrize("page_size", [4096, 16384, 65536])
def test_entries_are_found_by_page_number_whatever_the_page_size(page_size: int, tmp_path: Path) -> None:
    make_process(tmp_path, words={4: PRESENT_WORD, 9: SWAP_WORD, 20: 0})

    with ProcFS(str(tmp_path), page_size).process(7) as process, Pagemap(process) as pagemap:
        (block,) = pagemap.blocks(2 * page_size, 12 * page_size)
        assert (block.address, len(block)) == (2 * page_size, 10)
        assert [place for place, state in enumerate(block.states) if state] == [2, 7]
        assert pagemap.entry(4 * page_size + 5) == PRESENT_WORD


def test_block_is_yielded_where_somebody_asks_though_it_is_empty(tmp_path: Path) -> None:
    make_process(tmp_path, words={40000: 0})

    with ProcFS(str(tmp_path), PAGE).process(7) as process, Pagemap(process) as pagemap:
        asked = 20000 * PAGE
        blocks = list(pagemap.blocks(0, 40000 * PAGE, lambda at: asked if at <= asked else None))
    assert [block.address <= asked < block.address + len(block) * PAGE for block in blocks] == [True]


def test_file_that_ends_early_is_a_process_that_is_gone(tmp_path: Path) -> None:
    make_process(tmp_path, words={5: PRESENT_WORD})

    with ProcFS(str(tmp_path), PAGE).process(7) as process, Pagemap(process) as pagemap, pytest.raises(ProcessGone):
        list(pagemap.blocks(100 * PAGE, 200 * PAGE))


def test_nothing_above_the_user_addresses_is_read(tmp_path: Path) -> None:
    make_process(tmp_path)

    with ProcFS(str(tmp_path), PAGE).process(7) as process, Pagemap(process) as pagemap:
        assert list(pagemap.blocks(0xFFFFFFFFFF600000, 0xFFFFFFFFFF601000)) == []
        assert pagemap.entry(0xFFFFFFFFFF600000) == 0


def test_pacer_pauses_after_a_while_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    pacer = Pacer()

    for _ in range(10):
        pacer.spend(Pacer.WORK / 2)
    assert pauses == [pytest.approx(Pacer.WORK * Pacer.REST)] * 5


def test_who_waited_for_the_target_does_not_pause_for_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    Pacer().spend(7.0)
    assert pauses == [pytest.approx(Pacer.MOST * Pacer.REST)]


def test_reads_are_of_whole_tables_however_short_the_slow_one_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    pacer = Pacer()
    pacer.spend(2 * Pacer.WORK, 3 * PACED_BLOCK_SIZE - 8)
    assert pacer.most == PACED_BLOCK_SIZE
    pacer.spend(2 * Pacer.WORK, 13 * PACED_BLOCK_SIZE)
    assert pacer.most == 4 * PACED_BLOCK_SIZE


def test_reads_that_one_slow_read_made_shorter_become_longer_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    pacer = Pacer()

    pacer.spend(Pacer.WORK * 1.1, BLOCK_SIZE)
    assert pacer.most == BLOCK_SIZE // 2
    pacer.spend(Pacer.WORK * 0.55, BLOCK_SIZE // 2)
    assert pacer.most == BLOCK_SIZE // 2
    pacer.spend(Pacer.WORK * 0.35, BLOCK_SIZE // 2)
    assert pacer.most == BLOCK_SIZE


def test_no_pause_is_made_for_what_a_search_had_to_load(monkeypatch: pytest.MonkeyPatch) -> None:
    spent: list[float] = []
    load = Scanner.__init__

    def load_slowly(scanner: Scanner, fd: int, gone: Callable[[], ProcessGone]) -> None:
        time.sleep(0.2)
        load(scanner, fd, gone)

    monkeypatch.setattr(Scanner, "__init__", load_slowly)
    monkeypatch.setattr(Pacer, "spend", lambda _, seconds: spent.append(seconds))
    with sparse(1 << 20, [3]) as target, ProcFS().process(target.pid) as process, Pagemap(process, Pacer()) as pagemap:
        pagemap.seek(target.told, target.told + (1 << 20))
    assert sum(spent) < 0.2


def test_own_stack_is_present() -> None:
    with Process(os.getpid()) as process:
        stack = next(item for item in process.maps("pagemap").vmas if item.vma.kind == "stack")
    assert stack.usage.nr_present


@pytest.mark.parametrize(("is_ending", "words"), [(True, "ended"), (False, "runs another program now")])
def test_a_scan_of_an_address_space_that_is_no_more_says_why(
    is_ending: bool, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> int:
        raise OSError(errno.ESRCH, "no such process")  # as 7.3 does on arm64; 6.18 finds nothing

    with ProcFS().process(os.getpid()) as process, Pagemap(process) as pagemap:
        monkeypatch.setattr(type(process), "is_ending", lambda self: is_ending)
        pagemap.scanner.ioctl = refuse
        with pytest.raises(ProcessGone, match=words):
            pagemap.ranges(0, 1 << 40, PAGE_IS_PRESENT)
