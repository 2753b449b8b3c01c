"""Which source a process is read from: what each would cost the target and us, and whether we may use it."""

from __future__ import annotations

import os

from mematlas.errors import BadInput, Error, FormatError, NotSupported, PermissionDenied
from mematlas.kernel.smaps import HOLD_PER_BYTE
from mematlas.kernel.status import open_memory, read_memory_status, status_bytes
from mematlas.notes import Note, Notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.procfs import ProcessDir
    from mematlas.model.costs import Costs
    from mematlas.model.pagetables.access import TableAccess
    from mematlas.model.pagetables.counts import CountAccess

MAX_STALL = 0.005
"""Seconds for which looking may hold up the target, unless told otherwise."""

SOURCES = ("auto", "smaps", "pagemap", "tables")
PAGE_SOURCES = ("auto", "pagemap", "tables")
"""Those that tell about single pages."""


def no_tables(why: Error) -> Note:
    """Return the note that page tables are left out."""
    return Note("no-tables", f"page tables cannot be read: {why}")


def pagemap_instead(why: Error) -> Note:
    """Return the note that pagemap is read in their place."""
    return Note("pagemap-instead", f"page tables cannot be read, so pagemap is, with pauses: {why}")


class Chooser:
    """Chooses the source that one process is read from, and holds what its page tables are read with."""

    def __init__(self, process: ProcessDir) -> None:
        self.dir = process
        self.procfs = process.procfs
        self.will_look_again = False
        """Whether this is one of many looks: what page tables are read with is then opened once, and pays."""
        self._access: dict[str, TableAccess] = {}
        """By the reader that was asked for, and by its own name."""
        self._counts: CountAccess | None = None
        self._may_count = True

    def close(self) -> None:
        """Let go of what page tables are read with."""
        for access in self._access.values():
            access.close()
        self._access.clear()
        if self._counts:
            self._counts.close()
            self._counts = None

    def of_amounts(self, source: str, max_stall: float, notes: Notes, numa: bool = False) -> str:
        """Return what amounts are read from: the source asked for, or with ``auto`` the best.

        That is smaps where it holds up the target for no more than ``max_stall`` seconds (numa_maps with ``numa``).
        """
        if source not in SOURCES:
            raise BadInput(f"no source {source!r} (there are {', '.join(SOURCES)})")
        if source != "auto":
            return source
        factor = 1.0
        if numa:
            from mematlas.kernel.numa_maps import HOLD_TO_SMAPS

            factor = HOLD_TO_SMAPS
        hold = self.smaps_hold(max_stall / factor) * factor
        if not self.procfs.live or hold <= max_stall:
            return "smaps"
        why = None
        if self._tables_pay() and (why := self.why_no_counts()) is None:
            return "tables"
        try:
            self._check_counts()
        except (PermissionDenied, NotSupported) as error:
            if why:
                notes.add(no_tables(why))
            text = f"read from smaps, which holds up the target for about {hold * 1e3:.0f} ms: {error}"
            notes.add(Note("smaps-instead", text))
            return "smaps"
        if why:
            notes.add(pagemap_instead(why))
        return "pagemap"

    def _check_counts(self) -> None:
        """Raise what keeps pagemap from telling all that smaps tells: frames, and how often they are mapped."""
        from mematlas.kernel.rights import effective_capabilities

        self.dir.open("pagemap").close()
        self.procfs.open("kpagecount").close()
        if "CAP_SYS_ADMIN" not in effective_capabilities():
            from mematlas.kernel.pagemap import frames_hidden

            raise frames_hidden(self.dir.path)

    def of_pages(self, source: str, max_stall: float, start: int, end: int, notes: Notes) -> str:
        """Return what single pages of a range are read from: ``pagemap``, or the source asked for.

        With ``auto`` it is ``tables`` where they can be read, and pagemap without a pause would hold up the target too
        long.
        """
        if source not in PAGE_SOURCES:
            raise BadInput(f"no source {source!r} of pages (there are {', '.join(PAGE_SOURCES)})")
        if source != "auto" or not self.procfs.live:
            return "pagemap" if source == "auto" else source
        if min(self.smaps_hold(max_stall), (end - start) * HOLD_PER_BYTE) <= max_stall:
            return "pagemap"
        if not self.will_look_again:
            costs = self._costs()
            if costs.reads >= costs.pagemap:
                return "pagemap"
        if (why := self.why_no_tables()) is None:
            return "tables"
        notes.add(pagemap_instead(why))
        return "pagemap"

    def _tables_pay(self) -> bool:
        """Whether page tables are the cheapest that amounts can be read from, or soon will be."""
        if self.will_look_again:
            return True
        from mematlas.kernel.rights import may_read_kernel

        costs = self._costs()
        by_pagemap = costs.pagemap + costs.shared
        if costs.reads < by_pagemap:
            return True
        # Without the right, they would: so that somebody says what is missing.
        return costs.counts < by_pagemap and (not may_read_kernel() or self.count_access() is not None)

    def _costs(self) -> Costs:
        from mematlas.model.costs import costs_of

        return costs_of(self.dir)

    def tables_access(self, reader: str = "auto") -> TableAccess:
        """Return what page tables are read with: a reader by its name, opened at its first call and held until `close`.

        Raises:
            PermissionDenied: it needs CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN; and kpagecount CAP_DAC_READ_SEARCH.
            NotSupported: this kernel, or its lockdown, has no way; or this is a capture.
        """
        if reader not in self._access:
            from mematlas.model.pagetables.access import open_access

            self._access[reader] = access = open_access(self.procfs, reader)
            # What was taken automatically is the one of its name as well.
            self._access.setdefault(access.name, access)
        return self._access[reader]

    def count_access(self) -> CountAccess | None:
        """Return what page tables are counted with in the kernel, held until `close`; None where they must be read."""
        if self._counts is None and self._may_count:
            from mematlas.model.pagetables.counts import CountAccess

            try:
                self._counts = CountAccess(self.procfs)
            except (PermissionDenied, NotSupported, FormatError):
                self._may_count = False
        return self._counts

    def why_no_counts(self) -> Error | None:
        """Return what keeps us from counting, or else from reading, page tables; None when nothing does."""
        from mematlas.kernel.rights import may_read_kernel

        if may_read_kernel() and self.count_access() is not None:
            try:
                os.close(open_memory(self.dir))
            except (PermissionDenied, NotSupported, FormatError) as error:
                return error
            return None
        return self.why_no_tables()

    def why_no_tables(self) -> Error | None:
        """Return what keeps us from reading page tables; None when nothing does."""
        from mematlas.kernel.rights import may_read_kernel, tables_refused

        if not may_read_kernel():  # before numpy is loaded for nothing
            return tables_refused("page tables")
        try:
            access = self.tables_access()
            access.memory.open_mm(self.dir.pid, self.dir).close()
            _ = access.frames  # found, and proven against kpagecount, before anybody relies on them
        except (PermissionDenied, NotSupported, FormatError) as error:
            return error
        return None

    def reader_name(self, source: str) -> str | None:
        """Return by what reader page tables were read; None for other sources."""
        if source != "tables":
            return None
        access = self._access.get("auto") or self._counts
        return access.name if access else None

    def smaps_hold(self, enough: float = 0.0) -> float:
        """Return for how many seconds reading smaps would hold up the process; see `mematlas.model.stalls`."""
        from mematlas.model.stalls import smaps_hold

        return smaps_hold(self.dir, enough)

    def nr_bytes(self) -> int:
        """Return how many bytes are resident or swapped."""
        status = read_memory_status(self.dir)
        return (status_bytes(status, "VmRSS") or 0) + (status_bytes(status, "VmSwap") or 0)
