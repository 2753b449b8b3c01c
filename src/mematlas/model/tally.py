"""The frames that several processes map, each once, with how often they do: a set that is added to bit by bit.

Memory: 12 bytes for each distinct frame, three times that for a moment, and `PENDING` keys besides; however many
processes map it.
"""

from __future__ import annotations

from mematlas.arrays import NDArray, Words, np
from mematlas.kernel.kpage import KPF_ZERO_PAGE, open_flags_and_counts
from mematlas.model.frames import OWNER_BITS, PIECE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from mematlas.kernel.procfs import ProcFS

    Times = NDArray[np.uint32]

PENDING = 1 << 20
"""Keys that are kept as they come, before they are looked for among those that are known."""


class Tally:
    """Distinct words with how often each was added.

    >>> tally = Tally()
    >>> tally.add(np.array([7, 5, 7], np.uint64))
    >>> tally.add(np.array([5, 9], np.uint64))
    >>> [column.tolist() for column in tally.settled()]
    [[5, 7, 9], [2, 2, 1]]
    """

    def __init__(self) -> None:
        self._words: Words = np.empty(0, np.uint64)
        self._times: Times = np.empty(0, np.uint32)
        self._pending: list[Words] = []
        self._nr_pending = 0

    def add(self, words: Words) -> None:
        """Take in words, in any order. They are kept, and must not change."""
        self._pending.append(words)
        self._nr_pending += len(words)
        if self._nr_pending >= PENDING:
            self.settled()

    def settled(self) -> tuple[Words, Times]:
        """Return the distinct words so far, ascending, and how often each was added."""
        if self._nr_pending:
            self._merge(*counted(np.concatenate(self._pending)))
        self._pending.clear()
        self._nr_pending = 0
        return self._words, self._times

    def __len__(self) -> int:
        return len(self.settled()[0])

    def _merge(self, words: Words, times: Times) -> None:
        """Add words that are ascending and distinct."""
        at = np.searchsorted(self._words, words)
        is_known = np.zeros(len(words), np.bool_)
        inside = at < len(self._words)
        is_known[inside] = self._words[at[inside]] == words[inside]
        self._times[at[is_known]] += times[is_known]
        is_new = ~is_known
        if is_new.any():
            self._words = np.insert(self._words, at[is_new], words[is_new])
            self._times = np.insert(self._times, at[is_new], times[is_new])


def counted(words: Words) -> tuple[Words, Times]:
    """Return the distinct ones of some words, ascending, and how often each is there; at least one. Sorts in place."""
    words.sort(kind="stable")
    first = np.flatnonzero(np.diff(words, prepend=words[0] + np.uint64(1)))
    return words[first], np.diff(first, append=len(words)).astype(np.uint32)


class FrameShares:
    """What distinct frames amount to, by owner."""

    def __init__(self, nr_owners: int) -> None:
        self.mapped = np.zeros(nr_owners, np.int64)
        """Frames that are mapped at all."""
        self.alone = np.zeros(nr_owners, np.int64)
        """Of these, those that nobody maps but who was asked."""
        self.times = np.zeros(nr_owners, np.int64)
        """How often they are mapped by who was asked, added up."""
        self.shares = np.zeros(nr_owners)
        """The part of each that is theirs, of all who map it, added up: PSS, in frames."""


class FrameSharing:
    """Finds what distinct frames amount to, by kpagecount and kpageflags. Holds both open.

    >>> with FrameSharing(ProcFS()) as sharing:  # doctest: +SKIP
    ...     sharing.of(tally, 2).alone[ANON]
    4099

    Raises:
        PermissionDenied: needs CAP_DAC_READ_SEARCH.
        NotSupported: a kernel without CONFIG_PROC_PAGE_MONITOR.
    """

    def __init__(self, procfs: ProcFS) -> None:
        self._flags, self._counts = open_flags_and_counts(procfs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._counts.close()
        self._flags.close()

    def of(self, tally: Tally, nr_owners: int) -> FrameShares:
        """Return what the frames of a tally of keys amount to."""
        shares = FrameShares(nr_owners)
        keys, times = tally.settled()
        for low in range(0, len(keys), PIECE):
            self._add(shares, keys[low : low + PIECE], times[low : low + PIECE])
        return shares

    def _add(self, shares: FrameShares, keys: Words, times: Times) -> None:
        frames = keys >> np.uint64(OWNER_BITS)
        (counts, _), (flags, _) = self._counts.array(frames), self._flags.array(frames)
        # What nobody maps is no part of RSS: the zero page, and what was freed meanwhile.
        known = (counts > 0) & (flags & np.uint64(KPF_ZERO_PAGE) == 0)
        owners = (keys[known] & np.uint64((1 << OWNER_BITS) - 1)).astype(np.intp)
        counts, times = counts[known], times[known]
        nr_owners = len(shares.mapped)
        shares.mapped += np.bincount(owners, minlength=nr_owners)
        shares.alone += np.bincount(owners[counts <= times], minlength=nr_owners)
        shares.times += np.bincount(owners, times, nr_owners).astype(np.int64)
        # Others may have unmapped it since: nobody has more than all of a frame.
        shares.shares += np.bincount(owners, np.minimum(times / counts, 1.0), nr_owners)
