"""What `mematlas.Process.maps` is made of where smaps tells it: VMAs, and what the kernel counts beside them."""

from __future__ import annotations

from itertools import repeat

from mematlas.analysis.results import Counters, VmaUsage
from mematlas.analysis.usage import usage_of_fields
from mematlas.errors import NotSupported, PermissionDenied
from mematlas.frozen import replace
from mematlas.kernel.maps import MAY_BE_HIDDEN
from mematlas.kernel.status import status_bytes
from mematlas.notes import Note, Notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mematlas.analysis.usage import Usage
    from mematlas.kernel.maps import Vma
    from mematlas.kernel.pagemap import Pacer
    from mematlas.kernel.procfs import ProcessDir
    from mematlas.model.nodes import PageNodes
    from mematlas.model.pages import PageReader
    from mematlas.model.unsaid import Unsaid


class SmapsCounter:
    """Counts VMAs of one process by smaps. What is unknown, and why, goes to the notes."""

    def __init__(
        self, process: ProcessDir, pacer: Pacer | None, first_pages: bool, nodes: PageNodes | None, notes: Notes
    ) -> None:
        self.process = process
        self.page_size = process.procfs.page_size
        self._pacer = pacer
        self._first_pages = first_pages
        self._nodes = nodes
        self._notes = notes

    def count(self, batches: Iterable[Sequence[tuple[Vma, dict[str, int]]]]) -> list[VmaUsage]:
        """Return what smaps tells of VMAs; what it does not, by pagemap: zero pages, and the first page."""
        from mematlas.model.unsaid import Unsaid

        try:
            unsaid = Unsaid(self.process, self._pacer)
        except (PermissionDenied, NotSupported) as error:
            self._notes.add(Note("zero-unknown", f"zero pages and first pages unknown: {error}"))
            return self._of_batches(None, batches)
        with unsaid:
            return self._of_batches(unsaid, batches)

    def _of_batches(
        self, unsaid: Unsaid | None, batches: Iterable[Sequence[tuple[Vma, dict[str, int]]]]
    ) -> list[VmaUsage]:
        result = [item for entries in batches for item in self._of_entries(unsaid, entries)]
        if self._nodes:
            told = [(item.vma, (item.usage.rss or 0) + (item.usage.hugetlb or 0)) for item in result]
            sizes = self._nodes.of_sizes(unsaid.reader if unsaid else None, told)
            result = [replace(item, nodes=each) for item, each in zip(result, sizes, strict=True)]
        return result

    def _of_entries(self, unsaid: Unsaid | None, entries: Sequence[tuple[Vma, dict[str, int]]]) -> Iterator[VmaUsage]:
        vmas = [vma for vma, _ in entries]
        places: Iterable[tuple[str | None, int | None]] = repeat((None, None))
        if unsaid is None:
            from mematlas.model.unsaid import may_show_zero

            zeros = [None if may_show_zero(vma, fields) else 0 for vma, fields in entries]
        else:
            zeros = unsaid.nr_zeros(entries)
            if None in zeros:
                from mematlas.model.pages import ZERO_UNKNOWN

                self._notes.add(ZERO_UNKNOWN)
            if self._first_pages:
                places = first_pages(unsaid.reader, vmas, self._notes)
        known: dict[tuple[int, str, int, int | None, bool], Usage] = {}
        for (vma, fields), nr_zero, (state, phys) in zip(entries, zeros, places, strict=False):
            is_hidden = unsaid.is_hidden(vma) if unsaid else vma.kind in MAY_BE_HIDDEN
            # VMAs of which smaps says the same share their fields, and so they share what these amount to.
            key = id(fields), vma.kind, vma.end - vma.start, nr_zero, is_hidden
            usage = known.get(key)
            if usage is None:
                usage = known[key] = usage_of_fields(vma, fields, self.page_size, nr_zero, is_hidden)
            yield VmaUsage(vma, usage, state, phys)


def first_pages(reader: PageReader, vmas: Sequence[Vma], notes: Notes) -> Iterator[tuple[str, int | None]]:
    """Yield the state and the physical address of the first page of each VMA."""
    from mematlas.model.pages import STATE_OF_BYTE, place_of
    from mematlas.model.runs import cut

    for run, block in reader.runs(vmas):
        if block is not None:
            for vma, first, _ in cut(run, block, reader.page_size):
                if vma.kind == "shmem" and not block.states[first]:
                    yield STATE_OF_BYTE[reader.states(vma, vma.start, vma.start + reader.page_size)[0]], None
                else:
                    yield place_of(block, reader.page_size, notes, first)
        elif (block := reader.block_at(run[0], run[0].start)) is not None:
            yield place_of(block, reader.page_size, notes)
        else:
            yield STATE_OF_BYTE[reader.hole(run[0])], None


def note_cut(vmas: Iterable[Vma], notes: Notes) -> None:
    """Say how many paths are not whole."""
    if nr_cut := sum(vma.path_cut for vma in vmas):
        whose = "the path of a VMA is" if nr_cut == 1 else f"the paths of {nr_cut:,} VMAs are"
        notes.add(Note("paths-cut", f"{whose} too long to be kept whole: cut, as the dots at the end say"))


def read_counters(process: ProcessDir, status: dict[str, str], nr_vmas: int) -> Counters:
    """Return what the kernel counts of a process as it goes, given the lines of its status."""
    from mematlas.kernel.ksm_stat import read_merging_pages

    ksm: int | None = None
    try:
        ksm = read_merging_pages(process) * process.procfs.page_size
    except (PermissionDenied, NotSupported):
        pass  # another user's, or a kernel that does not tell
    return Counters(
        nr_vmas=nr_vmas,
        size=status_bytes(status, "VmSize"),
        peak_size=status_bytes(status, "VmPeak"),
        peak_rss=status_bytes(status, "VmHWM"),
        locked=status_bytes(status, "VmLck"),
        pinned=status_bytes(status, "VmPin"),
        ksm=ksm,
    )
