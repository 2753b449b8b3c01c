"""Runs of like pages: consecutive ones of a VMA that are in the same state, with the same flags, on one node."""

from __future__ import annotations

from itertools import pairwise

from mematlas.analysis.page_batches import hidden_of
from mematlas.frozen import record, replace
from mematlas.kernel.pagemap import MARK_A, PM_PFRAME, PRESENT
from mematlas.model.entry_flags import entry_flags, use_flags
from mematlas.model.nodes import NOWHERE
from mematlas.model.pages import STATE_OF_BYTE, Hole, decode_place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mematlas.analysis.page_batches import Hidden
    from mematlas.analysis.page_filter import PageFilter
    from mematlas.arrays import NDArray, np
    from mematlas.kernel.maps import Vma
    from mematlas.kernel.pagemap import Block
    from mematlas.model.nodes import PageNodes

USE_SHIFT = 14
NODE_SHIFT = 32
ONE_SLOT = 1 << 5
"""By how much the entry of the next swap slot is greater: the offset stands above the five bits of the type."""


@record
class PageRun:
    """Consecutive pages that are alike in all but where they lie."""

    vma: Vma
    start: int
    nr_pages: int
    page_size: int
    byte: int
    """The state byte of each."""
    bits: int
    """The entry's bits 55 to 63, above the five of a swapped one's type, and above those its use."""
    first: int
    """The first entry."""
    last: int
    contiguous: bool
    """Whether the frames, or swap slots, follow one another."""
    on_node: int
    """The NUMA node of all of them; negative when there is none, or it is not known."""

    @property
    def end(self) -> int:
        """Where the last page ends."""
        return self.start + self.nr_pages * self.page_size

    @property
    def state(self) -> str:
        """One of `mematlas.model.pages.STATES`."""
        return STATE_OF_BYTE[self.byte]

    @property
    def pfn(self) -> int | None:
        """The frame of the first page."""
        return decode_place(self.byte, self.first)[0]

    @property
    def phys(self) -> int | None:
        """The physical address of the first page."""
        return None if self.pfn is None else self.pfn * self.page_size

    @property
    def swap_type(self) -> int | None:
        """The swap area that they are in."""
        return decode_place(self.byte, self.first)[1]

    @property
    def swap_offset(self) -> int | None:
        """The swap slot of the first page."""
        return decode_place(self.byte, self.first)[2]

    @property
    def hidden(self) -> Hidden:
        """What the pages have that this reader may not know: frames or swap slots."""
        return hidden_of(self.byte, self.first)

    @property
    def node(self) -> int | None:
        """The NUMA node; None when there is none, or it is not known."""
        return self.on_node if self.on_node >= 0 else None

    @property
    def flags(self) -> tuple[str, ...]:
        """The names of the bits of the entries, and of what page tables say besides."""
        return (*entry_flags(self.byte, self.first), *use_flags(self.bits >> USE_SHIFT))

    @property
    def follows_on(self) -> bool | None:
        """Whether frames or slots follow one another, as those of the zero page never do; None without any."""
        if self.pfn is None and self.swap_offset is None:
            return None
        return self.contiguous and (not self.byte & MARK_A or self.nr_pages == 1)


def page_runs(
    pieces: Iterable[tuple[Vma, Block | Hole]],
    page_size: int,
    wanted: PageFilter,
    nodes: PageNodes | None = None,
    limit: int | None = None,
) -> Iterator[list[PageRun]]:
    """Yield the runs of the pages that are asked for, those together that ended within a block; ``limit`` at most."""
    for runs in joined(runs_of_pieces(pieces, page_size, wanted, nodes)):
        if runs:
            yield runs if limit is None else runs[:limit]
        if limit is not None:
            limit -= min(limit, len(runs))
            if limit == 0:
                return


def runs_of_pieces(
    pieces: Iterable[tuple[Vma, Block | Hole]], page_size: int, wanted: PageFilter, nodes: PageNodes | None
) -> Iterator[list[PageRun]]:
    """Yield the runs of each block or hole alone."""
    for vma, piece in pieces:
        if not isinstance(piece, Hole):
            yield runs_of_block(vma, piece, page_size, wanted, nodes)
        elif wanted.takes(piece.byte, 0):
            yield [run_of_hole(vma, piece, page_size)]


def run_of_hole(vma: Vma, hole: Hole, page_size: int) -> PageRun:
    """Return the one run that a hole is."""
    return PageRun(
        vma=vma,
        start=hole.address,
        nr_pages=hole.nr_pages,
        page_size=page_size,
        byte=hole.byte,
        bits=0,
        first=0,
        last=0,
        contiguous=True,
        on_node=NOWHERE,
    )


def runs_of_block(vma: Vma, block: Block, page_size: int, wanted: PageFilter, nodes: PageNodes | None) -> list[PageRun]:
    """Return the runs of a block."""
    from mematlas.arrays import np

    entries = np.frombuffer(block.raw, np.uint64)
    states = np.frombuffer(block.states, np.uint8)
    bits = bits_of(block, entries, states)
    on_nodes = nodes.array(block) if nodes else np.full(len(block), NOWHERE, np.int16)
    node_bits = on_nodes.astype(np.uint16).astype(np.uint64) << np.uint64(NODE_SHIFT)
    keys = (bits << np.uint64(8)) | states | node_bits
    step = np.where(states[1:] & PRESENT, np.uint64(1), np.uint64(ONE_SLOT))
    follows = np.diff(entries & np.uint64(PM_PFRAME)) == step
    runs = []
    cuts = [0, *(np.flatnonzero(keys[1:] != keys[:-1]) + 1).tolist(), len(states)]
    for low, high in pairwise(cuts):
        byte, entry = int(states[low]), int(entries[low])
        if not wanted.takes(byte, entry, int(bits[low]) >> USE_SHIFT):
            continue
        run = PageRun(
            vma=vma,
            start=block.address + low * page_size,
            nr_pages=high - low,
            page_size=page_size,
            byte=byte,
            bits=int(bits[low]),
            first=entry,
            last=int(entries[high - 1]),
            contiguous=bool(follows[low : high - 1].all()),
            on_node=int(on_nodes[low]),
        )
        runs.append(run)
    return runs


def bits_of(block: Block, entries: NDArray[np.uint64], states: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return what entries say but for where the pages lie: `PageRun.bits`."""
    from mematlas.arrays import np

    swap_types = np.where(states & PRESENT, np.uint64(0), entries & np.uint64(0x1F))
    bits = (entries >> np.uint64(55) << np.uint64(5)) | swap_types
    # The soft-dirty bit alone is none of a page: see `is_soft_dirty`.
    bits[entries >> np.uint64(55) == 1] = 0
    if block.use is not None:
        bits |= np.frombuffer(block.use, np.uint8).astype(np.uint64) << np.uint64(USE_SHIFT)
    return bits


def joined(lists: Iterable[list[PageRun]]) -> Iterator[list[PageRun]]:
    """Yield the runs that have ended, joined where they were cut only because a block ended."""
    held: PageRun | None = None
    for runs in lists:
        ended = []
        for run in runs:
            both = join(held, run) if held else None
            if held and both is None:
                ended.append(held)
            held = both or run
        yield ended
    if held:
        yield [held]


def join(one: PageRun, two: PageRun) -> PageRun | None:
    """Return two runs as one; None when they are not alike or do not touch."""
    if one.end != two.start or likeness(one) != likeness(two):
        return None
    step = 1 if one.byte & PRESENT else ONE_SLOT
    goes_on = not one.first or two.first - one.last == step
    return replace(
        one,
        nr_pages=one.nr_pages + two.nr_pages,
        last=two.last,
        contiguous=one.contiguous and two.contiguous and goes_on,
    )


def likeness(run: PageRun) -> tuple[int, ...]:
    """Return what all pages of a run have in common, and two that are joined."""
    return run.byte, run.bits, run.on_node, run.vma.start
