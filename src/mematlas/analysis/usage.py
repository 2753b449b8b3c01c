"""How much memory: RSS, PSS, USS, swap and their parts, from either of two sources that must agree.

The kernel's own sums (smaps) and our count of page entries (pagemap, with kpagecount for the sharing) become the
same record, so that one can be checked against the other.
"""

from __future__ import annotations

from mematlas.kernel.maps import Vma
from mematlas.kernel.pagemap import BEHIND_MARKER, EXCLUSIVE, FILE, IS_SHARED, MARK_A, PM_PFRAME, PRESENT
from mematlas.model.pages import STATE_OF_BYTE
from mematlas.record import as_dict, record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from mematlas.kernel.pagemap import Block
    from mematlas.model.nodes import Sizes
    from mematlas.model.tablereader import VmaCounts

PSS_SHIFT = 12  # fs/proc/task_mmu.c: the kernel adds shares of pages in 1/4096 of a byte


@record
class Usage:
    """Amounts of one VMA or of a whole process, in bytes; counts of pages as ``nr_...``. None is "not known"."""

    rss: int | None
    """Resident: what the kernel counts. Not the zero page, not hugetlb."""
    pss: int | None
    """Each resident page divided by how often it is mapped."""
    uss: int | None
    """Resident pages mapped once."""
    swap: int | None
    anon: int | None
    """The part of RSS that belongs to no file."""
    file: int | None
    """The part that belongs to files on disk."""
    shmem: int | None
    """The part that is shared memory: shared anonymous, memfd, System V, tmpfs."""
    hugetlb: int | None
    """Pages of the hugetlb pools, which RSS leaves out."""
    thp: int | None
    """The part of RSS that is mapped by huge entries (transparent huge pages)."""
    zero: int | None
    """Addresses that map the zero page: read but never written, no memory of their own."""
    nr_pages: int
    nr_present: int | None
    """Entries with the present bit: resident, hugetlb and zero pages."""
    nr_swapped: int | None
    nr_exclusive: int | None
    """Present pages mapped once, hugetlb ones too."""
    lazyfree: int | None = None
    """The part of ``anon`` that was given up (MADV_FREE) and not written to since. smaps alone tells."""
    swap_pss: int | None = None
    """Each page in swap divided by how often it is mapped; without that of shared memory. smaps alone tells."""


def total(usages: Iterable[Usage]) -> Usage:
    """Return the sum; what is unknown in one is unknown in the sum."""
    sums: dict[str, Any] = dict.fromkeys(Usage.__match_args__, 0)
    for usage in usages:
        for name, amount in as_dict(usage).items():
            sums[name] = None if amount is None or sums[name] is None else sums[name] + amount
    return Usage(**sums)


def total_by_node(amounts: Iterable[Sizes], nodes: Iterable[int]) -> Sizes:
    """Return the sum of bytes by node, with each of ``nodes``.

    >>> total_by_node([{0: 4096}, {0: 4096, None: 8192}], (0, 2))
    {0: 8192, 2: 0, None: 8192}
    """
    sums: Sizes = dict.fromkeys(nodes, 0)
    for amount in amounts:
        for node, size in amount.items():
            sums[node] = sums.get(node, 0) + size
    return sums


def usage_of_fields(
    vma: Vma, fields: dict[str, int], page_size: int, nr_zero: int | None, is_hidden: bool = False
) -> Usage:
    """Return what smaps says of a VMA. It does not show zero pages: ``nr_zero`` is counted elsewhere.

    ``is_hidden`` tells that there may be pages which no file of the kernel shows.
    """
    rss = fields["Rss"]
    anon = fields["Anonymous"]
    uss = fields["Private_Clean"] + fields["Private_Dirty"]
    private_hugetlb = fields.get("Private_Hugetlb", 0)
    hugetlb = private_hugetlb + fields.get("Shared_Hugetlb", 0)
    nr_present = None if nr_zero is None else shown_present((rss + hugetlb) // page_size + nr_zero, is_hidden)
    return Usage(
        rss=rss,
        pss=fields["Pss"],
        uss=uss,
        swap=fields["Swap"],
        anon=anon,
        file=rss - anon if vma.kind != "shmem" else 0,
        shmem=rss - anon if vma.kind == "shmem" else 0,
        hugetlb=hugetlb,
        thp=sum(fields.get(name, 0) for name in ("AnonHugePages", "ShmemPmdMapped", "FilePmdMapped")),
        zero=None if nr_zero is None else nr_zero * page_size,
        nr_pages=vma.size // page_size,
        nr_present=nr_present,
        nr_swapped=fields["Swap"] // page_size,
        nr_exclusive=(uss + private_hugetlb) // page_size,
        lazyfree=fields.get("LazyFree"),  # since Linux 4.12, commit cf8496ea80a5
        swap_pss=fields.get("SwapPss"),  # since Linux 4.3, commit 8334b96221ff
    )


class PageCounts:
    """Counts the pages of one VMA by their state bytes, block after block."""

    def __init__(self) -> None:
        self.by_byte: dict[int, int] = {}

    def add(self, kinds: dict[int, int]) -> None:
        """Count the pages of a block, given how many of them have which state byte."""
        by_byte = self.by_byte
        for byte, nr_pages in kinds.items():
            by_byte[byte] = by_byte.get(byte, 0) + nr_pages

    def nr_with(self, mask: int, value: int) -> int:
        """Return the number of pages whose state byte, under a mask, has a value."""
        return sum(nr_pages for byte, nr_pages in self.by_byte.items() if byte & mask == value)

    def nr_state(self, state: str) -> int:
        """Return the number of pages counted that are in a state, such as ``"swapped"``."""
        return sum(nr_pages for byte, nr_pages in self.by_byte.items() if STATE_OF_BYTE[byte] == state)


def usage_of_pages(
    vma: Vma,
    counts: PageCounts,
    page_size: int,
    *,
    zero_known: bool,
    hole: str,
    sharers: dict[int, int] | None,
    thp: int | None,
) -> Usage:
    """Return what the page entries of a VMA add up to.

    ``hole`` is the state of the pages that were not counted. ``sharers`` tells how many resident pages have which
    map count, for those that are not exclusive; None when their frames or counts could not be read. A frame with a
    map count of 0 is present without being anybody's: it is no part of RSS.
    """
    nr_pages = vma.size // page_size
    nr_present = counts.nr_with(PRESENT, PRESENT)
    nr_exclusive = counts.nr_with(PRESENT | EXCLUSIVE, PRESENT | EXCLUSIVE)
    unknown = vma.kind == "shmem" and (hole == "unknown" or counts.nr_state("unknown"))
    nr_behind = counts.nr_with(PRESENT | BEHIND_MARKER, BEHIND_MARKER)
    nr_swapped = None if unknown else counts.nr_state("swapped") + nr_behind
    swap = None if nr_swapped is None else nr_swapped * page_size
    if vma.kind == "hugetlb":
        hugetlb = nr_present * page_size
        return Usage(0, 0, 0, swap, 0, 0, 0, hugetlb, 0, 0, nr_pages, nr_present, nr_swapped, nr_exclusive, 0, 0)
    nr_zero = counts.nr_with(PRESENT | MARK_A, PRESENT | MARK_A)
    nr_unmapped = sharers.get(0, 0) if sharers else 0
    nr_file = counts.nr_with(PRESENT | MARK_A | FILE, PRESENT | FILE)
    nr_resident = nr_present - nr_zero - nr_unmapped
    rss = nr_resident * page_size if zero_known else None
    of_file = nr_file * page_size
    return Usage(
        rss=rss,
        pss=None if sharers is None or rss is None else nr_exclusive * page_size + shared_pss(sharers, page_size),
        uss=nr_exclusive * page_size,
        swap=swap,
        anon=None if rss is None else rss - of_file,
        file=of_file if vma.kind != "shmem" else 0,
        shmem=of_file if vma.kind == "shmem" else 0,
        hugetlb=0,
        thp=thp,
        zero=nr_zero * page_size if zero_known else None,
        nr_pages=nr_pages,
        nr_present=shown_present(nr_present, hole == "unknown" and vma.kind != "shmem"),
        nr_swapped=nr_swapped,
        nr_exclusive=nr_exclusive,
        lazyfree=None if rss is None or rss > of_file else 0,
        swap_pss=0 if nr_swapped == 0 else None,
    )


def shown_present(nr_present: int, is_hidden: bool) -> int | None:
    """Return a number of present pages; None where there may be some that the kernel does not show (VM_PFNMAP)."""
    return None if is_hidden and nr_present == 0 else nr_present


def usage_of_tables(vma: Vma, sums: VmaCounts, page_size: int, hole: str) -> Usage:
    """Return what the page-table entries of a VMA add up to; see `usage_of_pages`."""
    counts = PageCounts()
    counts.add(sums.by_byte)
    sharers = None if sums.nr_unknown else sums.sharers
    usage = usage_of_pages(vma, counts, page_size, zero_known=True, hole=hole, sharers=sharers, thp=sums.thp)
    if not sums.nr_unknown:
        return usage
    # Pages whose map count could not be read may be the process's own or not; hugetlb pages are no part of USS.
    return replace(usage, uss=usage.uss if vma.kind == "hugetlb" else None, nr_exclusive=None)


def shared_pss(sharers: dict[int, int], page_size: int) -> int:
    """Return the bytes that fall to this process of pages mapped more than once, rounded as the kernel rounds."""
    shares = sum(
        nr_pages * ((page_size << PSS_SHIFT) // map_count) for map_count, nr_pages in sharers.items() if map_count
    )
    return shares >> PSS_SHIFT


def nr_shared(kinds: dict[int, int]) -> int:
    """Return how many pages of a block are resident and not exclusive, so that their map count matters."""
    return sum(nr_pages for byte, nr_pages in kinds.items() if byte & (PRESENT | EXCLUSIVE | MARK_A) == PRESENT)


def shared_frames(block: Block) -> list[int]:
    """Return the frames of the pages of a block that are resident and not exclusive."""
    if nr_shared(block.kinds) == len(block):
        return [entry & PM_PFRAME for entry in block.entries]
    wanted = block.states.translate(IS_SHARED)
    return [entry & PM_PFRAME for entry, picked in zip(block.entries, wanted, strict=True) if picked]
