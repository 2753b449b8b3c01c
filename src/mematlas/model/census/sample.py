"""What struct pages say of frames beside what the kernel's own files say of them, frame by frame.

Frames change while they are read. So a lot of 4,096 is read, then the files, then the lot again, and what is not the
same before and after is left out. (The whole machine at once would leave frames in that changed, and changed back.)
"""

from __future__ import annotations

import time

from mematlas.arrays import Bools, Bytes, NDArray, Words, np
from mematlas.errors import NotSupported, TargetNotFound
from mematlas.frozen import record
from mematlas.kernel.kpage import KPF_COMPOUND_TAIL, FrameWords, tells_ksm
from mematlas.kernel.maps import read_maps
from mematlas.kernel.pagemap import PM_PFRAME, PM_PRESENT, Pagemap
from mematlas.model.census.decode import map_states
from mematlas.model.census.kinds import CACHE_KINDS, KIND_MASK, START, STATE_SHIFT, Kind
from mematlas.model.census.words import families, kinds_of_words
from mematlas.model.target import own_pid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from mematlas.kernel.procfs import ProcFS
    from mematlas.model.census.tell import Teller

NR_GRANULES = 12
"""Of 1,024 frames each: what is compared before anything is relied on."""
PAUSES = (0.0, 0.0, 0.0, 0.01, 0.03, 0.1, 0.3)
"""Seconds before each look at frames that differ: what is being read from a disk has a file, and no other sign of that
yet; it may take as long as the disk does.
"""
ALSO = (
    (Kind.RESERVED, Kind.ZERO),  # the pages of zeros are known by their frames
    (Kind.KERNEL, Kind.ZERO),
    # Where struct pages are filled in when memory is first needed, kpageflags has nothing to say beyond those that are,
    # not even of what was reserved there (seen on 6.18, ``deferred_init=lazy``).
    (Kind.RESERVED, Kind.KERNEL),
    # A page that was taken from its file is like one that still has it, but for the file.
    *((Kind.ORPHAN, kind) for kind in (*CACHE_KINDS, Kind.KERNEL)),
    # Since v6.17 the bit that says "movable" is the one that says "up to date" of a page of a file.
    (Kind.ZSMALLOC, Kind.FILE),
)
"""What one and the other say of the same frame."""
NOT_KNOWN = (Kind.NO_RAM, Kind.UNREAD, Kind.CHANGED)


@record
class Agreement:
    """What struct pages and the kernel's files say, of the frames that did not change."""

    nr_frames: int
    """Compared."""
    nr_left_out: int
    """Those that changed meanwhile."""
    kinds: dict[tuple[Kind, Kind], int]
    """Frames by what struct pages and kpageflags say."""
    nr_kinds_differ: int
    nr_states_differ: int
    first: int | None
    """A frame of which they say different things."""

    def __add__(self, other: Agreement) -> Agreement:
        both = self.kinds | {key: self.kinds.get(key, 0) + nr for key, nr in other.kinds.items()}
        return Agreement(
            self.nr_frames + other.nr_frames,
            self.nr_left_out + other.nr_left_out,
            both,
            self.nr_kinds_differ + other.nr_kinds_differ,
            self.nr_states_differ + other.nr_states_differ,
            other.first if self.first is None else self.first,
        )


class KernelWords:
    """The kernel's files of words per frame, held open."""

    def __init__(self, procfs: ProcFS) -> None:
        self.has_ksm = bool(tells_ksm(procfs))
        self._flags = FrameWords(procfs, "kpageflags")
        try:
            self._counts = FrameWords(procfs, "kpagecount")
        except BaseException:
            self._flags.close()
            raise

    def __enter__(self) -> KernelWords:
        return self

    def __exit__(self, *exc: object) -> None:
        self._flags.close()
        self._counts.close()

    def of(self, pfns: Words) -> tuple[Bytes, Bytes]:
        """Return what they say of frames, ascending: kinds, those of tails as their heads', and map states."""
        words, _ = self._flags.array(pfns)
        counts, _ = self._counts.array(pfns)
        kinds = kinds_of_words(words, self.has_ksm)
        starts = words & np.uint64(KPF_COMPOUND_TAIL) == 0
        # What lies behind a gap is not of what comes before it: such a tail has to speak for itself.
        starts[1:] |= np.diff(pfns) != 1
        starts[:1] = True
        rows = np.flatnonzero(starts)
        kinds = np.repeat(kinds[rows], np.diff(np.append(rows, len(words))))
        return kinds, map_states(np.minimum(counts, np.uint64(2)).astype(np.int32))


class Comparison:
    """Compares lots of frames."""

    def __init__(self, teller: Teller, words: KernelWords) -> None:
        self.teller = teller
        self.words = words
        self._families = families()
        self._agree = np.eye(KIND_MASK + 1, dtype=np.bool_)
        for ours, theirs in ALSO:
            self._agree[ours, theirs] = True
        # Where kpageflags calls all anonymous memory so, nothing in it tells what is.
        self._agree[Kind.KSM, Kind.ANON] = not words.has_ksm

    def lots(self, places: NDArray[np.intp]) -> Iterator[Agreement]:
        """Yield what comes out for pages of the array, a lot at a time."""
        for lot in self.teller.array.lots(places):
            yield self.of(lot)

    def of(self, lot: NDArray[np.intp]) -> Agreement:
        """Return what comes out for one lot of pages of the array.

        A frame may have changed and changed back: only one that differs again and again is wrong.
        """
        suspected: Bools | None = None
        for pause in PAUSES:
            time.sleep(pause)
            found, suspected = self._once(lot, suspected)
            if not suspected.any():
                break
        return found

    def _once(self, lot: NDArray[np.intp], suspected: Bools | None) -> tuple[Agreement, Bools]:
        """Return the same of one look, and which frames differ. Once some are ``suspected``, others are left out."""
        pfns = self.teller.array.frames_at(lot)
        before = self.teller.rows(lot).reshape(-1)
        kinds, states = self.words.of(pfns)
        after = self.teller.rows(lot).reshape(-1)
        ours = before & np.uint8(KIND_MASK)
        comparable = ~np.isin(ours, NOT_KNOWN)
        same = comparable & (before == after)
        is_other, is_otherwise_mapped = self._differ(ours, before, kinds, states)
        if suspected is not None:
            same &= suspected | ~(is_other | is_otherwise_mapped)
        is_other &= same
        is_otherwise_mapped &= same
        keys = ours[same].astype(np.int64) * (KIND_MASK + 1) + kinds[same]
        table = np.bincount(keys, minlength=(KIND_MASK + 1) ** 2)
        pairs = {
            (Kind(int(key) // (KIND_MASK + 1)), Kind(int(key) % (KIND_MASK + 1))): int(table[key])
            for key in np.flatnonzero(table)
        }
        are_wrong: Bools = is_other | is_otherwise_mapped
        wrong = np.flatnonzero(are_wrong)
        found = Agreement(
            int(np.count_nonzero(same)),
            int(np.count_nonzero(comparable & ~same)),
            pairs,
            int(np.count_nonzero(is_other)),
            int(np.count_nonzero(is_otherwise_mapped)),
            int(pfns[wrong[0]]) if wrong.size else None,
        )
        return found, are_wrong

    def _differ(self, ours: Bytes, before: Bytes, kinds: Bytes, states: Bytes) -> tuple[Bools, Bools]:
        is_other: Bools = ~self._agree[self._families[ours], self._families[kinds]] & ~self._agree[ours, kinds]
        is_mapped = (before & ~np.uint8(START)) >> STATE_SHIFT
        return is_other, (is_mapped != states) & (kinds != Kind.ZERO)


def own_frames(procfs: ProcFS) -> list[int]:
    """Return frames that we have, of anonymous memory and of a file: most of RAM may be free, which tells little."""
    memory = np.ones(2 * procfs.page_size, np.uint8)
    addresses = [memory.__array_interface__["data"][0] + procfs.page_size - 1]
    try:
        own = own_pid(procfs)
    except TargetNotFound:
        return []  # the /proc of another PID namespace has none of ours
    with procfs.process(own) as ourselves, Pagemap(ourselves) as pagemap:
        addresses += [vma.start for vma in read_maps(ourselves) if vma.kind == "file"][:NR_GRANULES]
        entries = map(pagemap.entry, addresses)
        # Frames are all 0 to who may not know them.
        return [entry & PM_PFRAME for entry in entries if entry & PM_PRESENT and entry & PM_PFRAME]


def check_against_kernel(teller: Teller, procfs: ProcFS) -> int:
    """Compare a sample of all RAM, with some frames of our own, and return how many frames agree.

    Raises:
        NotSupported: they disagree three times over. The message names a frame, and what both say.
        PermissionDenied: the kernel's files cannot be read.
    """
    with KernelWords(procfs) as words:
        comparison = Comparison(teller, words)
        places = teller.array.granules(NR_GRANULES, own_frames(procfs))
        nr_agreeing = 0
        for lot in teller.array.lots(places):
            found = comparison.of(lot)
            if found.nr_kinds_differ + found.nr_states_differ:
                # Offsets from the cache that are wrong are put right for the next time.
                teller.array.memory.layout.renew()
                kinds = ", ".join(f"{one.name} for {other.name}" for one, other in found.kinds if one != other)
                what = f"frame {found.first:#x} is another thing in kpageflags or kpagecount ({kinds.lower()})"
                raise NotSupported(f"what frames are from struct pages: {what}")
            nr_agreeing += found.nr_frames
    return nr_agreeing
