"""Map counts and owners from an array of struct pages that was made by hand, as Linux 6 and Linux 7 lay it out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from constructed_btf import INT, STRUCT, Builder
from mematlas.arrays import Bools, Words
from mematlas.errors import NotSupported
from mematlas.kernel.memory.btf import StructLayout, parse_btf
from mematlas.kernel.memory.compound import head_word, heads_of
from mematlas.kernel.memory.iomem import RamRanges
from mematlas.kernel.memory.structpage import StructPages

PAGE = 4096
SIZE = 64
BASE = 0xFFFFEA0000000000
NR_FRAMES = 1 << 12
FOLIOS = {0x40: 1, 0x80: 2, 0x200: 9, 0x800: 11}
"""Orders of large folios by their first frame; the others are single."""
ENTIRE = 3
"""How often each large folio is mapped as a whole."""


def layout_of(name: str) -> StructLayout:
    """Return the layout of a kernel in whose BTF the word of a tail has this name."""
    made = Builder()
    made.add(INT, "long", 8, [(64,)])
    members = (("flags", 0), (name, 8), ("mapping", 24), ("_mapcount", 48), ("_refcount", 52))
    made.add(STRUCT, "page", SIZE, [(made.name(member), 1, offset * 8) for member, offset in members])
    made.add(STRUCT, "folio", 256, [(made.name("_entire_mapcount"), 1, 88 * 8), (made.name("mapping"), 1, 24 * 8)])
    return StructLayout(parse_btf(made.build()))


class ConstructedMemory:
    """What `StructPages` asks of kernel memory, of a machine of 16 MiB."""

    def __init__(self, name: str, is_mask: bool) -> None:
        self.layout = layout_of(name)
        self.ram = RamRanges([(0, NR_FRAMES * PAGE)])
        self.words = np.zeros((NR_FRAMES, SIZE // 8), np.uint64)
        self.counts = self.words.view(np.int32)
        # No two neighbours are mapped equally often; odd frames are of files.
        numbers = np.arange(NR_FRAMES)
        self.counts[:, 12] = numbers % 5 - 1
        self.words[:, 3] = np.uint64(BASE) + (numbers + 1).astype(np.uint64) % np.uint64(2)
        for first, order in FOLIOS.items():
            tails = slice(first + 1, first + (1 << order))
            head = BASE + first * SIZE
            self.words[tails, 1] = (-(SIZE << order) & (1 << 64) - 1 if is_mask else head) | 1
            # Tails carry no mapping; what stands there is another's.
            self.words[tails, 3] = 0
            self.counts[first + 1, (88 - SIZE) // 4] = ENTIRE - 1

    def open_frame_array(self, base: int, size: int) -> None:
        assert (base, size) == (BASE, SIZE)

    def frame_pages(self, addresses: Words) -> Iterator[tuple[slice, Words, Bools]]:
        good = addresses >= np.uint64(BASE)
        pages = self.words.reshape(-1, PAGE // 8)
        rows = np.where(good, addresses - np.uint64(BASE), np.uint64(0)) // np.uint64(PAGE)
        yield slice(0, len(addresses)), pages[rows.astype(np.intp)], good

    def frame_words(self, addresses: Words) -> tuple[Words, Bools]:
        places = ((addresses - np.uint64(BASE)) // np.uint64(8)).astype(np.intp)
        return self.words.reshape(-1)[places], np.ones(len(addresses), np.bool_)


def pages_of(name: str, is_mask: bool) -> StructPages:
    return StructPages(ConstructedMemory(name, is_mask), BASE)  # type: ignore[arg-type]


FORMS = [("compound_head", False), ("compound_info", False), ("compound_info", True)]


def is_large(frame: int) -> bool:
    return any(first <= frame < first + (1 << order) for first, order in FOLIOS.items())


def head_of(frame: int) -> int:
    return next((first for first, order in FOLIOS.items() if first <= frame < first + (1 << order)), frame)


@pytest.mark.parametrize(("name", "is_mask"), FORMS)
def test_a_page_is_mapped_as_itself_and_as_its_folio(name: str, is_mask: bool) -> None:
    frames = np.random.default_rng(7).permutation(NR_FRAMES).astype(np.uint64)
    expected = [frame % 5 + (ENTIRE if is_large(frame) else 0) for frame in frames.tolist()]
    assert pages_of(name, is_mask).map_counts(frames).tolist() == expected


@pytest.mark.parametrize(("name", "is_mask"), FORMS)
def test_the_head_says_whose_a_folio_is(name: str, is_mask: bool) -> None:
    frames = np.arange(NR_FRAMES, dtype=np.uint64)
    expected = [head_of(frame) % 2 == 0 for frame in frames.tolist()]
    assert pages_of(name, is_mask).are_anonymous(frames).tolist() == expected


def test_a_word_that_leads_nowhere_has_no_count() -> None:
    pages = pages_of("compound_info", is_mask=False)
    pages.memory.words[0x201:0x400, 1] = BASE + NR_FRAMES * SIZE + 1  # type: ignore[attr-defined]
    assert set(pages.map_counts(np.arange(0x200, 0x400, dtype=np.uint64)).tolist()) == {-1}


def test_a_kernel_without_either_word_is_refused_by_name() -> None:
    with pytest.raises(NotSupported, match=r"compound_info or page\.compound_head"):
        head_word(layout_of("compound_something"))


@pytest.mark.parametrize("order", range(1, 23))
def test_masks_and_addresses_are_told_apart(order: int) -> None:
    head = BASE + (SIZE << order) * 5
    tails = np.array([head + SIZE, head + (SIZE << order) - SIZE], np.uint64)
    for word in (head | 1, -(SIZE << order) & (1 << 64) - 1 | 1):
        assert heads_of(tails, np.full(2, word, np.uint64)).tolist() == [head, head]
