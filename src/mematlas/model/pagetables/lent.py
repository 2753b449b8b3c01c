"""Page tables through a broker, which walks them (`mematlas.model.pagetables.served`): for who has no right to them."""

from __future__ import annotations

from mematlas.errors import Error
from mematlas.model.pagetables.access import PageTableAccess
from mematlas.model.pagetables.lent_frames import LentFrames
from mematlas.model.pagetables.walk import Walk, WalkingSource

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.arrays import Counts, Words
    from mematlas.kernel.procfs import Lending, ProcessDir, ProcFS
    from mematlas.model.pagetables.served import Facts, PackedWalk
    from mematlas.model.pagetables.walk import WalkStep
    from mematlas.notes import Note


class LentMm:
    """The address space of a process, held by a broker."""

    def __init__(self, memory: LentMemory, pid: int, number: int, pgd: int) -> None:
        self.memory = memory
        self.pid = pid
        self.number = number
        self.pgd = pgd

    def __enter__(self) -> LentMm:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it."""
        if self.number:
            self.memory.release(self)


class LentMemory(WalkingSource):
    """Kernel memory as far as page tables need it: what `KernelMemory` is elsewhere."""

    def __init__(self, procfs: ProcFS, lender: Lending, reader: str) -> None:
        self.procfs = procfs
        self.lender = lender
        self.reader = reader
        self.facts: Facts = lender.ask("open_tables", reader)[0]
        self.name = self.facts.name
        self.levels = self.facts.levels
        self.phys_bits = self.facts.phys_bits
        self.memory_end = self.facts.memory_end
        self._held: dict[int, list[tuple[int, bool]]] = {}
        """By the top table: the numbers of the address space, one for each time that it is held, and whether it is the
        one for user space.
        """
        self._copies: dict[int, int] = {}
        kernel = self.facts.kernel
        if kernel is not None:
            self.base, self.vmcoreinfo = kernel.base, kernel.vmcoreinfo
            self.layout, self.ram = kernel.layout, kernel.ram

    def open_mm(self, pid: int, directory: ProcessDir | None = None) -> LentMm:
        """Return the address space of a process, held."""
        if directory is None:
            with self.procfs.process(pid) as opened:
                return self.open_mm(pid, opened)
        number, pgd, copy = self.lender.ask("hold_tables", *directory.identity, self.reader)[0]
        self._held.setdefault(pgd, []).append((number, False))
        if copy is not None:
            self._copies[pgd] = copy
            self._held.setdefault(copy, []).append((number, True))
        return LentMm(self, directory.pid, number, pgd)

    def user_pgd(self, pgd: int) -> int | None:
        """Return the top table that user space runs with; see `KernelMemory.user_pgd`."""
        return self._copies.get(pgd)

    def release(self, mm: LentMm) -> None:
        """Let go of an address space."""
        number, mm.number = mm.number, 0
        for top in (mm.pgd, self._copies.get(mm.pgd)):
            if top is not None:
                self._held[top] = [held for held in self._held.get(top, ()) if held[0] != number]
                if not self._held[top]:
                    del self._held[top]
        try:
            self.lender.tell("release_tables", number)
        except (Error, OSError):
            pass  # it was held by a worker that has ended

    def is_current(self, mm: LentMm) -> bool:
        """Whether an address space is still that of its process."""
        current: bool = self.lender.ask("are_tables_current", mm.number)[0]
        return current

    def walk(self, pgd: int, first: int, last: int, nr_levels: int) -> Walk:
        """Return the tables of a range: the broker walks them."""
        packed: PackedWalk = self.lender.ask("walk_tables", *self._held[pgd][-1], first, last, nr_levels)[0]
        return Walk(self.facts.mode, pgd, first, last, tuple(packed.levels()), packed.torn, packed.nr_retries)

    def walk_address(self, pgd: int, address: int) -> tuple[WalkStep, ...]:
        """Return how one address is translated."""
        steps: tuple[WalkStep, ...] = self.lender.ask("walk_to_address", *self._held[pgd][-1], address)[0]
        return steps

    def close(self) -> None:
        """Let go of nothing: the worker ends with us."""


class LentAccess(PageTableAccess):
    """What page tables are read with, by a broker: what `PageTableAccess` is elsewhere."""

    def __init__(self, procfs: ProcFS, lender: Lending, reader: str) -> None:
        self._lent = LentMemory(procfs, lender, reader)
        self.memory = self._lent  # type: ignore[assignment]  # to whoever reads tables it is that
        self.mode = self._lent.facts.mode
        self.note: Note | None = None
        self._proven: LentFrames | None = None

    @property
    def frames(self) -> LentFrames:
        """What map counts and flags of frames come from, proven."""
        if self._proven is None:
            lender, reader = self._lent.lender, self._lent.reader
            self.note = lender.ask("prove_frames", reader)[0]
            kernel = self._lent.facts.kernel
            self._proven = LentFrames(lender, reader, kernel.struct_pages if kernel else None)
        return self._proven

    def map_counts(self, pfns: Words) -> Counts:
        """Return how often each frame is mapped; some are compared with the kernel's own files."""
        return self.frames.map_counts(pfns, "count_maps")

    def close(self) -> None:
        """Let go of it."""
        self.memory.close()
