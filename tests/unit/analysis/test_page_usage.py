"""Shares of pages, in the kernel's arithmetic."""

from __future__ import annotations

import numpy as np

from mematlas.analysis.page_usage import shared_pss
from mematlas.arrays import Counts
from mematlas.model.pagetables.vma_counts import VmaCounts


def counts(*values: int) -> Counts:
    return np.array(values, np.int32)


def shares(*values: int) -> tuple[int, int]:
    """Return the bytes of the shares of pages with these map counts, and how many counts are unknown."""
    sums = VmaCounts()
    sums.add_sharers(counts(*values))
    return shared_pss(sums.sharers, 4096), sums.nr_unknown


def test_shares_are_added_in_the_kernels_fixed_point() -> None:
    assert shares(1, 1, 3, 3, 3, 7) == ((3 * ((4096 << 12) // 3) + (4096 << 12) // 7) >> 12, 0)


def test_an_unknown_count_is_in_no_sum_but_its_own() -> None:
    assert shares(1, -1) == (0, 1)


def test_very_many_sharers_are_counted_too() -> None:
    assert shares(1 << 20, 5000) == (((4096 << 12) // (1 << 20) + (4096 << 12) // 5000) >> 12, 0)
