"""One process: what it maps, what of that is in memory, and where.

This is the library's front door; every command that looks at one process is a view of what is returned here.
"""

from __future__ import annotations

import os
from _operator import is_

from mematlas.analysis.results import UsageResult
from mematlas.analysis.usage import total, total_by_node
from mematlas.errors import BadInput, NoAddressSpace, NotSupported, PermissionDenied
from mematlas.frozen import replace
from mematlas.kernel.procfs import ProcessDir, ProcFS
from mematlas.kernel.status import Stat, read_memory_status, read_stat, status_bytes
from mematlas.model.address_space import EVERYTHING, AddressSpace, Selection
from mematlas.model.target import Target, by_number
from mematlas.notes import Note, Notes
from mematlas.observe.amounts import look_at_vmas, page_nodes, read_counters, recorded_of
from mematlas.observe.sources import MAX_STALL, Sources, no_tables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

    from mematlas.analysis.ending import DistinctResult, EndingResult
    from mematlas.analysis.grid import Density, Grid
    from mematlas.analysis.neighbours import Fit
    from mematlas.analysis.results import MapsResult, Reading
    from mematlas.analysis.translation import Translations
    from mematlas.analysis.usage import Usage
    from mematlas.kernel.maps import Files
    from mematlas.model.nodes import PageNodes
    from mematlas.model.pagetables.access import PageTableAccess
    from mematlas.model.pagetables.room import TableRoom
    from mematlas.observe.drawings import Folds
    from mematlas.observe.following import Following
    from mematlas.observe.pages import Pages
    from mematlas.observe.sums import SumsReader
    from mematlas.words import PagesFrom, Source


class Process:
    """A process, held so that another one that is given its PID is never taken for it.

    The target is a PID, or a text as the command line takes it: ``self``, a command's exact name, ``cmdline:REGEX``, or
    the directory of a capture.

    >>> import os
    >>> with Process(os.getpid()) as process:
    ...     usage = process.usage()
    >>> 0 < usage.uss <= usage.pss <= usage.rss
    True

    Ask how much there is: `usage`, `maps`, `distinct`, `if_ended`. Ask about single pages: `pages`, `translate`. `grid`
    and `density` are what pictures are made of. Each returns one object that holds the answer and its
    ``reading``: from which source, how long it took, whether VMAs changed meanwhile, and notes on what is unknown.
    Memory is read so that the target runs on: see `usage` for ``source`` and ``max_stall``.

    Raises:
        TargetNotFound: there is no such process.
        TargetAmbiguous: several have this name; the message lists them.
        NoAddressSpace: it is a kernel thread, or has ended (a zombie).
    """

    def __init__(self, target: int | str | os.PathLike[str] | ProcessDir, procfs: ProcFS | None = None) -> None:
        """Open the process that is meant; or take over the directory of one that was found, and is held open."""
        opened = open_target(target, procfs or ProcFS())
        self.dir = opened.dir
        self.procfs = self.dir.procfs
        self.pid = self.dir.pid
        self.page_size = self.procfs.page_size
        self._sums: SumsReader | None = None
        self._apart: dict[int, tuple[bytes, ...]] = {}
        """Its parent, once that was found to run elsewhere, with where the parts of its own program lay then."""
        self._last_total: tuple[list[Usage], Usage] | None = None
        """The amounts that were added up last, and their sum."""
        self.notes = opened.notes
        """Which processes could not be looked at when this one was searched for."""
        try:
            stat = read_stat(self.dir)
            if stat.is_kernel_thread:
                raise NoAddressSpace(self.pid, stat.name)
            if stat.is_zombie:
                from mematlas.kernel.group import seen_whole

                self.dir = seen_whole(self.dir)
                stat = read_stat(self.dir)
            self.sources = Sources(self.dir, stat)
            """What it can be read from."""
        except BaseException:
            self.dir.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Process {self.pid} {self.stat.name!r}>"

    def close(self) -> None:
        """Let go of the process."""
        self.sources.close()

    @property
    def stat(self) -> Stat:
        """Who it is, as of the last look at its VMAs: an exec changes the name."""
        return self.sources.stat

    @property
    def files(self) -> Files:
        """What knows the files that it maps."""
        return self.sources.files

    # What it maps

    def expect_more_looks(self) -> None:
        """Say that amounts or pages will be asked for again and again: then ``auto`` takes page tables sooner.

        What they are read with costs some time to open, once, and is held until `close`.
        """
        self.sources.expect_more_looks()

    def follow(self, room: TableRoom, pages: bool = False) -> Following:
        """Have what `maps` counts by page tables found out by what has changed since the call before; return what does.

        It takes memory, of which there is ``room`` for all that are followed. ``pages`` says that single pages are
        wanted, too. What is not known as of each look is said in a note.
        """
        from mematlas.observe.following import Following

        self.expect_more_looks()
        following = self.sources.following = Following(self.sources, room, pages)
        return following

    def address_space(self) -> AddressSpace:
        """Return the VMAs, in address order.

        Raises:
            PermissionDenied: another user's process needs CAP_SYS_PTRACE.
        """
        return self.sources.address_space()

    # How much

    def usage(
        self,
        source: Source = "auto",
        max_stall: float = MAX_STALL,
        numa: bool = False,
        distinct: bool = False,
        folios: bool = False,
    ) -> UsageResult:
        """Return how much memory the process uses, with its page tables.

        ``auto`` reads smaps, unless that would hold up the target for more than ``max_stall`` seconds; then what takes
        us the least: the page tables themselves, where our rights and the kernel allow it, or pagemap with pauses, and
        kpagecount. All agree to the byte for a process that stands still (PSS: to the kernel's rounding). ``numa`` asks
        for the amounts by node as well, see `maps`; ``distinct`` for that of distinct frames, which is None where
        `distinct` is refused; ``folios`` for those by the size of folios.

        >>> Process(4211).usage().uss   # doctest: +SKIP
        851443712

        Raises:
            PermissionDenied: folios are asked for, and frames are hidden.
            NotSupported: folios are asked for of a capture.
        """
        if not numa and (recorded := recorded_of(self.sources, source)) and (sums := recorded.usage()):
            return sums
        result = self.maps(source, max_stall, first_pages=False, numa=numa)
        reading = result.reading
        size = sizes = nodes = None
        if numa:
            nodes = total_by_node((item.nodes or {} for item in result.vmas), result.nodes)
        if distinct:
            size, reading = self._try_distinct(source, max_stall, reading)
        if folios:
            from mematlas.model.folio_sizes import read_folio_sizes

            vmas = [item.vma for item in result.vmas]
            sizes = read_folio_sizes(self.dir, vmas, self.sources.pacer())
        return replace(self.sum_of(result), reading=reading, nodes=nodes, distinct=size, folios=sizes)

    def sum_of(self, result: MapsResult) -> UsageResult:
        """Return what VMAs that were just looked at, all of them, amount to, with what the kernel counts as it goes."""
        status = read_memory_status(self.dir)
        return UsageResult(
            usage=self._total_of(result),
            tables=status_bytes(status, "VmPTE"),
            reading=result.reading,
            counters=read_counters(self.dir, status, len(result.vmas)),
        )

    def _total_of(self, result: MapsResult) -> Usage:
        """Return what VMAs amount to: mostly they are as they were at the last look, each the same record."""
        usages = [item.usage for item in result.vmas]
        last = self._last_total
        if last and len(usages) == len(last[0]) and all(map(is_, usages, last[0])):
            return last[1]
        sums = total(usages)
        if self.sources.last_usages:
            self._last_total = usages, sums
        return sums

    def sums(self, max_stall: float = MAX_STALL, stat: bytes | None = None) -> UsageResult:
        """Return how much memory the process uses, by the kernel's own sums where it need not be held up for longer.

        That is cheaper than `usage`, and for many processes the thing to ask. Zero pages and the number of VMAs are
        None then, and so is what is of files and what is shared memory where the kernel's counters lag behind. Who
        looks again and again, and gives what is in the file ``stat`` each time, has a process that does nothing
        counted only each eighth time; a note, ``counts-in-turn``, says so.

        >>> import os
        >>> with Process(os.getpid()) as process:
        ...     sums = process.sums()
        >>> 0 < sums.uss <= sums.pss <= sums.rss
        True
        """
        from mematlas.observe.sums import SumsReader

        if self._sums is None:
            self._sums = SumsReader()
        return self._sums.read(self.sources, max_stall, stat) or self.usage(max_stall=max_stall)

    def _try_distinct(self, source: Source, max_stall: float, reading: Reading) -> tuple[int | None, Reading]:
        """Return the distinct amount, and the reading of the others with what there is to say about it."""
        try:
            result = self.distinct("auto" if source == "smaps" else source, max_stall)
        except (PermissionDenied, NotSupported) as error:
            unknown = Note("distinct-unknown", f"distinct frames unknown: {error}")
            return None, replace(reading, notes=(*reading.notes, unknown))
        notes = tuple(Notes((*reading.notes, *result.reading.notes)))
        torn = reading.torn or result.reading.torn
        return result.distinct, replace(reading, notes=notes, torn=torn)

    def maps(
        self,
        source: Source = "auto",
        max_stall: float = MAX_STALL,
        selection: Selection = EVERYTHING,
        first_pages: bool = True,
        numa: bool = False,
        owners: bool = False,
    ) -> MapsResult:
        """Return each VMA with what of it is in memory; see `usage` for the sources.

        ``first_pages`` asks for the state and the physical address of each VMA's first page as well, ``numa`` for the
        bytes on each NUMA node. These come from numa_maps where the rest is from smaps, else from the frames, and of
        frames that are hidden from move_pages(2). All agree for a process that stands still. ``owners`` asks who made
        each of them: threads, allocators, runtimes, as far as that can be known.

        >>> with Process(4211) as process:   # doctest: +SKIP
        ...     {item.path: item.nodes for item in process.maps(numa=True).vmas}
        {'[heap]': {0: 1052672, 1: 8192}, '[stack]': {0: 12288}}

        Raises:
            NotSupported: nodes are asked for, of a kernel without CONFIG_NUMA.
        """
        return look_at_vmas(self.sources, source, max_stall, selection, first_pages, numa, owners)

    def distinct(self, source: PagesFrom = "auto", max_stall: float = MAX_STALL) -> DistinctResult:
        """Return what is resident with each frame counted once, however often the process maps it.

        >>> Process(4211).distinct().distinct   # doctest: +SKIP
        535822336

        Raises:
            PermissionDenied: frames are hidden (needs CAP_SYS_ADMIN), or their counts (needs CAP_DAC_READ_SEARCH).
        """
        from mematlas.observe.ending import find_distinct

        return find_distinct(self.sources, source, max_stall)

    def if_ended(self, source: PagesFrom = "auto", max_stall: float = MAX_STALL) -> EndingResult:
        """Return what would become of its memory if the process ended now.

        Whether others hold its shared memory is found out by looking at every process, in a child of ours.

        >>> Process(4211).if_ended().freed   # doctest: +SKIP
        272650240

        Raises:
            PermissionDenied: frames are hidden (needs CAP_SYS_ADMIN), or their counts (needs CAP_DAC_READ_SEARCH).
        """
        from mematlas.observe.ending import find_ending

        def find_sharing() -> list[int] | None:
            return self.sharing_memory(everywhere=True)

        return find_ending(self.sources, find_sharing, source, max_stall)

    def sharing_memory(self, everywhere: bool = False) -> list[int] | None:
        """Return the other processes that run in the same address space; None where that is not known.

        Its parent and its children are looked at, or every process: others may have been given to another parent.

        >>> Process(4211).sharing_memory()   # doctest: +SKIP
        []
        """
        from mematlas.model.shared_mm import sharing_memory

        return sharing_memory(self.dir, everywhere, self._apart)

    def page_nodes(self, paced: bool = True) -> PageNodes:
        """Return what finds the NUMA node of each page of the blocks that `pages` yields.

        >>> with Process(4211) as process:   # doctest: +SKIP
        ...     nodes = process.page_nodes()
        ...     [nodes.of(piece) for _, piece in process.pages(0x7f3c1a2b4000, 0x7f3c1a2b7000)]
        [[0, 1, None]]

        Raises:
            NotSupported: a kernel without CONFIG_NUMA, no sysfs, or a capture that holds nothing of it.
        """
        return page_nodes(self.sources, paced)

    def page_table_access(self, reader: str = "auto") -> PageTableAccess:
        """Return what page tables are read with: a reader by its name, opened at its first call and held until `close`.

        Raises:
            PermissionDenied: it needs CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN; and kpagecount CAP_DAC_READ_SEARCH.
            NotSupported: this kernel, or its lockdown, has no way; or this is a capture.
        """
        return self.sources.page_table_access(reader)

    def why_no_tables(self) -> Note | None:
        """Return what keeps `maps` from page tables; None when nothing does."""
        why = self.sources.why_no_counts()
        return None if why is None else no_tables(why)

    # Where

    def translate(self, addresses: Iterable[int]) -> Translations:
        """Return where each virtual address is, in the order asked.

        Without CAP_SYS_ADMIN the kernel hides frame numbers: state and flags are there, ``pfn`` and ``phys`` None.

        Raises:
            BadInput: something else than an integer of 64 bits is among them.

        >>> Process(4211).translate([0x7f3c1a2b4010])[0].phys   # doctest: +SKIP
        7023669264
        """
        from mematlas.observe.pages import translate_all

        return translate_all(self.sources, addresses)

    def pages(
        self,
        start: int = 0,
        end: int | None = None,
        selection: Selection = EVERYTHING,
        *,
        paced: bool = True,
        source: PagesFrom = "auto",
        max_stall: float = MAX_STALL,
        accessed: bool = False,
    ) -> Pages:
        """Return the pages from ``start`` to ``end``, to be gone through once: a block or a hole at a time, in order.

        A block's arrays are valid until the next item: copy what you keep. As numpy arrays:
        ``np.frombuffer(block.raw, np.uint64)`` are the entries, ``np.frombuffer(block.states, np.uint8)`` the state
        bytes, which `mematlas.state_of` names; from page tables, ``block.use`` has the accessed and dirty bits as well.
        With ``accessed`` they are read, or where they cannot be, what the kernel knows of accesses that the program
        tracks itself (userfaultfd, read-write protection).
        ``auto`` reads pagemap, or page tables where that would hold up the target for more than ``max_stall`` seconds,
        and they cost less. Pagemap is read with pauses, so that the target runs on, unless ``paced`` is false.

        >>> import os
        >>> with Process(os.getpid()) as process:
        ...     sum(len(piece) for vma, piece in process.pages() if vma.kind == "stack") > 0
        True

        Raises:
            ProcessGone: it ended, or started another program, meanwhile.
            PermissionDenied, NotSupported: nothing shows which pages were accessed, and that was asked for.
        """
        from mematlas.observe.pages import PageLook, Pages

        look = PageLook(self.sources, start, end, selection)
        reader = look.open(source, max_stall, paced, accessed=accessed)  # what cannot be read at all is said now
        return Pages(look, reader)

    def grid(
        self,
        start: int = 0,
        end: int | None = None,
        selection: Selection = EVERYTHING,
        *,
        cell_pages: int | None = None,
        source: PagesFrom = "auto",
        max_stall: float = MAX_STALL,
        folds: list[tuple[int, int]] | None = None,
        fit: Fit | None = None,
    ) -> Grid:
        """Return the address space as cells of ``cell_pages`` pages, VMA by VMA; see `pages` for the sources.

        Without ``cell_pages`` it is the least power of two that makes no more cells than a screen holds. Each of
        ``folds``, as `untouched` returns them, is one cell, and is not read. ``fit`` says what the picture is to fit:
        then small neighbours are taken together, and cells are as large as need be.
        """
        from mematlas.observe.drawings import draw_grid
        from mematlas.observe.pages import PageLook

        look = PageLook(self.sources, start, end, selection)
        return draw_grid(look, source, max_stall, cell_pages, folds, fit)

    def density(
        self,
        columns: int,
        start: int = 0,
        end: int | None = None,
        selection: Selection = EVERYTHING,
        *,
        source: PagesFrom = "auto",
        max_stall: float = MAX_STALL,
        folds: list[tuple[int, int]] | None = None,
        exclusive: bool = True,
    ) -> Density:
        """Return all VMAs end to end, without the gaps, as at most so many cells of equal size; see `pages`.

        ``folds``, as `untouched` returns them, are left out as the gaps are. ``exclusive`` says whether anybody will
        ask which of the present pages are mapped once: where they lie far apart, that takes longer than all else.
        """
        from mematlas.observe.drawings import draw_density
        from mematlas.observe.pages import PageLook

        look = PageLook(self.sources, start, end, selection)
        return draw_density(look, source, max_stall, columns, folds, exclusive)

    def untouched(
        self,
        start: int = 0,
        end: int | None = None,
        selection: Selection = EVERYTHING,
        *,
        source: PagesFrom = "auto",
        max_stall: float = MAX_STALL,
        exclusive: bool = True,
    ) -> Folds:
        """Return the long runs of absent pages where they are the greater part of what is asked for, else nothing.

        They would set the scale of a picture: see ``folds`` of `grid` and `density`, which then draw what was read
        here, if it is little enough to be kept. ``exclusive`` is for them, too.
        """
        from mematlas.observe.drawings import find_folds
        from mematlas.observe.pages import PageLook

        look = PageLook(self.sources, start, end, selection)
        return find_folds(look, source, max_stall, exclusive)


def open_target(target: object, procfs: ProcFS) -> Target:
    """Return the process that is meant, held open."""
    if isinstance(target, ProcessDir):
        return Target(target)
    if isinstance(target, int) and not isinstance(target, bool):
        return Target(procfs.process(target))
    if isinstance(target, os.PathLike):
        target = os.path.join(".", os.fspath(target))  # a path, whatever process has this name
    if not isinstance(target, str):
        raise BadInput(f"no process {target!r}: give a PID, a name, cmdline:REGEX, or the directory of a capture")
    numbered = by_number(target, procfs)
    if numbered is not None:
        return numbered
    from mematlas.model.search import resolve

    return resolve(target, procfs)
