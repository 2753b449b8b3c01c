"""struct page: how many times each frame is mapped, copied from the kernel's own array of them.

The array (vmemmap) has one struct page per frame, in order. It is found with a page of our own: spliced into a pipe,
the pipe holds the address of its struct page, and /proc/self/pagemap its frame. What is read is compared with
/proc/kpagecount before anybody gets it: where they disagree, this way is refused.

Sources: include/linux/mm_types.h, include/linux/mm.h (folio_precise_page_mapcount), fs/proc/page.c.
"""

from __future__ import annotations

from mematlas.arrays import Bools, Counts, NDArray, Words, np
from mematlas.errors import NotSupported
from mematlas.kernel.kconfig import counts_are_averages
from mematlas.kernel.kpage import KPF_ANON, KPF_COMPOUND, KPF_HUGE, read_frame_words
from mematlas.kernel.memory.compound import head_word, heads_of
from mematlas.kernel.memory.memory import KernelMemory
from mematlas.kernel.memory.ownpages import OwnPages
from mematlas.kernel.memory.x86 import PAGE, PAGE_SHIFT
from mematlas.kernel.procfs import ProcFS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


NR_SAMPLES = 256
NOWHERE = np.zeros(0, np.intp)
UNKNOWN_COUNT = -1
"""The count of a frame that has no struct page in RAM, or whose struct page could not be read."""

GUP_PIN_COUNTING_BIAS = 1024
"""References that one pin of a page counts as: include/linux/mm.h."""


class StructPages:
    """The kernel's array of struct pages. Made by `open_struct_pages`.

    >>> pages = open_struct_pages(memory)  # doctest: +SKIP
    >>> pages.map_counts(np.array([0x1A2B3C, 0x1A2B3D], np.uint64))  # doctest: +SKIP
    array([1, 37], dtype=int32)
    """

    def __init__(self, memory: KernelMemory, base: int) -> None:
        layout = memory.layout
        self.memory = memory
        self.base = base
        """The address of the struct page of frame 0."""
        self.size = layout["page"]
        if PAGE % self.size or base % PAGE:
            raise NotSupported(f"struct pages of {self.size} bytes", "struct pages that fill pages evenly")
        memory.open_frame_array(base, self.size)
        self.nr_per_page = PAGE // self.size
        self.nr_read = 0
        """Pages of the array read so far."""
        self.large = NOWHERE
        """Where, among the frames whose counts were asked for last, those are that belong to large folios."""
        self._count_index = layout["page._mapcount"] // 4
        self._head_index = head_word(layout) // 8
        # The folio's, where it has one: that of struct page is to go.
        names = ("folio.mapping", "page.mapping")
        name = next((name for name in names if name in layout), names[-1])
        self._mapping_word = layout[name] // 8
        # Before folios carried it (v6.3), large folios are left to kpagecount.
        self._entire = layout.values.get("folio._entire_mapcount")

    def __repr__(self) -> str:
        return f"<StructPages of {self.size} bytes at {self.base:#x}>"

    def address_of(self, pfn: int) -> int:
        """Return the address of a frame's struct page."""
        return self.base + pfn * self.size

    def map_counts(self, pfns: Words) -> Counts:
        """Return how many times each frame is mapped, as the kernel counts it; -1 where it is not known.

        Frames are best given in the order of a process's page tables: neighbours are then mostly neighbours in the
        array too, which is read a page at a time, and no sorting is needed.
        """
        self.large = NOWHERE
        if not len(pfns):
            return np.empty(0, np.int32)
        pages, indexes = self._locate(pfns)
        own, head_words = self._read(pages)
        counts: Counts = own.reshape(-1).take(indexes)
        if (head_words & np.uint64(1)).any():
            words = head_words.reshape(-1).take(indexes >> 1)
            in_large = (words & np.uint64(1)).astype(np.bool_)
            chosen = np.flatnonzero(in_large & (counts != UNKNOWN_COUNT))
            self.large = chosen
            if chosen.size:
                self._add_large(counts, pfns, chosen, heads_of(self._addresses_of(pfns[chosen]), words[chosen]))
        return counts

    def are_anonymous(self, pfns: Words) -> Bools:
        """Return which frames hold memory of no file (folio_test_anon); False for what is nobody's.

        The lowest bit of the mapping says so, in the struct page of the folio's head.
        """
        if not len(pfns):
            return np.empty(0, np.bool_)
        pages, indexes = self._locate(pfns)
        shape = (len(pages), self.nr_per_page)
        mappings, heads = np.zeros(shape, np.uint64), np.zeros(shape, np.uint64)
        in_ram = self._in_ram(pages)
        addresses = np.where(in_ram, np.uint64(self.base) + (pages << np.uint64(PAGE_SHIFT)), np.uint64(0))
        nr_words = self.size // 8
        for rows, data, good in self.memory.frame_pages(addresses):
            mappings[rows][good] = data[good, self._mapping_word :: nr_words]
            heads[rows][good] = data[good, self._head_index :: nr_words]
        chosen = mappings.reshape(-1).take(indexes)
        heads = heads.reshape(-1).take(indexes)
        tails = np.flatnonzero(heads & np.uint64(1))
        if tails.size:
            found = heads_of(self._addresses_of(pfns[tails]), heads[tails])
            unique, which = np.unique(found, return_inverse=True)
            checked, good = self.checked(unique)
            words, read = self.memory.frame_words(checked + np.uint64(8 * self._mapping_word))
            chosen[tails] = np.where(good & read, words, np.uint64(0))[which]
        result: Bools = (chosen & np.uint64(1)).astype(np.bool_)
        return result

    def are_pinned(self, pfns: Words) -> Bools | None:
        """Return which frames are held in place (pin_user_pages), of pages that are mapped once; None if unknown.

        include/linux/mm.h, folio_maybe_dma_pinned(): each pin adds so many references to a single page. Large folios
        count pins elsewhere: theirs are not found here.
        """
        offset = self.memory.layout.values.get("page._refcount")
        if offset is None:
            return None
        self.map_counts(pfns)
        words, good = self.memory.frame_words(self._addresses_of(pfns) + np.uint64(offset & ~7))
        references = numbers_at(words, offset)
        pinned: Bools = good & (references >= GUP_PIN_COUNTING_BIAS)
        pinned[self.large] = False
        return pinned

    def table_shares(self, tables: Words) -> Counts:
        """Return how many more processes each page table is part of, by its physical address; -1 where unknown.

        Processes that map the same GiB of a hugetlb file share the table of its huge pages (mm/hugetlb.c,
        huge_pmd_share()), each of which is then mapped once.
        """
        offset, own = self.memory.layout.share_count()
        if offset is None:
            return np.full(len(tables), UNKNOWN_COUNT, np.int32)
        addresses = self._addresses_of(tables >> np.uint64(PAGE_SHIFT))
        words, good = self.memory.frame_words(addresses + np.uint64(offset & ~7))
        counts = numbers_at(words, offset) - np.int32(own)
        return np.where(good & (counts >= 0), counts, np.int32(UNKNOWN_COUNT))

    def _addresses_of(self, pfns: Words) -> Words:
        return np.uint64(self.base) + pfns * np.uint64(self.size)

    def _locate(self, pfns: Words) -> tuple[Words, NDArray[np.intp]]:
        """Return which pages of the array to read, and where in them, row after row, each frame's struct page is."""
        pages = pfns >> np.uint64(self.nr_per_page.bit_length() - 1)
        is_new = np.concatenate([np.ones(1, np.bool_), pages[1:] != pages[:-1]])
        unique, which = np.unique(pages[is_new], return_inverse=True)
        indexes = (which * self.nr_per_page).take(np.cumsum(is_new) - 1)
        indexes += (pfns & np.uint64(self.nr_per_page - 1)).astype(np.intp)
        return unique, indexes

    def checked(self, addresses: Words) -> tuple[Words, Bools]:
        """Return addresses of struct pages, with the array's first in place of what cannot be one, and which can."""
        offsets = addresses - np.uint64(self.base)
        good = (addresses >= self.base) & (offsets % np.uint64(self.size) == 0)
        good &= self.memory.ram.contain(offsets // np.uint64(self.size) << np.uint64(PAGE_SHIFT))
        return np.where(good, addresses, np.uint64(self.base)), good

    def _read(self, pages: Words) -> tuple[Counts, Words]:
        """Return, for pages of the array, each frame's own count, and for each pair of frames a word.

        Folios are aligned to their size. So whoever is in a large one, head or tail, has a tail at the odd place of its
        pair; and a tail's word has bit 0 set and leads to its head, where others have a pointer.
        """
        own = np.empty((len(pages), self.nr_per_page), np.int32)
        head_words = np.empty((len(pages), self.nr_per_page // 2), np.uint64)
        self.nr_read += len(pages)
        in_ram = self._in_ram(pages)
        addresses = np.where(in_ram, np.uint64(self.base) + (pages << np.uint64(PAGE_SHIFT)), np.uint64(0))
        nr_words = self.size // 8
        for rows, data, good in self.memory.frame_pages(addresses):
            own[rows] = data.view(np.int32)[:, self._count_index :: 2 * nr_words]
            head_words[rows] = data[:, self._head_index + nr_words :: 2 * nr_words]
            in_ram[rows] &= good
        # A mapped page has its count less one; what is below that is a type, of pages that nobody maps.
        np.maximum(own, -1, out=own)
        own += 1
        if not in_ram.all():
            own[~in_ram] = UNKNOWN_COUNT
            head_words[~in_ram] = 0
        return own, head_words

    def _in_ram(self, pages: Words) -> Bools:
        # A page of struct pages is read only if the first or the last frame that it is about is RAM.
        first = pages * np.uint64(self.nr_per_page * PAGE)
        last = first + np.uint64((self.nr_per_page - 1) * PAGE)
        return self.memory.ram.contain(first) | self.memory.ram.contain(last)

    def _add_large(self, counts: Counts, pfns: Words, chosen: NDArray[np.intp], heads: Words) -> None:
        # A page of a large folio is mapped as often as itself and as the whole folio (folio_precise_page_mapcount).
        if self._entire is None:
            counts[chosen] = self._kernel_counts(pfns[chosen])
            return
        starts = np.flatnonzero(np.concatenate([np.ones(1, np.bool_), heads[1:] != heads[:-1]]))
        unique = heads[starts]
        checked, good = self.checked(unique)
        words, read = self.memory.frame_words(checked + np.uint64(self._entire & ~7))
        whole = numbers_at(words, self._entire) + np.int32(1)
        lengths = np.diff(np.append(starts, len(heads)))
        known = np.repeat(good & read & (whole >= 0), lengths)
        counts[chosen] = np.where(known, counts[chosen] + np.repeat(whole, lengths), UNKNOWN_COUNT)

    def _kernel_counts(self, pfns: Words) -> Counts:
        return read_kernel_counts(self.memory.procfs, pfns)

    def check(self, pfns: Words) -> int:
        """Compare some frames with /proc/kpagecount and /proc/kpageflags, spread over all; return how many.

        Raises:
            NotSupported: they disagree, three times over. The message names a frame, and what the kernel says of it.
        """
        sample = spread(pfns, NR_SAMPLES)
        for what, name, ours, theirs in (
            ("map counts", "kpagecount", self.map_counts, read_kernel_counts),
            ("owners", "kpageflags", self.are_anonymous, read_anonymous),
        ):
            self._compare(sample, what, name, ours, theirs)
        return len(sample)

    def _compare(
        self,
        sample: Words,
        what: str,
        name: str,
        ask: Callable[[Words], Any],
        ask_kernel: Callable[[ProcFS, Words], Any],
    ) -> None:
        for _ in range(3):
            # What is true of live frames changes. What differs counts only if ours was the same before and after the
            # kernel's was read, and is asked again then.
            ours = ask(sample)
            reported = ask_kernel(self.memory.procfs, sample)
            differ = (ours != reported) & (ours == ask(sample))
            if not differ.any():
                return
            sample, reported = sample[differ], reported[differ]
        # Offsets from the cache that are wrong are put right for the next time. What was read is not said: it may be
        # any word of the kernel.
        self.memory.layout.renew()
        frame = f"frame {int(sample[0]):#x} has {int(reported[0])} in {name}, not here"
        raise NotSupported(f"{what} from struct page ({frame})")


def numbers_at(words: Words, offset: int) -> Counts:
    """Return the signed numbers of 32 bits at a byte offset, given the 64-bit words that they lie in.

    >>> numbers_at(np.array([0xFFFFFFFF00000007], np.uint64), 52).tolist()
    [-1]
    """
    numbers: Counts = (words >> np.uint64(8 * (offset & 7))).astype(np.uint32).view(np.int32)
    return numbers


def spread(pfns: Words, nr: int) -> Words:
    """Return about so many of some frames, evenly from the first to the last.

    >>> spread(np.arange(100), 5).tolist()
    [0, 20, 40, 60, 80]
    """
    return pfns[:: max(1, len(pfns) // nr)]


def open_struct_pages(memory: KernelMemory) -> StructPages:
    """Return the kernel's array of struct pages: found, and compared with kpagecount on frames of our own.

    Raises:
        NotSupported: this kernel keeps no count per page, the array is not found, or the counts disagree.
        PermissionDenied: /proc/kpagecount cannot be read, or frame numbers are hidden, of our own pages too.
    """
    if counts_are_averages(memory.procfs):
        raise NotSupported("map counts from struct page", "CONFIG_PAGE_MAPCOUNT")
    with OwnPages(memory.procfs) as own:
        pages = StructPages(memory, find_base(memory, own))
        pages.check(np.array(own.pfns(), np.uint64))
    return pages


def find_base(memory: KernelMemory, own: OwnPages) -> int:
    """Return the address of frame 0's struct page."""
    size = memory.layout["page"]
    reported = memory.vmcoreinfo.get("SYMBOL(vmemmap)")
    try:
        addresses = own.struct_page_addresses(memory.pipe_pages)
    except NotSupported:
        # Only some kernels say it (measured: 6.18 does). What it says is compared with kpagecount like all else.
        if isinstance(reported, int):
            return reported
        raise
    return own.array_base(addresses, size)


class KernelFrames:
    """The same answers from the kernel's own files of words per frame: slower, and right on every kernel."""

    def __init__(self, procfs: ProcFS) -> None:
        self.procfs = procfs
        self.nr_read = 0
        self._are_averages = counts_are_averages(procfs)
        read_frame_words(procfs, "kpagecount", np.zeros(1, np.uint64))

    def map_counts(self, pfns: Words) -> Counts:
        """Return how many times each frame is mapped; -1 where it is not known, as of an average it is not."""
        counts = read_kernel_counts(self.procfs, pfns)
        if self._are_averages and len(pfns):
            flags, _ = read_frame_words(self.procfs, "kpageflags", pfns)
            # hugetlb pages are mapped as a whole: there the average is the count of each page.
            large = (flags & np.uint64(KPF_COMPOUND) != 0) & (flags & np.uint64(KPF_HUGE) == 0)
            counts[large & (counts > 0)] = UNKNOWN_COUNT
        return counts

    def table_shares(self, tables: Words) -> Counts:
        """Return that nothing is known of page tables; see `StructPages.table_shares`."""
        return np.full(len(tables), UNKNOWN_COUNT, np.int32)

    def are_anonymous(self, pfns: Words) -> Bools:
        """Return which frames hold memory of no file."""
        return read_anonymous(self.procfs, pfns)


def read_kernel_counts(procfs: ProcFS, pfns: Words) -> Counts:
    """Return the counts of /proc/kpagecount for frames in any order; neighbours are read together."""
    words, good = read_frame_words(procfs, "kpagecount", pfns)
    return np.where(good, words.astype(np.int32), np.int32(UNKNOWN_COUNT))


def read_anonymous(procfs: ProcFS, pfns: Words) -> Bools:
    """Return which frames hold memory of no file, by /proc/kpageflags."""
    words, good = read_frame_words(procfs, "kpageflags", pfns)
    result: Bools = good & ((words & np.uint64(KPF_ANON)) != 0)
    return result
