"""Pages one by one, with all that is said of each: made many at a time, a column for each thing said."""

from __future__ import annotations

from itertools import compress

from mematlas.frozen import record
from mematlas.kernel.pagemap import ENTRY_SIZE, EXCLUSIVE, PM_MMAP_EXCLUSIVE, PM_PFRAME, PRESENT
from mematlas.model.entry_flags import entry_flags, use_flags
from mematlas.model.pages import STATE_OF_BYTE, Hole, decode_place, is_hidden

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any, Literal

    from mematlas.analysis.page_filter import PageFilter
    from mematlas.kernel.maps import Vma
    from mematlas.kernel.pagemap import Block
    from mematlas.model.nodes import PageNodes
    from mematlas.model.page_frames import PageFrames

    Hidden = Literal["frame", "slot"] | None
    Numbers = Sequence[int | None]
    Names = tuple[str, ...]

MOST_TOGETHER = 1024
"""Pages of a hole in a batch: it may have more than memory has room for."""


@record
class PageBatch:
    """Pages of one VMA that were read together. What is not known of a page, or does not exist, is None."""

    vma: Vma
    addresses: Sequence[int]
    states: Sequence[str]
    """Each one of `mematlas.model.pages.STATES`."""
    pfns: Numbers
    phys: Numbers
    """Physical addresses."""
    nodes: Numbers
    """NUMA nodes."""
    counts: Numbers
    """How often each frame is mapped, by all processes together."""
    swap_types: Numbers
    swap_offsets: Numbers
    flags: Sequence[Names]
    """The names of the bits of each entry, and of what page tables say besides."""
    frame_flags: Sequence[Names | None]
    """Those of each frame."""
    hidden: Sequence[Hidden] | None = None
    """What each page has that this reader may not know; None when that is nothing for all of them."""

    def __len__(self) -> int:
        return len(self.addresses)

    def first(self, nr_pages: int) -> PageBatch:
        """Return the first pages alone."""
        return self if nr_pages >= len(self) else self._picked(lambda values: values[:nr_pages])

    def chosen(self, which: Sequence[bool]) -> PageBatch:
        """Return those pages alone that are chosen."""
        return self if all(which) else self._picked(lambda values: list(compress(values, which)))

    def _picked(self, pick: Callable[[Sequence[Any]], Sequence[Any]]) -> PageBatch:
        columns = {name: pick(getattr(self, name)) for name in COLUMNS}
        hidden = self.hidden and pick(self.hidden)
        return PageBatch(self.vma, **columns, hidden=hidden if hidden and any(hidden) else None)


COLUMNS = (
    *("addresses", "states", "pfns", "phys", "nodes", "counts"),
    *("swap_types", "swap_offsets", "flags", "frame_flags"),
)


def page_batches(
    pieces: Iterable[tuple[Vma, Block | Hole]],
    page_size: int,
    wanted: PageFilter,
    nodes: PageNodes | None,
    frames: PageFrames,
    limit: int | None = None,
) -> Iterator[PageBatch]:
    """Yield the pages that are asked for, those of a block together; no more than ``limit`` in all."""
    maker = BatchMaker(page_size, wanted, nodes, frames)
    for vma, piece in pieces:
        for batch in maker.batches(vma, piece, limit):
            if limit is None:
                yield batch
                continue
            yield batch.first(limit)
            limit -= min(limit, len(batch))
            if limit == 0:
                return


class BatchMaker:
    """Makes batches of the pages that are asked for. Frames are asked about only where they matter."""

    def __init__(self, page_size: int, wanted: PageFilter, nodes: PageNodes | None, frames: PageFrames) -> None:
        self.page_size = page_size
        self.wanted = wanted
        self.nodes = nodes
        self.frames = frames
        self.page_kinds = PageKinds(wanted)

    def batches(self, vma: Vma, piece: Block | Hole, limit: int | None) -> Iterator[PageBatch]:
        """Yield the pages of a piece. More than ``limit`` may come, which are to be cut off."""
        if isinstance(piece, Hole):
            yield from self._of_hole(vma, piece)
        elif batch := self._of_block(vma, piece, limit):
            yield batch

    def _of_hole(self, vma: Vma, hole: Hole) -> Iterator[PageBatch]:
        if not self.wanted.takes(hole.byte, 0):
            return
        end = hole.end(self.page_size)
        together = MOST_TOGETHER * self.page_size
        for start in range(hole.address, end, together):
            addresses = range(start, min(end, start + together), self.page_size)
            unknown = [None] * len(addresses)
            yield PageBatch(
                vma=vma,
                addresses=addresses,
                states=[STATE_OF_BYTE[hole.byte]] * len(addresses),
                pfns=unknown,
                phys=unknown,
                nodes=unknown,
                counts=unknown,
                swap_types=unknown,
                swap_offsets=unknown,
                flags=[()] * len(addresses),
                frame_flags=unknown,
            )

    def _of_block(self, vma: Vma, block: Block, limit: int | None) -> PageBatch | None:
        kinds = self.page_kinds.of(block)
        addresses: Sequence[int] = range(block.address, block.end(self.page_size), self.page_size)
        nodes: Numbers = self.nodes.of(block) if self.nodes else [None] * len(block)
        taken = [kind.is_taken for kind in kinds]
        columns = chosen(taken, kinds, addresses, block.entries, nodes)
        if limit is not None and not self.wanted.asks_frames:
            columns = [column[:limit] for column in columns]
        kinds, addresses, entries, nodes = columns
        if not kinds:
            return None
        pfns, phys, swap_types, swap_offsets, hidden = self._locate(kinds, entries)
        counts_of, flags_of = self.frames.of([pfn for pfn in pfns if pfn is not None])
        counts = [None if pfn is None else counts_of.get(pfn) for pfn in pfns]
        words = [None if pfn is None else flags_of.get(pfn) for pfn in pfns]
        self._settle_shared(kinds, counts)
        batch = PageBatch(
            vma=vma,
            addresses=addresses,
            states=[kind.state for kind in kinds],
            pfns=pfns,
            phys=phys,
            nodes=nodes,
            counts=counts,
            swap_types=swap_types,
            swap_offsets=swap_offsets,
            flags=[kind.flags for kind in kinds],
            frame_flags=self.frames.names(words),
            hidden=hidden,
        )
        if not self.wanted.asks_frames:
            return batch
        taken = [self._is_taken(kind, word) for kind, word in zip(kinds, words, strict=True)]
        batch = batch.chosen(taken)
        return batch if len(batch) else None

    def _is_taken(self, kind: PageKind, word: int | None) -> bool:
        return kind.is_taken and self.wanted.takes_frame(word)

    def _locate(
        self, kinds: Sequence[PageKind], entries: Sequence[int]
    ) -> tuple[Numbers, Numbers, Numbers, Numbers, Sequence[Hidden] | None]:
        """Return the columns of frames, physical addresses, swap types, swap offsets, and what is hidden."""
        size = self.page_size
        frames = [entry & PM_PFRAME for entry in entries]
        states = [kind.byte for kind in kinds]
        if all(frames) and all(byte & PRESENT for byte in states):
            nothing = [None] * len(frames)
            return frames, [pfn * size for pfn in frames], nothing, nothing, None
        located = map(decode_place, states, entries)
        pfns, swap_types, swap_offsets = map(list, zip(*located, strict=True))
        phys = [None if pfn is None else pfn * size for pfn in pfns]
        hidden = list(map(hidden_of, states, entries))
        return pfns, phys, swap_types, swap_offsets, hidden if any(hidden) else None

    def _settle_shared(self, kinds: list[PageKind], counts: Numbers) -> None:
        """Have pages not be exclusive that came to be shared since their entries were read."""
        if all(count is None or count < 2 for count in set(counts)):
            return
        for index, (kind, count) in enumerate(zip(kinds, counts, strict=True)):
            if count is not None and count > 1 and kind.byte & EXCLUSIVE:
                kinds[index] = self.page_kinds.shared(kind)


def hidden_of(byte: int, entry: int) -> Hidden:
    """Return what the kernel keeps from a reader without CAP_SYS_ADMIN: a page's frame, its swap slot, or nothing.

    >>> hidden_of(PRESENT, 1 << 63), hidden_of(0x40, 1 << 62), hidden_of(PRESENT, 1 << 63 | 5)
    ('frame', 'slot', None)
    """
    if not is_hidden(byte, entry):
        return None
    return "frame" if byte & PRESENT else "slot"


def chosen(which: Sequence[bool], *columns: Sequence[Any]) -> list[list[Any]]:
    """Return columns with the rows that are chosen.

    >>> chosen([True, False], [1, 2], ["a", "b"])
    [[1], ['a']]
    """
    return [list(compress(values, which)) for values in columns]


@record
class PageKind:
    """What pages have in common whose bits are the same, wherever they are."""

    byte: int
    state: str
    flags: Names
    is_taken: bool
    """Whether they are asked for, as far as their entries show."""
    bits: tuple[int, ...]
    """The key under which `PageKinds` has it."""


class PageKinds(dict[tuple[int, ...], PageKind]):
    """Pages by their bits, worked out once: the state byte, the upper byte of the entry, soft-dirty, and its use."""

    def __init__(self, wanted: PageFilter) -> None:
        self.wanted = wanted

    def __missing__(self, bits: tuple[int, ...]) -> PageKind:
        byte, upper, soft_dirty, use = bits
        entry = upper << 56 | soft_dirty << 55
        flags = (*entry_flags(byte, entry), *use_flags(use))
        is_taken = self.wanted.takes(byte, entry, use)
        kind = self[bits] = PageKind(byte=byte, state=STATE_OF_BYTE[byte], flags=flags, is_taken=is_taken, bits=bits)
        return kind

    def of(self, block: Block) -> list[PageKind]:
        """Return that of each page of a block."""
        raw = bytes(block.raw)
        upper = raw[7::ENTRY_SIZE]
        soft_dirty = raw[6::ENTRY_SIZE].translate(BIT_55)
        uses = block.use or bytes(len(block))
        return [self[bits] for bits in zip(block.states, upper, soft_dirty, uses, strict=True)]

    def shared(self, kind: PageKind) -> PageKind:
        """Return that of a page which came to be shared since its entry was read."""
        byte, upper, soft_dirty, use = kind.bits
        return self[byte & ~EXCLUSIVE, upper & ~(PM_MMAP_EXCLUSIVE >> 56), soft_dirty, use]


BIT_55 = bytes(byte >> 7 for byte in range(256))
"""Of the second byte from above of an entry."""
