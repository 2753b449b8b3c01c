"""Pages as a table: a row per page, or per run of like pages, made while they are read."""

from __future__ import annotations

from itertools import pairwise

from mematlas.errors import NotSupported, PermissionDenied
from mematlas.kernel.kpage import KPF_KSM, FrameWords, flag_names, tells_ksm
from mematlas.kernel.pagemap import (
    ACCESSED,
    DIRTY,
    EXCLUSIVE,
    MARK_A,
    PM_MMAP_EXCLUSIVE,
    PM_PFRAME,
    PRESENT,
    has_soft_dirty,
)
from mematlas.model.nodes import NODES_UNKNOWN, NOWHERE
from mematlas.model.pages import HIDDEN_FRAMES, STATE_OF_BYTE, Hole, decode_place, entry_flags, is_hidden, is_soft_dirty
from mematlas.record import record, replace
from mematlas.views.table import HIDDEN, Column, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from mematlas.kernel.maps import Vma
    from mematlas.kernel.pagemap import Block
    from mematlas.model.nodes import PageNodes
    from mematlas.process import Process

PAGE_COLUMNS = (
    Column("address", "ADDRESS", "address", width=14),
    Column("state", "STATE", width=7),
    Column("pfn", "PFN", "count", width=8),
    Column("phys", "PHYSICAL", "address", width=14),
    Column("node", "NODE", "count", shown=False),
    Column("count", "COUNT", "count", width=5),
    Column("swap_type", "SWAP", "count", width=4),
    Column("swap_offset", "SLOT", "hex", width=8),
    Column("flags", "FLAGS", "list"),
    Column("frame_flags", "FRAME", "list", width=44),
    Column("path", "PATH", "path"),
)
RUN_COLUMNS = (
    Column("start", "START", "address", width=14),
    Column("end", "END", "address", width=14),
    Column("nr_pages", "PAGES", "count", width=8),
    Column("state", "STATE", width=7),
    Column("pfn", "FIRST PFN", "count", width=9),
    Column("phys", "FIRST FRAME AT", "address", width=14),
    Column("node", "NODE", "count", shown=False),
    Column("contiguous", "CONTIGUOUS", "flag"),
    Column("swap_type", "SWAP", "count", width=4),
    Column("swap_offset", "FIRST SLOT", "hex", width=10),
    Column("flags", "FLAGS", "list"),
    Column("path", "PATH", "path"),
)


def flags_width(source: str, soft_dirty: bool) -> int:
    """Return the width that the flags of a page take: page tables tell more of them, and not every kernel all.

    >>> flags_width("pagemap", False), flags_width("tables", True)
    (22, 48)
    """
    names = [
        "present",
        "exclusive",
        *["soft-dirty"] * soft_dirty,
        "file",
        *["accessed", "dirty"] * (source == "tables"),
    ]
    return len(",".join(names))


@record
class PageFilter:
    """Which pages are asked for; everything that is set must hold."""

    present: bool = False
    swapped: bool = False
    exclusive: bool = False
    dirty: bool = False
    """By the frame's own flag, from kpageflags."""
    soft_dirty: bool = False

    def takes(self, byte: int, entry: int) -> bool:
        """Whether a page is asked for, as far as its entry tells."""
        return not (
            (self.present and not byte & PRESENT)
            or (self.swapped and STATE_OF_BYTE[byte] != "swapped")
            or (self.exclusive and byte & (PRESENT | EXCLUSIVE) != PRESENT | EXCLUSIVE)
            or (self.soft_dirty and not is_soft_dirty(entry))
            or (self.dirty and not byte & PRESENT)
        )


KPF_DIRTY = 1 << 4


def pages_table(
    pieces: Iterable[tuple[Vma, Block | Hole]],
    process: Process,
    wanted: PageFilter,
    target: dict[str, Any],
    runs: bool,
    limit: int | None,
    notes: list[str],
    source: str = "pagemap",
) -> Table:
    """Return the pages, or runs of like pages, that are asked for, as a table that streams."""
    nodes = Nodes(process, notes)
    columns = nodes.columns(RUN_COLUMNS if runs else PAGE_COLUMNS)
    width = flags_width(source, has_soft_dirty(process.procfs) is not False)
    columns = tuple(replace(each, width=width) if each.key == "flags" else each for each in columns)
    if runs:
        rows = merge_runs(run_rows(pieces, process.page_size, wanted, nodes), process.page_size, notes)
        return Table("runs/1", columns, first(rows, limit), target=target, notes=notes, stream=True)
    rows = page_rows(pieces, process, wanted, nodes, notes)
    return Table("pages/1", columns, first(rows, limit), target=target, notes=notes, stream=True)


def first(rows: Iterator[tuple[Any, ...]], limit: int | None) -> Iterator[tuple[Any, ...]]:
    """Yield the first rows, all without a limit."""
    if limit is None:
        yield from rows
        return
    for _, row in zip(range(limit), rows, strict=False):
        yield row


class Nodes:
    """The NUMA nodes of pages, where they can be told."""

    def __init__(self, process: Process, notes: list[str]) -> None:
        self.notes = notes
        self.known: PageNodes | None = None
        try:
            self.known = process.page_nodes()
        except (PermissionDenied, NotSupported) as error:
            notes.append(f"nodes unknown: {error}")

    def columns(self, columns: tuple[Column, ...]) -> tuple[Column, ...]:
        """Return columns of which text shows the node where there are several."""
        several = self.known is not None and len(self.known.with_memory) > 1
        return tuple(replace(column, shown=several) if column.key == "node" else column for column in columns)

    def of(self, block: Block) -> list[int | None]:
        """Return the node of each page of a block."""
        if self.known is None:
            return [None] * len(block)
        nodes = self.known.of(block)
        self._note(self.known.why)
        return nodes

    def array(self, block: Block) -> NDArray[np.int16]:
        """Return the same as an array, with negative numbers for None."""
        import numpy as np

        if self.known is None:
            return np.full(len(block), NOWHERE, np.int16)
        nodes = self.known.array(block)
        self._note(self.known.why)
        return nodes

    def _note(self, why: str | None) -> None:
        if why and (note := NODES_UNKNOWN.format(why)) not in self.notes:
            self.notes.append(note)


KSM_UNTOLD = "ksm is not shown: this kernel says it of every anonymous page"


class Frames:
    """What kpagecount and kpageflags say of frames, where they may be read."""

    def __init__(self, process: Process, notes: list[str], must_have_flags: bool) -> None:
        self.counts: FrameWords | None = None
        self.flags: FrameWords | None = None
        try:
            self.flags = FrameWords(process.procfs, "kpageflags")
        except (PermissionDenied, NotSupported) as error:
            if must_have_flags:
                raise
            notes.append(f"frame flags unknown: {error}")
        try:
            self.counts = FrameWords(process.procfs, "kpagecount")
        except (PermissionDenied, NotSupported) as error:
            notes.append(f"map counts unknown: {error}")
        self.procfs = process.procfs
        self.notes = notes
        self.kept = (1 << 64) - 1
        """The flags that mean what their names say."""
        self.is_ksm_checked = False

    def of(self, block: Block) -> tuple[dict[int, int], dict[int, int]]:
        """Return the map counts and the flags of the frames of a block; empty where unknown."""
        frames = [entry & PM_PFRAME for byte, entry in zip(block.states, block.entries, strict=True) if byte & PRESENT]
        known = {frame for frame in frames if frame}
        return self.counts.get(known) if self.counts else {}, self._flags_of(known) if self.flags else {}

    def _flags_of(self, frames: set[int]) -> dict[int, int]:
        words = self.flags.get(frames) if self.flags else {}
        if not self.is_ksm_checked and any(word & KPF_KSM for word in words.values()):
            self.is_ksm_checked = True
            if tells_ksm(self.procfs) is False:
                self.kept &= ~KPF_KSM
                self.notes.append(KSM_UNTOLD)
        return {frame: word & self.kept for frame, word in words.items()}

    def close(self) -> None:
        for file in (self.counts, self.flags):
            if file:
                file.close()


def page_rows(
    pieces: Iterable[tuple[Vma, Block | Hole]], process: Process, wanted: PageFilter, nodes: Nodes, notes: list[str]
) -> Iterator[tuple[Any, ...]]:
    """Yield a row per page."""
    page_size = process.page_size
    frames = Frames(process, notes, wanted.dirty)
    try:
        for vma, piece in pieces:
            path = vma.path or vma.kind
            if isinstance(piece, Hole):
                if wanted.takes(piece.byte, 0):
                    state = STATE_OF_BYTE[piece.byte]
                    for address in range(piece.address, piece.address + piece.nr_pages * page_size, page_size):
                        yield (address, state, None, None, None, None, None, None, (), None, path)
                continue
            yield from block_rows(piece, path, page_size, frames, wanted, nodes, notes)
    finally:
        frames.close()


def block_rows(
    block: Block, path: str, page_size: int, frames: Frames, wanted: PageFilter, nodes: Nodes, notes: list[str]
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of one block."""
    counts, flags = frames.of(block)
    address = block.address - page_size
    uses = block.use or bytes(len(block))
    for byte, entry, use, node in zip(block.states, block.entries.tolist(), uses, nodes.of(block), strict=True):
        address += page_size
        if not wanted.takes(byte, entry):
            continue
        pfn, phys, swap_type, swap_offset = places_of(byte, entry, page_size, notes)
        word = flags.get(pfn) if isinstance(pfn, int) else None
        count = counts.get(pfn) if isinstance(pfn, int) else None
        if count is not None and count > 1 and byte & EXCLUSIVE:
            # Shared since the entry was read.
            byte, entry = byte & ~EXCLUSIVE, entry & ~PM_MMAP_EXCLUSIVE
            if wanted.exclusive:
                continue
        if wanted.dirty and not (word or 0) & KPF_DIRTY:
            continue
        yield (
            address,
            STATE_OF_BYTE[byte],
            pfn,
            phys,
            node,
            count,
            swap_type,
            swap_offset,
            (*entry_flags(byte, entry), *use_flags(use)),
            None if word is None else flag_names(word),
            path,
        )


def use_flags(use: int) -> tuple[str, ...]:
    """Return the names of the bits that page tables alone tell."""
    return tuple(name for bit, name in ((ACCESSED, "accessed"), (DIRTY, "dirty")) if use & bit)


def places_of(byte: int, entry: int, page_size: int, notes: list[str]) -> tuple[Any, Any, Any, Any]:
    """Return frame, physical address, swap type and swap offset of an entry; `HIDDEN` where they may not be known."""
    if is_hidden(byte, entry):
        if HIDDEN_FRAMES not in notes:
            notes.append(HIDDEN_FRAMES)
        return (HIDDEN, HIDDEN, None, None) if byte & PRESENT else (None, None, HIDDEN, HIDDEN)
    pfn, swap_type, swap_offset = decode_place(byte, entry)
    return pfn, None if pfn is None else pfn * page_size, swap_type, swap_offset


@record
class Run:
    """Consecutive pages of one VMA in the same state with the same flags, on one node."""

    address: int
    nr_pages: int
    byte: int
    flags: int
    """The entry's bits 55 to 63, above the five of a swapped one's type, and above those its use."""
    first: int
    """The first entry."""
    last: int
    contiguous: bool
    """Whether the frames, or swap slots, follow one another."""
    node: int
    """The NUMA node of all of them; negative when there is none, or it cannot be told."""
    vma: Vma


USE_SHIFT = 14
NODE_SHIFT = 32


def run_rows(
    pieces: Iterable[tuple[Vma, Block | Hole]], page_size: int, wanted: PageFilter, nodes: Nodes
) -> Iterator[Run]:
    """Yield the runs of each block or hole that are asked for; `merge_runs` joins them."""
    import numpy as np

    for vma, piece in pieces:
        if isinstance(piece, Hole):
            if wanted.takes(piece.byte, 0):
                yield Run(piece.address, piece.nr_pages, piece.byte, 0, 0, 0, True, NOWHERE, vma)
            continue
        entries = np.frombuffer(piece.raw, np.uint64)
        states = np.frombuffer(piece.states, np.uint8)
        types = np.where(states & PRESENT, np.uint64(0), entries & np.uint64(0x1F))
        flags = (entries >> np.uint64(55) << np.uint64(5)) | types
        # The soft-dirty bit alone is none of a page: see `is_soft_dirty`.
        flags[entries >> np.uint64(55) == 1] = 0
        if piece.use is not None:
            flags |= np.frombuffer(piece.use, np.uint8).astype(np.uint64) << np.uint64(USE_SHIFT)
        on_nodes = nodes.array(piece)
        keys = (flags << np.uint64(8)) | states | on_nodes.astype(np.uint16).astype(np.uint64) << np.uint64(NODE_SHIFT)
        # Where the place goes up by one from page to page: a frame, or a swap offset above the type's five bits.
        place = entries & np.uint64(PM_PFRAME)
        step = np.where(states[1:] & PRESENT, np.uint64(1), np.uint64(1 << 5))
        follows = np.diff(place) == step
        cuts = [0, *(np.flatnonzero(keys[1:] != keys[:-1]) + 1).tolist(), len(states)]
        for low, high in pairwise(cuts):
            byte, entry = int(states[low]), int(entries[low])
            if wanted.takes(byte, entry):
                yield Run(
                    piece.address + low * page_size,
                    high - low,
                    byte,
                    int(flags[low]),
                    entry,
                    int(entries[high - 1]),
                    bool(follows[low : high - 1].all()),
                    int(on_nodes[low]),
                    vma,
                )


def merge_runs(runs: Iterator[Run], page_size: int, notes: list[str]) -> Iterator[tuple[Any, ...]]:
    """Yield a row per run, with runs joined that were cut only where a block ended."""
    held: Run | None = None
    for run in runs:
        joined = join(held, run, page_size) if held else None
        if held and joined is None:
            yield run_row(held, page_size, notes)
        held = joined or run
    if held:
        yield run_row(held, page_size, notes)


def join(one: Run, two: Run, page_size: int) -> Run | None:
    """Return two runs as one; None when they are not alike or do not touch."""
    if one.address + one.nr_pages * page_size != two.address or likeness(one) != likeness(two):
        return None
    step = 1 if one.byte & PRESENT else 1 << 5
    contiguous = one.contiguous and two.contiguous and (not one.first or two.first - one.last == step)
    return Run(
        one.address,
        one.nr_pages + two.nr_pages,
        one.byte,
        one.flags,
        one.first,
        two.last,
        contiguous,
        one.node,
        one.vma,
    )


def likeness(run: Run) -> tuple[int, ...]:
    """Return what all pages of a run have in common, and two that are joined."""
    return run.byte, run.flags, run.node, run.vma.start


def run_row(run: Run, page_size: int, notes: list[str]) -> tuple[Any, ...]:
    """Return the row of a run: the place of its first page, and whether the others follow it."""
    pfn, phys, swap_type, swap_offset = places_of(run.byte, run.first, page_size, notes)
    contiguous: Any = None
    if is_hidden(run.byte, run.first):
        contiguous = HIDDEN
    elif pfn is not None or swap_offset is not None:
        contiguous = run.contiguous and (not run.byte & MARK_A or run.nr_pages == 1)
    return (
        run.address,
        run.address + run.nr_pages * page_size,
        run.nr_pages,
        STATE_OF_BYTE[run.byte],
        pfn,
        phys,
        run.node if run.node >= 0 else None,
        contiguous,
        swap_type,
        swap_offset,
        (*entry_flags(run.byte, run.first), *use_flags(run.flags >> USE_SHIFT)),
        run.vma.path or run.vma.kind,
    )
