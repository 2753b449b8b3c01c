"""One process: what it maps, what of that is in memory, and where.

This is the library's front door; every command that looks at one process is a view of what is returned here.
"""

from __future__ import annotations

import os
import time

from mematlas.analysis.results import TORN, MapsResult, Reading, Translation, UsageResult
from mematlas.analysis.usage import total, total_by_node
from mematlas.errors import NoAddressSpace, NotSupported, PermissionDenied, ProcessGone
from mematlas.frozen import replace
from mematlas.kernel.maps import Vma, read_mark, read_marked_maps
from mematlas.kernel.pagemap import Pacer
from mematlas.kernel.procfs import ProcFS
from mematlas.kernel.smaps import SmapsReader, read_smaps
from mematlas.kernel.status import Stat, read_memory_status, read_stat, status_bytes
from mematlas.kernel.vmfile import find_files
from mematlas.model.address_space import EVERYTHING, AddressSpace, Selection
from mematlas.notes import Note, Notes
from mematlas.observe.smaps_counter import SmapsCounter, note_cut, read_counters
from mematlas.observe.sources import MAX_STALL, PAGE_SOURCES, Chooser, no_tables, pagemap_instead

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Self

    from mematlas.analysis.ending import DistinctResult, EndingResult
    from mematlas.analysis.grid import Cells, Stretch, Strip
    from mematlas.analysis.kept import Folds
    from mematlas.analysis.results import VmaUsage
    from mematlas.kernel.pagemap import Block
    from mematlas.kernel.procfs import ProcessDir
    from mematlas.model.nodes import PageNodes
    from mematlas.model.pages import Hole, PageReader
    from mematlas.model.pagetables.access import TableAccess
    from mematlas.model.pagetables.reader import TableReader
    from mematlas.observe.ending import Accounts


class Process:
    """A process, held so that another one that is given its PID is never taken for it.

    >>> import os
    >>> with Process(os.getpid()) as process:
    ...     result = process.usage()
    >>> 0 < result.usage.uss <= result.usage.pss <= result.usage.rss
    True

    Raises:
        TargetNotFound: there is no such process.
        NoAddressSpace: it is a kernel thread, or has ended (a zombie).
    """

    def __init__(self, pid: int | ProcessDir, procfs: ProcFS | None = None) -> None:
        """Open the process with a PID; or take over the directory of one that was found, and is held open."""
        self.dir = (procfs or ProcFS()).process(pid) if isinstance(pid, int) else pid
        self.procfs = self.dir.procfs
        self.pid = self.dir.pid
        self.page_size = self.procfs.page_size
        self.reading: Reading | None = None
        """How the last `pages`, `grid`, `density` or `translate` came about; None before its end."""
        try:
            self.stat: Stat = read_stat(self.dir)
            if self.stat.is_kernel_thread:
                raise NoAddressSpace(self.pid, self.stat.name)
            if self.stat.is_zombie:
                from mematlas.kernel.group import seen_whole

                self.dir = seen_whole(self.dir)
                self.stat = read_stat(self.dir)
            self._chooser = Chooser(self.dir)
            self.files = find_files(self.dir)
            """What knows the files that it maps."""
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
        self._chooser.close()
        self.dir.close()

    # What it maps

    def expect_more_looks(self) -> None:
        """Say that amounts or pages will be asked for again and again: then ``auto`` takes page tables sooner.

        What they are read with costs some time to open, once, and is held until `close`.
        """
        self._chooser.will_look_again = True

    def address_space(self) -> AddressSpace:
        """Return the VMAs, in address order.

        Raises:
            PermissionDenied: another user's process needs CAP_SYS_PTRACE.
        """
        vmas, mark = read_marked_maps(self.dir, self.files)
        self.stat = read_stat(self.dir)  # an exec changes the name
        if not vmas:
            self._raise_gone()
        return AddressSpace(vmas, mark)

    # How much

    def usage(
        self,
        source: str = "auto",
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

        >>> Process(4211).usage().usage.uss   # doctest: +SKIP
        851443712

        Raises:
            PermissionDenied: folios are asked for, and frames are hidden.
            NotSupported: folios are asked for of a capture.
        """
        result = self.maps(source, max_stall, first_pages=False, numa=numa)
        status = read_memory_status(self.dir)
        nodes = total_by_node((item.nodes or {} for item in result.vmas), result.nodes) if numa else None
        size, reading = self._try_distinct(source, max_stall, result.reading) if distinct else (None, result.reading)
        sizes = None
        if folios:
            from mematlas.model.folio_sizes import read_folio_sizes

            sizes = read_folio_sizes(self.dir, [item.vma for item in result.vmas], self._pacer())
        counters = read_counters(self.dir, status, len(result.vmas))
        amounts = total(item.usage for item in result.vmas)
        return UsageResult(amounts, status_bytes(status, "VmPTE"), reading, nodes, size, counters, sizes)

    def _try_distinct(self, source: str, max_stall: float, reading: Reading) -> tuple[int | None, Reading]:
        """Return the distinct amount, and the reading of the others with what there is to say about it."""
        try:
            found = self.distinct(source if source in PAGE_SOURCES else "auto", max_stall)
        except (PermissionDenied, NotSupported) as error:
            return None, replace(
                reading, notes=(*reading.notes, Note("distinct-unknown", f"distinct frames unknown: {error}"))
            )
        notes = tuple(dict.fromkeys((*reading.notes, *found.reading.notes)))
        return found.distinct, replace(reading, notes=notes, torn=reading.torn or found.reading.torn)

    def distinct(self, source: str = "auto", max_stall: float = MAX_STALL) -> DistinctResult:
        """Return what is resident with each frame counted once, however often the process maps it.

        >>> Process(4211).distinct().distinct   # doctest: +SKIP
        535822336

        Raises:
            PermissionDenied: frames are hidden (needs CAP_SYS_ADMIN), or their counts (needs CAP_DAC_READ_SEARCH).
        """
        from mematlas.analysis.ending import DistinctResult
        from mematlas.observe.ending import Accounts

        before = time.perf_counter()
        notes = Notes()
        accounts = Accounts(self.address_space().vmas)
        name = self._read_accounts(accounts, source, max_stall, notes)
        return DistinctResult(accounts.nr_distinct * self.page_size, self._reading_of(name, before, accounts, notes))

    def if_ended(self, source: str = "auto", max_stall: float = MAX_STALL) -> EndingResult:
        """Return what would become of its memory if the process ended now.

        Whether others hold its shared memory is found out by looking at every process, in a child of ours.

        >>> Process(4211).if_ended().freed   # doctest: +SKIP
        272650240

        Raises:
            PermissionDenied: frames are hidden (needs CAP_SYS_ADMIN), or their counts (needs CAP_DAC_READ_SEARCH).
        """
        from mematlas.analysis.ending import EndingResult
        from mematlas.observe.ending import FILE, SHARING_UNKNOWN, Accounts, Ending

        before = time.perf_counter()
        notes = Notes()
        self.procfs.open("kpagecount").close()  # a refusal comes before others are looked at
        accounts = Accounts(self.address_space().vmas)
        sharing = self.sharing_memory(everywhere=True)
        if sharing is None:
            notes.add(SHARING_UNKNOWN)
        ending = Ending(self.dir, accounts, notes)
        if not sharing:
            ending.look_around()
        name = self._read_accounts(accounts, source, max_stall, notes)
        if sharing:
            ending.keep_all(sharing)
        else:
            ending.add_frames()
            ending.add_swap(self._swap_pss(max_stall, notes) if accounts.slots else {})
            ending.add_tables()
        size = self.page_size
        return EndingResult(
            ending.sorted_parts(),
            accounts.nr_distinct * size,
            0 if sharing else accounts.sums.dirty[FILE] * size,
            self._reading_of(name, before, accounts, notes),
        )

    def sharing_memory(self, everywhere: bool = False) -> list[int] | None:
        """Return the other processes that run in the same address space; None where that cannot be told.

        Its parent and its children are looked at, or every process: others may have been given to another parent.

        >>> Process(4211).sharing_memory()   # doctest: +SKIP
        []
        """
        from mematlas.model.shared_mm import relatives, sharing_memory

        return sharing_memory(self.dir, None if everywhere else relatives(self.dir))

    def _read_accounts(self, accounts: Accounts, source: str, max_stall: float, notes: Notes) -> str:
        """Count the frames of a process; return what they were read from."""
        from mematlas.observe.ending import note_counts

        name = self.page_source(source, max_stall, 0, 1 << 64, notes)
        reader: PageReader | TableReader
        if name == "tables":
            from mematlas.model.pagetables.reader import TableReader

            reader = TableReader(self.dir, self.tables_access())
        else:
            from mematlas.model.pages import PageReader

            reader = PageReader(self.dir, self._pacer(), cached=False)
        with reader:
            accounts.read(reader)
        if self.procfs.live:
            note_counts(notes)
        return name

    def _reading_of(self, name: str, before: float, accounts: Accounts, notes: Notes) -> Reading:
        torn = self.address_space().vmas != accounts.vmas  # raises where it has ended
        duration = time.perf_counter() - before
        return Reading(name, duration, torn, tuple(notes), self._chooser.reader_name(name))

    def _swap_pss(self, max_stall: float, notes: Notes) -> dict[int, int] | None:
        """Return SwapPss of each VMA by its start; None where reading it would hold up the target for too long."""
        hold = self._chooser.smaps_hold(max_stall)
        if self.procfs.live and hold > max_stall:
            text = (
                f"whether swap is shared with forks is unknown: smaps tells, and holds up the target for about"
                f" {hold * 1e3:.0f} ms (--max-stall allows it)"
            )
            notes.add(Note("shared-swap-unknown", text))
            return None
        return {vma.start: fields["SwapPss"] for vma, fields in read_smaps(self.dir, self.files) if "SwapPss" in fields}

    def maps(
        self,
        source: str = "auto",
        max_stall: float = MAX_STALL,
        selection: Selection = EVERYTHING,
        first_pages: bool = True,
        numa: bool = False,
    ) -> MapsResult:
        """Return each VMA with what of it is in memory; see `usage` for the sources.

        ``first_pages`` asks for the state and the physical address of each VMA's first page as well, ``numa`` for the
        bytes on each NUMA node. These come from numa_maps where the rest is from smaps, else from the frames, and of
        frames that are hidden from move_pages(2). All agree for a process that stands still.

        >>> with Process(4211) as process:   # doctest: +SKIP
        ...     {item.vma.path: item.nodes for item in process.maps(numa=True).vmas}
        {'[heap]': {0: 1052672, 1: 8192}, '[stack]': {0: 12288}}

        Raises:
            NotSupported: nodes are asked for, of a kernel without CONFIG_NUMA.
        """
        before = time.perf_counter()
        notes = Notes()
        chosen = self._chooser.of_amounts(source, max_stall, notes, numa)
        nodes = self.page_nodes() if numa else None
        if chosen == "smaps":
            counter = SmapsCounter(self.dir, self._pacer(), first_pages, nodes, notes)
            vmas, torn = self._by_smaps(counter, selection)
            if torn and self.pid == os.getpid():
                vmas, torn = self._by_smaps(counter, selection)  # the reading itself made us grow: now there is room
        else:
            from mematlas.observe.page_counter import PageCounter

            by_pages = PageCounter(self.dir, self._pacer(), first_pages, nodes, notes)
            space = self.address_space()
            wanted = space.vmas if selection is EVERYTHING else list(filter(selection.matches, space.vmas))
            try:
                if chosen == "tables":
                    vmas = by_pages.by_tables(wanted, self._chooser)
            except NotSupported as error:
                if source != "auto":
                    raise
                chosen = "pagemap"
                notes.add(pagemap_instead(error))
            if chosen == "pagemap":
                vmas = by_pages.by_pagemap(wanted)
            torn = by_pages.torn or self._torn(space)
        if source == "auto" and chosen == "pagemap" and any(None in (v.usage.pss, v.usage.swap) for v in vmas):
            hold_ms = self._chooser.smaps_hold() * 1e3
            notes.add(Note("smaps-tells", f"--source smaps tells all, and holds up the target for {hold_ms:.0f} ms"))
        note_cut((item.vma for item in vmas), notes)
        if nodes and nodes.why and any(None in (item.nodes or ()) for item in vmas):
            from mematlas.model.nodes import nodes_unknown

            notes.add(nodes_unknown(nodes.why))
        notes += self.files.notes()
        reader = self._chooser.reader_name(chosen)
        duration = time.perf_counter() - before
        with_memory = nodes.with_memory if nodes else ()
        hold = self.dir.holds.get("smaps") if chosen == "smaps" else None
        return MapsResult(vmas, Reading(chosen, duration, torn, tuple(notes), reader, hold), with_memory)

    def _by_smaps(self, counter: SmapsCounter, selection: Selection) -> tuple[list[VmaUsage], bool]:
        reader = SmapsReader(self.dir, self.files)
        vmas = counter.count(
            batch if selection is EVERYTHING else [entry for entry in batch if selection.matches(entry[0])]
            for batch in reader
        )
        # smaps just stops where the target ends while it is read, which would look like less memory: then there
        # are no VMAs now. Where they differ now, they changed meanwhile.
        mark = read_mark(self.dir)
        self.stat = read_stat(self.dir)  # an exec changes the name
        if not mark:
            self._raise_gone()
        return vmas, mark != reader.mark

    def page_nodes(self, paced: bool = True) -> PageNodes:
        """Return what tells the NUMA node of each page of the blocks that `pages` yields.

        >>> with Process(4211) as process:   # doctest: +SKIP
        ...     nodes = process.page_nodes()
        ...     [nodes.of(piece) for _, piece in process.pages(0x7f3c1a2b4000, 0x7f3c1a2b7000)]
        [[0, 1, None]]

        Raises:
            NotSupported: a kernel without CONFIG_NUMA, no sysfs, or a capture that holds nothing of it.
        """
        from mematlas.model.nodes import PageNodes

        return PageNodes(self.dir, self._pacer() if paced else None)

    def page_source(self, source: str, max_stall: float, start: int, end: int, notes: Notes) -> str:
        """Return what `pages`, `grid` and `density` read a range from: ``pagemap``, or ``tables`` where ``auto`` is
        asked for, they can be read, and reading pagemap without a pause would hold up the target too long.
        """
        return self._chooser.of_pages(source, max_stall, start, end, notes)

    def tables_access(self, reader: str = "auto") -> TableAccess:
        """Return what page tables are read with: a reader by its name, opened at its first call and held until `close`.

        Raises:
            PermissionDenied: it needs CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN; and kpagecount CAP_DAC_READ_SEARCH.
            NotSupported: this kernel, or its lockdown, has no way; or this is a capture.
        """
        return self._chooser.tables_access(reader)

    def why_no_tables(self) -> Note | None:
        """Return what keeps `maps` from page tables; None when nothing does."""
        why = self._chooser.why_no_counts()
        return None if why is None else no_tables(why)

    def _page_reader(
        self, source: str, pieces: list[tuple[Vma, int, int]], paced: bool, notes: Notes, exclusive: bool = True
    ) -> PageReader | TableReader:
        low, high = (pieces[0][1], pieces[-1][2]) if pieces else (0, 0)
        if self.page_source(source, MAX_STALL, low, high, notes) == "tables":
            from mematlas.model.pagetables.reader import TableReader

            return TableReader(self.dir, self.tables_access(), low, high)
        from mematlas.model.pages import PageReader

        return PageReader(self.dir, self._pacer() if paced else None, exclusive=exclusive)

    # Where

    def translate(self, addresses: Iterable[int], notes: Notes | None = None) -> list[Translation]:
        """Return where each virtual address is, in the order asked.

        Without CAP_SYS_ADMIN the kernel hides frame numbers: state and flags are there, ``pfn`` and ``phys`` None.
        Why a state is unknown is added to ``notes``.

        >>> Process(4211).translate([0x7f3c1a2b4010])[0].phys   # doctest: +SKIP
        7023669264
        """
        from mematlas.analysis.translating import translate
        from mematlas.model.pages import PageReader

        before = time.perf_counter()
        space = self.address_space()
        with PageReader(self.dir) as reader:
            found = [translate(address, space, reader) for address in addresses]
            self._finish(before, space, reader, Notes() if notes is None else notes)
            return found

    def pages(
        self,
        start: int = 0,
        end: int = 1 << 64,
        selection: Selection = EVERYTHING,
        paced: bool = True,
        notes: Notes | None = None,
        source: str = "auto",
    ) -> Iterator[tuple[Vma, Block | Hole]]:
        """Yield the pages from ``start`` to ``end``, a block or a hole at a time, in address order.

        A block's arrays are valid until the next item: copy what you keep. As numpy arrays:
        ``np.frombuffer(block.raw, np.uint64)`` are the entries, ``np.frombuffer(block.states, np.uint8)`` the state
        bytes, which `mematlas.model.pages.STATE_OF_BYTE` names; from page tables, ``block.use`` has the accessed and
        dirty bits as well. Pagemap is read with pauses, so that the target runs on, unless ``paced`` is false. Why
        some pages are unknown is added to ``notes``, at the end. For ``source`` see `page_source`.

        >>> import os
        >>> with Process(os.getpid()) as process:
        ...     sum(len(piece) for vma, piece in process.pages() if vma.kind == "stack") > 0
        True

        Raises:
            ProcessGone: it ended, or started another program, meanwhile.
        """
        before = time.perf_counter()
        space = self.address_space()
        chosen = self._pieces(space, start, end, selection)
        notes = Notes() if notes is None else notes
        reader = self._page_reader(source if paced or source != "auto" else "pagemap", chosen, paced, notes)

        def pieces() -> Iterator[tuple[Vma, Block | Hole]]:
            with reader:
                try:
                    for vma, low, high in chosen:
                        yield from ((vma, piece) for piece in reader.pieces(vma, low, high))
                finally:  # whoever has seen enough wants to know as well
                    self._finish(before, space, reader, notes)

        return pieces()  # what cannot be read at all has been said by now

    def grid(
        self,
        start: int = 0,
        end: int = 1 << 64,
        selection: Selection = EVERYTHING,
        cell_pages: int | None = None,
        notes: Notes | None = None,
        source: str = "auto",
        folds: list[tuple[int, int]] | None = None,
    ) -> list[Strip]:
        """Return the address space as cells of ``cell_pages`` pages, VMA by VMA.

        Without ``cell_pages`` it is the least power of two that makes no more cells than a screen holds. Each of
        ``folds``, as `untouched` returns them, is one cell, and is not read.
        """
        from mematlas.analysis.grid import cut_in_strips

        space = self.address_space()
        chosen = self._pieces(space, start, end, selection)
        strips = cut_in_strips(chosen, folds or [], cell_pages, self.page_size)
        places = [(each.cells, each.vma, each.start, each.end, 0) for each in strips if not each.is_folded]
        self._fill(places, chosen, space, folds, source, Notes() if notes is None else notes, exclusive=True)
        return strips

    def density(
        self,
        columns: int,
        start: int = 0,
        end: int = 1 << 64,
        selection: Selection = EVERYTHING,
        notes: Notes | None = None,
        source: str = "auto",
        folds: list[tuple[int, int]] | None = None,
        exclusive: bool = True,
    ) -> tuple[Cells, list[Stretch]]:
        """Return all VMAs end to end, without the gaps, as at most so many cells of equal size.

        ``folds``, as `untouched` returns them, are left out as the gaps are. ``exclusive`` says whether anybody will
        ask which of the present pages are mapped once: where they lie far apart, that takes longer than all else. The
        second value tells which part of which VMA lies where.
        """
        from mematlas.analysis.grid import lay_end_to_end

        space = self.address_space()
        chosen = self._pieces(space, start, end, selection)
        cells, stretches = lay_end_to_end(chosen, folds or [], columns, self.page_size)
        places = [(cells, each.vma, each.start, each.end, each.place) for each in stretches]
        self._fill(places, chosen, space, folds, source, Notes() if notes is None else notes, exclusive)
        return cells, stretches

    def untouched(
        self,
        start: int = 0,
        end: int = 1 << 64,
        selection: Selection = EVERYTHING,
        source: str = "auto",
        exclusive: bool = True,
    ) -> Folds:
        """Return the long runs of absent pages where they are the greater part of what is asked for, else nothing.

        They would set the scale of a picture: see ``folds`` of `grid` and `density`, which then draw what was read
        here, if it is little enough to be kept. ``exclusive`` is for them, too.
        """
        from mematlas.analysis.grid import FOLD_FROM, choose_folds
        from mematlas.analysis.kept import Folds, Kept

        before = time.perf_counter()
        space = self.address_space()
        chosen = self._pieces(space, start, end, selection)
        size = sum(high - low for _, low, high in chosen)
        is_all = len(chosen) == len(space.vmas)
        if size <= FOLD_FROM or (is_all and 2 * self._chooser.nr_bytes() > size):
            return Folds()  # known without reading any page
        kept = Kept(space, chosen, before, exclusive)
        with self._page_reader(source, chosen, True, Notes(), exclusive) as reader:
            read = (
                (low, high, kept.keep(reader.lot_pieces(vma, low, high), self.page_size)) for vma, low, high in chosen
            )
            runs = choose_folds(read, self.page_size)
        kept.finish(reader)
        return Folds(runs, kept)

    def _pieces(self, space: AddressSpace, start: int, end: int, selection: Selection) -> list[tuple[Vma, int, int]]:
        """Return the parts of VMAs that a range touches, in whole pages."""
        low, high = start - start % self.page_size, -(-end // self.page_size) * self.page_size
        return [piece for piece in space.pieces(low, high) if selection.matches(piece[0])]

    def _fill(
        self,
        places: list[tuple[Cells, Vma, int, int, int]],
        chosen: list[tuple[Vma, int, int]],
        space: AddressSpace,
        folds: list[tuple[int, int]] | None,
        source: str,
        notes: Notes,
        exclusive: bool,
    ) -> None:
        """Count pages into cells, each range of a VMA from its place on: from what was kept, else by reading."""
        from mematlas.analysis.kept import kept_of

        kept = kept_of(folds, chosen, exclusive)
        if kept and kept.reader:
            for cells, _, low, high, place in places:
                cells.fill(kept.between(low, high, self.page_size), low, place, self.page_size)
            self._finish(kept.started, kept.space, kept.reader, notes)
            return
        before = time.perf_counter()
        with self._page_reader(source, chosen, True, notes, exclusive) as reader:
            for cells, vma, low, high, place in places:
                cells.fill(reader.lot_pieces(vma, low, high), low, place, self.page_size)
            self._finish(before, space, reader, notes)

    def _finish(self, before: float, space: AddressSpace, reader: PageReader | TableReader, notes: Notes) -> None:
        """Say how a reading of pages came about, in `reading` and in the notes."""
        if self.dir.fd < 0:
            return  # closed already: whoever asked has gone
        notes += reader.notes()
        note_cut(space.vmas, notes)
        torn = self._torn(space)
        if torn:
            notes.add(TORN)
        name = self._chooser.reader_name(reader.source)
        self.reading = Reading(reader.source, time.perf_counter() - before, torn, tuple(notes), name)

    def _pacer(self) -> Pacer | None:
        return Pacer() if self.procfs.live else None

    # Whether it is still the same

    def _torn(self, space: AddressSpace) -> bool:
        if not self.procfs.live:
            return False  # nothing changes there; whether it was torn when it was made, its own smaps shows
        try:
            return read_mark(self.dir) != space.mark
        except ProcessGone:
            return True

    def _raise_gone(self) -> None:
        from mematlas.kernel.group import ZOMBIE

        raise ProcessGone(self.pid, ZOMBIE if read_stat(self.dir).is_zombie else "has no memory (it is ending)")
