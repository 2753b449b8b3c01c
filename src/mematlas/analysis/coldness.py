"""How cold pages are, as far as the flags of their frames show.

Source: mm/swap.c, folio_mark_accessed(); mm/vmscan.c, folio_check_references(). Reclaim takes inactive pages first,
and of these the unreferenced ones. It notices accesses when it looks for memory, not at each access.
"""

from __future__ import annotations

from mematlas.kernel.kpage import KPF_ACTIVE, KPF_LRU, KPF_REFERENCED
from mematlas.kernel.pagemap import to_marks
from mematlas.model.page_set import first_pages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

RANKS = (
    "not accessed since the program protected them",
    "idle",
    "inactive and unreferenced",
    "inactive and referenced",
    "active and unreferenced",
    "active and referenced",
    "on no list",
)
"""How cold a page is, the coldest first. A rank byte is the index in this list, plus 1; 0 is no page."""
UNTOUCHED, IDLE = 1, 2
UNRANKED = len(RANKS)


def rank_of(word: int | None) -> int:
    """Return the rank byte that a word of kpageflags says.

    >>> RANKS[rank_of(0x5828) - 1], RANKS[rank_of(0x586c) - 1]
    ('inactive and unreferenced', 'active and referenced')
    """
    if word is None or not word & KPF_LRU:
        return UNRANKED
    return IDLE + 1 + bool(word & KPF_REFERENCED) + 2 * bool(word & KPF_ACTIVE)


def count_ranks(blocks: Mapping[int, bytes]) -> dict[int, int]:
    """Return how many pages have each rank that occurs; ``blocks`` are rank bytes by address."""
    counts: dict[int, int] = {}
    for rank in range(1, UNRANKED + 1):
        if nr_pages := sum(ranks.count(rank) for ranks in blocks.values()):
            counts[rank] = nr_pages
    return counts


def coldest(blocks: Mapping[int, bytes], nr_pages: int) -> Iterator[tuple[int, bytes]]:
    """Yield masks, by address, of so many of the coldest pages; among equals, those at the lowest addresses.

    >>> list(coldest({0x1000: bytes((4, 2, 0, 2)), 0x9000: bytes((2,))}, 2))
    [(4096, b'\\x00\\x01\\x00\\x01')]
    """
    for rank in range(1, UNRANKED + 1):
        marks = to_marks({rank})
        for address in sorted(blocks):
            if nr_pages <= 0:
                return
            mask = first_pages(blocks[address].translate(marks), nr_pages)
            if 1 in mask:
                yield address, mask
                nr_pages -= mask.count(1)
