"""How much memory: RSS, PSS, USS, swap and their parts, from either of two sources that must agree.

The kernel's own sums (smaps) and our count of page entries (pagemap, with kpagecount for the sharing) become the
same record, so that one can be checked against the other.
"""

from __future__ import annotations

from mematlas.frozen import Record, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from mematlas.kernel.maps import Vma
    from mematlas.model.nodes import Sizes


@record
class Usage(Record):
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
    """The part of ``anon`` that was given up (MADV_FREE) and not written to since. Only smaps reports it."""
    swap_pss: int | None = None
    """Each page in swap divided by how often it is mapped; without that of shared memory. Only smaps reports it."""


class HasUsage:
    """Amounts that can be asked of a result directly: see `Usage` for what each is."""

    __slots__ = ()
    usage: Usage

    @property
    def rss(self) -> int | None:
        """Resident bytes."""
        return self.usage.rss

    @property
    def pss(self) -> int | None:
        """Each resident page divided by how often it is mapped."""
        return self.usage.pss

    @property
    def uss(self) -> int | None:
        """Resident bytes of pages mapped once."""
        return self.usage.uss

    @property
    def swap(self) -> int | None:
        """Bytes in swap."""
        return self.usage.swap

    @property
    def anon(self) -> int | None:
        """The part of RSS that belongs to no file."""
        return self.usage.anon

    @property
    def file(self) -> int | None:
        """The part of RSS that belongs to files on disk."""
        return self.usage.file

    @property
    def shmem(self) -> int | None:
        """The part of RSS that is shared memory."""
        return self.usage.shmem

    @property
    def hugetlb(self) -> int | None:
        """Bytes of hugetlb pages, which RSS leaves out."""
        return self.usage.hugetlb

    @property
    def thp(self) -> int | None:
        """The part of RSS that is mapped by huge entries."""
        return self.usage.thp

    @property
    def zero(self) -> int | None:
        """Addresses that map the zero page, in bytes."""
        return self.usage.zero

    @property
    def nr_pages(self) -> int:
        """Pages of address space."""
        return self.usage.nr_pages

    @property
    def nr_present(self) -> int | None:
        """Entries with the present bit."""
        return self.usage.nr_present

    @property
    def nr_swapped(self) -> int | None:
        """Pages in swap."""
        return self.usage.nr_swapped

    @property
    def nr_exclusive(self) -> int | None:
        """Present pages mapped once."""
        return self.usage.nr_exclusive

    @property
    def lazyfree(self) -> int | None:
        """The part of ``anon`` that was given up."""
        return self.usage.lazyfree

    @property
    def swap_pss(self) -> int | None:
        """Each page in swap divided by how often it is mapped."""
        return self.usage.swap_pss


def total(usages: Iterable[Usage]) -> Usage:
    """Return the sum; what is unknown in one is unknown in the sum."""
    # VMAs that are alike often share one record: it is looked at once.
    every = list(usages)
    numbers: dict[int, int] = {}
    for key in map(id, every):
        numbers[key] = numbers.get(key, 0) + 1
    distinct = {id(usage): usage for usage in every}.values()
    sums: dict[str, Any] = {}
    for name in Usage.__match_args__:
        amounts = [getattr(usage, name) for usage in distinct]
        is_unknown = None in amounts
        sums[name] = None if is_unknown else sum([n * size for n, size in zip(numbers.values(), amounts, strict=True)])
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


THP_FIELDS = ("AnonHugePages", "ShmemPmdMapped", "FilePmdMapped")
"""The lines of smaps that transparent huge pages are in."""


def usage_of_fields(
    vma: Vma, fields: dict[str, int], page_size: int, nr_zero: int | None, is_hidden: bool = False
) -> Usage:
    """Return what smaps says of a VMA. It does not show zero pages: ``nr_zero`` is counted elsewhere.

    ``is_hidden`` says that there may be pages which no file of the kernel shows.
    """
    rss = fields["Rss"]
    anon = fields["Anonymous"]
    uss = fields["Private_Clean"] + fields["Private_Dirty"]
    private_hugetlb = fields.get("Private_Hugetlb", 0)
    hugetlb = private_hugetlb + fields.get("Shared_Hugetlb", 0)
    nr_present: int | None = None
    if nr_zero is not None:
        nr_present = shown_present((rss + hugetlb) // page_size + nr_zero, is_hidden)
    return Usage(
        rss=rss,
        pss=fields["Pss"],
        uss=uss,
        swap=fields["Swap"],
        anon=anon,
        file=rss - anon if vma.kind != "shmem" else 0,
        shmem=rss - anon if vma.kind == "shmem" else 0,
        hugetlb=hugetlb,
        thp=sum(fields.get(name, 0) for name in THP_FIELDS),
        zero=None if nr_zero is None else nr_zero * page_size,
        nr_pages=vma.size // page_size,
        nr_present=nr_present,
        nr_swapped=fields["Swap"] // page_size,
        nr_exclusive=(uss + private_hugetlb) // page_size,
        lazyfree=fields.get("LazyFree"),  # since Linux 4.12, commit cf8496ea80a5
        swap_pss=fields.get("SwapPss"),  # since Linux 4.3, commit 8334b96221ff
    )


def shown_present(nr_present: int, is_hidden: bool) -> int | None:
    """Return a number of present pages; None where there may be some that the kernel does not show (VM_PFNMAP)."""
    return None if is_hidden and nr_present == 0 else nr_present
