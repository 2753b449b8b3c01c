"""What all frames of RAM are: the front door of `Machine.frames` and ``mematlas ram``.

Struct pages are taken where they can be read, and have proven to say what the kernel's own files say; else those files.
"""

from __future__ import annotations

import os
import time

from mematlas.analysis.frames import (
    BY,
    FILES,
    MEMINFO,
    MOVED,
    NOT_CHARGED,
    STRUCTS,
    FramesCheck,
    FramesResult,
    balances_of,
    by_cgroup,
    by_mapped,
    by_node,
    by_order,
    by_zone,
    free_blocks_of,
    uses_of,
    uses_of_meminfo,
    uses_of_sample,
    with_offline,
)
from mematlas.analysis.results import Reading
from mematlas.arrays import np
from mematlas.errors import BadInput, NotSupported, PermissionDenied
from mematlas.kernel.buddyinfo import read_free_blocks
from mematlas.kernel.hugepage import huge_size
from mematlas.kernel.kconfig import AVERAGE_COUNTS, counts_are_averages
from mematlas.kernel.kpage import KPF_ZERO_PAGE, FrameWords, asked_of_own_frame, tells_ksm
from mematlas.kernel.meminfo import read_meminfo
from mematlas.kernel.memory.btf import asked_twice
from mematlas.kernel.memory.framearray import FrameArray, spans_of
from mematlas.kernel.memory.iomem import read_ram
from mematlas.kernel.memory.memory_blocks import read_memory_blocks
from mematlas.kernel.memory.readers import open_kernel_memory
from mematlas.kernel.memory.structpage import open_struct_pages
from mematlas.kernel.nodes import read_nodes
from mematlas.kernel.zoneinfo import read_zones
from mematlas.model.census.decode import Decoder
from mematlas.model.census.kernelfiles import SHIFT, census_of_files, census_of_frames, ranges_of_ram
from mematlas.model.census.kinds import FAMILIES, Kind
from mematlas.model.census.sample import Agreement, Comparison, KernelWords, check_against_kernel
from mematlas.model.census.tell import Teller
from mematlas.model.page_frames import KSM_NOT_SHOWN
from mematlas.notes import Note, Notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from mematlas.analysis.frames import FrameGroup
    from mematlas.arrays import NDArray
    from mematlas.kernel.memory.memory import KernelMemory
    from mematlas.kernel.nodes import NodeMap
    from mematlas.kernel.procfs import ProcFS
    from mematlas.model.census.census import FrameCensus

SOURCES = ("auto", "structs", "files")
MOST_ASKED = 1 << 14
"""Pages of large folios that could be in the huge page of zeros, and are looked up in kpageflags."""


def ram_spans(procfs: ProcFS) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return the frames of RAM that are online, and those that are not."""
    try:
        ram = read_ram(procfs)
    except PermissionDenied:
        return list(ranges_of_ram(procfs)), []
    return spans_of(ram.ranges, read_memory_blocks(), procfs.page_size)


class DecoderHeld:
    """Kernel memory held open, with what tells frames by their struct pages, proven."""

    def __init__(self, memory: KernelMemory, teller: Teller, nr_checked: int) -> None:
        self.memory = memory
        self.teller = teller
        self.decoder = teller.decoder
        self.array = teller.array
        self.nr_checked = nr_checked
        """Frames of the sample that kpageflags and kpagecount agreed on."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of kernel memory."""
        self.teller.close()
        self.memory.close()


def open_decoder(procfs: ProcFS, reader: str = "auto", in_kernel: bool = False) -> DecoderHeld:
    """Return what tells frames by their struct pages, compared with the kernel's own files on a sample of all RAM.

    With ``in_kernel`` a program in the kernel tells them, where one can be loaded, and is what was compared.

    Raises:
        PermissionDenied: a right is missing; ``needs`` names it.
        NotSupported: no reader works here, the types of this kernel do not have what it takes, or the two disagree.
    """
    memory = open_kernel_memory(reader, procfs)

    def make() -> tuple[Teller, int]:
        teller = Teller(Decoder(FrameArray(open_struct_pages(memory))), in_kernel)
        try:
            return teller, check_against_kernel(teller, procfs)
        except BaseException:
            teller.close()
            raise

    try:
        return DecoderHeld(memory, *asked_twice(memory.layout, make))
    except BaseException:
        memory.close()
        raise


def check_sample(sample: float, by: str) -> None:
    """Raise `BadInput` unless so large a part can be looked at, for rows that it can tell."""
    if not 0 < sample <= 1:
        raise BadInput(f"a sample of {sample}: more than 0, and 1 at most")
    if by != "kind":
        raise BadInput(f"a sample tells frames by kind, not by {by}")


def lost_notes(counts: NDArray[np.int64]) -> list[Note]:
    """Return the note on frames of which it is not known what they are, if there are any."""
    nr_lost = int(counts[[Kind.UNREAD, Kind.CHANGED]].sum())
    if not nr_lost:
        return []
    return [Note("frames-unknown", f"{nr_lost:,} frames changed while they were read, or could not be")]


def never_used_notes(nr_frames: int) -> list[Note]:
    """Return the note on free frames that kpageflags does not tell from the kernel's, if there are any."""
    if not nr_frames:
        return []
    return [Note("never-used", f"of what is called the kernel's {nr_frames:,} frames were never used, and are free")]


class Frames:
    """All frames of RAM, held open to be looked at again and again.

    ``source`` is ``structs``, ``files``, or ``auto``: whichever is fast, and can be read. Where neither can be, what is
    left is what meminfo adds up.

    Raises:
        PermissionDenied, NotSupported: the source that was asked for cannot be read, or is not a live system.
    """

    def __init__(self, procfs: ProcFS, source: str = "auto") -> None:
        if source not in SOURCES:
            raise BadInput(f"no source {source!r}: choose from {', '.join(SOURCES)}")
        if not procfs.live:
            raise NotSupported(f"frames of {procfs.root}", "a live system")
        self.procfs = procfs
        self.notes = Notes()
        self._wanted = source
        self.held: DecoderHeld | None = None
        self.refused: NotSupported | PermissionDenied | None = None
        """Why no frame can be looked up: then there is meminfo alone."""
        self._untold: tuple[Kind, ...] = ()
        """Kinds that the source does not tell from others."""
        if procfs.lender is not None:
            procfs.lender.ask("open_frames", source)
            return
        self._total = read_meminfo(procfs).get("MemTotal")
        if source != "files":
            try:
                self.held = open_decoder(procfs, in_kernel=True)
            except (NotSupported, PermissionDenied) as error:
                if source == "structs":
                    raise
                try:
                    FrameWords(procfs, "kpageflags").close()
                except (NotSupported, PermissionDenied) as refused:
                    self.refused = refused
                    return
                text = f"frames are read from kpageflags and kpagecount, which is slower and knows fewer kinds: {error}"
                self.notes.add(Note("slow-frames", text))
        if self.held is None:
            self._untold = (*FAMILIES, Kind.ORPHAN)
            if counts_are_averages(procfs):
                self.notes.add(AVERAGE_COUNTS)
            if not tells_ksm(procfs):
                self.notes.add(KSM_NOT_SHOWN)
                self._untold += (Kind.KSM,)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of kernel memory."""
        if self.held:
            self.held.close()

    @property
    def source(self) -> str:
        """Where frames are looked up."""
        return MEMINFO if self.refused else STRUCTS if self.held else FILES

    def census(self) -> FrameCensus:
        """Return what every frame is.

        Raises:
            PermissionDenied, NotSupported: no frame can be looked up.
        """
        if self.refused:
            raise self.refused
        self._follow()
        if self.held is None:
            return census_of_files(self.procfs, *ram_spans(self.procfs))
        census = self.held.teller.census()
        self._mark_zeros(census)
        return census

    def _follow(self) -> None:
        """Open kernel memory again where RAM was added or taken away: its struct pages are others then."""
        total = read_meminfo(self.procfs).get("MemTotal")
        if self.held is None or total == self._total:
            return
        self._total = total
        if ram_spans(self.procfs) != (self.held.array.spans, self.held.array.offline):
            self.held.close()
            self.held = None
            self.held = open_decoder(self.procfs, in_kernel=True)

    def look(self, by: str = "kind", sample: float | None = None, seed: int | None = None) -> FramesResult:
        """Return what frames are used for, in rows of kinds, or ``by`` something else: one of `BY`.

        With ``sample`` so large a part of RAM is looked at, in blocks that are chosen at random, by ``seed`` always the
        same ones; amounts by kind are then estimates.
        """
        if by not in BY:
            raise BadInput(f"frames by {by!r}: choose from {', '.join(BY)}")
        if sample is not None:
            check_sample(sample, by)
        if self.procfs.lender is not None:
            lent: FramesResult = self.procfs.lender.ask("look_at_frames", self._wanted, by, sample, seed)[0]
            return lent
        if self.refused and by == "kind":
            return self._by_meminfo(self.refused, sample is not None)
        if sample is not None:
            return self._by_sample(sample, seed)
        start = time.monotonic()
        notes = Notes(self.notes)
        census = self.census()
        counts = census.counts()
        size = self.procfs.page_size
        groups = self._groups(census, by)
        notes += lost_notes(counts)
        notes += never_used_notes(self._nr_untold())
        nr_frames = int(counts.sum())
        return FramesResult(
            by=by,
            uses=uses_of(counts, size),
            groups=groups,
            nr_frames=nr_frames,
            size=nr_frames * size,
            free_blocks=self._free_blocks(census, by),
            page_size=size,
            huge_size=huge_size(),
            reading=Reading(self.source, time.monotonic() - start, False, tuple(notes)),
        )

    def _free_blocks(self, census: FrameCensus, by: str) -> tuple[int, ...] | None:
        blocks = free_blocks_of(census)
        return self._blocks_of_buddyinfo() if blocks is None and by in ("kind", "zone") else blocks

    def _nr_untold(self) -> int:
        """Return how many free frames are in no free block, where nothing else tells them from the kernel's."""
        if self.held is not None or (blocks := self._blocks_of_buddyinfo()) is None:
            return 0
        free = read_meminfo(self.procfs).get("MemFree")
        if free is None:
            return 0
        nr = free // self.procfs.page_size - sum(number << order for order, number in enumerate(blocks))
        return nr if nr > free // self.procfs.page_size // MOVED else 0

    def _blocks_of_buddyinfo(self) -> tuple[int, ...] | None:
        try:
            return tuple(read_free_blocks(self.procfs))
        except (PermissionDenied, NotSupported):
            return None

    def _by_sample(self, fraction: float, seed: int | None) -> FramesResult:
        from random import Random

        from mematlas.analysis.estimates import Sample
        from mematlas.model.census.blocks import choose_blocks

        start = time.monotonic()
        notes = Notes(self.notes)
        self._follow()
        spans, offline = (self.held.array.spans, self.held.array.offline) if self.held else ram_spans(self.procfs)
        blocks = choose_blocks(spans, self.held.array.shift if self.held else SHIFT, fraction, Random(seed))
        if self.held:
            census = self.held.teller.census_of(blocks)
            self._mark_zeros(census)
        else:
            census = census_of_frames(self.procfs, blocks.frames_in(spans))
        counts = census.counts()
        notes += lost_notes(counts)
        nr_seen = int(counts.sum())
        nr_online, nr_offline = (sum(end - first for first, end in ranges) for ranges in (spans, offline))
        sample = Sample(blocks.nr_all, len(blocks.numbers), 1 << blocks.shift, nr_online, nr_seen)
        notes += never_used_notes(self._nr_untold())
        size = self.procfs.page_size
        uses = uses_of_sample(counts, sample, size, self._untold)
        if nr_offline:
            uses = with_offline(uses, nr_offline, size)
        nr = nr_online + nr_offline
        reading = Reading(self.source, time.monotonic() - start, False, tuple(notes))
        blocks_free = self._blocks_of_buddyinfo()
        return FramesResult("kind", uses, (), nr, nr * size, blocks_free, size, huge_size(), reading, sample)

    def _by_meminfo(self, refused: NotSupported | PermissionDenied, is_sampled: bool) -> FramesResult:
        from mematlas.analysis.ram import account
        from mematlas.kernel.zoneinfo import read_cpu_free

        start = time.monotonic()
        ram = account(read_meminfo(self.procfs), read_cpu_free(self.procfs))
        size = self.procfs.page_size
        what = "the sums of meminfo, and nothing is estimated" if is_sampled else "the sums of meminfo"
        note = Note("no-frames", f"these are {what}; what single frames are is not known: {refused}")
        total = ram.total or 0
        reading = Reading(self.source, time.monotonic() - start, False, (note,))
        return FramesResult(
            by="kind",
            uses=uses_of_meminfo(ram, size),
            groups=(),
            nr_frames=total // size,
            size=total,
            free_blocks=self._blocks_of_buddyinfo(),
            page_size=size,
            huge_size=huge_size(),
            reading=reading,
        )

    def check(self) -> FramesCheck:
        """Return frames beside the lines of meminfo that count them, and frame by frame beside kpageflags."""
        if self.procfs.lender is not None:
            lent: FramesCheck = self.procfs.lender.ask("check_frames", self._wanted)[0]
            return lent
        start = time.monotonic()
        before = read_meminfo(self.procfs)
        census = self.census()
        counts = census.counts()
        after = read_meminfo(self.procfs)  # while its own memory is still there, which it has counted
        del census
        nr_cpus = os.cpu_count() or 1
        # Large objects have a type in newer kernels only (measured: in 6.18, not in 6.12).
        tells_types = self.held is not None and "PGTY_large_kmalloc" in self.held.array.types
        nr_untold = self._nr_untold()
        balances = balances_of(counts, before, after, self.procfs.page_size, nr_cpus, tells_types, nr_untold)
        agreement = self._agreement()
        reading = Reading(self.source, time.monotonic() - start, False, tuple(self.notes))
        return FramesCheck(balances, agreement, reading)

    def _agreement(self) -> Agreement | None:
        if self.held is None:
            return None
        total = Agreement(0, 0, {}, 0, 0, None)
        with KernelWords(self.procfs) as words:
            places = np.arange(len(self.held.array.pages))
            for part in Comparison(self.held.teller, words).lots(places):
                total += part
        return total

    def _groups(self, census: FrameCensus, by: str) -> tuple[FrameGroup, ...]:
        size = self.procfs.page_size
        if by == "mapped":
            return by_mapped(census, size)
        if by == "node":
            return by_node(census, read_nodes(self.procfs), size)
        if by == "zone":
            return by_zone(census, read_zones(self.procfs), self._nodes(), size)
        if by == "order":
            return by_order(census, size)
        if by == "cgroup":
            return self._by_cgroup(census)
        return ()

    def _nodes(self) -> NodeMap | None:
        try:
            return read_nodes(self.procfs)
        except NotSupported:
            return None  # a kernel without nodes has one

    def _by_cgroup(self, census: FrameCensus) -> tuple[FrameGroup, ...]:
        from mematlas.model.charged import FrameCharges
        from mematlas.observe.frame_owners import cgroup_paths

        counts = census.counts().sum(axis=1)
        asked = [kind for kind in Kind if kind not in NOT_CHARGED and counts[kind]]
        rest = counts.copy()
        rest[asked] = 0
        with FrameCharges(self.procfs) as charges:
            charged = charges.count_kinds(census.frames_of(asked))
        return by_cgroup(charged, rest, cgroup_paths(charged), self.procfs.page_size)

    def _mark_zeros(self, census: FrameCensus) -> None:
        """Tell the pages of zeros, which nothing in a struct page tells."""
        frames = asked_of_own_frame(self.procfs, lambda frame: [frame], is_written=False) or []
        frames = [frame for frame in frames if census.kind_of(frame) == Kind.RESERVED]
        # Of a sample some of its pages may be there, and its first not.
        pages = census.pages_in(Kind.KERNEL)[:MOST_ASKED]
        with FrameWords(self.procfs, "kpageflags") as words:
            found, _ = words.array(pages)
        huge = pages[found & np.uint64(KPF_ZERO_PAGE) != 0]
        for first in frames:
            census.set_kind(first, 1, Kind.ZERO)
        for first in huge.tolist():
            census.set_kind(first, 1 << census.shift, Kind.ZERO)
