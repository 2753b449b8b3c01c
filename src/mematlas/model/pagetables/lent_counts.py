"""Page tables counted through a broker (`mematlas.model.pagetables.served`): for who has no right to them."""

from __future__ import annotations

from array import array

from mematlas.errors import Error
from mematlas.model.pagetables.count_access import CountAccess, CountedTables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mematlas.kernel.memory.bpfcount import Sums
    from mematlas.kernel.procfs import Lending, ProcessDir, ProcFS

NR_LEAVES = 1 << 10
"""Huge leaves of one question."""


class LentCounts(CountAccess):
    """What page tables are counted with, by a broker: what `CountAccess` is elsewhere."""

    def __init__(self, procfs: ProcFS, lender: Lending) -> None:
        self.lender = lender
        self.levels, self.dirty_shift = self.lender.ask("open_counts")[0]
        self.take_files(procfs)

    def hold(self, process: ProcessDir) -> CountedTables:
        """Return the page tables of a process, held to be counted."""
        return LentTables(self.lender, process)

    def count_leaves(self, sums: Sums, leaves: list[tuple[int, int, int]]) -> None:
        """Count the pages of huge leaves."""
        for at in range(0, len(leaves), NR_LEAVES):
            numbers = array("q", [number for leaf in leaves[at : at + NR_LEAVES] for number in leaf])
            add_sums(sums, self.lender.ask("count_leaves", numbers.tobytes())[0])

    def distrust(self) -> None:
        """Have offsets that turned out wrong found anew the next time."""
        self.lender.ask("renew_layout")

    def ask_frames(self, pfns: list[int]) -> list[tuple[int, bool]]:
        """Return how often each of some frames is mapped, and whether it belongs to no file."""
        found: list[tuple[int, bool]] = self.lender.ask("ask_frames", array("Q", pfns).tobytes())[0]
        return found


class LentTables(CountedTables):
    """The page tables of one process, held by a broker to be counted."""

    def __init__(self, lender: Lending, process: ProcessDir) -> None:
        self.lender = lender
        self.first = self.nr_large = 0
        self.number: int = lender.ask("hold_counted", *process.identity)[0]

    def close(self) -> None:
        """Let go of the address space."""
        number, self.number = self.number, 0
        if number:
            try:
                self.lender.tell("release_counted", number)
            except (Error, OSError):
                pass  # it was held by a worker that has ended

    def are_current(self) -> bool:
        """Whether they are still the process's."""
        current: bool = self.lender.ask("are_counted_current", self.number)[0]
        return current

    def walk(self, sums: Sums, start: int, end: int, first_at: int) -> int | None:
        """Count a range."""
        reached, found, self.first, self.nr_large = self.lender.ask("count_range", self.number, start, end, first_at)[0]
        add_sums(sums, found)
        return reached  # type: ignore[no-any-return]

    def samples(self) -> list[int]:
        """Return some entries of the last walk that map memory."""
        found: list[int] = self.lender.ask("sample_counted", self.number)[0]
        return found

    def nr_shares(self, address: int, shift: int) -> int:
        """Return how many more processes the table of an upper level is part of that maps an address."""
        found: int = self.lender.ask("count_table_shares", self.number, address, shift)[0]
        return found


def add_sums(sums: Sums, more: dict[str, Any]) -> None:
    """Add what was counted elsewhere."""
    for name, value in more.items():
        ours = getattr(sums, name)
        if isinstance(value, dict):
            for key, nr in value.items():
                ours[key] = ours.get(key, 0) + nr
        else:
            setattr(sums, name, ours + value)
