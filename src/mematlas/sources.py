"""What `mematlas.Process.maps` is made of where smaps tells it: VMAs, and what the kernel counts beside them."""

from __future__ import annotations

from mematlas.analysis.results import Counters, VmaUsage
from mematlas.analysis.usage import usage_of_fields
from mematlas.errors import NotSupported, PermissionDenied
from mematlas.kernel.ksm_stat import read_merging_pages
from mematlas.kernel.maps import MAY_BE_HIDDEN
from mematlas.kernel.status import status_bytes
from mematlas.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mematlas.kernel.maps import Vma
    from mematlas.kernel.pagemap import Pacer
    from mematlas.kernel.procfs import ProcessDir
    from mematlas.model.nodes import PageNodes
    from mematlas.model.pages import PageReader
    from mematlas.model.unsaid import Unsaid


class SmapsCounter:
    """Counts VMAs of one process by smaps. What is unknown, and why, goes to the notes."""

    def __init__(
        self, process: ProcessDir, pacer: Pacer | None, first_pages: bool, nodes: PageNodes | None, notes: list[str]
    ) -> None:
        self.process = process
        self.page_size = process.procfs.page_size
        self._pacer = pacer
        self._first_pages = first_pages
        self._nodes = nodes
        self._notes = notes

    def count(self, entries: Sequence[tuple[Vma, dict[str, int]]]) -> list[VmaUsage]:
        """Return what smaps tells of VMAs; what it does not, by pagemap: zero pages, and the first page."""
        from mematlas.model.unsaid import Unsaid

        try:
            unsaid = Unsaid(self.process, self._pacer)
        except (PermissionDenied, NotSupported) as error:
            self._notes.append(f"zero pages and first pages unknown: {error}")
            return self._of_entries(None, entries)
        with unsaid:
            return self._of_entries(unsaid, entries)

    def _of_entries(self, unsaid: Unsaid | None, entries: Sequence[tuple[Vma, dict[str, int]]]) -> list[VmaUsage]:
        result = [self._of_fields(unsaid, vma, fields) for vma, fields in entries]
        if self._nodes:
            sizes = self._nodes.of_entries(unsaid.reader if unsaid else None, entries)
            result = [replace(item, nodes=each) for item, each in zip(result, sizes, strict=True)]
        return result

    def _of_fields(self, unsaid: Unsaid | None, vma: Vma, fields: dict[str, int]) -> VmaUsage:
        if unsaid is None:
            from mematlas.model.unsaid import may_show_zero

            is_hidden, nr_zero = vma.kind in MAY_BE_HIDDEN, None if may_show_zero(vma, fields) else 0
        else:
            is_hidden, nr_zero = unsaid.is_hidden(vma), unsaid.nr_zero(vma, fields)
            if nr_zero is None:
                from mematlas.model.pages import ZERO_UNKNOWN

                self._notes.append(ZERO_UNKNOWN)
        state, phys = self._first_page(unsaid.reader, vma) if unsaid and self._first_pages else (None, None)
        return VmaUsage(vma, usage_of_fields(vma, fields, self.page_size, nr_zero, is_hidden), state, phys)

    def _first_page(self, reader: PageReader, vma: Vma) -> tuple[str | None, int | None]:
        from mematlas.model.pages import STATE_OF_BYTE, place_of

        if (block := reader.block_at(vma, vma.start)) is None:
            return STATE_OF_BYTE[reader.hole(vma)], None
        return place_of(block, self.page_size, self._notes)


def note_cut(vmas: Iterable[Vma], notes: list[str]) -> None:
    """Say how many paths are not whole."""
    if nr_cut := sum(vma.path_cut for vma in vmas):
        whose = "the path of a VMA is" if nr_cut == 1 else f"the paths of {nr_cut:,} VMAs are"
        notes.append(f"{whose} too long to be kept whole: cut, as the dots at the end say")


def read_counters(process: ProcessDir, status: dict[str, str], nr_vmas: int) -> Counters:
    """Return what the kernel counts of a process as it goes, given the lines of its status."""
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
