"""What a cgroup is charged: its parts, beside what its processes hold; how far its limits are; whom they would hit."""

from __future__ import annotations

from mematlas.frozen import Record, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mematlas.analysis.results import Reading
    from mematlas.kernel.memcg import Limit, Pressure

PAGES = ("anon", "shmem", "file")
"""Kinds of pages that processes may map."""
KERNEL = ("slab", "stacks", "tables", "percpu", "vmalloc", "zswap")
"""What the kernel took for itself, on behalf of the processes, as far as it says for what."""
KINDS = (*PAGES, "unmapped", "hugetlb", *KERNEL, "kernel", "sock")
"""What is charged:

anon      anonymous memory that somebody maps
shmem     tmpfs, memfd, System V and other shared memory, mapped or not
file      the page cache, mapped or not
unmapped  memory without a file that nobody maps: in the swap cache, or parts of huge pages whose other parts are mapped
hugetlb   pages of the hugetlb pools, where they are charged (mount option memory_hugetlb_accounting)
kernel    other memory of the kernel than the above; all of it where the kernel does not say more (version 1)
sock      buffers of sockets
"""

BATCH = 64
"""Pages that each CPU charges ahead, for each of some groups: include/linux/memcontrol.h, MEMCG_CHARGE_BATCH (commit
1813e51eece0, v6.1; 32 before)."""
NR_STOCKS = 7
"""Groups for which a CPU does so at a time: mm/memcontrol.c, NR_MEMCG_STOCK (commit f735eebe55f8, v6.16; 1 before)."""
NR_LATE = 2 * BATCH
"""Pages by which, for each CPU, memory.stat may lag behind, until it is brought up to date every two seconds. A reader
does so from BATCH pages a CPU on, and each CPU tells of its own when they are as many (commit 8d59d2214c23, v6.8)."""

NEVER = -1000
"""The oom_score_adj of who is never killed: include/uapi/linux/oom.h, OOM_SCORE_ADJ_MIN."""
HARD = ("memory.max", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
"""Limits at which the kernel kills, when it finds nothing to take back."""


@record
class ChargePart(Record):
    """A part of what is charged."""

    kind: str
    """One of `KINDS`."""
    size: int | None
    """Bytes; None where this kernel does not tell them apart: then they are in ``kernel``, or else in the rest."""
    mapped: int | None = None
    """Of this, what processes of the group map. None where nobody may, and where frames may not be seen."""

    @property
    def left(self) -> int | None:
        """Bytes that no process of the group maps."""
        return None if self.size is None else self.size - (self.mapped or 0)


@record
class Held(Record):
    """The frames that the processes of a group map, each once, by whom they are charged to."""

    anon: int
    shmem: int
    file: int
    """Charged to the group, or one below it."""
    elsewhere: tuple[tuple[str | None, int], ...]
    """Bytes charged to other groups, which touched them first, the largest first; None for one that cannot be found."""
    uncharged: int
    """Charged to none: pages of the kernel and of devices."""

    @property
    def charged_elsewhere(self) -> int:
        """Bytes charged to other groups."""
        return sum(size for _, size in self.elsewhere)


@record
class Victim(Record):
    """Whom the OOM killer would take first."""

    pid: int
    name: str
    badness: int
    """Bytes: RSS, swap and page tables, and what oom_score_adj adds, which is a part of the limit that is hit."""
    oom_score: int
    """What the kernel says of it for the machine as a whole, where the same adjustment is a part of all RAM."""
    oom_score_adj: int


@record
class Oom(Record):
    """What would happen if the tightest limit were hit, or, without one, if RAM ran out."""

    limit: Limit | None
    victim: Victim | None
    nr_spared: int
    """Processes that are never killed (oom_score_adj -1000)."""
    nr_unknown: int
    """Processes of which it is not known how bad they are: the first could be one of them."""
    group: str | None
    """The cgroup that is killed as a whole with the victim (memory.oom.group); None when it dies alone."""
    is_off: bool
    """Whether nobody is killed, and whoever needs memory waits (memory.oom_control of version 1)."""


@record
class Charge(Record):
    """What a cgroup is charged, with the groups below it, in bytes."""

    cgroup: str
    """Its path, as /proc/PID/cgroup has it."""
    version: int
    charged: int | None
    """memory.current; None for the root, which nothing is charged to."""
    swap: int | None
    peak: int | None
    """The most it was charged so far; None before Linux 5.19 in version 2."""
    parts: tuple[ChargePart, ...]
    mapped_file: int | None
    """Of page cache and shared memory, what anybody maps."""
    unsure: int
    """Bytes by which the parts may be off: what is charged ahead and counted late, and what changed meanwhile."""
    nr_processes: int
    """Those of it, and of the groups below, that were looked at."""
    held: Held | None
    limits: tuple[Limit, ...]
    """Those of the group, then of each above it."""
    events: Mapping[str, int]
    """How often what happened, such as ``oom_kill``."""
    pressure: Pressure | None
    oom: Oom
    reading: Reading

    @property
    def rest(self) -> int | None:
        """Bytes charged that no part explains; below 0 where parts are counted late."""
        if self.charged is None or not self.parts:
            return None
        return self.charged - sum(part.size for part in self.parts if part.size is not None)

    @property
    def unknown(self) -> tuple[str, ...]:
        """The kinds that this kernel does not tell and that are in the rest."""
        unknown = tuple(part.kind for part in self.parts if part.size is None)
        return unknown if "kernel" in unknown else tuple(kind for kind in unknown if kind not in KERNEL)

    @property
    def mapped(self) -> int | None:
        """Bytes charged that processes of the group map; None where frames may not be seen."""
        known = [part.mapped for part in self.parts if part.mapped is not None]
        return sum(known) if known else None

    @property
    def unmapped_file(self) -> int | None:
        """Bytes of page cache and shared memory that nobody maps."""
        sizes = [part.size for part in self.parts if part.kind in ("shmem", "file")]
        if self.mapped_file is None or not sizes:
            return None
        return max(sum(size or 0 for size in sizes) - self.mapped_file, 0)

    @property
    def by_others(self) -> int | None:
        """Bytes charged of page cache and shared memory that only processes of other groups map."""
        mapped = [part.mapped for part in self.parts if part.kind in ("shmem", "file")]
        if self.mapped_file is None or None in mapped or not mapped:
            return None
        return max(self.mapped_file - sum(filter(None, mapped)), 0)

    @property
    def tightest(self) -> Limit | None:
        """The limit that is hit first, at which the kernel kills."""
        return tightest_of(self.limits, HARD)

    @property
    def headroom(self) -> int | None:
        """Bytes that are left of that; None without a limit."""
        return self.tightest.headroom if self.tightest else None


@record
class Nearness(Record):
    """How near a cgroup is to the limit that is hit first."""

    charged: int | None
    """None for the root, which nothing is charged to."""
    limit: Limit | None
    """Its own, or that of one above it; None without any."""

    @property
    def headroom(self) -> int | None:
        """Bytes that are left of that."""
        return self.limit.headroom if self.limit else None


def tightest_of(limits: Iterable[Limit], names: Sequence[str]) -> Limit | None:
    """Return the limit among those of some names that is hit first; None when there is none."""
    return min((limit for limit in limits if limit.name in names), key=lambda limit: limit.room, default=None)


def parts_of(amounts: Mapping[str, int], held: Held | None = None) -> tuple[ChargePart, ...]:
    """Return the parts of what is charged, given memory.stat by our names; none when that says nothing."""
    if "anon" not in amounts or "file" not in amounts:
        return ()
    sizes: dict[str, int | None] = {kind: amounts.get(kind) for kind in KINDS}
    shmem = amounts.get("shmem", 0)
    sizes["file"] = max(amounts["file"] - shmem, 0)
    # What is on the LRU lists is all that is anonymous, mapped or not, and all page cache.
    sizes["unmapped"] = max(amounts["lru"] - amounts["anon"] - amounts["file"], 0) if "lru" in amounts else None
    if sizes["kernel"] is not None:
        sizes["kernel"] = max(sizes["kernel"] - sum(sizes[kind] or 0 for kind in KERNEL), 0)
    mapped: dict[str, int] = {}
    if held:
        mapped = {kind: min(getattr(held, kind), sizes[kind] or 0) for kind in PAGES}
    return tuple(ChargePart(kind, sizes[kind], mapped.get(kind)) for kind in KINDS)


def unsure_of(before: Mapping[str, int], after: Mapping[str, int], nr_groups: int, nr_cpus: int, page_size: int) -> int:
    """Return by how many bytes the parts may be off, of a group that is one of so many with those below it.

    >>> unsure_of({"anon": 8192}, {"anon": 12288}, 1, 2, 4096) == 2 * 3 * 64 * 4096 + 4096
    True
    """
    batches = (BATCH * min(nr_groups, NR_STOCKS) + NR_LATE) * nr_cpus * page_size
    changed = sum(abs(after.get(kind, 0) - before.get(kind, 0)) for kind in (*PAGES, "lru", "kernel", "sock"))
    return batches + changed


def badness(held: int | None, adjustment: int, most: int | None) -> int | None:
    """Return how bad a process is to the OOM killer: mm/oom_kill.c, oom_badness(). None where that is not known.

    ``held`` is its RSS, swap and page tables, ``most`` all that there is, in bytes.

    >>> badness(3512, -100, 20000), badness(3512, 0, None), badness(3512, -100, None)
    (1512, 3512, None)
    """
    if adjustment == 0:
        return held
    return None if held is None or most is None else held + adjustment * most // 1000
