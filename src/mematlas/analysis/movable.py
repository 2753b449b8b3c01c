"""Which pages an advice can move, and why it leaves the others.

Source: mm/madvise.c, madvise_cold_or_pageout_pte_range(), can_madv_lru_vma(), madvise_willneed().
"""

from __future__ import annotations

from mematlas.errors import BadInput, did_you_mean
from mematlas.frozen import record
from mematlas.kernel.maps import ANON_KINDS
from mematlas.kernel.pagemap import FILE, PRESENT, histogram, to_marks
from mematlas.model.pages import STATE_OF_BYTE, STATES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class PageRules(Protocol):
        """What an advice says of pages by their state bytes; the classes of `mematlas.actions.advice` do."""

        @staticmethod
        def asks_for(kind: str, byte: int, known: bool) -> bool:
            """Whether a page in such a state is what the advice is for; ``known`` as in `Rules`."""

        @staticmethod
        def reason_of(byte: int) -> str:
            """Return why the kernel leaves such a page, empty when it does not."""


REASONS = {
    "shared": "mapped more than once: the kernel leaves such pages alone",
    "shared folio": "in a large folio (such as a huge page) that is partly mapped more than once: it moves as a whole",
    "pinned": "pinned by a driver, io_uring or RDMA for as long as it uses them",
    "mlocked": "locked into memory: mlock(2), mlockall(2)",
    "hugetlb": "hugetlb pages are never moved",
    "kernel": "the kernel's own: [vdso], [vvar], device memory",
    "zero": "the zero page, which belongs to no process",
    "guard": "guard regions hold no memory",
    "special": "migration, device or poison entries",
    "unknown": "shared memory whose file we may not query",
    "no swap": "no free swap space",
    "cgroup": "the memory cgroup of the process allows no more swap",
    "mapped": "mapped by a process, or of a folio of which any page is: the page cache keeps those",
    "memory": "of a file that is memory itself (tmpfs, memfd): there is no disk to read it from again",
    "dirty": "file pages that were being written to disk",
    "unwritten": "of a file that cannot be written to the disk: what is in RAM may be all that there is of it",
    "not ours": "of a file that we neither own nor may write",
    "refused": "the kernel refused: locked, device memory, or huge pages not allowed there",
    "idle": "not referenced: already cold",
    "huge": "already mapped by huge entries",
    "unaligned": "no whole, aligned huge page fits around them",
    "no memory": "not enough free memory, or not enough of it contiguous for a huge page",
    "unread": "not read in: beyond the end of the file, or still being read",
    "untouched": "in the swap cache at most, which no entry shows",
    "gone": "meanwhile unmapped by the process",
    "busy": "touched or paged out again, locked, or being written at the time",
    "busy or dirty": "touched again, locked, or not yet written: kpageflags shows which (needs CAP_DAC_READ_SEARCH)",
    "unfinished": "not reached",
}
"""Why a page that was asked for did not move, in the order of the report."""

NOT_MADVISED = {"hugetlb": "hugetlb", "vdso": "kernel", "vvar": "kernel", "vsyscall": "kernel", "special": "kernel"}
"""Kinds of VMAs that take no such advice at all."""


@record
class Choice:
    """Which pages of the chosen VMAs are asked for. Everything that is given must hold."""

    states: frozenset[str] | None = None
    """Names out of `mematlas.model.pages.STATES`."""
    anon: bool = False
    """Only pages of no file: private memory, and private copies of pages of files."""
    file: bool = False
    """Only pages of files on disk."""

    @property
    def is_everything(self) -> bool:
        """Whether no page is left out."""
        return self.states is None and not self.anon and not self.file


ALL_PAGES = Choice()


def parse_states(text: str) -> frozenset[str]:
    """Return the states in a list such as ``present,swapped``."""
    states = frozenset(text.split(","))
    if wrong := states.difference(STATES):
        hint = did_you_mean(min(wrong), STATES)
        names = ", ".join(sorted(wrong))
        raise BadInput(f"no such state: {names}{hint}; choose from {', '.join(STATES)}")
    return states


class Rules:
    """What an advice means for the pages of one kind of VMA, by state byte."""

    __slots__ = ("movable", "needs_swap", "reasons", "wanted")

    def __init__(self, advice: PageRules, kind: str, choice: Choice = ALL_PAGES, known: bool = False) -> None:
        """``known`` says that the pages in question are known to have held something."""
        chosen = [byte for byte in range(256) if is_chosen(kind, byte, choice)]
        asked = {byte for byte in chosen if advice.asks_for(kind, byte, known)}
        self.reasons = {byte: why for byte in asked if (why := reason_of(advice, kind, byte))}
        """Why a byte's pages do not move; those that can are not in it."""
        self.wanted = to_marks(asked)
        """A translation table: 1 for the pages that are asked for."""
        self.movable = to_marks(asked.difference(self.reasons))
        """1 for those of them that can move."""
        without_file = {byte for byte in asked if kind == "shmem" or not is_of_file(kind, byte)}
        self.needs_swap = to_marks(without_file)
        """1 for those of them that have nowhere to go but swap."""

    def why_not(self, states: bytes) -> dict[str, int]:
        """Return how many of these pages, all asked for, cannot move, by reason."""
        counts: dict[str, int] = {}
        for byte, nr_pages in histogram(states).items():
            if why := self.reasons.get(byte):
                counts[why] = counts.get(why, 0) + nr_pages
        return counts


def is_chosen(kind: str, byte: int, choice: Choice) -> bool:
    """Whether the filters over pages let such a page through."""
    of_file = is_of_file(kind, byte)
    return (
        (choice.states is None or STATE_OF_BYTE[byte] in choice.states)
        and (not choice.anon or (not of_file and kind != "shmem"))
        and (not choice.file or (of_file and kind != "shmem"))
    )


def is_of_file(kind: str, byte: int) -> bool:
    """Whether such a page belongs to a file, be it one of shared memory."""
    if kind in ANON_KINDS:
        return False
    # A private copy of a page of a file lacks the file bit; so does its swap entry.
    if byte & PRESENT:
        return bool(byte & FILE)
    return kind == "shmem" or STATE_OF_BYTE[byte] == "absent"


def reason_of(advice: PageRules, kind: str, byte: int) -> str:
    """Return why the kernel leaves such a page, empty when it does not."""
    return NOT_MADVISED.get(kind) or advice.reason_of(byte)


def add_counts(total: dict[str, int], more: dict[str, int]) -> None:
    """Add the counts of one dictionary to another's."""
    for key, number in more.items():
        if number:
            total[key] = total.get(key, 0) + number


def in_order(reasons: dict[str, int]) -> dict[str, int]:
    """Return the reasons that occur, in the order of `REASONS`."""
    return {key: reasons[key] for key in REASONS if reasons.get(key)}
