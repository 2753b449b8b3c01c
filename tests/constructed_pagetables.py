"""Tables made by hand, in a dictionary instead of in memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mematlas.model.pagetables.entries import PagingMode, SpecialSwap
from mematlas.model.pagetables.modes import x86_64

Words = NDArray[np.uint64]
Bools = NDArray[np.bool_]


class ConstructedTables:
    """A `PageTableSource` of tables by physical address. ``script`` runs before each reading, to change them."""

    def __init__(self, mode: PagingMode, memory_end: int = 1 << 40) -> None:
        self.mode = mode
        self.memory_end = memory_end
        self.by_address: dict[int, Words] = {}
        self.script: list[object] = []
        self.nr_reads = 0

    def put(self, table: int, level: int, index: int, entry: int) -> None:
        """Set one entry."""
        size = self.mode.levels[level].nr_entries
        self.by_address.setdefault(table, np.zeros(size, np.uint64))[index] = entry

    def map(self, address: int, tables: list[int], table_bits: int, leaf: int) -> None:
        """Map ``address`` by ``leaf``, through tables at these physical addresses, the top one first."""
        for level, table in enumerate(tables):
            description = self.mode.levels[level]
            index = address >> description.shift & description.nr_entries - 1
            entry = leaf if level == len(tables) - 1 else self.pointer(tables[level + 1]) | table_bits
            self.put(table, level, index, entry)

    def pointer(self, phys: int) -> int:
        """Return the address bits that say ``phys``."""
        bits = 0
        for mask, shift in self.mode.address_fields:
            bits |= (phys >> shift if shift >= 0 else phys << -shift) & mask
        return bits

    def tables(self, phys_addresses: Words, nr_entries: int = 512) -> tuple[Words, Bools]:
        self.nr_reads += 1
        if self.script:
            change = self.script.pop(0)
            if callable(change):
                change()
        rows = np.zeros((len(phys_addresses), nr_entries), np.uint64)
        good = np.zeros(len(phys_addresses), np.bool_)
        for row, address in enumerate(phys_addresses.tolist()):
            if address in self.by_address:
                rows[row], good[row] = self.by_address[address], True
        return rows, good

    def table_batches(self, phys_addresses: Words, size: int = 4) -> Iterator[tuple[slice, Words, Bools]]:
        for start in range(0, len(phys_addresses), size):
            rows = slice(start, start + size)
            yield rows, *self.tables(phys_addresses[rows])

    def entries(self, phys_addresses: Words) -> tuple[Words, Bools]:
        values = np.zeros(len(phys_addresses), np.uint64)
        good = np.zeros(len(phys_addresses), np.bool_)
        for row, address in enumerate(phys_addresses.tolist()):
            for table, words in self.by_address.items():
                if table <= address < table + 8 * len(words):
                    values[row], good[row] = words[(address - table) // 8], True
        return values, good


MODE = x86_64(special_swap=SpecialSwap(nr_device=0, nr_migration=3, nr_hwpoison=1, pfn_bits=34))
PATH = [0x1000, 0x2000, 0x3000, 0x4000]
NX = 1 << 63
CODE, DATA, READ = 0x25, 0x67 | NX, 0x25 | NX
START = 0x40000000


def map_page(tables: ConstructedTables, address: int, entry: int) -> None:
    """Map a small page through the tables of `PATH`."""
    tables.map(address, PATH, 0x67, entry)


def swap_entry(kind: int, offset: int) -> int:
    return kind << 59 | (~offset & (1 << 50) - 1) << 9


def hidden_entry(frame: int) -> int:
    """Return the entry of a page under PROT_NONE: its frame flipped, and no bit that forbids execution."""
    return ~(frame << 12) & (1 << 52) - (1 << 12) | 0x160


def plain_tables() -> ConstructedTables:
    """Return tables of code, data and swap at 1 GiB, and of a huge page at 1 GiB + 4 MiB."""
    made = ConstructedTables(MODE)
    for number in range(3):
        map_page(made, START + number * 4096, 0x700000 + number * 4096 | CODE)
    for number in range(5):
        map_page(made, START + 0x10000 + number * 4096, 0x800000 + number * 8192 | DATA)
    map_page(made, START + 0x20000, swap_entry(0, 77))
    map_page(made, START + 0x21000, swap_entry(31, 4))
    map_page(made, START + 0x22000, 0x900000 | READ | 1 << 9)
    made.map(START + 0x400000, PATH[:3], 0x67, 0x40000000 | 0xE7 | NX)
    return made


def marked_tables() -> ConstructedTables:
    """Return tables of code, data, swap and markers from 1 GiB on, and of a huge page at 1 GiB + 4 MiB."""
    made = ConstructedTables(MODE)
    for number in range(3):
        map_page(made, START + number * 4096, 0x700000 + number * 4096 | CODE)
    map_page(made, START + 0x10000, 0x800000 | DATA)
    map_page(made, START + 0x11000, 0x900000 | 0x47 | NX)
    for number in range(4):
        map_page(made, START + 0x20000 + number * 4096, swap_entry(0, 77 + number))
    map_page(made, START + 0x24000, swap_entry(31, 4))
    map_page(made, START + 0x25000, swap_entry(29, 0x1234))
    map_page(made, START + 0x26000, ~0x0000000000A00000 & 0x000FFFFFFFFFF000 | 0x100 | NX)
    made.map(START + 0x400000, PATH[:3], 0x67, 0x40000000 | 0xE7 | NX)
    return made


def hide_pages(tables: ConstructedTables) -> None:
    """Map 7 pages under PROT_NONE, of frames from 8 MiB on."""
    for number in range(7):
        map_page(tables, START + 0x30000 + number * 4096, hidden_entry(0x800 + number))
