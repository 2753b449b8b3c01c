"""One process, held open: what it can be read from, what each would cost the target and us, and which it is."""

from __future__ import annotations

import time

from mematlas.analysis.results import TORN, TORN_OURSELVES, Reading
from mematlas.errors import BadInput, Error, FormatError, NotSupported, PermissionDenied, ProcessGone, TargetNotFound
from mematlas.frozen import record
from mematlas.kernel.maps import read_mark, read_marked_maps
from mematlas.kernel.pagemap import Pacer
from mematlas.kernel.procfs import MAX_STALL as MAX_STALL
from mematlas.kernel.status import Stat, read_memory_status, read_stat, status_bytes
from mematlas.kernel.vmfile import find_files
from mematlas.model.address_space import AddressSpace
from mematlas.model.target import own_pid
from mematlas.notes import Note, Notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import NoReturn, Protocol

    from mematlas.analysis.results import Counted, VmaUsage
    from mematlas.analysis.usage import Usage
    from mematlas.kernel.backing import Backings
    from mematlas.kernel.maps import Vma
    from mematlas.kernel.pagemap import Block
    from mematlas.kernel.procfs import Hold, ProcessDir
    from mematlas.kernel.smaps import LastTexts
    from mematlas.model.costs import Costs
    from mematlas.model.page_source import PageSource
    from mematlas.model.pages import PageReader
    from mematlas.model.pagetables.access import PageTableAccess
    from mematlas.model.pagetables.count_access import CountAccess
    from mematlas.observe.accesses import Accesses
    from mematlas.words import PagesFrom, Source

    Entries = Sequence[tuple[Vma, dict[str, int]]]
    Batch = tuple[Entries, list[int | None], list[bool], list[VmaUsage]]

    class Follower(Protocol):
        """What looks at a process again and again: `mematlas.observe.following.Following`."""

        @property
        def is_counting(self) -> bool:
            """Whether the next look can go on from the amounts of the one before."""

        def look(self) -> Counted:
            """Return how much there is now."""

        def close(self) -> None:
            """Forget all that is known."""

    class Taker(Protocol):
        """What takes pages that are read to be counted: `mematlas.observe.moments.MomentRecorder`."""

        def take_block(self, reader: PageReader, vma: Vma, block: Block) -> None:
            """Take the pages of a block of a VMA, until the next is read."""

        def end_blocks(self, reader: PageReader, vmas: Iterable[Vma]) -> None:
            """Take note that all was read."""


SOURCES = ("auto", "smaps", "pagemap", "tables")
PAGE_SOURCES = ("auto", "pagemap", "tables")
MANY_VMAS = 1 << 12
"""From which on another look at page tables takes less than smaps does, of which each VMA is a text of 700 bytes."""
"""Those that show single pages."""


@record
class SourceChoice:
    """What a process is read from."""

    source: str
    why: tuple[Note, ...] = ()
    """Why it is not what would be better, where something is in the way."""


def check_source(wanted: str, known: tuple[str, ...]) -> None:
    """Raise `BadInput` unless a source is one of those that there are."""
    if wanted not in known:
        what = "source of pages" if known is PAGE_SOURCES else "source"
        raise BadInput(f"no {what} {wanted!r}: choose from {', '.join(known)}")


def no_tables(why: Error) -> Note:
    """Return the note that page tables are left out."""
    return Note("no-tables", f"page tables cannot be read: {why}")


def pagemap_instead(why: Error) -> Note:
    """Return the note that pagemap is read in their place."""
    return Note("pagemap-instead", f"page tables cannot be read; pagemap is read instead, with pauses: {why}")


def smaps_instead(why: Error, hold: float) -> Note:
    """Return the note that smaps is read though it holds up the target."""
    text = f"read from smaps, which holds up the target for about {hold * 1e3:.0f} ms: {why}"
    return Note("smaps-instead", text)


TRACKED_ALONE = Note(
    "tracked-alone",
    "pagemap shows accessed pages only of memory that its program tracks by userfaultfd (RWP), since it last protected"
    " them",
)


def cut_paths(vmas: Iterable[Vma]) -> list[Note]:
    """Return the note that some paths are not whole, if any is not."""
    nr_cut = sum(vma.path_cut for vma in vmas)
    if not nr_cut:
        return []
    whose = "the path of a VMA is" if nr_cut == 1 else f"the paths of {nr_cut:,} VMAs are"
    return [Note("paths-cut", f"{whose} too long and cut: the dots at the end show where")]


MOST_USAGES = 1 << 13
"""Amounts that are kept of a process between two looks, each with the fields that it is of."""


class LastUsages:
    """What VMAs amounted to when a process was last read."""

    def __init__(self) -> None:
        self.usages: dict[tuple[int, str, int, int | None, bool], tuple[dict[str, int], Usage]] = {}
        """By what there is to know of a VMA, with its fields, of which the key has the identity alone."""
        self._last: dict[int, Batch] = {}
        """By the identity of entries: these, what is not in them (zero pages, whether pages are hidden), and all that
        together."""
        self._now: dict[int, Batch] = {}
        """Those of this look."""
        self._room = MOST_USAGES

    def begin(self) -> None:
        """Begin to read once more: what was not met at the last look is let go of."""
        if len(self.usages) > MOST_USAGES:
            self.usages.clear()
        self._last, self._now = self._now, {}
        self._room = MOST_USAGES

    def batch_of(self, entries: Entries) -> Batch | None:
        """Return what entries amounted to, those very ones."""
        batch = self._last.get(id(entries))
        return batch if batch and batch[0] is entries else None

    def keep(self, batch: Batch) -> None:
        """Keep what entries amount to, as far as there is room."""
        self._room -= len(batch[0])
        if self._room >= 0:
            self._now[id(batch[0])] = batch


class Sources:
    """One process, held open, with what it can be read from.

    What page tables are read with is opened when it is first wanted, and held until `close`.
    """

    def __init__(self, process: ProcessDir, stat: Stat) -> None:
        self.dir = process
        self.procfs = process.procfs
        self.page_size = process.procfs.page_size
        self.stat = stat
        """Who it is, as of the last look at its VMAs: an exec changes the name."""
        self.files = find_files(process)
        """What knows the files that it maps."""
        self.will_look_again = False
        """Whether this is one of many looks: what page tables are read with is then opened once, and pays."""
        self._has_many_vmas: bool | None = None
        """Whether there were many VMAs when that was asked first; None before."""
        self.last_texts: LastTexts | None = None
        self.last_usages: LastUsages | None = None
        """What smaps said when it was last read, and what that came to: None unless this is one of many looks."""
        self.following: Follower | None = None
        """What follows it by its page tables, where somebody wants that: see `Process.follow`."""
        self.taker: Taker | None = None
        """What takes pages as they are counted by pagemap, where somebody wants both."""
        self._accesses: Accesses | None = None
        self._are_shared = False

    @property
    def is_closed(self) -> bool:
        """Whether the process was let go of."""
        return self.dir.fd < 0

    def close(self) -> None:
        """Let go of the process, and of what its page tables are read with."""
        if self.following:
            self.following.close()
        if self._accesses and not self._are_shared:
            self._accesses.close()
        self.dir.close()

    def take_over(self, other: Sources) -> None:
        """Have what page tables are read with of another process, which has it no more: it takes long to open."""
        self._accesses, other._accesses = other._accesses, None
        self.will_look_again = True

    def expect_more_looks(self) -> None:
        """Have what the next looks need kept from one to the other."""
        from mematlas.kernel.smaps import LastTexts

        self.will_look_again = True
        self.last_texts, self.last_usages = LastTexts(), LastUsages()

    def share(self, accesses: Accesses) -> None:
        """Have what page tables are read with of several processes, which who watches them closes."""
        self._accesses, self._are_shared = accesses, True

    @property
    def accesses(self) -> Accesses:
        """What page tables are read and counted with."""
        if self._accesses is None:
            from mematlas.observe.accesses import Accesses

            self._accesses = Accesses(self.procfs)
        return self._accesses

    # What it is now

    def address_space(self) -> AddressSpace:
        """Return the VMAs, in address order.

        Raises:
            PermissionDenied: another user's process needs CAP_SYS_PTRACE.
            ProcessGone: it has ended, or is just ending.
        """
        vmas, mark = read_marked_maps(self.dir, self.files)
        self.stat = read_stat(self.dir)
        if not vmas:
            self.raise_gone()
        return AddressSpace(vmas, mark)

    def is_torn(self, space: AddressSpace) -> bool:
        """Whether the VMAs are not what they were."""
        if not self.procfs.live:
            return False  # nothing changes there; whether it was torn when it was made, its own smaps shows
        try:
            return read_mark(self.dir) != space.mark
        except ProcessGone:
            return True

    def is_ours(self) -> bool:
        """Whether the process is the one that reads."""
        try:
            return self.procfs.live and self.dir.pid == own_pid(self.procfs)
        except TargetNotFound:
            return False

    def raise_gone(self) -> NoReturn:
        """Say that the process has no memory any more."""
        from mematlas.kernel.group import ZOMBIE

        is_zombie = read_stat(self.dir).is_zombie
        raise ProcessGone(self.dir.pid, ZOMBIE if is_zombie else "has no memory (it is ending)")

    def reading(
        self, source: str, began: float, torn: bool, notes: Iterable[Note], hold: Hold | None = None
    ) -> Reading:
        """Return how a result came about, given what `time.perf_counter` returned when that began."""
        seconds = time.perf_counter() - began
        all_notes = Notes(notes)
        if torn:
            all_notes.add(TORN_OURSELVES if self.is_ours() else TORN)
        return Reading(
            source=source,
            duration_s=seconds,
            torn=torn,
            notes=tuple(all_notes),
            reader=self.reader_name(source),
            hold=hold,
        )

    # Which is read

    def choose(
        self, wanted: Source, max_stall: float, span: tuple[int, int] | None = None, numa: bool = False
    ) -> SourceChoice:
        """Return what is read: amounts, with those on each node for ``numa``; or with ``span`` the pages of a range.

        What is wanted is taken; for ``auto``, smaps or pagemap as it comes where that holds up the target for no more
        than ``max_stall`` seconds. Else page tables where these are cheapest and we may read them, or pagemap with
        pauses; but smaps all the same for amounts of which pagemap would not show all.
        """
        check_source(wanted, SOURCES if span is None else PAGE_SOURCES)
        if wanted != "auto":
            return SourceChoice(wanted)
        if self.following and self.following.is_counting and span is None and not numa:
            return SourceChoice("tables")
        hold = self._hold(max_stall, span, numa) if self.procfs.live else 0
        if hold <= max_stall:
            if span is not None:
                return SourceChoice("pagemap")
            is_long = self.following is not None and not numa and self._has_many()
            return SourceChoice("tables" if is_long and self.why_no_counts() is None else "smaps")
        why = None
        if self._tables_pay(has_counts=span is None):
            why = self.why_no_counts() if span is None else self.why_no_tables()
            if why is None:
                return SourceChoice("tables")
        lacking = self._why_pagemap_hides() if span is None else None
        if lacking:
            notes = (smaps_instead(lacking, hold),)
            return SourceChoice("smaps", (no_tables(why), *notes) if why else notes)
        return SourceChoice("pagemap", (pagemap_instead(why),) if why else ())

    def choose_accessed(self, wanted: PagesFrom) -> SourceChoice:
        """Return what shows which pages were accessed: page tables of all memory, pagemap of what its program tracks.

        Raises:
            PermissionDenied: page tables may not be read, and the kernel has no other way.
            NotSupported: they cannot be read, or pagemap was wanted and the kernel does not tell by it; or this is a
                capture.
        """
        check_source(wanted, PAGE_SOURCES)
        if not self.procfs.live:
            raise NotSupported("accessed pages", "a running process, not a capture")
        if wanted == "tables":
            return SourceChoice(wanted)
        why = self.why_no_tables() if wanted == "auto" else NotSupported("accessed pages, by pagemap", "Linux 7.3")
        if why is None:
            return SourceChoice("tables")
        from mematlas.kernel.pagemap import Pagemap

        with Pagemap(self.dir) as pagemap:
            if not pagemap.tells_accessed():
                raise why
        return SourceChoice("pagemap", (no_tables(why), TRACKED_ALONE) if wanted == "auto" else (TRACKED_ALONE,))

    def _has_many(self) -> bool:
        """Whether smaps is so long that on another look page tables take less."""
        if self._has_many_vmas is None:
            self._has_many_vmas = sum(1 for _ in self.dir.lines("maps")) >= MANY_VMAS
        return self._has_many_vmas

    def _hold(self, enough: float, span: tuple[int, int] | None, numa: bool) -> float:
        """Return for how many seconds reading without pauses would hold up the process; exactly only beyond enough."""
        factor = 1.0
        if numa:
            from mematlas.kernel.numa_maps import HOLD_TO_SMAPS

            factor = HOLD_TO_SMAPS
        hold = self.smaps_hold(enough / factor) * factor
        if span is None:
            return hold
        from mematlas.model.stalls import hold_of

        return min(hold, hold_of(span[1] - span[0], self.page_size))

    def _why_pagemap_hides(self) -> Error | None:
        """Return what keeps pagemap from showing all that smaps reports: frames, and how often they are mapped."""
        from mematlas.kernel.rights import effective_capabilities

        try:
            self.dir.open("pagemap").close()
            self.procfs.open("kpagecount").close()
        except (PermissionDenied, NotSupported) as error:
            return error
        if "CAP_SYS_ADMIN" not in effective_capabilities():
            from mematlas.kernel.pagemap import frames_hidden

            return frames_hidden(self.dir.path)
        return None

    def _tables_pay(self, has_counts: bool) -> bool:
        """Whether page tables are the cheapest that can be read, or soon will be; for amounts they can be counted."""
        if self.will_look_again:
            return True
        costs = self._costs()
        by_pagemap = costs.pagemap + (costs.shared if has_counts else 0)
        if costs.reads < by_pagemap or not has_counts:
            return costs.reads < by_pagemap
        from mematlas.kernel.rights import may_read_kernel

        # Without the right, they would: so that somebody says what is missing.
        return costs.counts < by_pagemap and not (may_read_kernel() and self.count_access() is None)

    def _costs(self) -> Costs:
        from mematlas.model.costs import costs_of

        return costs_of(self.dir)

    def open_pages(
        self,
        source: str,
        span: tuple[int, int] = (0, 1 << 64),
        *,
        paced: bool = True,
        cached: bool = True,
        exclusive: bool = True,
        accessed: bool = False,
        backings: Backings | None = None,
    ) -> PageSource:
        """Return what reads single pages of a range, by the name of a source; see `PageReader` for the rest."""
        if source == "tables":
            from mematlas.model.pagetables.reader import PageTableReader

            return PageTableReader(self.dir, self.page_table_access(), *span, backings)
        from mematlas.model.pages import PageReader

        return PageReader(self.dir, self.pacer() if paced else None, cached, exclusive, accessed, backings)

    def pacer(self) -> Pacer | None:
        """Return what makes the pauses between reads; of a capture, where nobody waits, None."""
        return Pacer() if self.procfs.live else None

    def page_table_access(self, reader: str = "auto") -> PageTableAccess:
        """Return what page tables are read with: a reader by its name, opened at its first call and held until `close`.

        Raises:
            PermissionDenied: it needs CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN; and kpagecount CAP_DAC_READ_SEARCH.
            NotSupported: this kernel, or its lockdown, has no way; or this is a capture.
        """
        return self.accesses.tables(reader)

    def count_access(self) -> CountAccess | None:
        """Return what page tables are counted with in the kernel, held until `close`; None where they must be read."""
        return self.accesses.counts()

    def why_no_counts(self) -> Error | None:
        """Return what keeps us from counting, or else from reading, page tables; None when nothing does."""
        from mematlas.kernel.kconfig import counts_are_averages
        from mematlas.kernel.rights import may_read_kernel

        if counts_are_averages(self.procfs):
            return NotSupported("USS and PSS by page tables", "CONFIG_PAGE_MAPCOUNT")
        if may_read_kernel() and (counts := self.count_access()) is not None:
            try:
                counts.hold(self.dir).close()
            except (PermissionDenied, NotSupported, FormatError) as error:
                return error
            return None
        return self.why_no_tables()

    def why_no_tables(self) -> Error | None:
        """Return what keeps us from reading page tables; None when nothing does."""
        from mematlas.kernel.memory.x86 import check_tables
        from mematlas.kernel.rights import may_read_kernel, tables_refused

        try:
            check_tables(self.procfs)
            if not may_read_kernel():  # before numpy is loaded for nothing
                return tables_refused("page tables")
            access = self.page_table_access()
            access.memory.open_mm(self.dir.pid, self.dir).close()
            _ = access.frames  # found, and proven against kpagecount, before anybody relies on them
        except (PermissionDenied, NotSupported, FormatError) as error:
            return error
        return None

    def reader_name(self, source: str) -> str | None:
        """Return by what reader page tables were read; None for other sources."""
        return self.accesses.name if source == "tables" else None

    def smaps_hold(self, enough: float = 0.0) -> float:
        """Return for how many seconds reading smaps would hold up the process; see `mematlas.model.stalls`."""
        from mematlas.model.stalls import smaps_hold

        return smaps_hold(self.dir, enough)

    def nr_bytes(self) -> int:
        """Return how many bytes are resident or swapped."""
        status = read_memory_status(self.dir)
        return (status_bytes(status, "VmRSS") or 0) + (status_bytes(status, "VmSwap") or 0)
