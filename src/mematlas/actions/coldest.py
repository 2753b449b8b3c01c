"""The coldest pages of a process, found before an advice is given about them.

What an ordinary kernel tells is in kpageflags: whether a page is on the active or the inactive list, and whether it
was referenced. Where somebody tracks idle pages, those come first. Where neither tells pages apart, we say so.
"""

from __future__ import annotations

from mematlas.analysis.coldness import IDLE, RANKS, coldest, count_ranks, rank_of
from mematlas.errors import NotSupported
from mematlas.frozen import record
from mematlas.kernel.kpage import FrameWords
from mematlas.kernel.madvise import drain_batches
from mematlas.kernel.page_idle import idle_frames, is_multigen
from mematlas.kernel.pagemap import frames_hidden
from mematlas.model.page_set import PageSet
from mematlas.notes import Note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mematlas.actions.advising import Advice, Piece

TRACKING = "idle page tracking, CONFIG_IDLE_PAGE_TRACKING"


@record
class Coldest:
    """The coldest of the pages that an advice can move."""

    pages: PageSet
    note: Note
    """What the order is based on, and how many pages there were of each rank."""


def find_coldest(kind: Advice, pieces: Iterable[Piece], nr_pages: int) -> Coldest:
    """Return so many of the coldest pages that an advice can move.

    Raises:
        PermissionDenied: frame numbers need CAP_SYS_ADMIN, their flags CAP_DAC_READ_SEARCH.
        NotSupported: nothing tells these pages apart.
    """
    live = kind.process.procfs.live
    if live:
        drain_batches()  # a page that waits in a batch is on no list
    with FrameWords(kind.process.procfs, "kpageflags") as words:
        blocks = {address: ranks for piece in pieces for address, ranks in rank_blocks(kind, piece, words)}
    counts = count_ranks(blocks)
    total = sum(counts.values())
    if nr_pages < total:
        check_order(counts, live and is_multigen())
    pages = PageSet(kind.page_size)
    for address, mask in coldest(blocks, nr_pages):
        pages.add(address, mask)
    found = ", ".join(f"{number} {RANKS[rank - 1]}" for rank, number in counts.items())
    source = "the idle page bitmap, then kpageflags" if IDLE in counts else "kpageflags"
    return Coldest(
        pages,
        Note(
            "coldest",
            f"the coldest {pages.nr_pages} of {total} pages, by {source} ({found or 'none'}), which the kernel"
            " updates when it looks for memory, not at each access",
        ),
    )


def check_order(counts: dict[int, int], multigen: bool) -> None:
    """Refuse when all pages look alike, or the flags mean nothing."""
    if IDLE in counts and len(counts) > 1:
        return
    if multigen:
        raise NotSupported("telling cold pages", f"{TRACKING}: the multi-gen LRU keeps its generations to itself")
    if len(counts) == 1:
        number, name = next((number, RANKS[rank - 1]) for rank, number in counts.items())
        raise NotSupported("telling cold pages", f"{TRACKING}: to kpageflags all {number} pages are {name}")


def rank_blocks(kind: Advice, piece: Piece, words: FrameWords) -> Iterator[tuple[int, bytes]]:
    """Yield the rank bytes of the pages of a part of a VMA that the advice can move."""
    vma, start, end = piece
    if kind.vma_reason(vma):
        return
    for address, states in kind.blocks(vma, start, end):
        mask = kind.select(vma, address, states, {})
        if 1 in mask:
            yield address, ranks_of(kind, address, mask, words)


def ranks_of(kind: Advice, address: int, mask: bytes, words: FrameWords) -> bytes:
    """Return the rank byte of each page of a mask, 0 for the others."""
    end = address + len(mask) * kind.page_size
    found = kind.reader.pagemap.frames(address, end)
    frames = {place: frame for place, frame in enumerate(found) if mask[place]}
    if 0 in frames.values():
        raise frames_hidden(kind.process.dir.path)
    flags = words.get(frames.values())
    idle = idle_frames(frames.values()) if kind.process.procfs.live else set()
    ranks = bytearray(len(mask))
    for place, frame in frames.items():
        ranks[place] = IDLE if frame in idle else rank_of(flags.get(frame))
    return bytes(ranks)
