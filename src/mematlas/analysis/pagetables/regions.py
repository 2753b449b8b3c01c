"""The kernel half: its named regions, what is mapped in each, and what RAM the direct map leaves out."""

from __future__ import annotations

from itertools import pairwise

from mematlas.analysis.pagetables.leaves import leaves_of
from mematlas.arrays import np
from mematlas.frozen import record
from mematlas.kernel.memory.x86 import PAGE_SHIFT, U64
from mematlas.model.pagetables.walk import Span, Walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


@record
class Region:
    """A named part of the kernel half."""

    name: str
    start: int
    end: int


# Documentation/arch/x86/x86_64/mm.rst: what has the same addresses on every kernel, with 4 levels and with 5.
X86_FIXED = (
    Region("cpu entry area", 0xFFFFFE0000000000, 0xFFFFFE8000000000),
    Region("espfix", 0xFFFFFF0000000000, 0xFFFFFF8000000000),
    Region("efi", 0xFFFFFFEF00000000, 0xFFFFFFFF00000000),
    Region("kernel text", 0xFFFFFFFF80000000, 0xFFFFFFFFC0000000),
    Region("modules", 0xFFFFFFFFC0000000, 0xFFFFFFFFFF000000),
    Region("fixmap", 0xFFFFFFFFFF000000, 0xFFFFFFFFFF600000),
    Region("vsyscall", 0xFFFFFFFFFF600000, 0xFFFFFFFFFF601000),
    Region("fixmap", 0xFFFFFFFFFF601000, 0xFFFFFFFFFFE00000),
)
# LDT_BASE_ADDR and the size of an entry of the top table: entry -240 with 4 levels and with 5 since d52888aa2753
# ("x86/mm: Move LDT remap out of KASLR region on 5-level paging", v4.20). Not moved with the direct map behind it.
X86_LDT = {4: (0xFFFF880000000000, 1 << 39), 5: (0xFF10000000000000, 1 << 48)}


def kernel_regions(
    nr_levels: int, direct_map: int, ram_end: int, vmemmap: int | None, page_struct_size: int, image_size: int = 1 << 30
) -> list[Region]:
    """Return the regions of the kernel half of x86-64, in order, by what is known of this boot.

    The direct map, vmalloc and vmemmap are moved by KASLR, in this order; vmalloc is what lies between. The kernel's
    image may take ``image_size`` (KERNEL_IMAGE_SIZE: 512 MiB without KASLR); modules follow it.

    >>> [region.name for region in kernel_regions(4, 0xFFFF888000000000, 24 << 30, None, 64)][:3]
    ['ldt', 'direct map', 'vmalloc']
    """
    ldt, ldt_size = X86_LDT[nr_levels]
    direct_end = _gib_above(direct_map + ram_end)
    regions = [Region("ldt", ldt, ldt + ldt_size), Region("direct map", direct_map, direct_end)]
    if vmemmap is None:
        regions.append(Region("vmalloc", direct_end, X86_FIXED[0].start))
    else:
        vmemmap_end = _gib_above(vmemmap + (ram_end >> PAGE_SHIFT) * page_struct_size)
        regions += [Region("vmalloc", direct_end, vmemmap), Region("vmemmap", vmemmap, vmemmap_end)]
    for region in X86_FIXED:
        start, end = region.start, region.end
        if region.name == "kernel text":
            end = start + image_size
        elif region.name == "modules":
            start = 0xFFFFFFFF80000000 + image_size
        regions.append(Region(region.name, start, end))
    return regions


def _gib_above(address: int) -> int:
    return -(-address >> 30) << 30


def region_of(regions: Sequence[Region], address: int) -> str | None:
    """Return the name of the region that an address lies in; None between regions."""
    return next((region.name for region in regions if region.start <= address < region.end), None)


def region_sizes(walked: Walk, regions: Sequence[Region]) -> dict[str | None, int]:
    """Return the bytes mapped in each region, by name; under None, those in no region.

    >>> region_sizes(kernel_half, regions)["direct map"]  # doctest: +SKIP
    25769803776
    """
    sizes: dict[str | None, int] = {}
    starts = np.array([region.start for region in regions], np.uint64)
    lasts = np.array([region.end - 1 & U64 for region in regions], np.uint64)
    for level, description in enumerate(walked.mode.levels):
        if not description.can_map:
            continue
        # A leaf belongs to the region where it begins: regions begin and end at 1 GiB, or where small pages are.
        leaves = leaves_of(walked, level)
        indices = np.searchsorted(starts, leaves.addresses, side="right") - 1
        outside = (indices < 0) | (leaves.addresses > lasts[indices])
        indices = np.where(outside, len(regions), indices)
        counts = np.bincount(indices, minlength=len(regions) + 1).tolist()
        for index, nr in enumerate(counts):
            name = regions[index].name if index < len(regions) else None
            if nr:
                sizes[name] = sizes.get(name, 0) + nr * leaves.size
    return sizes


def unmapped_ram(walked: Walk, base: int, ranges: Sequence[tuple[int, int]], left: int | None = None) -> int:
    """Return the bytes of RAM that the direct map, from ``base`` on, leaves out; of ``left``, from the parts before."""
    total = sum(end - start for start, end in ranges) if left is None else left
    highest = max((end for _, end in ranges), default=0)
    spans: list[Span] = []
    for level, description in enumerate(walked.mode.levels):
        if not description.can_map:
            continue
        leaves = leaves_of(walked, level)
        in_ram = (leaves.addresses >= base) & (leaves.addresses < base + highest)
        starts = leaves.addresses[in_ram] - np.uint64(base)
        if not len(starts):
            continue
        cuts = np.flatnonzero(np.diff(starts) != leaves.size) + 1
        for low, high in pairwise([0, *cuts.tolist(), len(starts)]):
            spans.append((int(starts[low]), int(starts[high - 1]) + leaves.size))
    return total - sum(_overlap(span, ram) for span in spans for ram in ranges)


def _overlap(one: Span, other: Span) -> int:
    return max(0, min(one[1], other[1]) - max(one[0], other[0]))
