"""/proc/kpagecount, /proc/kpageflags: one 64-bit word per page frame, root's.

Format: Documentation/admin-guide/mm/pagemap.rst; fs/proc/page.c; flag numbers in
include/uapi/linux/kernel-page-flags.h and include/linux/kernel-page-flags.h.
"""

from __future__ import annotations

import os
import sys

from mematlas.errors import NotSupported, PermissionDenied
from mematlas.kernel.directory import LiveFile
from mematlas.kernel.pagemap import ENTRY_SIZE, GAP, PM_PFRAME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Self, TypeVar

    from mematlas.arrays import Bools, Words
    from mematlas.kernel.directory import WordFile
    from mematlas.kernel.procfs import ProcFS

    T = TypeVar("T")

WORD_SIZE = ENTRY_SIZE

KPF_NAMES = {
    0: "locked",
    1: "error",
    2: "referenced",
    3: "uptodate",
    4: "dirty",
    5: "lru",
    6: "active",
    7: "slab",
    8: "writeback",
    9: "reclaim",
    10: "buddy",
    11: "mmap",
    12: "anon",
    13: "swapcache",
    14: "swapbacked",
    15: "compound_head",
    16: "compound_tail",
    17: "huge",
    18: "unevictable",
    19: "hwpoison",
    20: "nopage",
    21: "ksm",
    22: "thp",
    23: "offline",
    24: "zero_page",
    25: "idle",
    26: "pgtable",
    # From here on not API: the kernel exports them for its own developers and may move them.
    32: "reserved",
    33: "mlocked",
    34: "owner_2",
    35: "private",
    36: "private_2",
    37: "owner_private",
    38: "arch",
    39: "uncached",
    40: "softdirty",
    41: "arch_2",
    42: "arch_3",
}
KPF_KNOWN = sum(1 << bit for bit in KPF_NAMES)
KPF_LOCKED = 1 << 0
KPF_REFERENCED = 1 << 2
KPF_UPTODATE = 1 << 3
KPF_DIRTY = 1 << 4
KPF_LRU = 1 << 5
KPF_ACTIVE = 1 << 6
KPF_SLAB = 1 << 7
KPF_WRITEBACK = 1 << 8
KPF_BUDDY = 1 << 10
KPF_MMAP = 1 << 11
KPF_ANON = 1 << 12
KPF_SWAPCACHE = 1 << 13
KPF_SWAPBACKED = 1 << 14
KPF_COMPOUND_HEAD = 1 << 15
KPF_COMPOUND_TAIL = 1 << 16
KPF_COMPOUND = KPF_COMPOUND_HEAD | KPF_COMPOUND_TAIL
KPF_HUGE = 1 << 17
KPF_HWPOISON = 1 << 19
KPF_NOPAGE = 1 << 20
KPF_KSM = 1 << 21
KPF_OFFLINE = 1 << 23
KPF_ZERO_PAGE = 1 << 24
KPF_PGTABLE = 1 << 26
KPF_RESERVED = 1 << 32
KPF_ANON_EXCLUSIVE = 1 << 34
"""owner_2 of an anonymous page: nobody else has it or its slot (commit 6c287605fd56, v5.19)."""

RUN = 8192
"""Frames read in one call at most."""


class FrameWords:
    """One of the files of words per frame.

    >>> from mematlas.kernel.procfs import ProcFS
    >>> with FrameWords(ProcFS(), "kpageflags") as flags:   # needs CAP_DAC_READ_SEARCH
    ...     flags.get([1000, 1001])   # doctest: +SKIP
    {1000: 4294967296, 1001: 4294967296}
    """

    def __init__(self, procfs: ProcFS, name: str) -> None:
        self.file: WordFile = procfs.open(name)
        self.bytes = bytearray(RUN * WORD_SIZE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self.file.close()

    def get(self, frames: Iterable[int]) -> dict[int, int]:
        """Return the word of each of these frames; a frame beyond the end of memory has none."""
        return self.of_runs(runs_of(frames))

    def of_runs(self, runs: Sequence[Sequence[int]]) -> dict[int, int]:
        """Return the same for frames as `runs_of` gives them: whoever reads both files sorts them once."""
        words_of = self._of_few(runs)
        if words_of is not None:
            return words_of
        words_of = {}
        read_into, buffer = self.file.read_into, memoryview(self.bytes)
        words = buffer.cast("Q")
        for frames in runs:
            first = frames[0]
            nr_frames = frames[-1] - first + 1
            nr_words = read_into(buffer[: nr_frames * WORD_SIZE], first * WORD_SIZE) // WORD_SIZE
            if nr_frames == len(frames):
                words_of.update(zip(frames, words[:nr_words], strict=False))
            else:
                end = first + nr_words
                words_of.update([(frame, words[frame - first]) for frame in frames if frame < end])
        return words_of

    def _of_few(self, runs: Sequence[Sequence[int]]) -> dict[int, int] | None:
        """Return the words of runs that are short together; None for others, and where memory ends within one.

        The frames of a small file lie apart: to handle each call by itself would take us longer than the kernel.
        """
        sizes = [(frames[-1] - frames[0] + 1) * WORD_SIZE for frames in runs]
        if sum(sizes) > len(self.bytes) or not isinstance(self.file, LiveFile):
            return None
        raw = self.file.read_ranges([frames[0] * WORD_SIZE for frames in runs], sizes)
        if len(raw) < sum(sizes):
            return None
        words = memoryview(raw).cast("Q") if raw else ()
        words_of: dict[int, int] = {}
        at = 0
        for frames, size in zip(runs, sizes, strict=True):
            offset = at - frames[0]
            for frame in frames:
                words_of[frame] = words[frame + offset]
            at += size // WORD_SIZE
        return words_of

    def array(self, frames: Words) -> tuple[Words, Bools]:
        """Return the word of each of these frames, in any order, and which have one; 0 beyond the end of memory.

        Millions of them are read fastest in ascending order.
        """
        from mematlas.arrays import np

        if (frames[1:] < frames[:-1]).any():
            different, which = np.unique(frames, return_inverse=True)
            words, known = self.array(different)
            return words[which], known[which]
        words, known = np.zeros(len(frames), np.uint64), np.ones(len(frames), np.bool_)
        if not len(frames):
            return words, known
        # Gaps that are cheaper read along are, but no call reads more than the buffer holds.
        apart = (np.diff(frames) > GAP) | (np.diff(frames // np.uint64(RUN)) > 0)
        edges = np.concatenate(([0], np.flatnonzero(apart) + 1, [len(frames)]))
        starts, ends = edges[:-1], edges[1:]
        firsts = frames[starts]
        sizes = (frames[ends - 1] - firsts + np.uint64(1)) * np.uint64(WORD_SIZE)
        offsets = (frames - np.repeat(firsts, ends - starts)).astype(np.intp)
        buffer, view = np.frombuffer(self.bytes, np.uint64), memoryview(self.bytes)
        read_into = self.file.read_into
        columns = (starts.tolist(), ends.tolist(), firsts.tolist(), sizes.tolist())
        for low, high, first, size in zip(*columns, strict=True):
            size_read = read_into(view[:size], first * WORD_SIZE)
            inside = offsets[low:high]
            if size_read < size:
                buffer[size_read // WORD_SIZE :] = 0
                known[low:high] = inside < size_read // WORD_SIZE
            words[low:high] = buffer[inside]
        return words, known

    def tally(self, frames: Sequence[int]) -> dict[int, int]:
        """Return how many of these frames have which word; those beyond the end of memory have 0."""
        counts: dict[int, int] = {}
        runs = runs_of(frames)
        if sum(map(len, runs)) < len(frames):  # some of them are there more than once
            words_of = self.get(frames)
            for frame in frames:
                word = words_of.get(frame, 0)
                counts[word] = counts.get(word, 0) + 1
            return counts
        for run in runs:
            raw = self.read(run[0], run[-1] - run[0] + 1)
            words = raw.cast("Q")
            if len(words) == len(run) and raw == bytes(raw[:WORD_SIZE]) * len(run):
                counts[words[0]] = counts.get(words[0], 0) + len(run)
                continue
            for frame in run:
                index = frame - run[0]
                word = words[index] if index < len(words) else 0
                counts[word] = counts.get(word, 0) + 1
        return counts

    def read(self, first: int, nr_frames: int) -> memoryview:
        """Return the bytes of the words of consecutive frames, `RUN` at most; they change at the next call.

        Fewer where memory ends.
        """
        buffer = memoryview(self.bytes)[: nr_frames * WORD_SIZE]
        nr_read = self.file.read_into(buffer, first * WORD_SIZE)
        return buffer[: nr_read - nr_read % WORD_SIZE]


def read_frame_words(procfs: ProcFS, name: str, frames: Words) -> tuple[Words, Bools]:
    """Return the word of each of some frames, and which have one; the file is opened for them alone."""
    if not len(frames):
        return frames, frames.astype(bool)  # as empty as they are
    with FrameWords(procfs, name) as file:
        return file.array(frames)


def open_flags_and_counts(procfs: ProcFS) -> tuple[FrameWords, FrameWords]:
    """Return kpageflags and kpagecount, both opened; where one cannot be, the other does not stay open.

    Raises:
        PermissionDenied: without CAP_DAC_READ_SEARCH.
        NotSupported: a kernel without CONFIG_PROC_PAGE_MONITOR.
    """
    flags = FrameWords(procfs, "kpageflags")
    try:
        return flags, FrameWords(procfs, "kpagecount")
    except BaseException:
        flags.close()
        raise


def runs_of(frames: Iterable[int]) -> list[list[int]]:
    """Return different frames in ascending order, cut into what is to be read in one call.

    >>> runs_of([7, 5, 5, 1000])
    [[5, 7], [1000]]
    """
    from bisect import bisect_left

    wanted = sorted(set(frames))
    runs = []
    low = 0
    while low < len(wanted):
        high = bisect_left(wanted, wanted[low] + RUN, low, min(len(wanted), low + RUN))
        if wanted[high - 1] - wanted[low] >= high - low:  # else they lie side by side, as most do
            gaps = (at for at in range(low + 1, high) if wanted[at] - wanted[at - 1] > GAP)
            high = next(gaps, high)
        runs.append(wanted[low:high])
        low = high
    return runs


def tells_ksm(procfs: ProcFS) -> bool | None:
    """Whether the flag ``ksm`` means that; None when this cannot be found out: then it is not to be believed, or all
    anonymous memory would be merged.

    Linux 6.12 sets it for every anonymous page: stable_page_flags in fs/proc/page.c tests any of the bits of
    PAGE_MAPPING_KSM, one of which is PAGE_MAPPING_ANON. So we look at a fresh page of our own, which is in no tree of
    KSM yet. A capture says what was found when it was made.
    """
    if not procfs.live:
        reported: bool | None = (procfs.machine or {}).get("tells_ksm")
        return reported

    def is_told(frame: int) -> bool | None:
        with FrameWords(procfs, "kpageflags") as words:
            word = words.get([frame]).get(frame, 0)
        return not word & KPF_KSM if word & KPF_ANON else None

    try:
        return asked_of_own_frame(procfs, is_told)
    except (OSError, PermissionDenied, NotSupported):
        return None


def asked_of_own_frame(procfs: ProcFS, ask: Callable[[int], T], is_written: bool = True) -> T | None:
    """Return what ``ask`` returns of the frame that a fresh page of ours lies in; None where frames are hidden.

    A page that was read and never written to is the page of zeros.
    """
    import ctypes
    import mmap

    memory = mmap.mmap(-1, procfs.page_size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    view = ctypes.c_char.from_buffer(memory)
    try:
        if is_written:
            memory[0] = 1
        else:
            memory[:1]
        offset = ctypes.addressof(view) // procfs.page_size * WORD_SIZE
        with open(f"{procfs.root}/self/pagemap", "rb", buffering=0) as pagemap:
            entry = os.pread(pagemap.fileno(), WORD_SIZE, offset)
        frame = int.from_bytes(entry, sys.byteorder) & PM_PFRAME  # an empty one is 0
        return ask(frame) if frame else None
    finally:
        del view
        memory.close()


def flag_names(word: int) -> tuple[str, ...]:
    """Return the names of the flags set in a word of kpageflags; unknown ones as ``bit_N``.

    >>> flag_names(0x400005868)
    ('uptodate', 'lru', 'active', 'mmap', 'anon', 'swapbacked', 'owner_2')
    """
    bits = (bit for bit in range(word.bit_length()) if word >> bit & 1)
    return tuple(KPF_NAMES.get(bit, f"bit_{bit}") for bit in bits)
