"""Sets of pages of one process, and strings of bytes that say which pages of a block are meant."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# A mask is a string of bytes, one a page: 1 for a page that is meant, 0 for one that is not. Masks are combined as
# large numbers, which takes the time of one pass in C.


def both(one: bytes, other: bytes) -> bytes:
    """Return the pages that are in both masks, which are equally long.

    >>> both(bytes((1, 1, 0)), bytes((0, 1, 1)))
    b'\\x00\\x01\\x00'
    """
    mask = int.from_bytes(one, "little") & int.from_bytes(other, "little")
    return mask.to_bytes(len(one), "little")


def either(one: bytes, other: bytes) -> bytes:
    """Return the pages that are in one of two masks; the shorter one ends in pages that are not meant."""
    number = int.from_bytes(one, "little") | int.from_bytes(other, "little")
    return number.to_bytes(max(len(one), len(other)), "little")


def without(one: bytes, other: bytes) -> bytes:
    """Return the pages of a mask that are not in the other, which is as long."""
    number = int.from_bytes(one, "little")
    return (number ^ number & int.from_bytes(other, "little")).to_bytes(len(one), "little")


ALL_BITS = bytes((0,)) + bytes((0xFF,)) * 255


def masked(states: bytes, mask: bytes) -> bytes:
    """Return the state bytes of the pages in a mask; those of the others are 0."""
    return both(states, mask.translate(ALL_BITS))


def runs(mask: bytes) -> Iterator[tuple[int, int]]:
    """Yield the runs of pages in a mask, as first and one past the last.

    >>> list(runs(bytes((0, 1, 1, 0, 1))))
    [(1, 3), (4, 5)]
    """
    index = mask.find(1)
    while index >= 0:
        end = mask.find(0, index)
        end = len(mask) if end < 0 else end
        yield index, end
        index = mask.find(1, end)


def first_pages(mask: bytes, count: int) -> bytes:
    """Return a mask with its first pages only.

    >>> first_pages(bytes((0, 1, 1, 0, 1)), 2)
    b'\\x00\\x01\\x01\\x00\\x00'
    """
    if mask.count(1) <= count:
        return mask
    for first, end in runs(mask):
        if end - first >= count:
            return mask[: first + count].ljust(len(mask), b"\0")
        count -= end - first
    return mask


class PageSet:
    """Pages of one process: masks by address, ascending, none overlapping.

    >>> pages = PageSet(4096)
    >>> pages.add(0x1000, bytes((1, 1, 0, 1)))
    >>> pages.nr_pages, [(hex(start), hex(end)) for start, end in pages.ranges()]
    (3, [('0x1000', '0x3000'), ('0x4000', '0x5000')])
    """

    def __init__(self, page_size: int) -> None:
        self.page_size = page_size
        self._masks: dict[int, bytes] = {}
        self._order: list[int] | None = []
        """The addresses in order; None while that is not known."""

    def __bool__(self) -> bool:
        return bool(self._masks)

    @property
    def nr_pages(self) -> int:
        """The number of pages in the set."""
        return sum(mask.count(1) for mask in self._masks.values())

    def add(self, address: int, mask: bytes) -> None:
        """Add the pages of a mask that begins at an address. Blocks that begin alike are united."""
        if 1 not in mask:
            return
        if address in self._masks:
            self._masks[address] = either(self._masks[address], mask)
        else:
            self._masks[address] = mask
            self._order = None

    def put(self, address: int, mask: bytes) -> None:
        """Replace the pages of the block that begins at an address by those of a mask."""
        self._masks.pop(address, None)
        self._order = None
        self.add(address, mask)

    def without(self, other: PageSet) -> PageSet:
        """Return the pages of this set that are not in the other."""
        rest = PageSet(self.page_size)
        for address, mask in self.blocks():
            end = address + len(mask) * self.page_size
            rest.add(address, without(mask, other.mask(address, end)))
        return rest

    def _addresses(self) -> list[int]:
        if self._order is None:
            self._order = sorted(self._masks)
        return self._order

    def blocks(self) -> Iterator[tuple[int, bytes]]:
        """Yield each mask with its address, ascending."""
        for address in self._addresses():
            yield address, self._masks[address]

    def blocks_from(self, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        """Yield the masks that begin in a range of addresses."""
        order = self._addresses()
        for index in range(bisect_left(order, start), bisect_left(order, end)):
            yield order[index], self._masks[order[index]]

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Yield the runs of pages as addresses; those that touch are one, across blocks too."""
        size = self.page_size
        last: tuple[int, int] | None = None
        for address, mask in self.blocks():
            for first, end in runs(mask):
                span = (address + first * size, address + end * size)
                if last and last[1] == span[0]:
                    last = (last[0], span[1])
                    continue
                if last:
                    yield last
                last = span
        if last:
            yield last

    def to_plain(self) -> list[list[int]]:
        """Return the runs of pages as lists of addresses: what stands for the set in a dictionary of a result."""
        return [list(span) for span in self.ranges()]

    def mask(self, start: int, end: int) -> bytes:
        """Return which pages of a range are in the set."""
        size = self.page_size
        whole = bytearray((end - start) // size)
        order = self._addresses()
        for index in range(max(bisect_right(order, start) - 1, 0), len(order)):
            address = order[index]
            if address >= end:
                break
            mask = self._masks[address]
            low, high = max(start, address), min(end, address + len(mask) * size)
            if low < high:
                part = mask[(low - address) // size : (high - address) // size]
                first = (low - start) // size
                whole[first : first + len(part)] = part
        return bytes(whole)
