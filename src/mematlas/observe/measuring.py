"""What the pages of one process come to, as one of many: from the kernel's own sums where reading these holds it up
for no more than `MAX_STALL`, else as `Process` counts them.

It may wait for ever: a child is to ask.
"""

from __future__ import annotations

from itertools import starmap

from mematlas.analysis.file_parts import bounded
from mematlas.analysis.overview import Facts, Measured, known_sum
from mematlas.analysis.ram import total_of
from mematlas.errors import NotSupported, PermissionDenied
from mematlas.kernel.pagemap import (
    FIRST_SPECIAL_TYPE,
    PAGE_IS_PRESENT,
    PM_PFRAME,
    PM_SWAP_OFFSET_SHIFT,
    PM_SWAP_TYPE,
    PRESENT,
    SWAP,
    Pacer,
    Pagemap,
)
from mematlas.kernel.smaps import read_smaps
from mematlas.kernel.smaps_rollup import read_rollup
from mematlas.model.processes import ENDED, SKIPPED, reason
from mematlas.model.stalls import hold_of
from mematlas.model.target import open_process
from mematlas.observe.process import Process
from mematlas.observe.sources import MAX_STALL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mematlas.analysis.file_parts import Part
    from mematlas.analysis.results import VmaUsage
    from mematlas.kernel.maps import Vma
    from mematlas.kernel.procfs import ProcessDir, ProcFS

    Amounts = tuple[Vma, int, int, int]
    """A VMA with what is in swap of the file that it maps, its own huge pages, and those that others map too."""
    Parts = tuple[Part, ...]

NO_PARTS: Parts = ()

SWAP_AREA = "swap area"
"""What stands for the device of a part of one; its number stands for the inode."""
MOST_PIECES = 256
"""Of swap areas: what is told of a process is one message."""
MOST_LOOSE = 1 << 16
"""Such pieces that are held before those that lie side by side are put together."""
MOST_BY_ENTRIES = 16 << 30
"""Bytes of a VMA of which all entries are looked at: 32 MiB of them."""
ARE_PRESENT = rb"[\x80-\xff]+"
"""State bytes of pages that are present."""
OPENING = 0.0005
"""Seconds that measuring any process takes."""
PER_OWN_PAGE, PER_SHARED_PAGE, PER_COUNTED_PAGE = 38e-9, 1.2e-6, 0.15e-6
"""Seconds for counting a page: by pagemap; if others map it too, where kpagecount is asked how many; and where that is
counted in the kernel, by page tables."""


def cost_of(facts: Facts, page_size: int, counts_in_kernel: bool) -> float:
    """Return the seconds that measuring a process will take."""
    hold = hold_of(facts.rss, page_size)
    if hold <= MAX_STALL:
        return OPENING + hold
    anon = known_sum(facts.anon)
    per_shared = PER_COUNTED_PAGE if counts_in_kernel else PER_SHARED_PAGE
    return OPENING + (anon * PER_OWN_PAGE + (facts.rss - anon) * per_shared) / page_size


def measure(facts: Facts, procfs: ProcFS) -> Measured | str:
    """Return what the pages of a process come to, or why that is not known."""
    try:
        process, stat = open_process(facts.pid, procfs)
        if stat.start_time != facts.start_time:
            process.close()
            return ENDED
        if hold_of(facts.rss, procfs.page_size) <= MAX_STALL:
            with process:
                return by_sums(process)
        with Process(process) as whole:
            return by_vmas(process, whole.maps(max_stall=MAX_STALL, first_pages=False).vmas)
    except SKIPPED as error:
        return reason(error)


def by_sums(process: ProcessDir) -> Measured:
    """Return what the kernel's own sums say; of which files it is, where that matters, smaps says."""
    sums = read_rollup(process)
    swap, hugetlb = sums.get("Swap"), total_of(sums.get("Private_Hugetlb"), sums.get("Shared_Hugetlb"))
    swap_pss = None if swap is None else sums.get("SwapPss")
    own_hugetlb, swap_parts, hugetlb_parts = hugetlb, NO_PARTS, NO_PARTS
    if hugetlb or swap != swap_pss:
        own_hugetlb, swap_parts, hugetlb_parts = parts_by_smaps(process)
    return Measured(
        pss=sums.get("Pss"),
        uss=total_of(sums.get("Private_Clean"), sums.get("Private_Dirty")),
        swap_pss=swap_pss,
        own_hugetlb=own_hugetlb,
        swap_parts=swap_parts,
        hugetlb_parts=hugetlb_parts,
    )


def parts_by_smaps(process: ProcessDir) -> tuple[int, Parts, Parts]:
    """Return what `parts_of` does, as smaps says it."""
    return parts_of(process, starmap(amounts_in, read_smaps(process)))


def amounts_in(vma: Vma, fields: dict[str, int]) -> Amounts:
    """Return what matters of an entry of smaps.

    ``Swap`` has the swapped pages of shared memory, which ``SwapPss`` leaves out (fs/proc/task_mmu.c,
    smap_gather_stats()). Of a private mapping of such a file it may have private pages too, which that has.
    """
    in_swap = fields.get("Swap", 0) if vma.inode and (is_shared(vma) or not fields.get("SwapPss")) else 0
    return vma, in_swap, fields.get("Private_Hugetlb", 0), fields.get("Shared_Hugetlb", 0)


def by_vmas(process: ProcessDir, vmas: Sequence[VmaUsage]) -> Measured:
    """Return what VMAs that were counted come to together."""
    page_size = process.procfs.page_size
    amounts = []
    for item in vmas:
        in_swap = known_sum(item.swap) if item.kind == "shmem" else 0
        hugetlb = known_sum(item.hugetlb)
        own = min(known_sum(item.nr_exclusive) * page_size, hugetlb)
        amounts.append((item.vma, in_swap, own, hugetlb - own))
    own_hugetlb, swap_parts, hugetlb_parts = parts_of(process, amounts)
    swap_pss = total_of(*(item.swap_pss for item in vmas))
    if swap_pss is None:
        slots = slots_of(process, [item.vma for item in vmas if item.swap and item.kind != "shmem"])
        if slots is not None:
            swap_pss, swap_parts = 0, swap_parts + slots
    return Measured(
        pss=total_of(*(item.pss for item in vmas)),
        uss=total_of(*(item.uss for item in vmas)),
        swap_pss=swap_pss,
        own_hugetlb=None if None in (item.hugetlb for item in vmas) else own_hugetlb,
        swap_parts=swap_parts,
        hugetlb_parts=hugetlb_parts,
    )


def parts_of(process: ProcessDir, amounts: Iterable[Amounts]) -> tuple[int, Parts, Parts]:
    """Return the huge pages that are a process's own, and the parts of files that are in swap, and in huge pages."""
    own_hugetlb = 0
    swap_parts: list[Part] = []
    hugetlb_parts: list[Part] = []
    for vma, in_swap, own, shared in amounts:
        whole = vma.dev, vma.inode, vma.offset, vma.offset + vma.size
        if in_swap:
            swap_parts.append((*whole, in_swap))
        if not is_shared(vma):
            own_hugetlb += own
            if shared:
                hugetlb_parts.append((*whole, shared))
        elif own or shared:
            hugetlb_parts += present_parts(process, vma) or [(*whole, own + shared)]
    return own_hugetlb, tuple(bounded(swap_parts, process.pid)), tuple(bounded(hugetlb_parts, process.pid))


def present_parts(process: ProcessDir, vma: Vma) -> list[Part]:
    """Return the parts of its file that a process has touched through a VMA; none where that takes too long.

    The kernel looks at one entry for each huge page; before PAGEMAP_SCAN it shows as many as there are small pages.
    """
    move = vma.offset - vma.start
    try:
        with Pagemap(process) as pagemap:
            try:
                ranges = list(pagemap.scanner.ranges(vma.start, vma.end, PAGE_IS_PRESENT))
            except NotSupported:
                ranges = present_ranges(pagemap, vma) if vma.size <= MOST_BY_ENTRIES else []
    except (NotSupported, PermissionDenied):
        return []
    return [(vma.dev, vma.inode, low + move, high + move, high - low) for low, high in ranges]


def present_ranges(pagemap: Pagemap, vma: Vma) -> list[tuple[int, int]]:
    """Return the ranges of a VMA that are present, by its entries."""
    import re

    ranges: list[tuple[int, int]] = []
    for block in pagemap.blocks(vma.start, vma.end):
        for run in re.finditer(ARE_PRESENT, block.states):
            low, high = (block.address + place * pagemap.page_size for place in run.span())
            if ranges and ranges[-1][1] == low:
                low = ranges.pop()[0]
            ranges.append((low, high))
    return ranges


def slots_of(process: ProcessDir, vmas: Iterable[Vma]) -> Parts | None:
    """Return the slots of swap that private memory is in, as parts of the areas: forks have the same ones.

    None where we may not know them, and where they lie in more pieces than `MOST_PIECES`.
    """
    page_size = process.procfs.page_size
    pieces: list[list[int]] = []
    try:
        with Pagemap(process, Pacer()) as pagemap:
            for vma in vmas:
                for area, slot in slots_in(pagemap, vma):
                    if pieces and pieces[-1][0] == area and pieces[-1][2] == slot:
                        pieces[-1][2] += 1
                    elif slot == 0:  # the first one is the area's own: it is hidden
                        return None
                    else:
                        # What lies side by side in memory need not in swap: 7.3 gives out slots downwards as well.
                        if len(pieces) == MOST_LOOSE and len(pieces := put_together(pieces)) > MOST_LOOSE // 2:
                            return None
                        pieces.append([area, slot, slot + 1])
    except (NotSupported, PermissionDenied):
        return None
    pieces = put_together(pieces)
    if len(pieces) > MOST_PIECES:
        return None
    return tuple(
        (SWAP_AREA, area, start * page_size, end * page_size, (end - start) * page_size) for area, start, end in pieces
    )


def put_together(pieces: list[list[int]]) -> list[list[int]]:
    """Return pieces of swap areas in order, those that lie side by side as one.

    >>> put_together([[0, 7, 9], [0, 5, 7], [1, 3, 4]])
    [[0, 5, 9], [1, 3, 4]]
    """
    whole: list[list[int]] = []
    for area, start, end in sorted(pieces):
        if whole and whole[-1][0] == area and whole[-1][2] == start:
            whole[-1][2] = end
        else:
            whole.append([area, start, end])
    return whole


def slots_in(pagemap: Pagemap, vma: Vma) -> Iterator[tuple[int, int]]:
    """Yield the swap area and the slot of each page of a VMA that is in swap."""
    for block in pagemap.blocks(vma.start, vma.end):
        if not any(byte & SWAP for byte in block.kinds):
            continue
        for byte, entry in zip(block.states, block.entries, strict=True):
            area = entry & PM_SWAP_TYPE
            if byte & (PRESENT | SWAP) == SWAP and area < FIRST_SPECIAL_TYPE:
                yield area, (entry & PM_PFRAME) >> PM_SWAP_OFFSET_SHIFT


def is_shared(vma: Vma) -> bool:
    """Whether what is written there is written to the file."""
    return vma.perms[3:] == "s"
