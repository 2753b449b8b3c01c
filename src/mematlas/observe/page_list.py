"""The pages of a process, or runs of like ones, with all that is said of each: read as they are asked for."""

from __future__ import annotations

from mematlas.analysis.page_batches import page_batches
from mematlas.analysis.page_filter import PageFilter
from mematlas.errors import NotSupported, PermissionDenied
from mematlas.model.nodes import nodes_unknown
from mematlas.model.page_frames import PageFrames
from mematlas.model.pages import HIDDEN_FRAMES
from mematlas.notes import Note, Notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mematlas.analysis.page_batches import PageBatch
    from mematlas.analysis.page_runs import PageRun
    from mematlas.kernel.maps import Vma
    from mematlas.kernel.pagemap import Block
    from mematlas.model.nodes import PageNodes
    from mematlas.model.pages import Hole
    from mematlas.observe.process import Process

EVERY_PAGE = PageFilter()


class PageList:
    """Lists pages, as `Process.pages` yields them, one by one or in runs.

    >>> with Process(4211) as process:   # doctest: +SKIP
    ...     listed = PageList(process, process.pages(0x7f3c1a2b4000, 0x7f3c1a2b6000))
    ...     [(batch.pfns, batch.counts) for batch in listed.batches()]
    [([74565, 74566], [1, 3])]
    """

    def __init__(
        self,
        process: Process,
        pieces: Iterable[tuple[Vma, Block | Hole]],
        wanted: PageFilter = EVERY_PAGE,
        limit: int | None = None,
        notes: Notes | None = None,
    ) -> None:
        self.process = process
        self.page_size = process.page_size
        self.wanted = wanted
        self.limit = limit
        self.notes = Notes() if notes is None else notes
        """Why something is unknown: complete when all was read."""
        self._pieces = pieces
        self._nodes: PageNodes | None = None
        try:
            self._nodes = process.page_nodes()
        except (PermissionDenied, NotSupported) as error:
            self.notes.add(Note("nodes-unknown", f"nodes unknown: {error}"))

    @property
    def has_nodes(self) -> bool:
        """Whether there are several NUMA nodes that pages may be on."""
        return self._nodes is not None and len(self._nodes.with_memory) > 1

    def batches(self) -> Iterator[PageBatch]:
        """Yield the pages that are asked for, those of a block together.

        Raises:
            PermissionDenied: dirty frames are asked for, and kpageflags may not be read: needs CAP_DAC_READ_SEARCH.
            NotSupported: the same, of a kernel without it.
        """
        with PageFrames(self.process.procfs, self.wanted.dirty) as frames:
            self.notes += frames.notes
            for batch in page_batches(self._pieces, self.page_size, self.wanted, self._nodes, frames, self.limit):
                self._note(bool(batch.hidden))
                yield batch
            self.notes += frames.notes

    def runs(self) -> Iterator[list[PageRun]]:
        """Yield the runs of like pages that are asked for, those together that ended within a block."""
        from mematlas.analysis.page_runs import page_runs

        for runs in page_runs(self._pieces, self.page_size, self.wanted, self._nodes, self.limit):
            self._note(any(run.hidden for run in runs))
            yield runs

    def _note(self, is_hidden: bool) -> None:
        if is_hidden:
            self.notes.add(HIDDEN_FRAMES)
        if self._nodes and self._nodes.why:
            self.notes.add(nodes_unknown(self._nodes.why))
