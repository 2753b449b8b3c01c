"""What all frames of RAM are used for, added up in several ways.

Kinds of frames are put together in *uses*, which are the columns where rows are something else: a node, an order.
"""

from __future__ import annotations

from mematlas.frozen import Record, Tabular, record, replace
from mematlas.model.census.kinds import MAPPED_MORE, MAPPED_ONCE, NOT_MAPPED, STATE_UNKNOWN, Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mematlas.analysis.estimates import Sample
    from mematlas.analysis.ram import Ram
    from mematlas.analysis.results import Reading
    from mematlas.arrays import NDArray, np
    from mematlas.kernel.nodes import NodeMap
    from mematlas.kernel.zoneinfo import Zone
    from mematlas.model.census.census import FrameCensus
    from mematlas.model.census.sample import Agreement

USES: Mapping[str, tuple[Kind, ...]] = {
    "free": (Kind.FREE, Kind.CPU_FREE, Kind.UNTOUCHED),
    "anon": (Kind.ANON, Kind.KSM, Kind.SWAPCACHE),
    "file": (Kind.FILE, Kind.FILE_DIRTY, Kind.FILE_WRITEBACK),
    "shmem": (Kind.SHMEM,),
    "hugetlb": (Kind.HUGETLB,),
    "slab": (Kind.SLAB, Kind.LARGE_KMALLOC),
    "table": (Kind.TABLE,),
    "zsmalloc": (Kind.ZSMALLOC,),
    "kernel": (Kind.KERNEL, Kind.MOVABLE, Kind.GUARD, Kind.ORPHAN),
    "reserved": (Kind.RESERVED, Kind.ZERO),
    "away": (Kind.OFFLINE, Kind.UNACCEPTED, Kind.POISONED),
    "unknown": (Kind.CHANGED, Kind.UNREAD),
}
"""What frames are used for, and the kinds that this is made of: each kind is in one."""
STRUCTS, FILES, MEMINFO = "struct pages", "kpageflags", "meminfo"
"""Where it comes from."""
BY = ("kind", "zone", "node", "order", "mapped", "cgroup")
"""What rows can be."""
MAPPED = {NOT_MAPPED: "none", MAPPED_ONCE: "one", MAPPED_MORE: "many", STATE_UNKNOWN: "unknown"}
"""How many times frames are mapped."""


@record
class FrameUse(Record):
    """The frames of one kind."""

    kind: str
    nr_pages: int
    size: int
    mapped: int | None
    """Bytes of them that are mapped; None where that is not known."""
    shared: int | None
    """Bytes of them that are mapped more than once, be it by one process or by several."""
    size_low: int | None = None
    """Of a sample: between this and ``size_high`` the truth lies 95 times of 100; and so on of ``mapped``, ``shared``.
    """
    size_high: int | None = None
    mapped_low: int | None = None
    mapped_high: int | None = None
    shared_low: int | None = None
    shared_high: int | None = None


@record
class FrameGroup(Record):
    """Frames that have something in common, by use."""

    name: str
    nr_pages: int
    size: int
    uses: dict[str, int]
    """Bytes by use: a key of `USES`."""
    node: int | None = None
    order: int | None = None
    inode: int | None = None
    """Of the directory of the cgroup."""


@record
class FramesResult(Tabular, Record):
    """What all frames of a machine are used for."""

    by: str
    uses: tuple[FrameUse, ...]
    """Each kind that there is, the largest first."""
    groups: tuple[FrameGroup, ...]
    """The same in rows of something else; none where it was not asked for."""
    nr_frames: int
    size: int
    free_blocks: tuple[int, ...] | None
    """How many free blocks of each order there are; None where this is not known."""
    page_size: int
    huge_size: int
    """Bytes of a transparent huge page."""
    reading: Reading
    sample: Sample | None = None
    """What was looked at, in frames, where amounts are estimates."""

    @property
    def uses_meminfo(self) -> bool:
        """Whether these are sums of meminfo: no frame was looked at."""
        return self.reading.source == MEMINFO


@record
class Balance(Record):
    """One line of /proc/meminfo beside the frames that it counts, in bytes."""

    name: str
    meminfo: int
    frames: int
    difference: int
    """Frames less meminfo."""
    explained: bool
    reason: str


@record
class FramesCheck(Record):
    """Frames beside what the kernel says of them elsewhere."""

    balances: tuple[Balance, ...]
    agreement: Agreement | None
    """With kpageflags and kpagecount, frame by frame; None where these are what was read."""
    reading: Reading


def uses_of(counts: NDArray[np.int64], page_size: int) -> tuple[FrameUse, ...]:
    """Return each kind that there is, the largest first, given the frames of each kind and map state."""
    totals = counts.sum(axis=1)
    made = [
        FrameUse(
            name_of(kind),
            int(totals[kind]),
            int(totals[kind]) * page_size,
            int(counts[kind, MAPPED_ONCE] + counts[kind, MAPPED_MORE]) * page_size,
            int(counts[kind, MAPPED_MORE]) * page_size,
        )
        for kind in Kind
        if totals[kind]
    ]
    return tuple(sorted(made, key=lambda use: -use.size))


def uses_of_sample(
    counts: NDArray[np.int64], sample: Sample, page_size: int, untold: Iterable[Kind] = ()
) -> tuple[FrameUse, ...]:
    """Return each kind, the largest first, given the frames of each kind and map state in a sample.

    Kinds that were not seen are among them, but those that cannot be seen: the source does not tell ``untold`` apart.
    """
    totals = counts.sum(axis=1)
    kinds = [kind for kind in Kind if totals[kind] or kind not in (*NOT_LOOKED_FOR, *untold)]
    shared = counts[:, MAPPED_MORE]
    mapped = counts[:, MAPPED_ONCE] + shared
    columns = (sample.estimates([int(column[kind]) for kind in kinds]) for column in (totals, mapped, shared))
    made = [
        FrameUse(
            name_of(kind),
            size.value,
            *(size.value * page_size, mapped.value * page_size, shared.value * page_size),
            *(size.low * page_size, size.high * page_size),
            *(mapped.low * page_size, mapped.high * page_size),
            *(shared.low * page_size, shared.high * page_size),
        )
        for kind, size, mapped, shared in zip(kinds, *columns, strict=True)
    ]
    return tuple(sorted(made, key=lambda use: -use.size))


def with_offline(uses: Iterable[FrameUse], nr_offline: int, page_size: int) -> tuple[FrameUse, ...]:
    """Return estimates with the frames that are switched off, which are known: no sample has them."""
    size, name = nr_offline * page_size, name_of(Kind.OFFLINE)

    def more(use: FrameUse) -> FrameUse:
        low, high = (use.size_low or 0) + size, (use.size_high or 0) + size
        return replace(use, nr_pages=use.nr_pages + nr_offline, size=use.size + size, size_low=low, size_high=high)

    return tuple(sorted((more(use) if use.kind == name else use for use in uses), key=lambda use: -use.size))


NOT_LOOKED_FOR = (Kind.NO_RAM, Kind.CHANGED, Kind.UNREAD)
"""Kinds that frames are not of by themselves."""


def uses_of_meminfo(ram: Ram, page_size: int) -> tuple[FrameUse, ...]:
    """Return the parts that meminfo adds up, the largest first."""
    parts = {name: getattr(ram, part) for name, part in PARTS.items()}
    made = [FrameUse(name, size // page_size, size, None, None) for name, size in parts.items() if size and size > 0]
    return tuple(sorted(made, key=lambda use: -use.size))


PARTS = {
    "anon": "anon",
    "shmem": "shmem",
    "hugetlb": "hugetlb",
    "file": "page_cache",
    "reclaimable": "kernel_caches",
    "kernel": "kernel",
    "free": "free",
    "cpu_free": "cpu_free",
    "other": "other",
}
"""What of `mematlas.analysis.ram.Ram` is which row, where frames cannot be looked up."""


def name_of(kind: Kind) -> str:
    """Return the key of a kind, for programs and people.

    >>> name_of(Kind.FILE_DIRTY)
    'file_dirty'
    """
    return kind.name.lower()


def amounts_of(totals: NDArray[np.int64], page_size: int) -> dict[str, int]:
    """Return bytes by use, given the frames of each kind."""
    return {use: sum(int(totals[kind]) for kind in kinds) * page_size for use, kinds in USES.items()}


def group_of(
    name: str,
    totals: NDArray[np.int64],
    page_size: int,
    node: int | None = None,
    order: int | None = None,
    inode: int | None = None,
) -> FrameGroup:
    """Return a row of the frames of each kind that are given."""
    nr = int(totals.sum())
    return FrameGroup(name, nr, nr * page_size, amounts_of(totals, page_size), node, order, inode)


def by_mapped(census: FrameCensus, page_size: int) -> tuple[FrameGroup, ...]:
    """Return the frames by how often they are mapped."""
    counts = census.counts()
    states = [state for state in MAPPED if counts[:, state].any()]
    return tuple(group_of(MAPPED[state], counts[:, state], page_size) for state in states)


def by_node(census: FrameCensus, nodes: NodeMap, page_size: int) -> tuple[FrameGroup, ...]:
    """Return the frames by the node that they are on."""
    if nodes.only is not None:
        return (group_of(str(nodes.only), census.counts().sum(axis=1), page_size, node=nodes.only),)
    groups = []
    rest = census.counts().sum(axis=1)
    for node in nodes.with_memory:
        totals = census.counts([(first, end) for first, end, one in nodes.spans if one == node]).sum(axis=1)
        rest = rest - totals
        groups.append(group_of(str(node), totals, page_size, node=node))
    if rest.any():
        groups.append(group_of("unknown", rest, page_size))
    return tuple(groups)


def by_zone(
    census: FrameCensus, zones: Sequence[Zone], nodes: NodeMap | None, page_size: int
) -> tuple[FrameGroup, ...]:
    """Return the frames by the zone that they are in, of each node.

    A zone spans what others have inside of it: those of other nodes, and memory that was added as movable. What of that
    ``nodes`` do not tell apart is of an unknown one, as is what is in none, such as memory that is offline.
    """
    from mematlas.kernel.nodes import unshared

    spans: list[list[tuple[int, int]]] = [[] for _ in zones]
    for first, end, number in unshared(
        [(*span, number) for number, zone in enumerate(zones) for span in reach_of(zone, nodes)]
    ):
        spans[number].append((first, end))
    rest = census.counts().sum(axis=1)
    groups = []
    for zone, some in zip(zones, spans, strict=True):
        totals = census.counts(some).sum(axis=1)
        rest = rest - totals
        groups.append(group_of(zone.name, totals, page_size, node=zone.node))
    if rest.any():
        groups.append(group_of("unknown", rest, page_size))
    return tuple(groups)


def reach_of(zone: Zone, nodes: NodeMap | None) -> list[tuple[int, int]]:
    """Return the ranges of frames that may be of a zone: what it spans, on its node as far as nodes are known."""
    from mematlas.model.census.census import within

    whole = [(zone.start_pfn, zone.start_pfn + zone.spanned)]
    if nodes is None or nodes.only is not None:
        return whole
    return list(within(whole, [(first, end) for first, end, node in nodes.spans if node == zone.node]))


def by_cgroup(
    charged: Mapping[int, NDArray[np.int64]], rest: NDArray[np.int64], paths: Mapping[int, str], page_size: int
) -> tuple[FrameGroup, ...]:
    """Return the frames by the cgroup that they are charged to, the largest first, given those of each kind by inode.

    Those of ``rest`` were not looked up: they are of kinds that nobody is charged for.
    """
    groups = []
    for inode, totals in charged.items():
        if inode:
            groups.append(group_of(paths.get(inode, f"inode {inode}"), totals, page_size, inode=inode))
        else:
            rest = rest + totals
    groups.sort(key=lambda group: -group.size)
    return (*groups, group_of(UNCHARGED, rest, page_size))


UNCHARGED = "-"
"""What stands for a cgroup where nobody is charged."""
NOT_CHARGED = (
    *(Kind.FREE, Kind.CPU_FREE, Kind.UNTOUCHED, Kind.RESERVED, Kind.OFFLINE, Kind.ZERO),
    *(Kind.NO_RAM, Kind.UNREAD),
)
"""Kinds that no cgroup is charged for: they are not looked up."""


def by_order(census: FrameCensus, page_size: int) -> tuple[FrameGroup, ...]:
    """Return the frames by the size of the folio or the free block that they are part of.

    What has none that is known is a group without an order: free frames where only that is told of them, what was never
    used, what is offline, and what was changing.
    """
    sizes = census.sizes()
    sizes[Kind.UNTOUCHED] = 0
    if not census.knows_free_orders:
        sizes[Kind.FREE] = 0
    rest = census.counts().sum(axis=1)
    groups = []
    for order in range(sizes.shape[1]):
        if not sizes[:, order].any():
            continue
        totals = sizes[:, order] << order
        rest = rest - totals
        groups.append(group_of(str(order), totals, page_size, order=order))
    # A folio that was changing may have been taken for more than its frames.
    rest = rest.clip(0)
    if rest.any():
        groups.append(group_of("unknown", rest, page_size))
    return tuple(groups)


def free_blocks_of(census: FrameCensus) -> tuple[int, ...] | None:
    """Return how many free blocks of each order there are; None where only that they are free is known."""
    if not census.knows_free_orders:
        return None
    return tuple(census.free_blocks())


def balances_of(
    counts: NDArray[np.int64],
    before: Mapping[str, int],
    after: Mapping[str, int],
    page_size: int,
    nr_cpus: int,
    tells_types: bool = True,
    nr_untold: int = 0,
) -> tuple[Balance, ...]:
    """Return the lines of meminfo that count frames, beside the frames, given what it said before and afterwards.

    ``nr_untold`` free frames are in no free block, and not known for what they are.

    ``tells_types`` is whether large objects of the kernel are told from all else that it has: not in kpageflags, nor
    before they had a type.
    """
    totals = counts.sum(axis=1)
    mapped = counts[:, MAPPED_ONCE] + counts[:, MAPPED_MORE]
    slack = COUNTER_LAG * nr_cpus * page_size
    balances = []
    for line in LINES:
        names = [name for name in line.names if name in before and name in after]
        if not names:
            continue
        first, last = (sum(lines[name] for name in names) for lines in (before, after))
        frames = sum(int((mapped if line.is_mapped else totals)[kind]) for kind in line.kinds) * page_size
        nearest = min(max(frames, min(first, last)), max(first, last))
        difference = frames - nearest
        if not difference:
            reason = "" if first == last else CHANGED
        elif abs(difference) <= slack + nearest // MOVED:
            reason = LAG
        elif "MemFree" in names and abs(difference + nr_untold * page_size) <= slack + nearest // MOVED:
            reason = NEVER_USED
        elif "Writeback" in names and 0 < -difference <= max(before["Writeback"], after["Writeback"]) + slack:
            reason = WRITTEN
        else:
            reason = UNTOLD if difference < 0 and not tells_types and Kind.LARGE_KMALLOC in line.kinds else ""
        is_explained = not difference or bool(reason)
        balances.append(Balance(" + ".join(names), nearest, frames, difference, is_explained, reason))
    return tuple(balances)


COUNTER_LAG = 125
"""Pages by which the counter of each CPU may lag behind: mm/vmstat.c, calculate_normal_threshold()."""
MOVED = 100
"""One part in so many of a line may come and go while frames are read, unseen by meminfo before and afterwards."""
LAG = "counters of CPUs lag behind"
CHANGED = "changed meanwhile"
WRITTEN = "what goes to swap, or is written to once more meanwhile, counts there too"
NEVER_USED = "what was never used is not told from the kernel's here"
UNTOLD = "large objects are not told from all else of the kernel's here"


@record
class Line:
    """A line of meminfo, or several, and the kinds of frames that it counts."""

    names: tuple[str, ...]
    kinds: tuple[Kind, ...]
    is_mapped: bool = False


LINES = (
    # What is not accepted yet counts as free (__free_unaccepted()), and so does what was never used.
    Line(("MemFree",), (Kind.FREE, Kind.UNACCEPTED, Kind.UNTOUCHED)),
    Line(("Cached", "Buffers"), (Kind.FILE, Kind.FILE_DIRTY, Kind.FILE_WRITEBACK, Kind.SHMEM)),
    Line(("Shmem",), (Kind.SHMEM,)),
    Line(("Dirty", "Writeback"), (Kind.FILE_DIRTY, Kind.FILE_WRITEBACK)),
    Line(("AnonPages",), (Kind.ANON, Kind.KSM), is_mapped=True),
    Line(("Slab",), (Kind.SLAB, Kind.LARGE_KMALLOC)),
    # SecPageTables, of guests and of I/O, have no type (KVM and iommu-pages.h take plain pages): they are `KERNEL`.
    Line(("PageTables",), (Kind.TABLE,)),
    Line(("Hugetlb",), (Kind.HUGETLB,)),
)
