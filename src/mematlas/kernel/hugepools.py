"""/sys/kernel/mm/hugepages: the pools of huge pages that hugetlb memory is taken from, one for each size.

Format: Documentation/admin-guide/mm/hugetlbpage.rst.
"""

from __future__ import annotations

import os

from mematlas.kernel.mounts import HUGE_PAGES

PREFIX, UNIT = "hugepages-", "kB"


def read_free(pools: str = HUGE_PAGES) -> int | None:
    """Return the bytes of all pools that nobody uses; None where the kernel has none, or does not say."""
    try:
        names = os.listdir(pools)
        return sum(size_of(name) * number_in(f"{pools}/{name}/free_hugepages") for name in names)
    except (OSError, ValueError):
        return None


def size_of(name: str) -> int:
    """Return the bytes of a huge page, by the name of its pool.

    >>> size_of("hugepages-2048kB")
    2097152
    """
    return int(name.removeprefix(PREFIX).removesuffix(UNIT)) * 1024


def number_in(path: str) -> int:
    """Return the number that a file holds."""
    with open(path, "rb") as file:
        return int(file.read(32))
