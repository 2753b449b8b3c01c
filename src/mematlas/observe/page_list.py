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
    from collections.abc import Iterator

    from mematlas.analysis.page_batches import PageBatch
    from mematlas.analysis.page_runs import PageRun
    from mematlas.analysis.results import Reading
    from mematlas.model.nodes import PageNodes
    from mematlas.observe.pages import Pages
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
        pages: Pages,
        wanted: PageFilter = EVERY_PAGE,
        limit: int | None = None,
    ) -> None:
        self.process = process
        self.page_size = process.page_size
        self.wanted = wanted
        self.limit = limit
        self.notes = Notes()
        """Why something is unknown: complete when all was read."""
        self._pages = pages
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
            for batch in page_batches(self._pages, self.page_size, self.wanted, self._nodes, frames, self.limit):
                self._note(bool(batch.hidden))
                yield batch
            self.notes += frames.notes
        self._note_end()

    def runs(self) -> Iterator[list[PageRun]]:
        """Yield the runs of like pages that are asked for, those together that ended within a block."""
        from mematlas.analysis.page_runs import page_runs

        for runs in page_runs(self._pages, self.page_size, self.wanted, self._nodes, self.limit):
            self._note(any(run.hidden for run in runs))
            yield runs
        self._note_end()

    @property
    def reading(self) -> Reading | None:
        """How the pages were read, when all that are asked for were."""
        return self._pages.reading

    def _note_end(self) -> None:
        self._pages.close()
        self.notes += self.reading.notes if self.reading else ()

    def _note(self, is_hidden: bool) -> None:
        if is_hidden:
            self.notes.add(HIDDEN_FRAMES)
        if self._nodes and self._nodes.why:
            self.notes.add(nodes_unknown(self._nodes.why))
