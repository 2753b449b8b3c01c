"""What single pages are read from, pagemap or page tables, and all pages of a range, with the holes between them."""

from __future__ import annotations

from mematlas.model.pages import Hole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Protocol, Self, TypeVar

    from mematlas.kernel.maps import Vma
    from mematlas.kernel.pagemap import Block
    from mematlas.kernel.procfs import ProcessDir
    from mematlas.kernel.scattered import Scattered
    from mematlas.notes import Note

    L = TypeVar("L", Block, Block | Scattered)

    class PageSource(Protocol):
        """What single pages are read from: `PageReader` from pagemap, `PageTableReader` from page tables."""

        name: str
        """``pagemap`` or ``tables``."""
        process: ProcessDir
        page_size: int
        zero_known: bool

        def __enter__(self) -> Self: ...
        def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None: ...
        def close(self) -> None: ...
        def blocks(self, vma: Vma, start: int | None = None, end: int | None = None) -> Iterator[Block]: ...
        def lots(self, vma: Vma, start: int | None = None, end: int | None = None) -> Iterator[Block | Scattered]: ...
        def runs(self, vmas: Iterable[Vma]) -> Iterator[tuple[list[Vma], Block | None]]: ...
        def hole(self, vma: Vma) -> int: ...
        def block_at(self, vma: Vma, address: int) -> Block | None: ...
        def notes(self) -> list[Note]: ...


def pieces(source: PageSource, vma: Vma, start: int, end: int) -> Iterator[Block | Hole]:
    """Yield every page of a part of a VMA, in order: blocks, and the holes between them."""
    blocks = source.blocks(vma, start, end)
    return with_holes(blocks, start, end, source.page_size, lambda: source.hole(vma))


def lot_pieces(source: PageSource, vma: Vma, start: int, end: int) -> Iterator[Block | Scattered | Hole]:
    """Yield what `pieces` does, but where pages lie far apart, hundreds at a time with the holes between them."""
    lots = source.lots(vma, start, end)
    return with_holes(lots, start, end, source.page_size, lambda: source.hole(vma))


def with_holes(lots: Iterable[L], start: int, end: int, page_size: int, hole: Callable[[], int]) -> Iterator[L | Hole]:
    """Yield what was found of a range, and the holes between; their state byte is asked for when one is met."""
    address = start
    for block in lots:
        if address < block.address:
            yield Hole(address, (block.address - address) // page_size, hole())
        yield block
        address = block.end(page_size)
    if address < end:
        yield Hole(address, (end - address) // page_size, hole())
