"""What page tables are read and counted with: by ourselves, or through a broker."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.procfs import ProcFS
    from mematlas.model.pagetables.access import PageTableAccess
    from mematlas.model.pagetables.count_access import CountAccess


def reach_tables(procfs: ProcFS, reader: str = "auto") -> PageTableAccess:
    """Return what page tables are read with. Raises what `mematlas.model.pagetables.access.open_access` raises."""
    if procfs.lender is None:
        from mematlas.model.pagetables.access import open_access

        return open_access(procfs, reader)
    from mematlas.model.pagetables.lent import LentAccess

    return LentAccess(procfs, procfs.lender, reader)


def reach_counts(procfs: ProcFS) -> CountAccess:
    """Return what page tables are counted with. Raises what `CountAccess` raises."""
    if procfs.lender is None:
        from mematlas.model.pagetables.count_access import CountAccess

        return CountAccess(procfs)
    from mematlas.model.pagetables.lent_counts import LentCounts

    return LentCounts(procfs, procfs.lender)
