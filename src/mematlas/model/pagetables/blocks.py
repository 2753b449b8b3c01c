"""The pages of a walk: what its leaves, whatever their level, say of each page.

Tables of the last level that follow one another are decoded together, and huge leaves are repeated for each page.
"""

from __future__ import annotations

from mematlas.arrays import Bytes, Words, np
from mematlas.frozen import record
from mematlas.model.pagetables.entries import (
    PRESENT,
    PagingMode,
    address_of,
    leaf_address,
    maps_memory,
    states,
)
from mematlas.model.pagetables.walk import Walk, upper_entries

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

Piece = tuple[int, int, int, int]
"""What holds leaves: its address, its bytes, its level, and the row of the table or the flat index of the leaf."""

NR_BLOCK_PAGES = 1 << 15


@record
class PageBlock:
    """Pages without a gap, one element each: what the leaves say of them, whatever their level."""

    start: int
    """The address of the first page."""
    states: Bytes
    """Codes; `mematlas.model.pagetables.entries.STATE_NAMES` has their names."""
    pfns: Words
    """The frame of each present page; 0 for others."""
    entries: Words
    """The entry that decides; a huge leaf is repeated for each of its pages."""

    def __len__(self) -> int:
        return len(self.states)


def page_blocks(walked: Walk, start: int | None = None, end: int | None = None) -> Iterator[PageBlock]:
    """Yield the pages of a walk, from ``start`` to ``end``, in address order; where no table or leaf is, nothing.

    >>> for block in page_blocks(walked, vma.start, vma.end):  # doctest: +SKIP
    ...     print(hex(block.start), len(block), holds(block.entries, walked.mode.dirty).sum())
    0x7f3c1a000000 1024 318
    """
    first = walked.first if start is None else max(start, walked.first)
    last = walked.last if end is None else min(end - 1, walked.last)
    for group in _groups(leaf_pieces(walked), 1 << walked.mode.page_shift):
        low, high = max(group[0][0], first), min(group[-1][0] + group[-1][1] - 1, last)
        if low <= high:
            yield _fill(walked, group, low, high)


def leaf_pieces(walked: Walk) -> list[Piece]:
    """Return what holds leaves, by address: tables of the last level, and huge leaves."""
    mode = walked.mode
    bottom = walked.levels[-1]
    size = bottom.entries.shape[1] << mode.page_shift
    rows = enumerate(bottom.addresses.tolist())
    pieces = [(address, size, bottom.level, row) for row, address in rows]
    for level in range(len(mode.levels) - 1):
        indexes, _, _ = upper_entries(walked, level)
        addresses = walked.entry_addresses(level, indexes).tolist()
        pairs = zip(addresses, indexes.tolist(), strict=True)
        pieces += [(address, mode.levels[level].size, level, index) for address, index in pairs]
    return sorted(pieces)


def _groups(pieces: list[Piece], page_size: int) -> Iterator[list[Piece]]:
    # Pieces that touch, up to NR_BLOCK_PAGES pages together.
    group: list[Piece] = []
    end = limit = 0
    for piece in pieces:
        address, size, _, _ = piece
        if group and (address != end or address >= limit):
            yield group
            group = []
        if not group:
            limit = address + NR_BLOCK_PAGES * page_size
        group.append(piece)
        end = address + size
    if group:
        yield group


def _fill(walked: Walk, group: list[Piece], low: int, high: int) -> PageBlock:
    shift = walked.mode.page_shift
    joined = _joined(walked, group)
    touched = [piece for piece in joined if low < piece[0] + piece[1] and piece[0] <= high]
    parts = [_piece_pages(walked, piece, low, high) for piece in touched]
    codes, pfns, entries = parts[0]
    if len(parts) > 1:
        codes, pfns, entries = (np.concatenate(column) for column in zip(*parts, strict=True))
    return PageBlock(start=low >> shift << shift, states=codes, pfns=pfns, entries=entries)


def _joined(walked: Walk, group: list[Piece]) -> Iterator[Piece]:
    # Tables of the last level that follow one another are decoded together.
    bottom = len(walked.mode.levels) - 1
    held: Piece | None = None
    for piece in group:
        if held and piece[2] == bottom:
            held = (held[0], held[1] + piece[1], bottom, held[3])
            continue
        if held:
            yield held
            held = None
        if piece[2] == bottom:
            held = piece
        else:
            yield piece
    if held:
        yield held


def _piece_pages(walked: Walk, piece: Piece, low: int, high: int) -> tuple[Bytes, Words, Words]:
    address, size, depth, index = piece
    mode, shift = walked.mode, walked.mode.page_shift
    begin, stop = max(low - address, 0) >> shift, (min(high - address, size - 1) >> shift) + 1
    if depth == len(mode.levels) - 1:
        flat = walked.levels[depth].entries.reshape(-1)
        row = index * walked.levels[depth].entries.shape[1]
        entries = flat[row + begin : row + stop]
        codes = states(mode, depth, entries)
        return codes, frames(mode, depth, entries, codes, (address >> shift) + begin), entries
    entry = walked.levels[depth].entries.reshape(-1)[index : index + 1]
    codes = states(mode, depth, entry)
    nr = stop - begin
    pfns = np.zeros(nr, np.uint64)
    if maps_memory(codes)[0]:
        base = int(np.asarray(leaf_address(mode, depth, entry))[0]) >> shift
        pfns = np.arange(base + begin, base + stop, dtype=np.uint64)
    return np.repeat(codes, nr), pfns, np.repeat(entry, nr)


def frames(mode: PagingMode, depth: int, entries: Words, codes: Bytes, first_vpn: int = 0) -> Words:
    """Return the frame of each entry of the last level that is present, and 0 for the others."""
    present = codes == PRESENT
    if present.all():
        pfns: Words = address_of(mode, entries) >> np.uint64(mode.page_shift)
    else:
        addresses = leaf_address(mode, depth, entries)
        pfns = np.where(maps_memory(codes), addresses >> np.uint64(mode.page_shift), np.uint64(0))
    if mode.napot:
        pfns = _napot_frames(mode, entries, pfns, first_vpn)
    return pfns


def _napot_frames(mode: PagingMode, entries: Words, pfns: Words, first_vpn: int) -> Words:
    # All entries of a NAPOT group are alike: which of its pages one is follows from its address.
    raw = address_of(mode, entries) >> np.uint64(mode.page_shift)
    lowest = raw & (~raw + np.uint64(1))
    vpns = np.arange(first_vpn, first_vpn + len(entries), dtype=np.uint64)
    joined = (raw ^ lowest) | (vpns & (lowest * np.uint64(2) - np.uint64(1)))
    result: Words = np.where((entries & np.uint64(mode.napot)) != 0, joined, pfns)
    return result
