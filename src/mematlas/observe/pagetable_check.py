"""Whether page tables say the same as pagemap, status and smaps: what differs is read again, in both, until it has a
reason.
"""

from __future__ import annotations

import time

from mematlas.analysis.pagetables.compare import (
    EXPLAINED,
    MARKERS,
    MAY_DIFFER,
    SUMS,
    Check,
    Disagreement,
    agree,
    check_pages,
    check_sum,
    differing_pages,
    nr_hidden,
)
from mematlas.analysis.pagetables.results import Verification
from mematlas.analysis.usage import THP_FIELDS
from mematlas.arrays import np
from mematlas.frozen import replace
from mematlas.kernel.kpage import KPF_ANON, KPF_HUGE, KPF_ZERO_PAGE, read_frame_words
from mematlas.kernel.pagemap import LAST_ADDRESS
from mematlas.kernel.smaps import leaves_out_huge_pages, read_smaps
from mematlas.kernel.status import read_status, status_bytes
from mematlas.model.pagetables.blocks import page_blocks
from mematlas.model.pagetables.entries import PROT_NONE, STATE_NAMES, leaf_address, maps_memory, state_of
from mematlas.model.pagetables.walk import upper_entries
from mematlas.observe.pagetable_look import NR_SUM_TABLES, PageTableLook

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.model.pagetables.walk import Walk
    from mematlas.observe.pagetable_look import HeldTables
    from mematlas.observe.process import Process

PAUSES = (0, 0.001, 0.004, 0.016, 0.064, 0.256)
"""Seconds before what differs is read again. What is being unmapped is still in the tables and no longer in pagemap, as
long as the target, which does it, has to wait for a processor."""

HUGETLB_FIELDS = ("Private_Hugetlb", "Shared_Hugetlb")


class PageTableCheck:
    """One comparison of page tables with the kernel's own numbers."""

    def __init__(self, process: Process, held: HeldTables) -> None:
        self.process = process
        self.held = held
        self.files = process.files
        self.mode = held.mode
        self.page_size = process.page_size
        self.look = PageTableLook(held)

    def verify(self) -> Verification:
        """Return what pagemap, status and smaps say otherwise than the tables. Of a part, only pages are compared.

        Raises:
            ProcessGone: the process ended, or started another program, meanwhile.
        """
        space = self.process.address_space()
        pages, check = self._compare_pages()
        checks = [check]
        if self.held.is_whole:
            checks += self._compare_sums()
        named = tuple(replace(page, area=space.name_at(page.address)) for page in pages)
        return Verification(tuple(checks), named, self.look.finish())

    def _compare_pages(self) -> tuple[list[Disagreement], Check]:
        nr_pages, nr_unseen = 0, 0
        differing: list[Disagreement] = []
        for part in self.look.parts(NR_SUM_TABLES):
            for block in page_blocks(part, self.held.start, min(self.held.end, LAST_ADDRESS)):
                words = self.look.pagemap(block.start, len(block))
                nr_pages += len(block)
                nr_unseen += nr_hidden(words)
                differing += differing_pages(self.mode, block, words)
        differing = self._with_reasons(differing)
        return differing, check_pages(nr_pages, nr_unseen, differing)

    def _compare_sums(self) -> list[Check]:
        """Compare table bytes and huge pages. They are of no one moment, so what differs is added up again."""
        reported = self._reported_sums()
        ours, changed = self._sums(), False
        for pause in PAUSES:
            earlier, reported = reported, self._reported_sums()
            changed = changed or earlier != reported
            if changed or all(agree(name, ours, reported) for name in SUMS):
                break
            time.sleep(pause)
            before, ours = ours, self._sums()
            changed = before != ours
        return [check_sum(name, ours, reported, changed, self.page_size) for name in SUMS]

    def _sums(self) -> dict[str, int]:
        sums = dict.fromkeys((*SUMS, *MAY_DIFFER.values()), 0)
        tables: set[int] = set()
        for part in self.look.parts(NR_SUM_TABLES):
            # The kernel counts the tables of the last three levels (mm_inc_nr_ptes and its like), neither the top one
            # nor, of five levels, the one below it.
            counted = part.levels[max(1, len(part.levels) - 3) :]
            tables.update(*(level.tables.tolist() for level in counted))
            self._add_huge(part, sums)
        if sums["left out"] and not leaves_out_huge_pages():
            sums["left out"] = 0
        return sums | {"table bytes": len(tables) * self.page_size}

    def _add_huge(self, part: Walk, sums: dict[str, int]) -> None:
        for level in range(len(part.levels) - 1):
            indices, entries, codes = upper_entries(part, level)
            addresses = part.entry_addresses(level, indices)
            inside = maps_memory(codes) & (addresses >= part.first) & (addresses <= part.last)
            entries, codes = entries[inside], codes[inside]
            heads = leaf_address(self.mode, level, entries) >> np.uint64(self.mode.page_shift)
            flags, _ = read_frame_words(self.held.process.procfs, "kpageflags", heads)
            size = self.mode.levels[level].size
            hugetlb = flags & np.uint64(KPF_HUGE) != 0
            zero = flags & np.uint64(KPF_ZERO_PAGE) != 0
            anon = flags & np.uint64(KPF_ANON) != 0
            thp = ~hugetlb & ~zero
            sums["hugetlb"] += size * int(np.count_nonzero(hugetlb))
            sums["thp"] += size * int(np.count_nonzero(thp))
            sums["left out"] -= size * int(np.count_nonzero(thp & (codes == PROT_NONE)))
            # Each huge page of anonymous memory has a table in reserve (pgtable_trans_huge_deposit).
            sums["kept aside"] += self.page_size * int(np.count_nonzero(~hugetlb & (zero | anon)))

    def _reported_sums(self) -> dict[str, int | None]:
        """Return the sums that the kernel reports, in status and smaps."""
        sums = dict.fromkeys(SUMS[1:], 0)
        for _, fields in read_smaps(self.held.process, self.files):
            sums["thp"] += sum(fields.get(name, 0) for name in THP_FIELDS)
            sums["hugetlb"] += sum(fields.get(name, 0) for name in HUGETLB_FIELDS)
        return {"table bytes": status_bytes(read_status(self.held.process), "VmPTE"), **sums}

    def _with_reasons(self, differing: list[Disagreement]) -> list[Disagreement]:
        """Return disagreements with the reason for each, as exact as can be found out."""
        reasons = {page.address: page.reason for page in differing}
        left = [page for page in differing if page.reason != "special"]
        for pause in PAUSES:
            if not left:
                break
            time.sleep(pause)
            again = {page.address: self._differs_still(page) for page in left}
            reasons |= {address: reason or "race" for address, reason in again.items()}
            left = [page for page in left if again[page.address]]
        return [replace(page, reason=reasons[page.address]) for page in differing]

    def _differs_still(self, page: Disagreement) -> str | None:
        """Read a page again; return the reason why it differs as it did, None when it does no more."""
        steps = self.look.steps(page.address)
        block = self.look.one_page(page.address, steps)
        again = differing_pages(self.mode, block, self.look.pagemap(page.address, 1))
        if not again or (again[0].entry, again[0].pagemap) != (page.entry, page.pagemap):
            return None
        name = STATE_NAMES[state_of(self.mode, len(steps) - 1, page.entry)]
        is_reason = name in EXPLAINED and (name not in MARKERS or page.reason == "swap")
        return name if is_reason else page.reason
