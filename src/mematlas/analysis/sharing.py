"""Who shares which frames with whom: sets of processes, found by partition refinement.

Each frame is in one set: of those that map it, and of what it is through, a file or memory that was copied on write.
With each process that is added, every set that it has frames of falls into two, those that it maps too and the rest. So
sets are few, however many frames there are, and all sums are made of them.
"""

from __future__ import annotations

from mematlas.arrays import Bytes, NDArray, Words, np
from mematlas.errors import TooLarge
from mematlas.frozen import Record, record
from mematlas.model.frame_table import FrameTable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mematlas.analysis.results import Reading

    Indexes = NDArray[np.int64]
    Sums = NDArray[np.float64]

KINDS = ("file", "shmem", "cow", "ksm", "other", "hugetlb")
"""What memory can be shared through: a file, memory that is a file (memfd, tmpfs, System V, shared anonymous memory),
memory of before a fork that nobody has written to since, equal pages that KSM merged, what the kernel maps (the vDSO),
and the hugetlb pools, which are no part of RSS and of no sum with the rest."""
FILE, SHMEM, COW, KSM, OTHER, HUGETLB = range(len(KINDS))

NO_SET, NOBODY = 0, 1
"""Numbers of no set: of frames that were not asked about yet, and of those that the kernel counts for nobody."""
MOST_SETS = 1 << 17
"""Sets that are kept: a quarter of a KiB each, and more where there are thousands of processes."""
ONE = np.int32(1)
"""Of the type of what it is taken from: numpy is slow with another."""
COUNTED = 1 << 18
"""Frames that are counted together."""
FEW = 8
"""Processes, or groups, of which all pairs are wanted: they fit a matrix on a wide screen."""
ROOM = 1 << 21
"""Numbers in a matrix that is held while pairs are added up."""


@record
class Through(Record):
    """What memory is shared through."""

    kind: str
    """One of `KINDS`."""
    path: str
    """Of the file, as the maps of whoever was looked at first has it; empty for memory without one."""
    file: tuple[str, int] | None = None
    """Its device and inode."""
    span: tuple[int, int] | None = None
    """The VMA of the first of two processes, where VMAs were asked for."""


@record
class Sharer(Record):
    """A process, or a group of them, with what it has in RAM: all in bytes."""

    name: str
    pids: tuple[int, ...]
    rss: int
    """What the kernel counts, of a group the sum: a frame counts as often as it is mapped."""
    pss: int
    """Each page divided by the number of its mappings, whoever has these."""
    uss: int
    """Mapped once in the whole machine, by the kernel's count."""
    alone: int
    """Distinct frames that nobody else maps. A page that it maps twice is in here, and not in USS."""
    shared: int
    """Distinct frames that another one that was looked at maps too."""
    others: int
    """Distinct frames that processes which were not looked at map too, whoever else does."""
    others_only: int
    """Those that nobody else maps besides."""
    hugetlb: int
    """Pages of the hugetlb pools, which are in none of the above."""
    hugetlb_shared: int
    """Those that another one that was looked at maps too."""

    @property
    def distinct(self) -> int:
        """Bytes of all frames that it maps, each once."""
        return self.alone + self.shared + self.others_only

    @property
    def pid(self) -> int | None:
        """The PID of a single process."""
        return self.pids[0] if len(self.pids) == 1 else None


@record
class SharedPair(Record):
    """Two processes, or groups, and what both of them map, in bytes."""

    one: Sharer
    other: Sharer
    kinds: tuple[int, ...]
    """Bytes by kind, in the order of `KINDS`."""
    through: Through
    """What most of it is through; a file of huge pages only where they share nothing else."""
    most: int
    """Bytes that are shared through that."""

    @property
    def size(self) -> int:
        """Bytes of RSS that both map."""
        return sum(self.kinds[:HUGETLB])

    @property
    def hugetlb(self) -> int:
        """Bytes of the hugetlb pools that both map."""
        return self.kinds[HUGETLB]


@record
class SharedSet(Record):
    """Frames that the same ones map, through the same."""

    sharers: tuple[Sharer, ...]
    through: Through
    size: int
    """Bytes."""
    others: int
    """The part that processes which were not looked at map too."""


@record
class SharedVma(Record):
    """What a VMA of one process and one of another have in common, in bytes."""

    through: Through
    """With the VMA of the first, and what its path is."""
    other_span: tuple[int, int]
    other_path: str
    size: int


@record
class ShareResult(Record):
    """What processes, or groups of them, share, and how that was found out."""

    sharers: tuple[Sharer, ...]
    """Everyone that was looked at."""
    pairs: tuple[SharedPair, ...]
    """Those that share the most."""
    nr_pairs: int
    """How many share anything."""
    sets: tuple[SharedSet, ...]
    """The largest sets of two and more."""
    nr_sets: int
    vmas: tuple[SharedVma, ...] | None
    """Of two processes, the VMAs that show the same frames, where these were asked for."""
    sharing: dict[int, int]
    """Who runs in the address space of another one (CLONE_VM, vfork), and of which."""
    refused: tuple[int, ...]
    """The processes that we may not look at."""
    reading: Reading


class TooManySets(TooLarge):
    """Processes share so many frames in so many ways that this cannot be kept."""

    def __init__(self) -> None:
        super().__init__("sets of processes that share frames")


class FrameSets:
    """The frames of some processes, by who maps them: each process a number from 0 up, in any order.

    >>> sets = FrameSets()
    >>> frames, through = np.array([5, 6, 7], np.uint64), Through("file", "/bin/sh")
    >>> places = sets.places(frames)
    >>> sets.learn(places, np.array([2, 1, 3], np.uint64), np.full(3, sets.number_of(through)))
    >>> _, _ = sets.add(0, places), sets.add(1, places[:1])
    >>> [(f"{found.members:b}", found.nr_frames, found.nr_others) for found in sets.found()]
    [('1', 2, 1), ('11', 1, 0)]
    """

    def __init__(self, most_leaves: int | None = None, most_sets: int = MOST_SETS) -> None:
        self.table = FrameTable(most_leaves)
        self.most = most_sets
        """Sets that are kept."""
        self.throughs: list[Through] = []
        self._through_numbers: dict[Through, int] = {}
        # Of each set; the first two are `NO_SET` and `NOBODY`.
        self._members = [0, 0]
        self._through = [-1, -1]
        self._numbers: dict[tuple[int, int], int] = {}

    def number_of(self, through: Through) -> int:
        """Return the number of what memory is shared through."""
        number = self._through_numbers.setdefault(through, len(self.throughs))
        if number == len(self.throughs):
            self.throughs.append(through)
        return number

    def places(self, frames: Words) -> Indexes:
        """Return where frames are in the table: what all else is asked by."""
        return self.table.places(frames)

    def unknown(self, frames: Words, places: Indexes) -> Indexes:
        """Return the indexes of frames that nothing is known of yet, each once, in ascending order of the frames."""
        indexes = np.flatnonzero(self.table.sets[places] == NO_SET)
        return indexes[np.unique(frames[indexes], return_index=True)[1]]

    def learn(self, places: Indexes, counts: Words, throughs: Indexes) -> None:
        """Take in how often frames are mapped in the whole machine, and through what."""
        known = np.minimum(counts, np.uint64(np.iinfo(np.int32).max)).astype(np.int32)
        different, which = np.unique(throughs, return_inverse=True)
        numbers = np.array([self._set(0, number) for number in different.tolist()], np.int32)
        self.table.sets[places] = np.where(known == 0, NOBODY, numbers[which])
        self.table.counts[places] = self.table.left[places] = known

    def add(self, process: int, places: Indexes) -> Mapped:
        """Put frames that a process maps into the sets that it is in as well; return what they were before.

        A frame may come any number of times, and each is a mapping. All of them must be known.
        """
        if len(self._members) > self.most:
            self._drop_empty()
        before = self.table.sets[places]
        times = np.bincount(before, minlength=len(self._members))
        met = np.flatnonzero(times)
        become = np.arange(len(self._members), dtype=np.int32)
        for number in met.tolist():
            if number > NOBODY:
                become[number] = self._set(self._members[number] | 1 << process, self._through[number])
        self.table.sets[places] = become[before]
        np.subtract.at(self.table.left, places, ONE)
        with np.errstate(divide="ignore"):
            parts = np.bincount(before, 1 / self.table.counts[places])
        resident = [number for number in met.tolist() if number > NOBODY and not self._is_hugetlb(number)]
        return Mapped(
            before=before,
            nr_resident=int(times[resident].sum()),
            nr_parts=float(parts[resident].sum()),
        )

    def members_of(self, number: int) -> tuple[int, int]:
        """Return who is in a set, a bit each, and the number of what it is through."""
        return self._members[number], self._through[number]

    def found(self) -> Iterator[FoundSet]:
        """Yield the sets that have frames."""
        nr_frames, nr_others = self._count()
        for number in np.flatnonzero(nr_frames).tolist():
            if number > NOBODY:
                members, through = self._members[number], self._through[number]
                yield FoundSet(members, through, int(nr_frames[number]), int(nr_others[number]))

    def _is_hugetlb(self, number: int) -> bool:
        return self.throughs[self._through[number]].kind == KINDS[HUGETLB]

    def _set(self, members: int, through: int) -> int:
        number = self._numbers.setdefault((members, through), len(self._members))
        if number == len(self._members):
            self._members.append(members)
            self._through.append(through)
        return number

    def _count(self) -> tuple[Indexes, Indexes]:
        """Return how many frames each set has, and how many of them others map too."""
        sets, left = self.table.used(self.table.sets), self.table.used(self.table.left)
        nr_frames, nr_others = (np.zeros(len(self._members), np.int64) for _ in range(2))
        for low in range(0, len(sets), COUNTED):
            part = sets[low : low + COUNTED]
            nr_frames += np.bincount(part, minlength=len(nr_frames))
            nr_others += np.bincount(part[left[low : low + COUNTED] > 0], minlength=len(nr_frames))
        return nr_frames, nr_others

    def _drop_empty(self) -> None:
        """Forget the sets that have no frames any more.

        Raises:
            TooManySets: few are empty.
        """
        kept = np.flatnonzero(self._count()[0][2:]) + 2
        if len(kept) > self.most // 2:
            raise TooManySets
        numbers = np.zeros(len(self._members), np.int32)
        numbers[NOBODY] = NOBODY
        numbers[kept] = np.arange(2, len(kept) + 2)
        self._members = [0, 0, *(self._members[number] for number in kept.tolist())]
        self._through = [-1, -1, *(self._through[number] for number in kept.tolist())]
        pairs = zip(self._members, self._through, strict=True)
        self._numbers = {key: number for number, key in enumerate(pairs) if number > NOBODY}
        sets = self.table.used(self.table.sets)
        for low in range(0, len(sets), COUNTED):
            sets[low : low + COUNTED] = numbers[sets[low : low + COUNTED]]


@record
class Mapped:
    """What adding frames of a process came to."""

    before: NDArray[np.int32]
    """The number of the set of each frame, as it was."""
    nr_resident: int
    """Mappings that count as RSS."""
    nr_parts: float
    """What these come to where each is divided by the map count of its frame."""


@record
class FoundSet:
    """Frames with the same members, through the same."""

    members: int
    """A bit for each process."""
    through: int
    nr_frames: int
    nr_others: int
    """Those that processes which were not looked at map too."""


# Sums


@record
class Holding:
    """Pages of one process or group that are in no set, and sums over its mappings."""

    name: str
    pids: tuple[int, ...]
    members: int
    """A bit for each process of it."""
    nr_rss: int
    nr_parts: float
    """PSS, in pages."""
    nr_alone: int
    """Resident pages that are mapped once."""


class Sharing:
    """What some processes, or groups of them, share: sums over sets."""

    def __init__(self, sets: FrameSets, counts: Sequence[Holding], page_size: int) -> None:
        self.page_size = page_size
        self.throughs = sets.throughs
        self._join(sets, [each.members for each in counts])
        self.sharers = self._sharers(counts)

    def _join(self, sets: FrameSets, groups: list[int]) -> None:
        """Put together what is one set of groups."""
        is_each = groups == [1 << index for index in range(len(groups))]
        everybody = sum(groups)
        joined: dict[tuple[int, int], list[int]] = {}
        for each in sets.found():
            who = each.members & everybody if is_each else groups_of(each.members, groups)
            if who:
                sums = joined.setdefault((who, each.through), [0, 0])
                sums[0] += each.nr_frames
                # Whoever was not read to the end is one of the others.
                sums[1] += each.nr_frames if each.members & ~everybody else each.nr_others
        nr_bytes = (len(groups) + 7) // 8
        self._bits: Bytes = np.frombuffer(
            b"".join(who.to_bytes(nr_bytes, "little") for who, _ in joined), np.uint8
        ).reshape(len(joined), nr_bytes)
        self._through = np.array([through for _, through in joined], np.int64)
        kinds = np.array([KINDS.index(each.kind) for each in self.throughs] or [0])
        self._kinds = kinds[self._through]
        sums_of_all = np.array(list(joined.values()), np.int64).reshape(len(joined), 2)
        self._nr_frames, self._nr_others = sums_of_all[:, 0], sums_of_all[:, 1]
        self._nr_groups = len(groups)

    def _unpacked(self, rows: slice | Indexes) -> Bytes:
        """Return a byte for each group, of some sets."""
        return np.unpackbits(self._bits[rows], axis=1, count=self._nr_groups, bitorder="little")

    def _has(self, group: int) -> Bytes:
        """Return a byte for each set: not 0 where a group is in it."""
        return self._bits[:, group >> 3] & np.uint8(1 << (group & 7))

    def _sharers(self, counts: Sequence[Holding]) -> tuple[Sharer, ...]:
        size = self.page_size
        alone, shared, others, others_only, huge, huge_shared = (np.zeros(self._nr_groups, np.int64) for _ in range(6))
        step = max(1, ROOM // max(self._nr_groups, 1))
        for low in range(0, len(self._bits), step):
            rows = slice(low, low + step)
            bits = self._unpacked(rows)
            is_one, is_huge = bits.sum(axis=1) == 1, self._kinds[rows] == HUGETLB
            nr_frames, nr_others = self._nr_frames[rows], self._nr_others[rows]
            alone += (nr_frames - nr_others)[is_one & ~is_huge] @ bits[is_one & ~is_huge]
            others += nr_others[~is_huge] @ bits[~is_huge]
            others_only += nr_others[is_one & ~is_huge] @ bits[is_one & ~is_huge]
            shared += nr_frames[~is_one & ~is_huge] @ bits[~is_one & ~is_huge]
            huge += nr_frames[is_huge] @ bits[is_huge]
            huge_shared += nr_frames[is_huge & ~is_one] @ bits[is_huge & ~is_one]
        return tuple(
            Sharer(
                name=each.name,
                pids=each.pids,
                rss=each.nr_rss * size,
                pss=round(each.nr_parts * size),
                uss=each.nr_alone * size,
                alone=(each.nr_alone + int(alone[index])) * size,
                shared=int(shared[index]) * size,
                others=int(others[index]) * size,
                others_only=int(others_only[index]) * size,
                hugetlb=int(huge[index]) * size,
                hugetlb_shared=int(huge_shared[index]) * size,
            )
            for index, each in enumerate(counts)
        )

    # Pairs

    def pairs(self, limit: int) -> tuple[list[SharedPair], int]:
        """Return the pairs that share the most, of few all of them; and how many share anything."""
        if self._nr_groups <= FEW:
            limit = max(limit, FEW * (FEW - 1) // 2)
        best: list[tuple[int, int, int, tuple[int, ...]]] = []
        nr_pairs = 0
        step = max(1, ROOM // (len(KINDS) * max(self._nr_groups, 1)))
        for low in range(0, self._nr_groups, step):
            sums = self._sums_of_pairs(low, min(low + step, self._nr_groups))
            total = sums.sum(axis=0)
            # Each pair once: the other one comes later.
            total[np.arange(self._nr_groups) <= np.arange(low, low + len(total))[:, None]] = 0
            nr_pairs += int(np.count_nonzero(total))
            for row, column in largest_in(total, limit):
                kinds = tuple(int(nr) * self.page_size for nr in sums[:, row, column])
                best.append((-sum(kinds), low + row, column, kinds))
            best = sorted(best)[:limit]
        return [self._pair(one, other, kinds) for _, one, other, kinds in best], nr_pairs

    def _sums_of_pairs(self, low: int, high: int) -> Sums:
        """Return the frames of each kind that groups, from one number to another, share with any: exact below 2^53."""
        sums = np.zeros((len(KINDS), high - low, self._nr_groups))
        step = max(1, ROOM // 4 // max(self._nr_groups, 1))
        for kind in range(len(KINDS)):
            rows = np.flatnonzero(self._kinds == kind)
            for first in range(0, len(rows), step):
                part = rows[first : first + step]
                bits = self._unpacked(part).astype(np.float64)
                sums[kind] += bits[:, low:high].T @ (bits * self._nr_frames[part, None])
        return sums

    def _pair(self, one: int, other: int, kinds: tuple[int, ...]) -> SharedPair:
        is_meant = self._kinds != HUGETLB if sum(kinds[:HUGETLB]) else self._kinds == HUGETLB
        both = np.flatnonzero((self._has(one) != 0) & (self._has(other) != 0) & is_meant)
        by_through = np.bincount(self._through[both], self._nr_frames[both])
        most = int(by_through.argmax())
        return SharedPair(
            one=self.sharers[one],
            other=self.sharers[other],
            kinds=kinds,
            through=self.throughs[most],
            most=int(by_through[most]) * self.page_size,
        )

    # Sets

    def sets(self, limit: int) -> tuple[list[SharedSet], int]:
        """Return the largest sets of two and more, and how many there are."""
        nr_sharers = np.zeros(len(self._bits), np.int64)
        step = max(1, ROOM // max(self._nr_groups, 1))
        for low in range(0, len(self._bits), step):
            nr_sharers[low : low + step] = self._unpacked(slice(low, low + step)).sum(axis=1)
        indexes = np.flatnonzero(nr_sharers > 1)
        order = indexes[np.argsort(-self._nr_frames[indexes], kind="stable")]
        return [self._shared_set(int(index)) for index in order[:limit]], len(order)

    def _shared_set(self, index: int) -> SharedSet:
        who = np.flatnonzero(self._unpacked(np.array([index]))[0]).tolist()
        return SharedSet(
            sharers=tuple(self.sharers[group] for group in who),
            through=self.throughs[int(self._through[index])],
            size=int(self._nr_frames[index]) * self.page_size,
            others=int(self._nr_others[index]) * self.page_size,
        )


def groups_of(members: int, groups: Sequence[int]) -> int:
    """Return the groups that processes are of, a bit each.

    >>> f"{groups_of(0b101, [0b001, 0b010, 0b100]):03b}"
    '101'
    """
    return sum(1 << index for index, group in enumerate(groups) if members & group)


def largest_in(matrix: Sums, limit: int) -> list[tuple[int, int]]:
    """Return the places of the largest numbers of a matrix that are not 0.

    >>> largest_in(np.array([[0.0, 3.0], [5.0, 1.0]]), 2)
    [(0, 1), (1, 0)]
    """
    flat = matrix.ravel()
    indexes = np.flatnonzero(flat)
    if len(indexes) > limit:
        # Of equal ones the first, whatever the order in which they are found.
        least = np.partition(flat[indexes], -limit)[-limit]
        above, equal = np.flatnonzero(flat > least), np.flatnonzero(flat == least)
        indexes = np.sort(np.concatenate((above, equal[: limit - len(above)])))
    return [divmod(index, matrix.shape[1]) for index in indexes.tolist()]
