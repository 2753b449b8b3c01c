"""/sys/kernel/mm/transparent_hugepage: how large a transparent huge page is.

Format: Documentation/admin-guide/mm/transhuge.rst. Alone, since whoever wants to know it wants nothing of madvise(2).
"""

from __future__ import annotations

THP = "/sys/kernel/mm/transparent_hugepage"
"""The settings of transparent huge pages."""
HUGE_SIZE_FILE = f"{THP}/hpage_pmd_size"
HUGE_SIZE = 1 << 21
"""What a huge entry (PMD) maps with 4 KiB pages."""


def huge_size() -> int:
    """Return how many bytes a transparent huge page has; 2 MiB where the kernel does not say."""
    try:
        with open(HUGE_SIZE_FILE, "rb") as file:
            return int(file.read())
    except (OSError, ValueError):
        return HUGE_SIZE
