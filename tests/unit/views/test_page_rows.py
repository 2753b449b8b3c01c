"""Rows of pages: made and written many at a time, they say what each page says alone."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from helpers import PAGE, keyed_rows, make_process, write_words
from mematlas import Process
from mematlas.kernel.kpage import KPF_DIRTY, flag_names
from mematlas.kernel.maps import Vma, parse_line
from mematlas.kernel.pagemap import EXCLUSIVE, PM_MMAP_EXCLUSIVE, PRESENT, UNKNOWN, Block
from mematlas.kernel.procfs import ProcFS
from mematlas.model.pages import HIDDEN_FRAMES, STATE_OF_BYTE, Hole, decode_place, entry_flags, is_hidden
from mematlas.notes import Notes
from mematlas.views.pages import PageFilter, pages_table, use_flags
from mematlas.views.table import HIDDEN, Table

ANON = parse_line(b"10000000-20000000 rw-p 00000000 00:00 0 ")
FILE = parse_line(b'20000000-30000000 r--s 00000000 fe:00 77 /a "b",\\c')
Piece = tuple[Vma, Block | Hole]
Page = tuple[int, int, int]
"""The state byte, the entry and the use of one."""

PRESENT_ENTRY, SWAP_ENTRY, EXCLUSIVE_BIT, SOFT_DIRTY = 1 << 63, 1 << 62, 1 << 56, 1 << 55
WORDS = (0x5868, 0x5878, 1 << 60 | 1 << 4)
NR_FLAGS, NR_COUNTS = 2900, 2950
"""Frames that kpageflags and kpagecount tell about; there are more."""


def block(place: int, pages: list[Page], with_use: bool = True) -> Block:
    raw = memoryview(bytearray(struct.pack(f"={len(pages)}Q", *(entry for _, entry, _ in pages))))
    states, use = bytes(byte for byte, _, _ in pages), bytes(use for _, _, use in pages)
    return Block(ANON.start + place * PAGE, raw, states, use if with_use else None)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """Give a process of a machine with a few frames, of which those that 7 divides are mapped twice."""
    root = tmp_path_factory.mktemp("machine")
    make_process(root)
    write_words(root / "kpageflags", {frame: WORDS[frame % 3] for frame in range(NR_FLAGS)})
    write_words(root / "kpagecount", {frame: 1 + (frame % 7 == 0) for frame in range(NR_COUNTS)})
    with Process(7, ProcFS(str(root), PAGE)) as found:
        yield found


def rows_of(*how: Any, **more: Any) -> list[dict[str, Any]]:
    """Return the rows without the node, which is one of this machine."""
    return [{key: value for key, value in row.items() if key != "node"} for row in keyed_rows(table_of(*how, **more))]


def table_of(
    process: Process, pieces: list[Piece], wanted: PageFilter, limit: int | None = None, notes: Notes | None = None
) -> Table:
    notes = Notes() if notes is None else notes
    return pages_table(iter(pieces), process, wanted, {"pid": 7}, runs=False, limit=limit, notes=notes)


SORTS = (0x80, 0x81, 0xA1, 0x88, 0x83, 0x40, 0x44, 0x48, 0x60, 0x00, 0x08, 0x10, 0x18)


def random_pages(rng: random.Random, nr_pages: int) -> Iterator[Page]:
    sort, frame = rng.choice(SORTS), rng.randrange(1, 2000)
    steady, hidden = rng.random() < 0.5, rng.random() < 0.2
    for _ in range(nr_pages):
        if not steady and rng.random() < 0.3:
            sort, frame = rng.choice(SORTS), rng.randrange(1, 3000)
        frame += 1
        upper = sort & 0xE7 if sort & 0xC0 else 0
        place = frame if sort & PRESENT else frame << 5 | 3 if sort & 0x40 else 0
        yield sort, upper << 56 | rng.choice((0, SOFT_DIRTY)) | (0 if hidden else place), rng.randrange(4)


def random_pieces(seed: int) -> list[Piece]:
    rng = random.Random(seed)
    pieces: list[Piece] = []
    for vma in (ANON, FILE):
        place = (vma.start - ANON.start) // PAGE
        for nr_pages in (1, 7, 512, 1500):
            pieces.append((vma, block(place, list(random_pages(rng, nr_pages)), with_use=seed % 2 == 0)))
            pieces.append((vma, Hole(ANON.start + (place + nr_pages) * PAGE, 1025, rng.choice((0, UNKNOWN)))))
            place += nr_pages + 1025
    return pieces


def row_alone(page: Page, wanted: PageFilter) -> dict[str, Any] | None:
    """Return what is to be said of a page, from what its bits and its frame say."""
    byte, entry, use = page
    pfn, swap_type, swap_offset = decode_place(byte, entry)
    word = WORDS[pfn % 3] if pfn is not None and pfn < NR_FLAGS else None
    count = 1 + (pfn % 7 == 0) if pfn is not None and pfn < NR_COUNTS else None
    if count == 2:
        byte, entry = byte & ~EXCLUSIVE, entry & ~PM_MMAP_EXCLUSIVE
    if not wanted.takes(byte, entry) or (wanted.dirty and not (word or 0) & KPF_DIRTY):
        return None
    no_frame = HIDDEN if is_hidden(byte, entry) and byte & PRESENT else None
    no_slot = HIDDEN if is_hidden(byte, entry) and not byte & PRESENT else None
    return {
        "state": STATE_OF_BYTE[byte],
        "pfn": no_frame if pfn is None else pfn,
        "phys": no_frame if pfn is None else pfn * PAGE,
        "count": count,
        "swap_type": no_slot if swap_type is None else swap_type,
        "swap_offset": no_slot if swap_offset is None else swap_offset,
        "flags": (*entry_flags(byte, entry), *use_flags(use)),
        "frame_flags": None if word is None else flag_names(word),
    }


FILTERS = [PageFilter(), PageFilter(present=True, dirty=True), PageFilter(exclusive=True, soft_dirty=True)]
FILTERS += [PageFilter(**{name: True}) for name in ("present", "swapped", "exclusive", "dirty", "soft_dirty")]


@pytest.mark.parametrize("wanted", FILTERS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_pages_made_into_rows_together_are_as_each_alone(seed: int, wanted: PageFilter, process: Process) -> None:
    pieces = random_pieces(seed)
    expected = []
    for vma, piece in pieces:
        if isinstance(piece, Hole):
            pages = [(piece.byte, 0, 0)] * len(piece)
        else:
            pages = list(zip(piece.states, piece.entries, piece.use or bytes(len(piece)), strict=True))
        for place, page in enumerate(pages):
            row = row_alone(page, wanted)
            if row is not None:
                expected.append({"address": piece.address + place * PAGE, **row, "path": vma.path or vma.kind})

    assert expected
    assert rows_of(process, pieces, wanted) == expected
    for limit in (1, 513, len(expected) + 1):
        assert rows_of(process, pieces, wanted, limit=limit) == expected[:limit]


def test_one_page_of_each_sort_as_csv(process: Process) -> None:
    pages = [
        (0x81, PRESENT_ENTRY | EXCLUSIVE_BIT | 3, 3),
        (0x81, PRESENT_ENTRY | EXCLUSIVE_BIT | 7, 1),
        (0xA0, PRESENT_ENTRY | 1 << 61 | 2951, 0),
        (0x88, PRESENT_ENTRY | SOFT_DIRTY | 5, 0),
        (0x80, PRESENT_ENTRY, 0),
        (0x40, SWAP_ENTRY | 77 << 5 | 3, 0),
        (0x40, SWAP_ENTRY | SOFT_DIRTY, 0),
        (0x44, SWAP_ENTRY | 1 << 58 | 0x9F, 0),
        (0x00, SOFT_DIRTY, 0),
        (0x10, 0, 0),
    ]
    notes = Notes()
    pieces: list[Piece] = [(FILE, block(0x10000, pages)), (FILE, Hole(0x2000A000, 2, 0))]
    out = io.StringIO()
    table_of(process, pieces, PageFilter(), notes=notes).write_csv(out)

    lines = [",".join(words[:4] + words[5:]) for words in (line.split(",") for line in out.getvalue().splitlines())]
    path = '"/a ""b"",\\\\c"'
    frame = "uptodate lru active mmap anon swapbacked"
    assert lines == [
        "address,state,pfn,phys,count,swap_type,swap_offset,flags,frame_flags,path",
        f"0x20000000,present,3,0x3000,1,,,present exclusive accessed dirty,{frame},{path}",
        f"0x20001000,present,7,0x7000,2,,,present accessed,{frame.replace('e l', 'e dirty l')},{path}",
        f"0x20002000,present,2951,0xb87000,,,,present file,,{path}",
        f"0x20003000,zero,5,0x5000,1,,,present soft-dirty zero,dirty bit_60,{path}",
        f"0x20004000,present,,,,,,present,,{path}",
        f"0x20005000,swapped,,,,3,0x4d,swap,,{path}",
        f"0x20006000,swapped,,,,,,swap soft-dirty,,{path}",
        f"0x20007000,guard,,,,,,swap guard,,{path}",
        f"0x20008000,absent,,,,,,,,{path}",
        f"0x20009000,cached,,,,,,,,{path}",
        f"0x2000a000,absent,,,,,,,,{path}",
        f"0x2000b000,absent,,,,,,,,{path}",
    ]
    assert list(notes) == [HIDDEN_FRAMES]


def test_pages_beyond_the_limit_are_not_told_of(process: Process) -> None:
    pieces: list[Piece] = [(ANON, block(0, [(0, 0, 0)] * 5 + [(0x80, PRESENT_ENTRY, 0)]))]
    for limit, told in ((5, []), (6, [HIDDEN_FRAMES])):
        notes = Notes()
        assert len(rows_of(process, pieces, PageFilter(), limit=limit, notes=notes)) == limit
        assert list(notes) == told
