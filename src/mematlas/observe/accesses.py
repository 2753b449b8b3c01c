"""What page tables are read and counted with: opened when it is first wanted, for one process or for several."""

from __future__ import annotations

from mematlas.errors import FormatError, NotSupported, PermissionDenied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.procfs import ProcFS
    from mematlas.model.pagetables.access import PageTableAccess
    from mematlas.model.pagetables.count_access import CountAccess


class Accesses:
    """What page tables are read and counted with, held until `close`: opening it takes long, and some memory."""

    def __init__(self, procfs: ProcFS) -> None:
        self.procfs = procfs
        self._tables: dict[str, PageTableAccess] = {}
        """By the reader that was asked for, and by its own name."""
        self._counts: CountAccess | None = None
        self._may_count = True

    def close(self) -> None:
        """Let go of all that is open."""
        for access in self._tables.values():
            access.close()
        self._tables.clear()
        if self._counts:
            self._counts.close()
            self._counts = None

    @property
    def name(self) -> str | None:
        """The name of the reader that was taken; None where nothing is open."""
        access = self._tables.get("auto") or self._counts
        return access.name if access else None

    def tables(self, reader: str = "auto") -> PageTableAccess:
        """Return what page tables are read with: see `mematlas.observe.process.Process.page_table_access`."""
        if reader not in self._tables:
            from mematlas.model.pagetables.reach import reach_tables

            self._tables[reader] = access = reach_tables(self.procfs, reader)
            # What was taken automatically is the one of its name as well.
            self._tables.setdefault(access.name, access)
        return self._tables[reader]

    def counts(self) -> CountAccess | None:
        """Return what page tables are counted with in the kernel; None where they must be read."""
        if self._counts is None and self._may_count:
            from mematlas.model.pagetables.reach import reach_counts

            try:
                self._counts = reach_counts(self.procfs)
            except (PermissionDenied, NotSupported, FormatError):
                self._may_count = False
        return self._counts
