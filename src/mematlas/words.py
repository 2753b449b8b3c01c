"""The words that arguments and results are made of, by what they are for: names for annotations."""

from __future__ import annotations

from typing import Literal

Source = Literal["auto", "smaps", "pagemap", "tables"]
"""What amounts are read from."""
PagesFrom = Literal["auto", "pagemap", "tables"]
"""What single pages are read from."""
Kind = Literal["heap", "stack", "anon", "file", "shmem", "hugetlb", "vdso", "vvar", "vsyscall", "special"]
"""What a VMA is: see `mematlas.kernel.maps.KINDS`."""
State = Literal["present", "zero", "swapped", "cached", "absent", "guard", "special", "unknown"]
"""What a page is: see `mematlas.model.pages.STATES`."""
