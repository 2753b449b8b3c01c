"""How much memory: what `mematlas.Process.maps` and `usage` are made of, of smaps or of what counts pages.

This is on the way of every light command: what counts pages is imported where it is chosen.
"""

from __future__ import annotations

import os
import time
from itertools import repeat

from mematlas.analysis.results import WITH_FRAME, Counted, Counters, MapsResult, VmaUsage
from mematlas.analysis.usage import usage_of_fields
from mematlas.errors import NotSupported, PermissionDenied
from mematlas.frozen import replace
from mematlas.kernel.kconfig import AVERAGE_COUNTS, counts_are_averages
from mematlas.kernel.maps import MAY_BE_HIDDEN, read_mark
from mematlas.kernel.status import read_stat, status_bytes
from mematlas.model.address_space import EVERYTHING
from mematlas.notes import Note, Notes
from mematlas.observe.sources import LastUsages, cut_paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from mematlas.analysis.usage import Usage
    from mematlas.kernel.maps import Vma
    from mematlas.kernel.pagemap import Pacer
    from mematlas.kernel.procfs import ProcessDir
    from mematlas.model.address_space import Selection
    from mematlas.model.nodes import PageNodes
    from mematlas.model.pages import PageReader
    from mematlas.model.unsaid import Unsaid
    from mematlas.observe.recorded import Recorded
    from mematlas.observe.sources import Entries, Sources
    from mematlas.words import Source, State


def look_at_vmas(
    sources: Sources,
    wanted: Source,
    max_stall: float,
    selection: Selection,
    first_pages: bool,
    numa: bool,
    owners: bool = False,
) -> MapsResult:
    """Return each VMA with what of it is in memory, from the source wanted, or from that which suits."""
    began = time.perf_counter()
    choice = sources.choose(wanted, max_stall, numa=numa)
    nodes = page_nodes(sources) if numa else None
    recorded = recorded_of(sources, wanted)
    if recorded and numa:
        # What lies on which node is no amount that is recorded: where single pages are, they tell.
        choice = replace(choice, source="pagemap")
    if recorded and not numa:
        from mematlas.observe.recorded import by_record

        counted = by_record(sources, recorded, selection, pages_first if first_pages else None)
    elif choice.source == "smaps":
        counted = by_smaps(sources, selection, first_pages, nodes)
    else:
        from mematlas.observe.page_counter import by_pages

        counted = by_pages(sources, choice.source, wanted == "auto", selection, first_pages, nodes)
    notes = Notes((*choice.why, *counted.notes))
    if wanted == "auto" and counted.source == "pagemap":
        notes += what_smaps_adds(sources, counted.vmas)
    notes += cut_paths(item.vma for item in counted.vmas)
    if first_pages and are_hidden(counted.vmas):
        from mematlas.model.pages import HIDDEN_FRAMES

        notes.add(HIDDEN_FRAMES)
    if nodes and nodes.why and any(None in (item.nodes or ()) for item in counted.vmas):
        from mematlas.model.nodes import nodes_unknown

        notes.add(nodes_unknown(nodes.why))
    notes += sources.files.notes()
    vmas = counted.vmas
    if owners:
        from mematlas.observe.owners import with_owners

        vmas, about_owners = with_owners(sources, vmas, selection)
        notes += about_owners
    if counts_are_averages(sources.procfs):
        notes.add(AVERAGE_COUNTS)
    hold = sources.dir.holds.get("smaps") if counted.source == "smaps" else None
    reading = sources.reading(counted.source, began, counted.torn, notes, hold)
    return MapsResult(vmas, reading, nodes.with_memory if nodes else ())


def recorded_of(sources: Sources, wanted: Source) -> Recorded | None:
    """Return what a recording holds, where the process is one at a moment of it.

    Raises:
        NotSupported: smaps is wanted, and something else was read when this was recorded.
    """
    if wanted not in ("auto", "smaps") or not sources.procfs.captured:
        return None
    from mematlas.observe.recorded import read_recorded

    recorded = read_recorded(sources.dir)
    if recorded and wanted == "smaps" != recorded.source:
        raise NotSupported("smaps of that moment", f"record --source smaps: {recorded.source} was read")
    return recorded


def are_hidden(vmas: Iterable[VmaUsage]) -> bool:
    """Whether the frame of some first page is hidden from us."""
    return not WITH_FRAME.isdisjoint({item.first_state for item in vmas if item.phys is None})


def what_smaps_adds(sources: Sources, vmas: Iterable[VmaUsage]) -> list[Note]:
    """Return the note that smaps would report more, if it would."""
    if not any(None in (item.usage.pss, item.usage.swap) for item in vmas):
        return []
    hold_ms = sources.smaps_hold() * 1e3
    return [Note("smaps-has-more", f"--source smaps reports all, but holds up the target for {hold_ms:.0f} ms")]


def page_nodes(sources: Sources, paced: bool = True) -> PageNodes:
    """Return what finds the NUMA node of each page of a block."""
    from mematlas.model.nodes import PageNodes

    return PageNodes(sources.dir, sources.pacer() if paced else None)


TRACKED_ACCESSES = Note(
    "tracked-accesses",
    "accessed pages are known of memory that its program tracks by userfaultfd (RWP): since it last protected them",
)
OWN_LOOKS = 10
"""How often more we look at ourselves while that makes us grow."""


def by_smaps(sources: Sources, selection: Selection, first_pages: bool, nodes: PageNodes | None) -> Counted:
    """Return what smaps reports; read once more where our own reading made us grow."""
    counter = SmapsCounter(sources.dir, sources.pacer(), first_pages, nodes, sources.last_usages)
    vmas, torn = read_by_smaps(sources, counter, selection)
    nr_more = OWN_LOOKS if sources.dir.pid == os.getpid() else 0
    held: list[VmaUsage] = []
    for _ in range(nr_more):
        if not torn:
            break
        # What this takes is room for the next. The last of it keeps the arena that Python has mapped from being
        # unmapped, and mapped again.
        held += vmas[-1:]
        vmas.clear()
        vmas, torn = read_by_smaps(sources, counter, selection)
    return Counted(source="smaps", vmas=vmas, torn=torn, notes=counter.notes)


def read_by_smaps(sources: Sources, counter: SmapsCounter, selection: Selection) -> tuple[list[VmaUsage], bool]:
    """Return what one reading of smaps reports, and whether VMAs changed meanwhile."""
    from mematlas.kernel.smaps import SmapsReader

    reader = SmapsReader(sources.dir, sources.files, sources.last_texts)

    def wanted(batch: Entries) -> Entries:
        if selection is EVERYTHING:
            return batch
        return [entry for entry in batch if selection.matches(entry[0])]

    vmas = counter.count(map(wanted, reader), reader.tracked)
    # smaps just stops where the target ends while it is read, which would look like less memory: then there are no
    # VMAs now. Where they differ now, they changed meanwhile.
    mark = read_mark(sources.dir)
    sources.stat = read_stat(sources.dir)
    if not mark:
        sources.raise_gone()
    return vmas, mark != reader.mark


class SmapsCounter:
    """Counts VMAs of one process by smaps."""

    def __init__(
        self,
        process: ProcessDir,
        pacer: Pacer | None,
        first_pages: bool,
        nodes: PageNodes | None,
        last: LastUsages | None = None,
    ) -> None:
        """With ``last``, what fields amount to is known of those that were met when the process was last read."""
        self._last = last or LastUsages()
        self._last.begin()
        self.process = process
        self.page_size = process.procfs.page_size
        self._pacer = pacer
        self._first_pages = first_pages
        self._nodes = nodes
        self.notes = Notes()
        """What is unknown, and why."""

    def count(self, batches: Iterable[Entries], tracked: Collection[int] = ()) -> list[VmaUsage]:
        """Return what smaps reports of VMAs; what it does not, by pagemap: zero pages, and the first page; and of those
        that begin at ``tracked``, which grows with the batches, what was accessed.
        """
        from mematlas.model.unsaid import Unsaid

        try:
            unsaid = Unsaid(self.process, self._pacer)
        except (PermissionDenied, NotSupported) as error:
            self.notes.add(Note("zero-unknown", f"zero pages and first pages unknown: {error}"))
            return self._of_batches(None, batches)
        with unsaid:
            result = self._of_batches(unsaid, batches)
            if tracked:
                result = with_accesses(result, unsaid, tracked)
                if any(item.nr_accessed is not None for item in result):
                    self.notes.add(TRACKED_ACCESSES)
        return result

    def _of_batches(self, unsaid: Unsaid | None, batches: Iterable[Entries]) -> list[VmaUsage]:
        result = [item for entries in batches for item in self._of_entries(unsaid, entries)]
        if self._nodes:
            reported = [(item.vma, resident_bytes(item.usage)) for item in result]
            sizes = self._nodes.of_sizes(unsaid.reader if unsaid else None, reported)
            result = [replace(item, nodes=nodes) for item, nodes in zip(result, sizes, strict=True)]
        return result

    def _of_entries(self, unsaid: Unsaid | None, entries: Entries) -> list[VmaUsage]:
        vmas = [vma for vma, _ in entries]
        firsts: Iterable[tuple[State | None, int | None]] = repeat((None, None))
        if unsaid is None:
            from mematlas.model.unsaid import may_show_zero

            zeros = [None if may_show_zero(vma, fields) else 0 for vma, fields in entries]
        else:
            zeros = unsaid.nr_zeros(entries)
            if None in zeros:
                from mematlas.model.pages import ZERO_UNKNOWN

                self.notes.add(ZERO_UNKNOWN)
            if self._first_pages:
                firsts = pages_first(unsaid.reader, vmas)
        hidden = [unsaid.is_hidden(vma) if unsaid else vma.kind in MAY_BE_HIDDEN for vma in vmas]
        if self._first_pages:
            return self._items(entries, zeros, hidden, firsts)
        # Mostly all of it is as it was at the last look.
        batch = self._last.batch_of(entries)
        if batch is None or batch[1] != zeros or batch[2] != hidden:
            batch = entries, zeros, hidden, self._items(entries, zeros, hidden, firsts)
        self._last.keep(batch)
        return batch[3]

    def _items(
        self,
        entries: Entries,
        zeros: Iterable[int | None],
        hidden: Iterable[bool],
        firsts: Iterable[tuple[State | None, int | None]],
    ) -> list[VmaUsage]:
        known = self._last.usages
        items = []
        for (vma, fields), nr_zero, is_hidden, (state, phys) in zip(entries, zeros, hidden, firsts, strict=False):
            # VMAs of which smaps says the same share their fields, and so they share what these amount to.
            key = id(fields), vma.kind, vma.end - vma.start, nr_zero, is_hidden
            found = known.get(key)
            if found is None or found[0] is not fields:
                found = known[key] = fields, usage_of_fields(vma, fields, self.page_size, nr_zero, is_hidden)
            items.append(VmaUsage(vma, found[1], state, phys))  # there may be very many: keywords take thrice as long
        return items


def resident_bytes(usage: Usage) -> int:
    """Return how many bytes lie on some node, as far as they are known."""
    return (usage.rss or 0) + (usage.hugetlb or 0)


def with_accesses(vmas: Iterable[VmaUsage], unsaid: Unsaid, tracked: Collection[int]) -> list[VmaUsage]:
    """Return VMAs with the number of pages accessed of those whose program tracks accesses."""
    return [replace(item, nr_accessed=unsaid.nr_accessed(item.vma)) if item.start in tracked else item for item in vmas]


def pages_first(reader: PageReader, vmas: Sequence[Vma]) -> Iterator[tuple[State, int | None]]:
    """Yield the state and the physical address of the first page of each VMA."""
    from mematlas.model.pages import STATE_OF_BYTE, place_of
    from mematlas.model.runs import cut

    for run, block in reader.runs(vmas):
        if block is not None:
            for vma, first, _ in cut(run, block, reader.page_size):
                if vma.kind == "shmem" and not block.states[first]:
                    yield STATE_OF_BYTE[reader.states(vma, vma.start, vma.start + reader.page_size)[0]], None
                else:
                    yield place_of(block, reader.page_size, first)
        elif (block := reader.block_at(run[0], run[0].start)) is not None:
            yield place_of(block, reader.page_size)
        else:
            yield STATE_OF_BYTE[reader.hole(run[0])], None


def read_counters(process: ProcessDir, status: dict[str, str], nr_vmas: int) -> Counters:
    """Return what the kernel counts of a process as it goes, given the lines of its status."""
    from mematlas.kernel.ksm_stat import read_merging_pages

    ksm: int | None = None
    try:
        ksm = read_merging_pages(process) * process.procfs.page_size
    except (PermissionDenied, NotSupported):
        pass  # another user's, or a kernel that does not report it
    return Counters(
        nr_vmas=nr_vmas,
        size=status_bytes(status, "VmSize"),
        peak_size=status_bytes(status, "VmPeak"),
        peak_rss=status_bytes(status, "VmHWM"),
        locked=status_bytes(status, "VmLck"),
        pinned=status_bytes(status, "VmPin"),
        ksm=ksm,
    )
