"""Tables made by hand, in a dictionary instead of in memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mematlas.model.pagetables.entries import PagingMode

Words = NDArray[np.uint64]
Bools = NDArray[np.bool_]


class ConstructedTables:
    """A `TableSource` of tables by physical address. ``script`` runs before each reading, to change them."""

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

    def entries(self, phys_addresses: Words) -> tuple[Words, Bools]:
        values = np.zeros(len(phys_addresses), np.uint64)
        good = np.zeros(len(phys_addresses), np.bool_)
        for row, address in enumerate(phys_addresses.tolist()):
            for table, words in self.by_address.items():
                if table <= address < table + 8 * len(words):
                    values[row], good[row] = words[(address - table) // 8], True
        return values, good
