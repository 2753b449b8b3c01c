"""Frames of RAM one by one, in runs of like ones, or counted by their flags: the front door of `Machine.list_frames`.

They are read from kpageflags a lot at a time, and handed on as they come: memory is for one lot, however much RAM
there is.
"""

from __future__ import annotations

import time

from mematlas.analysis.frame_list import (
    EVERY_FRAME,
    FlagCounts,
    FlagNames,
    FlagsResult,
    FrameRows,
    Runs,
    check_spans,
    first_rows,
    names_of,
)
from mematlas.analysis.frames import FILES
from mematlas.analysis.results import Reading
from mematlas.arrays import Bytes, Words, np
from mematlas.errors import NotSupported, PermissionDenied, TargetNotFound
from mematlas.kernel.kpage import KPF_COMPOUND_TAIL, KPF_KSM, RUN, FrameWords, tells_ksm
from mematlas.kernel.nodes import read_nodes
from mematlas.model.census.census import within
from mematlas.model.census.kernelfiles import KindTable, kinds_of_lot, words_of
from mematlas.model.census.kinds import Kind
from mematlas.model.census.words import kinds_of_words, without_slab_flags
from mematlas.model.frame_facts import NO_NODE, FrameFiles, heads_of
from mematlas.model.page_frames import KSM_NOT_SHOWN
from mematlas.notes import Notes
from mematlas.observe.frame_owners import cgroup_paths
from mematlas.observe.frames import ram_spans

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mematlas.analysis.frame_list import FrameFilter
    from mematlas.kernel.procfs import ProcFS
    from mematlas.model.frame_facts import FrameFacts

    Lot = tuple[Words, Words, Bytes]
    """Frames, their words of kpageflags, and their kinds."""


class FrameList:
    """Lists the frames of RAM that are asked for, by what kpageflags says of them. Each question reads them anew.

    >>> listed = FrameList(ProcFS(), parse_frame_flags("anon,dirty"))   # doctest: +SKIP
    >>> [rows.pfns for rows in listed.runs()]   # doctest: +SKIP
    [[4096, 4111, 1064960]]

    Raises:
        PermissionDenied: kpageflags may not be read (needs CAP_DAC_READ_SEARCH).
        NotSupported: a kernel without it, or a capture.
        TargetNotFound: in ``spans``, the first frames and the first after the last, there is no RAM.
    """

    def __init__(
        self,
        procfs: ProcFS,
        wanted: FrameFilter = EVERY_FRAME,
        spans: Iterable[tuple[int, int]] | None = None,
        limit: int | None = None,
    ) -> None:
        if not procfs.live:
            raise NotSupported(f"frames of {procfs.root}", "a live system")
        FrameWords(procfs, "kpageflags").close()  # refused before anything is shown
        self.procfs = procfs
        self.wanted = wanted
        self.limit = limit
        self.notes = Notes()
        """Why something is unknown: complete when all was read."""
        self.nr_frames = 0
        """How many were found by now; no more are looked for than are listed."""
        self._tells_ksm = bool(tells_ksm(procfs))
        self._spans = spans_in_ram(procfs, None if spans is None else check_spans(spans))
        self._start = time.monotonic()

    @property
    def has_nodes(self) -> bool:
        """Whether there are several NUMA nodes that frames may be on."""
        try:
            return len(read_nodes(self.procfs).with_memory) > 1
        except (NotSupported, PermissionDenied):
            return False

    @property
    def reading(self) -> Reading:
        """How they were read until now."""
        return Reading(FILES, time.monotonic() - self._start, False, tuple(self.notes))

    def count(self) -> FlagsResult:
        """Return how many frames there are with which flags."""
        counts = FlagCounts()
        for _, words, _ in self._chosen(self.wanted.kinds is not None):
            counts.add(words)
            self.nr_frames += len(words)
        size = self.procfs.page_size
        return FlagsResult(counts.uses(size), self.nr_frames, self.nr_frames * size, self.reading)

    def batches(self) -> Iterator[FrameRows]:
        """Yield the frames one by one, those of a lot together."""
        yield from self._listed(self._single())

    def runs(self) -> Iterator[FrameRows]:
        """Yield runs of frames that lie side by side, have the same flags and are of one kind."""
        yield from self._listed(self._in_runs())

    def _listed(self, batches: Iterator[FrameRows]) -> Iterator[FrameRows]:
        for rows in first_rows(batches, self.limit):
            self.nr_frames += sum(rows.nr_pages)
            yield rows

    def _single(self) -> Iterator[FrameRows]:
        names, paths = FlagNames(), CgroupPaths()
        with FrameFiles(self.procfs) as files:
            self.notes += files.notes
            for pfns, words, kinds in self._chosen():
                if len(pfns):
                    yield rows_of(files.about(pfns, words, kinds), names, paths)

    def _in_runs(self) -> Iterator[FrameRows]:
        runs = Runs()
        for lot in self._chosen():
            if rows := runs.add(*lot):
                yield rows
        if rows := runs.end():
            yield rows

    def _chosen(self, with_kinds: bool = True) -> Iterator[Lot]:
        """Yield the frames that are asked for, a lot at a time."""
        self._start, self.nr_frames = time.monotonic(), 0
        for first, words, kinds in self._lots(with_kinds):
            places = np.flatnonzero(self.wanted.takes(words, kinds if with_kinds else None))
            yield places.astype(np.uint64) + np.uint64(first), words[places], kinds[places]

    def _lots(self, with_kinds: bool) -> Iterator[tuple[int, Words, Bytes]]:
        """Yield the first of consecutive frames, their words, and their kinds, which are of no use unless asked for."""
        table = KindTable(self._tells_ksm)
        with FrameWords(self.procfs, "kpageflags") as flags:
            for first, end in self._spans:
                before = self._kind_of_head(flags, first) if with_kinds else np.uint8(0)
                for low in range(first, end, RUN):
                    words = self._without_false_flags(words_of(flags, low, min(RUN, end - low)))
                    kinds = np.zeros(len(words), np.uint8)
                    if with_kinds:
                        kinds, _ = kinds_of_lot(words, table, before)
                        before = kinds[-1]
                        # RAM without a frame was switched off.
                        kinds[kinds == Kind.NO_RAM] = Kind.OFFLINE
                    yield low, words, kinds

    def _kind_of_head(self, flags: FrameWords, first: int) -> np.uint8:
        """Return what a frame is part of, where it is a tail: its head may lie before all that is read."""
        pfns = np.array([first], np.uint64)
        words, _ = flags.array(pfns)
        if words[0] & np.uint64(KPF_COMPOUND_TAIL):
            words, _ = flags.array(heads_of(flags, pfns))
        return np.uint8(kinds_of_words(words, self._tells_ksm)[0])

    def _without_false_flags(self, words: Words) -> Words:
        """Return words without flags that say nothing: of slabs, and see `mematlas.kernel.kpage.tells_ksm`."""
        words = without_slab_flags(words)
        if self._tells_ksm:
            return words
        if (words & np.uint64(KPF_KSM)).any():
            self.notes.add(KSM_NOT_SHOWN)
        return words & ~np.uint64(KPF_KSM)


def spans_in_ram(procfs: ProcFS, spans: Sequence[tuple[int, int]] | None) -> list[tuple[int, int]]:
    """Return the ranges of frames that are RAM, of all or of some ranges, ascending; what is offline is among them."""
    online, offline = ram_spans(procfs)
    ram = check_spans([*online, *offline])
    if spans is None:
        return ram
    found = list(within(ram, spans))
    if not found:
        raise TargetNotFound(f"no such frames: pfn:{spans[0][0]:#x} to {spans[-1][1] - 1:#x}: no RAM is there")
    return found


def rows_of(facts: FrameFacts, names: FlagNames, paths: CgroupPaths) -> FrameRows:
    """Return single frames as rows."""
    nr = len(facts.pfns)
    inodes: Sequence[int | None] = [None] * nr if facts.cgroups is None else facts.cgroups.tolist()
    return FrameRows(
        pfns=facts.pfns.tolist(),
        nr_pages=[1] * nr,
        kinds=names_of(facts.kinds),
        flags=names.of(facts.flags),
        counts=facts.counts.tolist(),
        nodes=[None if node == NO_NODE else node for node in facts.nodes.tolist()],
        cgroups=paths.of(inodes),
        cgroup_inodes=inodes,
    )


class CgroupPaths:
    """The paths of cgroups by their inodes, each looked for once."""

    def __init__(self) -> None:
        self._paths: dict[int, str | None] = {0: None}

    def of(self, inodes: Sequence[int | None]) -> list[str | None]:
        """Return the path of each; None where there is none, or none of that inode is found."""
        paths = self._paths
        if new := {inode for inode in inodes if inode is not None and inode not in paths}:
            found = cgroup_paths(new)
            paths.update({inode: found.get(inode) for inode in new})
        return [None if inode is None else paths[inode] for inode in inodes]
