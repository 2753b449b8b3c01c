"""Looks at single pages: a block at a time, or address by address."""

from __future__ import annotations

import time
from operator import index

from mematlas.analysis.translation import Translations, translate
from mematlas.errors import BadInput
from mematlas.model.address_space import EVERYTHING, Selection
from mematlas.model.page_source import pieces
from mematlas.notes import Notes
from mematlas.observe.sources import cut_paths

ADDRESSES = 1 << 64
"""How many numbers can be an address."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator
    from typing import Self

    from mematlas.analysis.results import Reading
    from mematlas.kernel.maps import Vma
    from mematlas.kernel.pagemap import Block
    from mematlas.model.page_source import PageSource
    from mematlas.model.pages import Hole
    from mematlas.observe.sources import Sources
    from mematlas.words import PagesFrom


class PageLook:
    """One look at the pages of a process: which they are, when it began, and what is to be said of it."""

    def __init__(
        self, sources: Sources, start: int = 0, end: int | None = None, selection: Selection = EVERYTHING
    ) -> None:
        self.began = time.perf_counter()
        self.sources = sources
        self.page_size = sources.page_size
        self.space = sources.address_space()
        self.ranges = self._ranges(start, 1 << 64 if end is None else end, selection)
        """The parts of VMAs that are looked at, in whole pages."""
        self.notes = Notes()

    def _ranges(self, start: int, end: int, selection: Selection) -> list[tuple[Vma, int, int]]:
        low, high = start - start % self.page_size, -(-end // self.page_size) * self.page_size
        return [piece for piece in self.space.pieces(low, high) if selection.matches(piece[0])]

    @property
    def size(self) -> int:
        """How many bytes are looked at."""
        return sum(high - low for _, low, high in self.ranges)

    def open(
        self,
        source: PagesFrom,
        max_stall: float,
        paced: bool = True,
        exclusive: bool = True,
        accessed: bool = False,
    ) -> PageSource:
        """Choose what is read, and return what reads it."""
        span = (self.ranges[0][1], self.ranges[-1][2]) if self.ranges else (0, 0)
        if accessed:
            choice = self.sources.choose_accessed(source)
        else:
            choice = self.sources.choose(source, max_stall if paced else float("inf"), span)
        self.notes += choice.why
        return self.sources.open_pages(choice.source, span, paced=paced, exclusive=exclusive, accessed=accessed)

    def finish(self, reader: PageSource) -> Reading:
        """Return how it came about, once all is read."""
        notes = (*self.notes, *reader.notes(), *cut_paths(self.space.vmas))
        torn = self.sources.is_torn(self.space)
        return self.sources.reading(reader.name, self.began, torn, notes)


class Pages:
    """The pages of a process, read while they are gone through, once: ``(vma, Block | Hole)`` in address order.

    >>> import os, mematlas
    >>> with mematlas.Process(os.getpid()) as process:
    ...     pages = process.pages()
    ...     nr_pages = sum(len(piece) for vma, piece in pages if vma.kind == "stack")
    >>> nr_pages > 0, pages.reading.source
    (True, 'pagemap')
    """

    def __init__(self, look: PageLook, reader: PageSource) -> None:
        self.source = reader.name
        """``pagemap`` or ``tables``."""
        self._reader = reader
        # No more than the list is shared with what reads them: who drops this has it end at once.
        self._readings: list[Reading] = []
        self._pieces = read_pages(look, reader, self._readings)

    @property
    def reading(self) -> Reading | None:
        """How they were read: None until all were, or `close`."""
        return self._readings[0] if self._readings else None

    def __iter__(self) -> Iterator[tuple[Vma, Block | Hole]]:
        return self._pieces

    def __next__(self) -> tuple[Vma, Block | Hole]:
        return next(self._pieces)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Read no more."""
        self._pieces.close()
        self._reader.close()


def read_pages(
    look: PageLook, reader: PageSource, readings: list[Reading]
) -> Generator[tuple[Vma, Block | Hole], None, None]:
    """Yield the pages that are looked at; add how they were read, at the end."""
    with reader:
        try:
            for vma, low, high in look.ranges:
                for piece in pieces(reader, vma, low, high):
                    yield vma, piece
        finally:  # whoever has seen enough wants to know as well
            if not look.sources.is_closed:
                readings.append(look.finish(reader))


def checked_address(address: int) -> int:
    """Return an address that is one, as a number of Python's own: numpy has others.

    >>> checked_address(0x7f3c1a2b4010) == 0x7f3c1a2b4010
    True
    """
    try:
        number = index(address)
    except TypeError:
        raise BadInput(f"bad address {address!r}: an integer") from None
    if not 0 <= number < ADDRESSES:
        raise BadInput(f"{address} is beyond the address space: an address has at most 64 bits, and no sign")
    return number


def translate_all(sources: Sources, addresses: Iterable[int]) -> Translations:
    """Return where each virtual address is, in the order asked."""
    addresses = list(map(checked_address, addresses))
    look = PageLook(sources)
    with sources.open_pages("pagemap", paced=False) as reader:
        items = tuple(translate(address, look.space, reader) for address in addresses)
        return Translations(items, look.finish(reader))
