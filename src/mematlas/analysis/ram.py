"""What the RAM of a machine is used for, in parts that add up.

/proc/meminfo counts each frame under what it is, and not under who has it: memory that processes share by a file of
tmpfs is one with a file there that nobody maps. What meminfo has no line for is a part of its own.
"""

from __future__ import annotations

from mematlas.frozen import Record, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@record
class Ram(Record):
    """The parts of RAM, in bytes; None is "not reported". See `account`."""

    total: int | None
    available: int | None
    """What programs can have without anything being swapped out, as the kernel estimates."""
    anon: int | None
    """Anonymous memory of processes."""
    shmem: int | None
    """tmpfs, memfd, and memory shared without a file, be it mapped or not."""
    hugetlb: int | None
    """The pools of huge pages, used or not."""
    kernel: int | None
    """What the kernel cannot give back: slabs, page tables, stacks, vmalloc, per-CPU memory."""
    page_cache: int | None
    """Files and the devices they lie on; some of it is mapped."""
    kernel_caches: int | None
    """What the kernel can give back: names and inodes of files, above all."""
    free: int | None
    mapped: int | None
    """The part of ``page_cache`` and ``shmem`` that some process maps."""
    cpu_free: int | None
    """Free pages that CPUs keep for themselves: no part of ``free``, nor of ``available``."""
    hugetlb_free: int | None
    """The part of ``hugetlb`` that nobody uses."""
    swap_total: int | None
    swap_free: int | None

    @property
    def in_use(self) -> int | None:
        """What is not available."""
        return less(self.total, self.available)

    @property
    def other(self) -> int | None:
        """What no line reports: memory of drivers, buffers of the network, compressed swap, swap cache.

        Below zero where its lines, which lag behind by some pages for each CPU, add up to more than there is.
        """
        parts = (self.anon, self.shmem, self.hugetlb, self.kernel, self.page_cache, self.kernel_caches, self.free)
        return less(self.total, total_of(*parts, self.cpu_free or 0))

    @property
    def reserve(self) -> int | None:
        """What of ``page_cache``, ``kernel_caches`` and ``free`` is not available: the kernel keeps it for itself."""
        return less(total_of(self.page_cache, self.kernel_caches, self.free), self.available)

    @property
    def pss(self) -> int | None:
        """The PSS of all processes together: each page that is mapped, once. hugetlb is no part of it."""
        return total_of(self.anon, self.mapped)

    @property
    def in_swap(self) -> int | None:
        """What of the swap areas is used."""
        return less(self.swap_total, self.swap_free)


def known_sum(*sizes: int | None) -> int:
    """Return the sum of what is known: to put things in order by, not to show."""
    return sum(size for size in sizes if size is not None)


def largest_of(sizes: Iterable[int | None]) -> int | None:
    """Return the largest, 0 of none; None where one is not known."""
    sizes = list(sizes)
    return None if None in sizes else max([0, *filter(None, sizes)])


def total_of(*sizes: int | None) -> int | None:
    """Return a sum; None where a part of it is not reported.

    >>> total_of(1, 2), total_of(1, None)
    (3, None)
    """
    return None if None in sizes else sum(size for size in sizes if size is not None)


def less(size: int | None, other: int | None) -> int | None:
    """Return a difference; None where either is not reported."""
    return None if size is None or other is None else size - other


def account(meminfo: Mapping[str, int], cpu_free: int | None = None, hugetlb_free: int | None = None) -> Ram:
    """Return the parts of RAM, given the lines of meminfo in bytes.

    ``total`` is ``anon + shmem + hugetlb + kernel + page_cache + kernel_caches + free + cpu_free + other``, and
    ``in_use`` is ``anon + shmem + hugetlb + kernel + cpu_free + other + reserve``. A kernel without huge pages has none
    of their lines.

    >>> ram = account({"MemTotal": 100, "MemFree": 40, "MemAvailable": 55, "AnonPages": 20, "Cached": 25, "Buffers": 0,
    ...     "Shmem": 5, "Slab": 6, "SReclaimable": 4, "Mapped": 7})
    >>> ram.page_cache, ram.kernel, ram.kernel_caches, ram.other, ram.in_use, ram.reserve, ram.pss
    (20, 2, 4, 9, 45, 9, 27)
    """
    get = meminfo.get
    # Stacks lie in vmalloc memory, and are counted there (CONFIG_VMAP_STACK), or they do not.
    stacks = get("KernelStack", 0)
    vmalloc = max(get("VmallocUsed", 0) - stacks, 0)
    others = ("PageTables", "SecPageTables", "Percpu", "WritebackTmp")
    parts = (stacks, vmalloc, *(get(name, 0) for name in others))
    # Since Linux commit 61f94e18de94 ("mm, proc: add KReclaimable to /proc/meminfo") (in v4.20) there is more than
    # slabs in it.
    reclaimable = get("KReclaimable", get("SReclaimable"))
    return Ram(
        total=get("MemTotal"),
        available=get("MemAvailable"),
        anon=get("AnonPages"),
        shmem=get("Shmem"),
        hugetlb=get("Hugetlb", 0) if meminfo else None,
        kernel=total_of(less(get("Slab"), get("SReclaimable")), *parts),
        page_cache=less(total_of(get("Cached"), get("Buffers")), get("Shmem")),
        kernel_caches=reclaimable,
        free=get("MemFree"),
        mapped=get("Mapped"),
        cpu_free=cpu_free,
        hugetlb_free=hugetlb_free,
        swap_total=get("SwapTotal"),
        swap_free=get("SwapFree"),
    )
