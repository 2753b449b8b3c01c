"""Whether the sources agree on what a process has: smaps, pagemap, and page tables where they can be read."""

from __future__ import annotations

import os

from mematlas.analysis.verify import VmaAmounts, compare
from mematlas.errors import NotSupported
from mematlas.frozen import Record, record
from mematlas.kernel.smaps import leaves_out_huge_pages
from mematlas.notes import Note
from mematlas.observe.sources import no_tables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.analysis.results import Reading
    from mematlas.analysis.verify import Comparison
    from mematlas.kernel.procfs import Hold
    from mematlas.observe.process import Process

NR_TRIES = 3
"""Times that the sources are compared before a difference counts."""


@record
class UsageCheck(Record):
    """What each source says of a process, amount by amount."""

    comparisons: list[Comparison]
    reading: Reading
    """That of pagemap."""
    no_tables: Note | None
    """Why page tables were not read; None where they were."""
    hold: Hold | None
    """For how long one reading of smaps held up the process; None of a capture."""

    @property
    def is_explained(self) -> bool:
        """Whether there is a reason for each difference."""
        return all(row.explained is not False for row in self.comparisons)


def check_usage(process: Process) -> UsageCheck:
    """Return what the sources say of a process, amount by amount, in bytes.

    A process that maps the same library for a moment is seen by one source and not by the others. What is wrong is
    wrong again: a difference counts that several comparisons find.

    Raises:
        PermissionDenied: the process is not ours to look at.
        ProcessGone: it has ended.

    >>> from mematlas import Process
    >>> with Process(os.getpid()) as process:
    ...     check_usage(process).comparisons[0].measure
    'rss'
    """
    if process.pid == os.getpid():
        # What reading takes of our own memory the first time, numpy above all, is not to be compared.
        for source in ("smaps", "pagemap"):
            process.maps(source, first_pages=False)
        amounts_by_tables(process)
    for _ in range(NR_TRIES):
        check = compare_sources(process)
        if check.is_explained or not process.procfs.live:
            break
    return check


def compare_sources(process: Process) -> UsageCheck:
    """Read every source once, smaps before the others and after them, and compare."""
    saved = process.procfs.machine
    first = VmaAmounts(process.maps("smaps", first_pages=False))
    counted = VmaAmounts(process.maps("pagemap", first_pages=False), first)
    tables, why_not = amounts_by_tables(process, first)
    second = VmaAmounts(process.maps("smaps", first_pages=False), first) if saved is None else first
    stopped = bool(saved and saved.get("stopped"))
    comparisons = compare(first, counted, second, saved is not None, tables, leaves_out_huge_pages, stopped)
    return UsageCheck(comparisons=comparisons, reading=counted.reading, no_tables=why_not, hold=first.reading.hold)


def amounts_by_tables(process: Process, like: VmaAmounts | None = None) -> tuple[VmaAmounts | None, Note | None]:
    """Return the amounts by page tables; or None, and why they cannot be had."""
    why = process.why_no_tables()
    if why is None:
        try:
            return VmaAmounts(process.maps("tables", first_pages=False), like), None
        except NotSupported as error:
            why = no_tables(error)
    return None, why
