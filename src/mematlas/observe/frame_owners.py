"""What `mematlas.Machine.owners` is made of: what frames are, and who maps them, found in the pagemap of every process.

Children read these. What nobody maps is told by its struct page, where that can be read.
"""

from __future__ import annotations

import os
import time
from itertools import islice

from mematlas.analysis.frame_owners import FrameDetail, FrameOwners
from mematlas.analysis.frame_rows import Found, rows_of
from mematlas.analysis.frames import USES
from mematlas.analysis.results import Reading
from mematlas.arrays import Bytes, Words, np
from mematlas.errors import BadInput, Error, NotSupported, TargetNotFound
from mematlas.kernel.cgroups import read_mounts
from mematlas.kernel.kconfig import AVERAGE_COUNTS, counts_are_averages
from mematlas.kernel.memcg import charging_mounts, open_in
from mematlas.model.census.kinds import Kind
from mematlas.model.frame_facts import FrameFiles
from mematlas.notes import Note, Notes
from mematlas.observe.frame_details import NOBODYS, find_details
from mematlas.observe.frame_mappers import WantedFrames, find_mappings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Self

    from mematlas.kernel.procfs import ProcFS
    from mematlas.model.frame_facts import FrameFacts
    from mematlas.observe.frame_mappers import Mappings

    Span = tuple[int, int]
    """The first frame, and the first after the last."""

MOST_FRAMES = 1 << 18
"""That are asked about at a time: what a GiB has in pages of 4 KiB."""
HIGHEST_FRAME = 1 << 52
"""No physical address has so many bits."""
MOST_SPANS = 2000
"""What fits in one question to a broker."""
NR_LOOKS = 2
"""Looks at all processes, where the kernel counts more mappings than were found."""
MOST_CGROUPS = 1 << 16
"""Groups of the machine among which the names of some are looked for."""
ZERO_PAGE = Note(
    "zero-page", "the zero page: mapped wherever memory was read before it was written to; by whom was not looked for"
)
OURSELVES = Note("ourselves", "mematlas itself maps some of these frames too, as long as it runs; it is left out")


def find_owners(procfs: ProcFS, spans: Iterable[Span], seconds: float) -> FrameOwners:
    """Return what frames are and who has them.

    Raises:
        BadInput: they are too many.
        TargetNotFound: of one of the spans there is no such frame.
        PermissionDenied: frames are hidden (needs CAP_SYS_ADMIN), or their flags (needs CAP_DAC_READ_SEARCH).
        NotSupported: a capture.
    """
    began = time.perf_counter()
    if not procfs.live:
        raise NotSupported("owners of frames", "a running machine, not a capture")
    spans = list(spans)
    if procfs.lender is not None:
        if len(spans) > MOST_SPANS:
            raise BadInput(f"too many frames with rights apart: {MOST_SPANS:,} of them, or ranges, at a time")
        numbers = np.array(spans, np.uint64).tobytes()
        lent: FrameOwners = procfs.lender.ask("find_owners", seconds, numbers)[0]
        return lent
    pfns = frames_in(spans)
    with OwnerLook(procfs, time.monotonic() + seconds) as look:
        facts = look.files.read(pfns)
        check_spans(spans, facts.pfns)
        found = look.find(facts)
        details, tables = look.describe(facts, found)
        notes = tuple(Notes((*look.files.notes, *look.notes)))
    paths = {} if facts.cgroups is None else cgroup_paths(np.unique(facts.cgroups).tolist())
    return FrameOwners(
        items=rows_of(facts, [*found, *tables], details, paths, procfs.page_size),
        page_size=procfs.page_size,
        nr_missing=len(pfns) - len(facts.pfns),
        sharing=look.sharing,
        reading=Reading(source="pagemap", duration_s=time.perf_counter() - began, torn=False, notes=notes),
    )


def frames_in(spans: Sequence[Span]) -> Words:
    """Return the frames of spans, each once, ascending."""
    if not spans or any(first >= end for first, end in spans):
        raise BadInput("which frames? Give one at least")
    parts = [(first, min(end, HIGHEST_FRAME)) for first, end in spans if first < HIGHEST_FRAME]
    if sum(end - first for first, end in parts) > MOST_FRAMES:
        raise BadInput(f"too many frames: {MOST_FRAMES:,} at a time")
    arrays = [np.arange(first, end, dtype=np.uint64) for first, end in parts]
    return np.unique(np.concatenate([np.empty(0, np.uint64), *arrays]))


def check_spans(spans: Iterable[Span], pfns: Words) -> None:
    """Raise `TargetNotFound` for a span of which no frame exists."""
    for first, end in spans:
        low, high = np.searchsorted(pfns, np.array([min(first, HIGHEST_FRAME), min(end, HIGHEST_FRAME)], np.uint64))
        if low == high:
            which = f"frame: pfn:{first:#x}" if end == first + 1 else f"frames: pfn:{first:#x} to {end - 1:#x}"
            raise TargetNotFound(f"no such {which}: no RAM is there (mematlas ram --runs shows which frames exist)")


def cgroup_paths(inodes: Iterable[int]) -> dict[int, str]:
    """Return the paths of cgroups, by inode, as far as these are found."""
    wanted = set(inodes) - {0}
    paths: dict[int, str] = {}
    if not wanted:
        return paths
    try:
        mount = charging_mounts(read_mounts())[0]
        with open_in([mount], mount.root) as highest:
            paths[os.fstat(highest.fd).st_ino] = highest.cgroup
            for inode, path in islice(highest.below(), MOST_CGROUPS):
                if wanted <= paths.keys():
                    break
                if inode in wanted:
                    paths[inode] = path
    except Error:
        pass  # the inode tells the group too
    return paths


class OwnerLook:
    """One look for those who have frames."""

    def __init__(self, procfs: ProcFS, deadline: float) -> None:
        self.procfs = procfs
        self.deadline = deadline
        self.files = FrameFiles(procfs)
        self.notes = Notes()
        self.sharing: dict[int, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.files.__exit__(*exc)

    # Who maps them

    def find(self, facts: FrameFacts) -> list[Found]:
        """Return who maps frames: all that the kernel counts, if they hold still and may be looked at."""
        if (facts.kinds == Kind.ZERO).any():
            self.notes.add(ZERO_PAGE)
        mapped = facts.at((facts.counts > 0) & (facts.kinds != Kind.ZERO))
        if not len(mapped.pfns):
            return []
        are_averages = counts_are_averages(self.procfs)
        if are_averages:
            self.notes.add(AVERAGE_COUNTS)
        wanted = WantedFrames(mapped)
        for _ in range(NR_LOOKS):
            mappings = find_mappings(self.procfs, wanted, self.deadline)
            nr_lacking = self._nr_lacking(mapped, mappings)
            if are_averages or not nr_lacking or time.monotonic() > self.deadline:
                break
        self.sharing = mappings.sharing
        # Who could not be looked at maps none of them where all mappings are found.
        if are_averages or nr_lacking:
            self.notes += mappings.notes
        if nr_lacking and not are_averages:
            self.notes.add(not_found(nr_lacking))
        if mappings.own:
            self.notes.add(OURSELVES)
        if nr_changed := int(np.count_nonzero(of_one(self.files.kinds(mapped.pfns)) != of_one(mapped.kinds))):
            self.notes.add(changed(nr_changed))
        return mappings.found

    def _nr_lacking(self, mapped: FrameFacts, mappings: Mappings) -> int:
        """Return of how many frames fewer mappings were found than the kernel counts, before as after the look."""
        nr_found = np.zeros(len(mapped.pfns), np.int64)
        for pfns in (*(each.pfns for each in mappings.found), *(pfns for _, _, pfns in mappings.own)):
            np.add.at(nr_found, np.searchsorted(mapped.pfns, pfns), 1)
        least = np.minimum(mapped.counts, self.files.counts(mapped.pfns))
        return int(np.count_nonzero(nr_found < least))

    # What nobody maps

    def describe(self, facts: FrameFacts, found: Iterable[Found]) -> tuple[Mapping[int, FrameDetail], list[Found]]:
        """Return what is known of frames that nobody maps, and whose page tables some of them are."""
        had = np.concatenate([np.empty(0, np.uint64), *(each.pfns for each in found)])
        nobodys = facts.at(np.isin(facts.kinds, NOBODYS) & ~np.isin(facts.pfns, had))
        if not len(nobodys.pfns):
            return {}, []
        result = find_details(self.procfs, self.files, nobodys, self.deadline)
        self.notes += result.notes
        facts.kinds[np.searchsorted(facts.pfns, nobodys.pfns)] = result.kinds
        return result.details, result.tables


def of_one(kinds: Bytes) -> Bytes:
    """Return kinds of frames, those of files as one: pages are written to, and to the disk, and stay what they are."""
    return np.where(np.isin(kinds, USES["file"]), np.uint8(Kind.FILE), kinds)


def changed(nr_frames: int) -> Note:
    """Return the note that frames were freed, and are others', before all processes were looked at."""
    who = "a frame became" if nr_frames == 1 else f"{nr_frames:,} frames became"
    text = f"{who} something else meanwhile: what is said to be there is of before, who maps it may be of afterwards"
    return Note("frames-changed", text)


def not_found(nr_frames: int) -> Note:
    """Return the note that not all who map frames were found."""
    whose = "a frame" if nr_frames == 1 else f"{nr_frames:,} frames"
    text = (
        f"{whose} mapped more often than was found: by processes that could not be looked at, that came or went "
        "meanwhile, or that our PID namespace does not show"
    )
    return Note("mappers-not-found", text)
