"""What the kernel has memory for, in parts that add up to the frames that are the kernel's.

Each part is what a counter of /proc/meminfo says, and has items, as far as anything tells what it is made of. What no
counter has is a part of its own. Memory of devices stands beside these: some of it is RAM that other parts have, some
is on the device.
"""

from __future__ import annotations

from mematlas.frozen import Record, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mematlas.analysis.ram import Ram
    from mematlas.analysis.results import Reading
    from mematlas.kernel.fdinfo import DmaBuf, DrmClient, DrmRegion
    from mematlas.kernel.slabinfo import SlabCache
    from mematlas.kernel.vmallocinfo import VmallocUse

KERNEL_USES = ("slab", "table", "zsmalloc", "kernel", "reserved")
"""Uses of frames (`mematlas.analysis.frames.USES`) that are the kernel's."""


@record
class KernelItem(Record):
    """One thing that a part of the kernel's memory is made of."""

    name: str
    """Of a cache, a function, a process or a buffer."""
    size: int
    used: int | None = None
    """Bytes of it that are in use."""
    nr: int | None = None
    """Objects, areas or tasks."""
    pids: tuple[int, ...] = ()
    """Whose it is."""
    aliases: tuple[str, ...] = ()
    """Other names: caches of one size are merged."""
    regions: tuple[DrmRegion, ...] = ()
    """Of a client of a graphics driver."""


@record
class KernelPart(Record):
    """A part of the kernel's memory; None is "not known"."""

    part: str
    """``slab``, ``vmalloc``, ``stack``, ``table``, ``percpu``, ``memmap``, ``zswap``, ``reserved``, ``other``; beside
    these ``dmabuf`` and ``drm``."""
    size: int | None
    items: tuple[KernelItem, ...] = ()
    """What is known of it, the largest first."""
    used: int | None = None
    nr: int | None = None
    is_summed: bool = True
    """Whether it is a part of the whole, and not memory that stands beside it."""

    @property
    def rest(self) -> int | None:
        """What of it no item has; None where no item is known at all. Below zero what came and went meanwhile."""
        if self.size is None or not self.items:
            return None
        return self.size - sum(item.size for item in self.items)


@record
class KernelResult(Record):
    """What the kernel has memory for."""

    parts: tuple[KernelPart, ...]
    size: int | None
    """Of all frames that are the kernel's; without rights, what its counters add up to."""
    is_by_frames: bool
    """Whether that was counted in frames."""
    reading: Reading


@record
class TaskCounts(Record):
    """A process, with what the kernel has for it."""

    pid: int
    name: str
    tables: int | None
    """Bytes of page tables; None where another process of the same address space has them."""
    nr_threads: int


def largest(items: Iterable[KernelItem]) -> tuple[KernelItem, ...]:
    """Return items that have anything, the largest first."""
    return tuple(sorted((item for item in items if item.size), key=lambda item: (-item.size, item.name)))


def slab_part(
    meminfo: Mapping[str, int], caches: Sequence[SlabCache], aliases: Mapping[str, tuple[str, ...]], page_size: int
) -> KernelPart:
    """Return the objects of the kernel, by cache. What no cache has are objects that are too large for any."""
    items = largest(
        KernelItem(
            name=cache.name,
            size=cache.nr_slabs * cache.pages_per_slab * page_size,
            used=cache.nr_active * cache.object_size,
            nr=cache.nr_active,
            aliases=aliases.get(cache.name, ()),
        )
        for cache in caches
    )
    used = sum(item.used or 0 for item in items) if items else None
    return KernelPart("slab", meminfo.get("Slab"), items, used, sum(item.nr or 0 for item in items) if items else None)


def vmalloc_parts(
    meminfo: Mapping[str, int],
    uses: Sequence[VmallocUse] | None,
    tasks: Iterable[TaskCounts],
    nr_tasks: int | None,
    page_size: int,
) -> tuple[KernelPart, KernelPart]:
    """Return memory that is mapped page by page, by who asked for it, and the stacks of tasks, by process.

    Stacks are asked for there too (CONFIG_VMAP_STACK), and counted once more by themselves: they are taken out. Those
    that nobody has now are kept for the next task. ``nr_tasks`` are all that there are, seen or not.
    """
    from mematlas.kernel.vmallocinfo import OF_STACKS

    stacks = meminfo.get("KernelStack")
    vmalloc = meminfo.get("VmallocUsed")
    of_stacks = [use for use in uses or () if use.caller in OF_STACKS]
    kept = 0
    if of_stacks and stacks is not None:
        kept = max(sum(use.nr_pages for use in of_stacks) * page_size - stacks, 0)
    if vmalloc is not None and stacks is not None and (uses is None or of_stacks):
        vmalloc = max(vmalloc - stacks, 0)
    items = [
        KernelItem(use.caller or "?", use.nr_pages * page_size, nr=use.nr_areas)
        for use in uses or ()
        if use not in of_stacks
    ]
    items += [KernelItem("stacks of no task", kept)]
    size = stack_size(of_stacks, stacks, nr_tasks, page_size)
    by_process = [
        KernelItem(task.name, task.nr_threads * size, nr=task.nr_threads, pids=(task.pid,) if task.pid else ())
        for task in tasks
    ]
    return (
        KernelPart("vmalloc", vmalloc, largest(items)),
        KernelPart("stack", stacks, largest(by_process), nr=nr_tasks),
    )


def stack_size(of_stacks: Iterable[VmallocUse], stacks: int | None, nr_tasks: int | None, page_size: int) -> int:
    """Return the bytes of the stack of one task: as it is asked for, or what comes out, which is a power of two pages.

    0 where nothing tells.

    >>> stack_size((), 1808 << 10, 118, 4096)
    16384
    """
    pages = max((use.most_pages for use in of_stacks), default=0)
    if not pages and stacks and nr_tasks:
        pages = 1 << max(round(stacks / nr_tasks / page_size).bit_length() - 1, 0)
    return pages * page_size


def table_part(meminfo: Mapping[str, int], tasks: Iterable[TaskCounts]) -> KernelPart:
    """Return the page tables, by process. What no process has is the kernel's, or a virtual machine's."""
    names = ("PageTables", "SecPageTables")
    size = sum(meminfo.get(name, 0) for name in names) if names[0] in meminfo else None
    items = [KernelItem(task.name, task.tables, pids=(task.pid,)) for task in tasks if task.tables]
    return KernelPart("table", size, largest(items))


def zswap_part(frames: int | None, vmstat: Mapping[str, int], meminfo: Mapping[str, int], page_size: int) -> KernelPart:
    """Return compressed swap, of zswap and of zram: ``frames`` are those that are told to be it, None where none are.

    The allocator of both counts its pages (zsmalloc). The line of meminfo is zswap's alone, whatever its allocator.
    """
    zspages, zswap = vmstat.get("nr_zspages"), meminfo.get("Zswap")
    told = (frames, None if zspages is None else zspages * page_size, zswap)
    return KernelPart("zswap", max((size for size in told if size is not None), default=None))


def reserved_part(
    frames: int | None, vmstat: Mapping[str, int], image: Mapping[str, int], page_size: int
) -> KernelPart:
    """Return what was taken before there was any counting: struct pages, the kernel itself, and what firmware keeps.

    ``image`` are the parts of the kernel's own image.
    """
    items = [KernelItem(name, size) for name, size in image.items()]
    # Since Linux commit 15995a352474 ("mm: report per-page metadata information") (in v6.10).
    if "nr_memmap_boot_pages" in vmstat:
        items.append(KernelItem("struct pages", vmstat["nr_memmap_boot_pages"] * page_size))
    return KernelPart("reserved", frames, largest(items), is_summed=frames is not None)


def memmap_part(vmstat: Mapping[str, int], page_size: int) -> KernelPart:
    """Return the struct pages of memory that was added later, and of huge pages that the pools gave back."""
    pages = vmstat.get("nr_memmap_pages")
    return KernelPart("memmap", None if pages is None else pages * page_size)


def other_part(total: int, parts: Iterable[KernelPart]) -> KernelPart:
    """Return what no other part has of the whole. What is not known of these, since no counter is there, is in it."""
    return KernelPart("other", total - sum(part.size or 0 for part in parts if part.is_summed))


def other_of_meminfo(ram: Ram, parts: Iterable[KernelPart]) -> KernelPart:
    """Return what no line of meminfo has, but for those parts that it does not add up either."""
    more = sum(part.size or 0 for part in parts if part.part in ("memmap", "zswap"))
    return KernelPart("other", None if ram.other is None else ram.other - more)


def dmabuf_part(
    buffers: Iterable[DmaBuf] | None, held: Mapping[int, Iterable[int]], seen: Iterable[DmaBuf]
) -> KernelPart:
    """Return the buffers that drivers share, each once.

    ``buffers`` are all there are, None where nothing tells; ``seen`` are those that processes have open, and ``held``
    who they are, by inode.
    """
    known = {buffer.inode: buffer for buffer in (*seen, *(buffers or ()))}
    items = [
        KernelItem(
            " ".join(filter(None, (buffer.exporter, buffer.name))) or "?",
            buffer.size,
            pids=tuple(sorted(held.get(inode, ()))),
        )
        for inode, buffer in known.items()
    ]
    if buffers is None:
        return KernelPart("dmabuf", None, largest(items), is_summed=False)
    size = sum(item.size for item in items)
    return KernelPart("dmabuf", size, largest(items), nr=len(items), is_summed=False)


def drm_part(clients: Iterable[tuple[int, DrmClient]], is_whole: bool) -> KernelPart:
    """Return the clients of graphics drivers, each once, whoever has it; given the process that each was seen in.

    What a client has that others have as well is in each of them.
    """
    known: dict[tuple[str, ...], tuple[DrmClient, set[int]]] = {}
    for pid, client in clients:
        # Numbers are unique on a device. Without one, each process is taken for a client.
        key = (client.driver, client.device, client.number or f"of {pid}")
        known.setdefault(key, (client, set()))[1].add(pid)
    items = [
        KernelItem(
            " ".join(filter(None, (client.driver, client.device, client.number))),
            sum(size_of(region) for region in client.regions),
            pids=tuple(sorted(pids)),
            regions=client.regions,
        )
        for client, pids in known.values()
    ]
    size = sum(item.size for item in items) if is_whole else None
    return KernelPart("drm", size, largest(items), nr=len(items) if is_whole else None, is_summed=False)


def size_of(region: DrmRegion) -> int:
    """Return what a client has in a region: what is resident, if its driver tells that; else of all its buffers."""
    return next((size for size in (region.resident, region.total) if size is not None), 0)
