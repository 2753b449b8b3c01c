"""/sys/kernel/mm/transparent_hugepage: how large a transparent huge page is.

Format: Documentation/admin-guide/mm/transhuge.rst. Alone, since whoever wants to know it wants nothing of madvise(2).
"""

from __future__ import annotations

import os

THP = "/sys/kernel/mm/transparent_hugepage"
"""The settings of transparent huge pages."""
HUGE_SIZE_FILE = f"{THP}/hpage_pmd_size"


def read_huge_size() -> int | None:
    """Return how many bytes a transparent huge page has; None where the kernel does not say."""
    try:
        with open(HUGE_SIZE_FILE, "rb") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def huge_size() -> int:
    """Return how many bytes a transparent huge page has; where the kernel does not say, what one table maps.

    That is 2 MiB with pages of 4 KiB, 32 MiB with 16 KiB, 512 MiB with 64 KiB: a table is a page of entries of 8 bytes.
    """
    return read_huge_size() or os.sysconf("SC_PAGESIZE") ** 2 // 8
