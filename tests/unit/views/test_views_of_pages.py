"""The tables of pages and of runs, compared whole."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers import given_pages, make_process, parse_line, write_words
from mematlas import Process
from mematlas.kernel.pagemap import Block
from mematlas.kernel.procfs import ProcFS
from mematlas.model.pages import HIDDEN_FRAMES, Hole
from mematlas.observe.page_list import PageList
from mematlas.views.pages import pages_table, runs_table, width_of_flags
from mematlas.views.table import Table
from mematlas.views.writers import write

PAGE = 4096
"""Of the machine that is shown, whatever this one has."""
FILE = parse_line(b'20000000-30000000 r--s 00000000 fe:00 77 /a "b",\\c')
PRESENT, SWAP, EXCLUSIVE, SOFT_DIRTY = 1 << 63, 1 << 62, 1 << 56, 1 << 55
PAGES = [
    (0x81, PRESENT | EXCLUSIVE | 3, 3),
    (0x81, PRESENT | EXCLUSIVE | 7, 1),
    (0xA0, PRESENT | 1 << 61 | 2951, 0),
    (0x88, PRESENT | SOFT_DIRTY | 5, 0),
    (0x80, PRESENT, 0),
    (0x40, SWAP | 77 << 5 | 3, 0),
    (0x40, SWAP | 78 << 5 | 3, 0),
    (0x40, SWAP | SOFT_DIRTY, 0),
    (0x44, SWAP | 1 << 58 | 0x9F, 0),
    (0x00, SOFT_DIRTY, 0),
    (0x10, 0, 0),
]
"""The state byte, the entry and the use of one page of each sort; two in neighbouring slots of swap."""


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    """Give a process of a machine with a few frames, of which frame 7 is mapped twice."""
    make_process(tmp_path)
    write_words(tmp_path / "kpageflags", {3: 0x5868, 5: 1 << 60 | 1 << 4, 7: 0x5878})
    write_words(tmp_path / "kpagecount", {3: 1, 5: 1, 7: 2})
    with Process(7, ProcFS(str(tmp_path), PAGE)) as found:
        yield found


def listed(process: Process) -> PageList:
    raw = memoryview(bytearray(struct.pack(f"={len(PAGES)}Q", *(entry for _, entry, _ in PAGES))))
    states, use = bytes(byte for byte, _, _ in PAGES), bytes(use for _, _, use in PAGES)
    block = Block(FILE.start, raw, states, use)
    return PageList(process, given_pages([(FILE, block), (FILE, Hole(block.end(PAGE), 2, 0))]))


def expected(name: str) -> list[str]:
    """Return the lines of a page as it is to look."""
    return (Path(__file__).parent / "expected" / name).read_text().splitlines()


def csv_of(table: Table) -> list[str]:
    """Return the lines of CSV without the node, which is one of this machine."""
    out = io.StringIO()
    write(table, "csv", out, {})
    at = [column.key for column in table.columns].index("node")
    rows = [line.split(",") for line in out.getvalue().splitlines()]
    return [",".join(words[:at] + words[at + 1 :]) for words in rows]


def test_one_page_of_each_sort_as_csv(process: Process) -> None:
    pages = listed(process)
    path = '"/a ""b"",\\\\c"'
    frame = "uptodate lru active mmap anon swapbacked"

    assert csv_of(pages_table(pages, dict, 0)) == [
        "address,state,pfn,phys,count,swap_type,swap_offset,flags,frame_flags,path",
        f"0x20000000,present,3,0x3000,1,,,present exclusive accessed dirty,{frame},{path}",
        f"0x20001000,present,7,0x7000,2,,,present accessed,{frame.replace('e l', 'e dirty l')},{path}",
        f"0x20002000,present,2951,0xb87000,,,,present file,,{path}",
        f"0x20003000,zero,5,0x5000,1,,,present soft-dirty zero,dirty bit_60,{path}",
        f"0x20004000,present,,,,,,present,,{path}",
        f"0x20005000,swapped,,,,3,0x4d,swap,,{path}",
        f"0x20006000,swapped,,,,3,0x4e,swap,,{path}",
        f"0x20007000,swapped,,,,,,swap soft-dirty,,{path}",
        f"0x20008000,guard,,,,,,swap guard,,{path}",
        f"0x20009000,absent,,,,,,,,{path}",
        f"0x2000a000,cached,,,,,,,,{path}",
        f"0x2000b000,absent,,,,,,,,{path}",
        f"0x2000c000,absent,,,,,,,,{path}",
    ]
    assert HIDDEN_FRAMES in pages.notes


def test_pages_as_text_say_what_is_hidden_and_what_there_is_not(process: Process) -> None:
    text = list(pages_table(listed(process), dict, width_of_flags("tables", False)).lines())

    assert text == expected("pages.txt")


def test_runs_as_text(process: Process) -> None:
    text = list(runs_table(listed(process), dict, width_of_flags("tables", False)).lines())

    assert text == expected("runs.txt")


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
@pytest.mark.parametrize("table", [pages_table, runs_table], ids=["pages", "runs"])
def test_no_line_is_wider_than_the_screen(table: Callable[..., Table], width: int, process: Process) -> None:
    lines = list(table(listed(process), dict, width_of_flags("tables", True)).lines(width=width))

    assert len(lines) > len(PAGES) // 2
    assert [line for line in lines if len(line) > width] == []
