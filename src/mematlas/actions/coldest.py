"""The coldest pages of a process, found before an advice is given about them.

What an ordinary kernel reports is in kpageflags: whether a page is on the active or the inactive list, and whether it
was referenced. Where somebody tracks idle pages, those come first, and before them what the program itself tracks and
has not accessed. Where none of these sets pages apart, we say so.
"""

from __future__ import annotations

from mematlas.actions.advice.base import Tally
from mematlas.analysis.coldness import IDLE, RANKS, UNTOUCHED, coldest, count_ranks, rank_of
from mematlas.errors import NotSupported
from mematlas.frozen import record
from mematlas.kernel.kpage import FrameWords
from mematlas.kernel.madvise import drain_batches
from mematlas.kernel.page_idle import idle_frames, is_multigen
from mematlas.kernel.pagemap import frames_hidden
from mematlas.model.page_set import PageSet
from mematlas.model.tracked import TrackedMemory
from mematlas.notes import Note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mematlas.actions.advice.base import Advice, Piece

FIRST_SOURCES = {UNTOUCHED: "what the program tracks itself (userfaultfd RWP)", IDLE: "the idle page bitmap"}
"""What shows the ranks that no flag of a frame does."""
TRACKING = "idle page tracking, CONFIG_IDLE_PAGE_TRACKING"


@record
class Coldest:
    """The coldest of the pages that an advice can move."""

    pages: PageSet
    note: Note
    """What the order is based on, and how many pages there were of each rank."""


def find_coldest(advice: Advice, pieces: Iterable[Piece], nr_pages: int) -> Coldest:
    """Return so many of the coldest pages that an advice can move.

    Raises:
        PermissionDenied: frame numbers need CAP_SYS_ADMIN, their flags CAP_DAC_READ_SEARCH.
        NotSupported: nothing sets these pages apart.
    """
    live = advice.process.procfs.live
    if live:
        drain_batches()  # a page that waits in a batch is on no list
    with FrameWords(advice.process.procfs, "kpageflags") as words:
        blocks: dict[int, bytes] = {}
        tracked = TrackedMemory(advice.reader.pagemap)
        for piece in pieces:
            blocks.update(rank_blocks(advice, piece, words, tracked))
    counts = count_ranks(blocks)
    total = sum(counts.values())
    if nr_pages < total:
        check_order(counts, live and is_multigen())
    pages = PageSet(advice.page_size)
    for address, mask in coldest(blocks, nr_pages):
        pages.add(address, mask)
    ranks = ", ".join(f"{number} {RANKS[rank - 1]}" for rank, number in counts.items())
    source = ", then ".join([*(name for rank, name in FIRST_SOURCES.items() if rank in counts), "kpageflags"])
    text = (
        f"the coldest {pages.nr_pages} of {total} pages, by {source} ({ranks or 'none'}), which the kernel"
        " updates during reclaim, not at each access"
    )
    return Coldest(pages, Note("coldest", text))


def check_order(counts: dict[int, int], multigen: bool) -> None:
    """Refuse when all pages look alike, or the flags mean nothing."""
    if len(counts) > 1 and not FIRST_SOURCES.keys().isdisjoint(counts):
        return
    if multigen:
        raise NotSupported(
            "finding the coldest pages", f"{TRACKING}: the multi-gen LRU does not expose its generations"
        )
    if len(counts) == 1:
        rank, number = next(iter(counts.items()))
        needs = f"{TRACKING}: kpageflags shows all {number} pages as {RANKS[rank - 1]}"
        raise NotSupported("finding the coldest pages", needs)


def rank_blocks(advice: Advice, piece: Piece, words: FrameWords, tracked: TrackedMemory) -> Iterator[tuple[int, bytes]]:
    """Yield the rank bytes of the pages of a part of a VMA that the advice can move."""
    for address, states, mask in advice.movable(piece, Tally(piece[0])):
        untouched = tracked.untouched(piece[0], address, states)
        yield address, ranks_of(advice, address, mask, untouched, words)


def ranks_of(advice: Advice, address: int, mask: bytes, untouched: bytes, words: FrameWords) -> bytes:
    """Return the rank byte of each page of a mask, 0 for the others."""
    pfns = advice.reader.pagemap.frames(address, address + len(mask) * advice.page_size)
    pfn_at = {index: pfn for index, pfn in enumerate(pfns) if mask[index]}
    if 0 in pfn_at.values():
        raise frames_hidden(advice.process.dir.path)
    flags = words.get(pfn_at.values())
    idle = idle_frames(pfn_at.values()) if advice.process.procfs.live else set()
    ranks = bytearray(len(mask))
    for index, pfn in pfn_at.items():
        ranks[index] = UNTOUCHED if untouched[index] else IDLE if pfn in idle else rank_of(flags.get(pfn))
    return bytes(ranks)
