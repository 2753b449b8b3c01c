"""What struct pages lead to: the block of free memory that a frame is in, the cache that a slab is of, a page's file.

Sources: include/linux/mm_types.h; mm/internal.h (buddy_order()); mm/slab.h (struct slab); include/linux/fs.h.
Everything may be freed while it is followed. So each chain is read twice, and what was not the same both times is not
told. Nothing is told but numbers of blocks, devices and inodes, and names that /proc/slabinfo has.
"""

from __future__ import annotations

from mematlas.arrays import Bools, Words, np
from mematlas.errors import NotSupported
from mematlas.kernel.memory.structpage import StructPages, numbers_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mematlas.arrays import Counts

    File = tuple[int, int, int]
    """Device as the kernel has it, inode, and which page of it."""

HIGHEST_ORDER = 13
"""Of a free block: 10 with pages of 4 KiB (MAX_PAGE_ORDER), unless a kernel is configured otherwise."""
UNTYPED = -1
"""The type of a page that has none, in the place of its map count."""
MAX_NAME = 64
"""Bytes of the name of a cache."""
MAPPING_FLAGS = 3
"""Bits of `mapping` that make it something else than a file: PAGE_MAPPING_FLAGS."""


class PageObjects:
    """Finds what struct pages lead to, through an array of them that was proven."""

    def __init__(self, pages: StructPages) -> None:
        self.pages = pages
        self.memory = pages.memory
        self.layout = pages.memory.layout

    def free_blocks(self, pfns: Words) -> list[tuple[int, int] | None]:
        """Return the first frame and the order of the free block that each frame is in; None where it is in none.

        As is_free_buddy_page() does: the first frame of a block alone has the type, and the order in `private`.
        """
        blocks: list[tuple[int, int] | None] = [None] * len(pfns)
        left = np.arange(len(pfns))
        for order in range(HIGHEST_ORDER + 1):
            firsts = pfns[left] & ~np.uint64((1 << order) - 1)
            types, typed = self._numbers(firsts, "page._mapcount")
            orders, good = self._words(firsts, "page.private")
            is_block = typed & good & (types < UNTYPED) & (orders >= order) & (orders <= HIGHEST_ORDER)
            for place, first, size in zip(left[is_block], firsts[is_block], orders[is_block], strict=True):
                blocks[place] = int(first), int(size)
            left = left[~is_block]
        return blocks

    def slab_caches(self, heads: Words, known: frozenset[str]) -> list[str | None]:
        """Return the name of the cache of each slab, by its first frame; None for one that is not ``known``."""
        caches, good = twice(lambda: self._cache_words(heads))
        names = {cache: self._name_of(cache, known) for cache in set(caches[good].tolist())}
        return [names[cache] if is_good else None for cache, is_good in zip(caches.tolist(), good, strict=True)]

    def _cache_words(self, heads: Words) -> tuple[Words, Bools]:
        # Before Linux 5.17 (commit 07f910f9b729) a slab had no structure of its own.
        return self._words(heads, "slab.slab_cache" if "slab.slab_cache" in self.layout else "page.slab_cache")

    def _name_of(self, cache: int, known: frozenset[str]) -> str | None:
        at = np.array([cache + self.layout["kmem_cache.name"]], np.uint64)
        pointer, good = self.memory.object_words(at)
        if not good[0]:
            return None
        text, end, _ = self.memory.object_text(int(pointer[0]), MAX_NAME).partition(b"\0")
        name = text.decode("ascii", "replace")
        return name if end and name in known else None

    def files(self, heads: Words) -> list[File | None]:
        """Return the file of each page or folio of the page cache, by its first frame, and where in it that is."""
        table, good = twice(lambda: self._file_words(heads))
        return [tuple(row) if is_good else None for row, is_good in zip(table.tolist(), good, strict=True)]

    def mappings(self, heads: Words) -> tuple[Words, Bools]:
        """Return the mapping that each page or folio is of, by its first frame, and which of them are of a file."""
        mappings, good = self._words(heads, "folio.mapping" if "folio.mapping" in self.layout else "page.mapping")
        return mappings, good & (mappings != 0) & (mappings & np.uint64(MAPPING_FLAGS) == 0)

    def _file_words(self, heads: Words) -> tuple[Words, Bools]:
        """Return device, inode and index, a row for each, and which rows are right."""
        follow = self.memory.object_words
        mappings, good = self.mappings(heads)
        indexes, read = self._words(heads, "folio.index" if "folio.index" in self.layout else "page.index")
        good &= read
        inodes, read = follow(mappings + np.uint64(self.layout["address_space.host"]))
        good &= read
        back, read = follow(inodes + np.uint64(self.layout["inode.i_mapping"]))
        # Of a block device the inode on a file system shares the mapping of another one.
        good &= read & (back == mappings)
        numbers, read = follow(inodes + np.uint64(self.layout["inode.i_ino"]))
        good &= read
        blocks, read = follow(inodes + np.uint64(self.layout["inode.i_sb"]))
        good &= read
        at = self.layout["super_block.s_dev"]
        words, read = follow(blocks + np.uint64(at & ~7))
        devices = numbers_at(words, at).view(np.uint32).astype(np.uint64)
        return np.stack([devices, numbers, indexes], axis=1), good & read

    def _words(self, pfns: Words, name: str) -> tuple[Words, Bools]:
        """Return a word of the struct page of each frame, and which could be read."""
        offset = self.layout[name]
        if offset % 8 or offset >= self.pages.size:
            raise NotSupported(f"{name} at {offset}", "struct pages as this version knows them")
        return self.memory.frame_words(self._addresses(pfns) + np.uint64(offset))

    def _numbers(self, pfns: Words, name: str) -> tuple[Counts, Bools]:
        """Return a number of 32 bits of the struct page of each frame, and which could be read."""
        offset = self.layout[name]
        words, good = self.memory.frame_words(self._addresses(pfns) + np.uint64(offset & ~7))
        return numbers_at(words, offset), good

    def _addresses(self, pfns: Words) -> Words:
        return np.uint64(self.pages.base) + pfns * np.uint64(self.pages.size)


def twice(read: Callable[[], tuple[Words, Bools]]) -> tuple[Words, Bools]:
    """Return what was read, and which of it was there, and the same, when it was read again."""
    values, good = read()
    again, still = read()
    same = values == again
    return values, good & still & (same.all(axis=1) if same.ndim > 1 else same)
