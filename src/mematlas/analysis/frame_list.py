"""Frames one by one, in runs of like ones, or counted by their flags: which are asked for, and rows of them.

Flags are those of /proc/kpageflags, as tools/mm/page-types.c of the kernel has them. Tails of folios are of the kind of
their head.
"""

from __future__ import annotations

from mematlas.analysis.flag_list import parse_flag_list
from mematlas.arrays import Bools, Bytes, Words, np
from mematlas.errors import BadInput
from mematlas.frozen import Record, Tabular, record
from mematlas.kernel.kpage import KPF_COMPOUND, KPF_NAMES, flag_names
from mematlas.model.census.kinds import KIND_MASK, Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mematlas.analysis.results import Reading

    Columns = tuple[Words, Words, Words, Bytes]
    """Runs: their first frames, how many these are, their words and their kinds."""

COMPOUND = "compound"
PAGE_TYPES = {"anonymous": "anon", "idle_page": "idle"}
"""What page-types calls flags that have another name here."""
KINDS = {
    "free": (Kind.FREE,),
    "file": (Kind.FILE, Kind.FILE_DIRTY, Kind.FILE_WRITEBACK),
    "shmem": (Kind.SHMEM,),
    "hugetlb": (Kind.HUGETLB,),
    "table": (Kind.TABLE,),
    "zero": (Kind.ZERO,),
    "kernel": (Kind.KERNEL,),
    "poisoned": (Kind.POISONED,),
}
"""Kinds of frames that can be asked for like flags: those that kpageflags tells, and that no flag is called."""
BITS = {name: 1 << bit for bit, name in KPF_NAMES.items()}
BITS |= {f"bit_{bit}": 1 << bit for bit in range(64) if bit not in KPF_NAMES}
"""The bit that a flag is, by its name here. New kernels have some that nobody has a name for yet."""
NAMES = {
    **{name: name for name in (*BITS, *KINDS, COMPOUND)},
    **{f"bit_{bit}": name for bit, name in KPF_NAMES.items()},
    **PAGE_TYPES,
}
"""What may be typed, and which flag or kind that is."""
LISTED = (*KPF_NAMES.values(), COMPOUND, "bit_N", *KINDS)
KIND_NAMES = {int(kind): kind.name.lower() for kind in Kind}


@record
class FrameFilter:
    """Which frames are asked for: those with some flags and without others, and those of some kinds."""

    bits_set: int = 0
    """Bits that must all be set,"""
    bits_clear: int = 0
    """and those of which none may be."""
    any_of: tuple[int, ...] = ()
    """Of each of these one bit at least must be set."""
    kinds: frozenset[Kind] | None = None
    """None for any."""

    def takes(self, words: Words, kinds: Bytes | None) -> Bools:
        """Return which frames are asked for, given their words of kpageflags, and their kinds if any are."""
        taken: Bools = words & np.uint64(self.bits_set) == np.uint64(self.bits_set)
        taken &= words & np.uint64(self.bits_clear) == 0
        for bits in self.any_of:
            taken &= words & np.uint64(bits) != 0
        if self.kinds is not None and kinds is not None:
            taken &= np.isin(np.arange(KIND_MASK + 1), list(self.kinds)).take(kinds)
        return taken


EVERY_FRAME = FrameFilter()


def parse_frame_flags(text: str) -> FrameFilter:
    """Return which frames a list of flags and kinds asks for.

    >>> parse_frame_flags("lru,!dirty,bit_27") == FrameFilter(1 << 5 | 1 << 27, 1 << 4)
    True
    >>> parse_frame_flags("shmem").kinds
    frozenset({<Kind.SHMEM: 8>})

    Raises:
        BadInput: there is no such flag.
    """
    every = frozenset(Kind)
    bits_set = bits_clear = 0
    any_of: list[int] = []
    kinds = every
    for is_wanted, name in parse_flag_list(text, NAMES, "frames", LISTED):
        if name in KINDS:
            kinds = kinds & {*KINDS[name]} if is_wanted else kinds - {*KINDS[name]}
        elif not is_wanted:
            bits_clear |= KPF_COMPOUND if name == COMPOUND else BITS[name]
        elif name == COMPOUND:
            any_of.append(KPF_COMPOUND)
        else:
            bits_set |= BITS[name]
    return FrameFilter(bits_set, bits_clear, tuple(any_of), None if kinds == every else kinds)


@record
class FrameRows(Record):
    """Frames that are listed, or runs of like ones: columns, all of one length. What is not known is None."""

    pfns: Sequence[int]
    nr_pages: Sequence[int]
    kinds: Sequence[str]
    """What each is: `mematlas.model.census.kinds.Kind`, in lower case."""
    flags: Sequence[tuple[str, ...]]
    """By name; a bit that has none is ``bit_27``."""
    counts: Sequence[int] = ()
    """How often each is mapped; this and what follows is known of single frames alone."""
    nodes: Sequence[int | None] = ()
    cgroups: Sequence[str | None] = ()
    """Paths of the cgroups that they are charged to."""
    cgroup_inodes: Sequence[int | None] = ()
    """The inodes of their directories; 0 for none."""

    def __len__(self) -> int:
        return len(self.pfns)


class FlagNames:
    """Names the flags of words, of which there are millions and some hundred different."""

    def __init__(self) -> None:
        self._names: dict[int, tuple[str, ...]] = {}

    def of(self, words: Words) -> list[tuple[str, ...]]:
        """Return the names of the flags of each word."""
        names = self._names
        numbers = words.tolist()
        for word in set(numbers) - names.keys():
            names[word] = flag_names(word)
        return [names[word] for word in numbers]


class Runs:
    """Puts frames together that lie side by side, have the same flags and are of one kind."""

    def __init__(self) -> None:
        self._names = FlagNames()
        self._last: Columns | None = None
        """The run that may go on: one item of each column."""

    def add(self, pfns: Words, words: Words, kinds: Bytes) -> FrameRows | None:
        """Take in frames, ascending; return the runs that have ended by then, or None."""
        if not len(pfns):
            return None
        is_new = (np.diff(pfns) != 1) | (words[1:] != words[:-1]) | (kinds[1:] != kinds[:-1])
        starts = np.concatenate(([0], np.flatnonzero(is_new) + 1))
        lengths = np.diff(np.append(starts, len(pfns))).astype(np.uint64)
        columns: Columns = (pfns[starts], lengths, words[starts], kinds[starts])
        if self._last is not None:
            columns = joined(self._last, columns)
        pfns, lengths, words, kinds = columns
        self._last = (pfns[-1:], lengths[-1:], words[-1:], kinds[-1:])
        return self._rows(pfns[:-1], lengths[:-1], words[:-1], kinds[:-1])

    def end(self) -> FrameRows | None:
        """Return the run that ended last."""
        return self._rows(*self._last) if self._last else None

    def _rows(self, pfns: Words, lengths: Words, words: Words, kinds: Bytes) -> FrameRows | None:
        if not len(pfns):
            return None
        return FrameRows(pfns.tolist(), lengths.tolist(), names_of(kinds), self._names.of(words))


def joined(last: Columns, columns: Columns) -> Columns:
    """Return a run, and those after it, as one where they go on."""
    pfns, lengths, words, kinds = columns
    goes_on = last[0][0] + last[1][0] == pfns[0] and last[2][0] == words[0] and last[3][0] == kinds[0]
    if goes_on:
        lengths = np.concatenate((last[1] + lengths[:1], lengths[1:]))
        return np.concatenate((last[0], pfns[1:])), lengths, words, kinds
    return (
        np.concatenate((last[0], pfns)),
        np.concatenate((last[1], lengths)),
        np.concatenate((last[2], words)),
        np.concatenate((last[3], kinds)),
    )


def names_of(kinds: Bytes) -> list[str]:
    """Return the names of kinds."""
    return [KIND_NAMES[kind] for kind in kinds.tolist()]


def first_rows(batches: Iterable[FrameRows], limit: int | None) -> Iterator[FrameRows]:
    """Yield no more rows than ``limit``, and read no further."""
    for batch in batches:
        if limit is None or len(batch) < limit:
            yield batch
            limit = None if limit is None else limit - len(batch)
            continue
        names = ("pfns", "nr_pages", "kinds", "flags", "counts", "nodes", "cgroups", "cgroup_inodes")
        yield FrameRows(*(getattr(batch, name)[:limit] for name in names))
        return


@record
class FlagsUse(Record):
    """The frames that have the same flags."""

    word: int
    """As kpageflags has it."""
    flags: tuple[str, ...]
    nr_pages: int
    size: int


@record
class FlagsResult(Tabular, Record):
    """The frames that were asked for, by their flags."""

    uses: tuple[FlagsUse, ...]
    """Each combination of flags that there is, the most frequent first."""
    nr_frames: int
    size: int
    reading: Reading


class FlagCounts:
    """Counts frames by their words."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def add(self, words: Words) -> None:
        """Count some frames."""
        different, numbers = np.unique(words, return_counts=True)
        for word, number in zip(different.tolist(), numbers.tolist(), strict=True):
            self._counts[word] = self._counts.get(word, 0) + number

    def uses(self, page_size: int) -> tuple[FlagsUse, ...]:
        """Return what was counted, the most frequent first."""
        pairs = sorted(self._counts.items(), key=lambda pair: (-pair[1], pair[0]))
        return tuple(FlagsUse(word, flag_names(word), nr, nr * page_size) for word, nr in pairs)


def check_spans(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ranges of frames, ascending, none overlapping.

    >>> check_spans([(8, 9), (1, 4), (2, 6)])
    [(1, 6), (8, 9)]
    """
    merged: list[tuple[int, int]] = []
    for first, end in sorted(spans):
        if first >= end or first < 0:
            raise BadInput(f"frames {first} to {end}: an empty range")
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((first, end))
    return merged
