"""Pages, made many at a time: they say what each page says alone."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from helpers import PAGE, given_pages, make_process, parse_line, write_words
from mematlas import Process
from mematlas.analysis.page_batches import COLUMNS, hidden_of
from mematlas.analysis.page_filter import PageFilter
from mematlas.kernel.kpage import KPF_DIRTY, flag_names
from mematlas.kernel.maps import Vma
from mematlas.kernel.pagemap import EXCLUSIVE, PM_MMAP_EXCLUSIVE, PRESENT, UNKNOWN, Block
from mematlas.kernel.procfs import ProcFS
from mematlas.model.entry_flags import entry_flags, use_flags
from mematlas.model.pages import HIDDEN_FRAMES, STATE_OF_BYTE, Hole, decode_place
from mematlas.observe.page_list import PageList

ANON = parse_line(b"10000000-20000000 rw-p 00000000 00:00 0 ")
FILE = parse_line(b'20000000-30000000 r--s 00000000 fe:00 77 /a "b",\\c')
Piece = tuple[Vma, Block | Hole]
Page = tuple[int, int, int]
"""The state byte, the entry and the use of one."""

PRESENT_ENTRY, SWAP_ENTRY, EXCLUSIVE_BIT, SOFT_DIRTY = 1 << 63, 1 << 62, 1 << 56, 1 << 55
WORDS = (0x5868, 0x5878, 1 << 60 | 1 << 4)
NR_FLAGS, NR_COUNTS = 2900, 2950
"""Frames of which kpageflags and kpagecount say something; there are more."""


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


def rows_of(pages: PageList) -> list[dict[str, Any]]:
    """Return what is said of each page, but for the node, which is one of this machine."""
    rows = []
    for batch in pages.batches():
        for index in range(len(batch)):
            row = {name: getattr(batch, name)[index] for name in COLUMNS if name != "nodes"}
            rows.append({**row, "hidden": batch.hidden[index] if batch.hidden else None, "vma": batch.vma})
    return rows


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
    if not wanted.takes(byte, entry, use) or (wanted.dirty and not (word or 0) & KPF_DIRTY):
        return None
    return {
        "states": STATE_OF_BYTE[byte],
        "pfns": pfn,
        "phys": None if pfn is None else pfn * PAGE,
        "counts": count,
        "swap_types": swap_type,
        "swap_offsets": swap_offset,
        "flags": (*entry_flags(byte, entry), *use_flags(use)),
        "frame_flags": None if word is None else flag_names(word),
        "hidden": hidden_of(byte, entry),
    }


FILTERS = [PageFilter(), PageFilter(present=True, dirty=True), PageFilter(exclusive=True, soft_dirty=True)]
FILTERS += [
    PageFilter(**{name: True}) for name in ("present", "swapped", "exclusive", "dirty", "soft_dirty", "accessed")
]


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
                expected.append({"addresses": piece.address + place * PAGE, **row, "vma": vma})

    assert expected or wanted.accessed
    assert rows_of(PageList(process, given_pages(pieces), wanted)) == expected
    for limit in (1, 513, len(expected) + 1):
        assert rows_of(PageList(process, given_pages(pieces), wanted, limit)) == expected[:limit]


def test_pages_beyond_the_limit_are_not_noted(process: Process) -> None:
    pieces: list[Piece] = [(ANON, block(0, [(0, 0, 0)] * 5 + [(0x80, PRESENT_ENTRY, 0)]))]
    for limit, noted in ((5, []), (6, [HIDDEN_FRAMES])):
        pages = PageList(process, given_pages(pieces), limit=limit)
        assert len(rows_of(pages)) == limit
        assert list(pages.notes) == noted
