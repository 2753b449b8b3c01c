"""Pages as a table: a row per page, or per run of like pages, made while they are read."""

from __future__ import annotations

from itertools import compress, pairwise

from mematlas.errors import NotSupported, PermissionDenied
from mematlas.frozen import record, replace
from mematlas.kernel.kpage import KPF_DIRTY, KPF_KSM, FrameWords, flag_names, runs_of, tells_ksm
from mematlas.kernel.pagemap import (
    ACCESSED,
    DIRTY,
    ENTRY_SIZE,
    EXCLUSIVE,
    MARK_A,
    PM_MMAP_EXCLUSIVE,
    PM_PFRAME,
    PRESENT,
    has_soft_dirty,
)
from mematlas.model.nodes import NOWHERE, nodes_unknown
from mematlas.model.pages import HIDDEN_FRAMES, STATE_OF_BYTE, Hole, decode_place, entry_flags, is_hidden, is_soft_dirty
from mematlas.notes import Note, Notes
from mematlas.views.table import HIDDEN, NR_TOGETHER, Column, Table, batch_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from mematlas.kernel.maps import Vma
    from mematlas.kernel.pagemap import Block
    from mematlas.model.nodes import PageNodes
    from mematlas.observe.process import Process
    from mematlas.views.table import Batch

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


def pages_table(
    pieces: Iterable[tuple[Vma, Block | Hole]],
    process: Process,
    wanted: PageFilter,
    target: dict[str, Any],
    runs: bool,
    limit: int | None,
    notes: Notes,
    source: str = "pagemap",
) -> Table:
    """Return the pages, or runs of like pages, that are asked for, as a table that streams."""
    nodes = Nodes(process, notes)
    columns = nodes.columns(RUN_COLUMNS if runs else PAGE_COLUMNS)
    width = flags_width(source, has_soft_dirty(process.procfs) is not False)
    columns = tuple(replace(each, width=width) if each.key == "flags" else each for each in columns)
    if runs:
        batches = run_batches(pieces, process.page_size, wanted, nodes, notes, limit)
        return Table("runs/1", columns, batches=batches, target=target, notes=notes)
    batches = page_batches(pieces, process, wanted, nodes, notes, limit)
    return Table("pages/1", columns, batches=batches, target=target, notes=notes)


class Nodes:
    """The NUMA nodes of pages, where they can be told."""

    def __init__(self, process: Process, notes: Notes) -> None:
        self.notes = notes
        self.known: PageNodes | None = None
        try:
            self.known = process.page_nodes()
        except (PermissionDenied, NotSupported) as error:
            notes.add(Note("nodes-unknown", f"nodes unknown: {error}"))

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
        if why:
            self.notes.add(nodes_unknown(why))


MOST_NAMES = 5000
"""Different words of kpageflags whose names are kept."""
KSM_UNTOLD = Note("ksm-not-shown", "ksm is not shown: this kernel says it of every anonymous page")


class Frames:
    """What kpagecount and kpageflags say of frames, where they may be read."""

    def __init__(self, process: Process, notes: Notes, must_have_flags: bool) -> None:
        self.counts: FrameWords | None = None
        self.flags: FrameWords | None = None
        try:
            self.flags = FrameWords(process.procfs, "kpageflags")
        except (PermissionDenied, NotSupported) as error:
            if must_have_flags:
                raise
            notes.add(Note("flags-unknown", f"frame flags unknown: {error}"))
        try:
            self.counts = FrameWords(process.procfs, "kpagecount")
        except (PermissionDenied, NotSupported) as error:
            notes.add(Note("map-counts-unknown", f"map counts unknown: {error}"))
        self.procfs = process.procfs
        self.notes = notes
        self.misleading = 0
        """The flags that do not mean what their names say."""
        self.is_ksm_checked = False
        self._names: dict[int | None, tuple[str, ...] | None] = {}

    def of(self, pfns: Iterable[int]) -> tuple[dict[int, int], dict[int, int]]:
        """Return the map counts and the flags of frames; empty where unknown."""
        runs = runs_of(pfns)
        return self.counts.of_runs(runs) if self.counts else {}, self._flags_of(runs)

    def _flags_of(self, runs: list[list[int]]) -> dict[int, int]:
        words = self.flags.of_runs(runs) if self.flags else {}
        if not self.is_ksm_checked and any(word & KPF_KSM for word in set(words.values())):
            self.is_ksm_checked = True
            if tells_ksm(self.procfs) is False:
                self.misleading = KPF_KSM
                self.notes.add(KSM_UNTOLD)
        return {frame: word & ~self.misleading for frame, word in words.items()} if self.misleading else words

    def names(self, words: Sequence[int | None]) -> list[tuple[str, ...] | None]:
        """Return the names of the flags in each word; None for one that is not known."""
        known = self._names
        new = set(words).difference(known)
        if len(known) + len(new) > MOST_NAMES:  # no machine has as many, but a capture may say anything
            known.clear()
            new = set(words)
        known.update((word, None if word is None else flag_names(word)) for word in new)
        return [known[word] for word in words]

    def close(self) -> None:
        for file in (self.counts, self.flags):
            if file:
                file.close()


@record
class PageKind:
    """What pages have in common whose bits are the same, wherever they are."""

    byte: int
    state: str
    flags: tuple[str, ...]
    is_taken: bool
    """Whether they are asked for."""
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
        found = self[bits] = PageKind(byte, STATE_OF_BYTE[byte], flags, self.wanted.takes(byte, entry), bits)
        return found

    def of(self, block: Block) -> list[PageKind]:
        """Return that of each page of a block."""
        raw = bytes(block.raw)
        soft_dirty = raw[6::ENTRY_SIZE].translate(BIT_55)
        uses = block.use or bytes(len(block))
        return [self[bits] for bits in zip(block.states, raw[7::ENTRY_SIZE], soft_dirty, uses, strict=True)]

    def shared(self, one: PageKind) -> PageKind:
        """Return that of a page which came to be shared since its entry was read."""
        byte, upper, soft_dirty, use = one.bits
        return self[byte & ~EXCLUSIVE, upper & ~(PM_MMAP_EXCLUSIVE >> 56), soft_dirty, use]


BIT_55 = bytes(byte >> 7 for byte in range(256))
"""Of the second byte from above of an entry."""


def page_batches(
    pieces: Iterable[tuple[Vma, Block | Hole]],
    process: Process,
    wanted: PageFilter,
    nodes: Nodes,
    notes: Notes,
    limit: int | None,
) -> Iterator[Batch]:
    """Yield a row per page, those of a block together."""
    rows = PageRows(process, wanted, nodes, notes)
    try:
        for vma, piece in pieces:
            for batch in rows.of(piece, vma.path or vma.kind, limit):
                yield batch if limit is None else [values[:limit] for values in batch]
                if limit is not None:
                    limit -= min(limit, len(batch[0]))
                    if limit == 0:
                        return
    finally:
        rows.frames.close()


class PageRows:
    """Makes the rows of pages, a column at a time."""

    def __init__(self, process: Process, wanted: PageFilter, nodes: Nodes, notes: Notes) -> None:
        self.page_size = process.page_size
        self.wanted = wanted
        self.nodes = nodes
        self.notes = notes
        self.frames = Frames(process, notes, wanted.dirty)
        self.page_kinds = PageKinds(wanted)
        self.asks_frames = wanted.exclusive or wanted.dirty
        """Whether the frames, too, decide which pages are taken."""

    def of(self, piece: Block | Hole, path: str, limit: int | None) -> Iterator[Batch]:
        """Yield the rows of pages; more than ``limit`` may come, but no note on those."""
        return self._of_hole(piece, path) if isinstance(piece, Hole) else self._of_block(piece, path, limit)

    def _of_hole(self, hole: Hole, path: str) -> Iterator[Batch]:
        if not self.wanted.takes(hole.byte, 0):
            return
        # It may have more pages than memory has room for rows.
        end = hole.address + hole.nr_pages * self.page_size
        row = (STATE_OF_BYTE[hole.byte], None, None, None, None, None, None, (), None, path)
        for start in range(hole.address, end, NR_TOGETHER * self.page_size):
            addresses = range(start, min(end, start + NR_TOGETHER * self.page_size), self.page_size)
            yield (addresses, *([value] * len(addresses) for value in row))

    def _of_block(self, block: Block, path: str, limit: int | None) -> Iterator[Batch]:
        kinds = self.page_kinds.of(block)
        every = range(block.address, block.address + len(block) * self.page_size, self.page_size)
        taken = [kind.is_taken for kind in kinds]
        columns: Batch = chosen(taken, kinds, every, block.entries, self.nodes.of(block))
        if not self.asks_frames:
            columns = [values[:limit] for values in columns]
        kinds, addresses, entries, on_nodes = map(list, columns)
        if not kinds:
            return
        pfns, phys, types, offsets = self._places(kinds, entries)
        counts, words = self.frames.of([pfn for pfn in pfns if isinstance(pfn, int)])
        map_counts, frame_words = list(map(counts.get, pfns)), list(map(words.get, pfns))
        self._settle_shared(kinds, map_counts)
        states, flags = [kind.state for kind in kinds], [kind.flags for kind in kinds]
        names, paths = self.frames.names(frame_words), [path] * len(kinds)
        columns = (addresses, states, pfns, phys, on_nodes, map_counts, types, offsets, flags, names, paths)
        yield chosen(list(map(self._is_taken, kinds, frame_words)), *columns) if self.asks_frames else columns

    def _places(self, kinds: Sequence[PageKind], entries: Sequence[int]) -> Sequence[Sequence[Any]]:
        """Return the columns of frames, physical addresses, swap types and swap offsets."""
        size = self.page_size
        frames = [entry & PM_PFRAME for entry in entries]
        if all(frames) and all(kind.byte & PRESENT for kind in kinds):
            nothing = [None] * len(frames)
            return frames, [frame * size for frame in frames], nothing, nothing
        return batch_of(
            [places_of(kind.byte, entry, size, self.notes) for kind, entry in zip(kinds, entries, strict=True)]
        )

    def _settle_shared(self, kinds: list[PageKind], map_counts: Sequence[int | None]) -> None:
        """Have pages not be exclusive that came to be shared since their entries were read."""
        if all(count is None or count < 2 for count in set(map_counts)):
            return
        for place, (kind, count) in enumerate(zip(kinds, map_counts, strict=True)):
            if count is not None and count > 1 and kind.byte & EXCLUSIVE:
                kinds[place] = self.page_kinds.shared(kind)

    def _is_taken(self, kind: PageKind, word: int | None) -> bool:
        return kind.is_taken and not (self.wanted.dirty and not (word or 0) & KPF_DIRTY)


def chosen(which: Sequence[bool], *columns: Sequence[Any]) -> list[list[Any]]:
    """Return columns with the rows that are chosen.

    >>> chosen([True, False], [1, 2], ["a", "b"])
    [[1], ['a']]
    """
    return [list(compress(values, which)) for values in columns]


def use_flags(use: int) -> tuple[str, ...]:
    """Return the names of the bits that page tables alone tell."""
    return tuple(name for bit, name in ((ACCESSED, "accessed"), (DIRTY, "dirty")) if use & bit)


def places_of(byte: int, entry: int, page_size: int, notes: Notes) -> tuple[Any, Any, Any, Any]:
    """Return frame, physical address, swap type and swap offset of an entry; `HIDDEN` where they may not be known."""
    if is_hidden(byte, entry):
        notes.add(HIDDEN_FRAMES)
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


def run_lists(
    pieces: Iterable[tuple[Vma, Block | Hole]], page_size: int, wanted: PageFilter, nodes: Nodes
) -> Iterator[list[Run]]:
    """Yield the runs of each block or hole that are asked for; `merge_runs` joins them."""
    import numpy as np

    for vma, piece in pieces:
        if isinstance(piece, Hole):
            if wanted.takes(piece.byte, 0):
                yield [Run(piece.address, piece.nr_pages, piece.byte, 0, 0, 0, True, NOWHERE, vma)]
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
        runs = []
        cuts = [0, *(np.flatnonzero(keys[1:] != keys[:-1]) + 1).tolist(), len(states)]
        for low, high in pairwise(cuts):
            byte, entry = int(states[low]), int(entries[low])
            if wanted.takes(byte, entry):
                run = Run(
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
                runs.append(run)
        yield runs


def run_batches(
    pieces: Iterable[tuple[Vma, Block | Hole]],
    page_size: int,
    wanted: PageFilter,
    nodes: Nodes,
    notes: Notes,
    limit: int | None,
) -> Iterator[Batch]:
    """Yield a row per run, those that ended within a block together."""
    for runs in merge_runs(run_lists(pieces, page_size, wanted, nodes), page_size):
        if runs:
            yield batch_of([run_row(run, page_size, notes) for run in runs[:limit]])
        if limit is not None:
            limit -= min(limit, len(runs))
            if limit == 0:
                return


def merge_runs(lists: Iterable[list[Run]], page_size: int) -> Iterator[list[Run]]:
    """Yield the runs that have ended, joined where they were cut only because a block ended."""
    held: Run | None = None
    for runs in lists:
        ended = []
        for run in runs:
            joined = join(held, run, page_size) if held else None
            if held and joined is None:
                ended.append(held)
            held = joined or run
        yield ended
    if held:
        yield [held]


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


def run_row(run: Run, page_size: int, notes: Notes) -> tuple[Any, ...]:
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
