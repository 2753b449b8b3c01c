"""The kernel's own dump of page tables, in debugfs, says the same as `tables --kernel`: every line of it.

Only the own kernel has it (CONFIG_PTDUMP_DEBUGFS). Format: arch/x86/mm/dump_pagetables.c.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from inside import Facts
from mematlas import Process
from mematlas.model.pagetables.entries import PRESENT
from mematlas.observe.pagetables import PageTables

pytestmark = pytest.mark.guest

FOLDER = Path("/sys/kernel/debug/page_tables")
LINE = re.compile(r"0x([0-9a-f]{16})-0x([0-9a-f]{16}) +(\d+)([KMGTPE])(.*)")
UNITS = {unit: 1 << 10 * (power + 1) for power, unit in enumerate("KMGTPE")}
FLAGS = ("USR", "RW", "ro", "PWT", "PCD", "PSE", "PAT", "GLB", "NX", "x")
ESPFIX = (0xFFFFFF0000000000, 0xFFFFFF8000000000)
NR_TRIES = 8
U64 = (1 << 64) - 1

Line = tuple[int, int, str, frozenset[str]]
"""First address, first address after, level, flags."""


@pytest.fixture(autouse=True)
def dumped(facts: Facts) -> None:
    if facts.kernel != "own":
        assert not FOLDER.exists()
        pytest.skip("needs CONFIG_PTDUMP_DEBUGFS")


def parse_dump(text: str) -> list[Line]:
    """Return the lines of a dump that map something. Nothing may be left out of it, nor be unknown to us."""
    found: list[Line] = []
    for line in text.splitlines():
        # Of the many copies of the stack for 16-bit returns only the first lines are shown.
        if line.startswith("---[") or line.rstrip().endswith("skipped ..."):
            continue
        matched = LINE.fullmatch(line.rstrip())
        assert matched, line
        start, end, number, unit, rest = matched.groups()
        first, last = int(start, 16), int(end, 16)
        assert (last - first & U64) == int(number) * UNITS[unit], line
        *flags, level = rest.split()
        if flags and not ESPFIX[0] <= first < ESPFIX[1]:
            assert set(flags) <= set(FLAGS), line
            found.append((first, last or 1 << 64, level, frozenset(flags)))
    return found


def joined(lines: list[Line]) -> list[Line]:
    """Return lines without the breaks that the names of regions make."""
    found: list[Line] = []
    for line in sorted(lines):
        if found and found[-1][1:] == (line[0], *line[2:]):
            found[-1] = (found[-1][0], *line[1:])
        else:
            found.append(line)
    return found


def flags_of(entry: int, level: str) -> frozenset[str]:
    """Return what the dump calls the flags of an entry."""
    pat = 7 if level == "pte" else 12
    bits = {"USR": 2, "PWT": 3, "PCD": 4, "PAT": pat, "GLB": 8, "NX": 63} | ({} if level == "pte" else {"PSE": 7})
    names = {name for name, bit in bits.items() if entry >> bit & 1}
    return frozenset(names | {"RW" if entry >> 1 & 1 else "ro"} | (set() if entry >> 63 else {"x"}))


def our_lines(tables: PageTables) -> list[Line]:
    """Return the leaves that we find, as lines."""
    lines: list[Line] = []
    for batch in tables.entries():
        columns = (batch.levels, batch.addresses, batch.entries, batch.states)
        for depth, address, entry, state in zip(*(column.tolist() for column in columns), strict=True):
            if state == PRESENT:
                level = tables.mode.levels[depth]
                lines.append((address, address + level.size, level.name, flags_of(entry, level.name)))
    return lines


@contextlib.contextmanager
def tables_of_ours(reader: str, span: tuple[int, int] | None = None, user_copy: bool = False) -> Iterator[PageTables]:
    with Process(os.getpid()) as process, PageTables(process, reader, "user", user_copy, span) as tables:
        yield tables


def read_dump(name: str) -> list[Line]:
    return parse_dump((FOLDER / name).read_text())


def agree(name: str, reader: str, user_copy: bool = False) -> list[Line]:
    """Return what both say of the kernel half, in a moment in which it did not change.

    The reader stays open: its BPF program is memory of the kernel as well, and write-protected.
    """
    ours: list[Line] = []
    theirs: list[Line] = []
    with Process(os.getpid()) as process, PageTables(process, reader, "kernel") as tables:
        low = tables.mode.kernel_start
        for _ in range(NR_TRIES):
            before = [line for line in read_dump(name) if line[0] >= low]
            ours = []
            for span in ((low, ESPFIX[0]), (ESPFIX[1], 1 << 64)):
                with PageTables(process, reader, "kernel", user_copy, span) as part:
                    ours += our_lines(part)
            ours = joined(ours)
            theirs = [line for line in read_dump(name) if line[0] >= low]
            if before == theirs and ours == joined(theirs):
                return ours
    differing = sorted(set(ours) ^ set(joined(theirs)))
    raise AssertionError(f"{len(differing)} lines differ, such as {[show(line) for line in differing[:6]]}")


def show(line: Line) -> str:
    return f"{line[0]:#x}-{line[1]:#x} {line[2]} {' '.join(sorted(line[3]))}"


@pytest.mark.parametrize(("name", "reader"), [("kernel", "bpf"), ("current_kernel", "kcore")])
def test_every_line_of_the_kernel_half_is_ours(name: str, reader: str) -> None:
    lines = agree(name, reader)
    assert {level for _, _, level, _ in lines} >= {"pmd", "pte"}
    assert len(lines) > 50


def writable_and_executable(tables: PageTables) -> set[int]:
    """Return the addresses of the pages that the audit finds to be both."""
    found = [each for each in tables.audit().findings if each.kind == "writable-executable"]
    return {page for each in found for page in range(each.start, each.start + each.size, 4096)}


def test_nothing_of_the_kernel_is_writable_and_executable() -> None:
    with Process(os.getpid()) as process, PageTables(process, half="kernel") as tables:
        assert writable_and_executable(tables) == set()


def test_what_is_writable_and_executable_is_so_by_the_dump_and_by_the_audit(facts: Facts) -> None:
    # With isolation, the table that the kernel runs with has nothing of user space executable at the top level, which
    # the dump, of the last level's rights, does not show.
    name = "current_user" if facts.pti else "current_kernel"
    with area_of_our_own(mmap.PROT_EXEC) as span, tables_of_ours("kcore", span, user_copy=facts.pti) as tables:
        lines = [line for line in read_dump(name) if span[0] <= line[0] < span[1] and {"RW", "x"} <= line[3]]
        audited = writable_and_executable(tables)
    assert audited == {page for start, end, *_ in lines for page in range(start, end, 4096)}
    assert len(audited) == 7


@contextlib.contextmanager
def area_of_our_own(more_rights: int = 0) -> Iterator[tuple[int, int]]:
    """Map memory and touch some pages of it."""
    size, rights = 4 << 20, mmap.PROT_READ | mmap.PROT_WRITE | more_rights
    with mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, rights) as area:
        area.madvise(15)
        for page in (0, 1, 2, 100, 511, 512, 1023):
            area[page * 4096] = 1
        start = ctypes.addressof(ctypes.c_char.from_buffer(area))
        yield start, start + size


def test_our_own_user_half_is_in_the_dump_of_the_reader() -> None:
    with area_of_our_own() as (start, end), tables_of_ours("kcore", (start, end)) as tables:
        theirs = [line for line in read_dump("current_kernel") if start <= line[0] < end]
        ours = our_lines(tables)
    assert joined(ours) == joined(theirs)
    assert sum(last - first for first, last, _, _ in theirs) == 7 * 4096


def test_the_copy_for_user_space_is_dumped_with_isolation(facts: Facts) -> None:
    assert (FOLDER / "current_user").exists()
    if not facts.pti:
        pytest.skip("pti=off: no copy")
    lines = agree("current_user", "kcore", user_copy=True)
    # The way in and out: a few dozen pages, and nothing of the direct map.
    assert 0 < sum(end - start for start, end, _, _ in lines) < 16 << 20
    with area_of_our_own() as (start, end), tables_of_ours("kcore", (start, end), user_copy=True) as tables:
        theirs = [line for line in read_dump("current_user") if start <= line[0] < end]
        ours = our_lines(tables)
    assert joined(ours) == joined(theirs)
