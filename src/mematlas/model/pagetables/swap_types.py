"""What an entry of a page table can be, and what the swap types of those that are not present mean.

Sources: include/linux/swap.h, include/linux/swapops.h.
"""

from __future__ import annotations

from mematlas.frozen import record
from mematlas.kernel.pagemap import MARKER_GUARD, MARKER_POISONED, MARKER_UFFD_WP

# What an entry is. Present are those from PRESENT to PROT_NONE; the kernel counts both.
EMPTY, TABLE, PRESENT, PROT_NONE, SWAP, MIGRATION = range(6)
HWPOISON, DEVICE, GUARD, UFFD_WP, POISON, MARKER, UNKNOWN_ENTRY = range(6, 13)
STATE_NAMES = (
    "empty",
    "table",
    "present",
    "prot-none",
    "swap",
    "migration",
    "hwpoison",
    "device",
    "guard",
    "uffd-wp-marker",
    "poison",
    "marker",
    "unknown",
)

NR_SWAP_TYPES = 32
"""1 << MAX_SWAPFILES_SHIFT: swap areas count from 0, what is no swap at all from the top."""


def state_of_marker(offset: int) -> int:
    """Return what a marker marks.

    >>> STATE_NAMES[state_of_marker(MARKER_GUARD)]
    'guard'
    """
    return {MARKER_UFFD_WP: UFFD_WP, MARKER_POISONED: POISON, MARKER_GUARD: GUARD}.get(offset, MARKER)


@record
class SpecialSwap:
    """Which of the 32 swap types are no swap areas, on one kernel: it depends on how it was configured.

    They count down from the top: swap-in error, marker, device, migration, hwpoison (include/linux/swap.h).
    """

    nr_device: int
    nr_migration: int
    nr_hwpoison: int
    pfn_bits: int = 40
    """How much of a migration entry's offset is the frame; accessed and dirty bits are above it."""
    nr_marker: int = 1
    nr_error: int = 0
    """What could not be read back from swap: a type of its own from v5.19 to v6.1, then a marker."""

    def state_of_types(self) -> list[int]:
        """Return the state that each swap type means."""
        special = [HWPOISON] * self.nr_hwpoison
        special += [MIGRATION] * self.nr_migration
        special += [DEVICE] * self.nr_device
        special += [MARKER] * self.nr_marker
        special += [POISON] * self.nr_error
        return [SWAP] * (NR_SWAP_TYPES - len(special)) + special


# Nothing is known but what is the same everywhere: at most 9 types are special, and the last is the marker.
UNKNOWN_SPECIAL_SWAP = [SWAP] * 23 + [UNKNOWN_ENTRY] * 8 + [MARKER]


NEWEST_KNOWN = (7, 3)
"""The newest kernel whose numbers were looked up, in include/linux/swap.h: they are those of 6.15."""


def special_swap_of(config: frozenset[str], version: tuple[int, int], pfn_bits: int) -> SpecialSwap | None:
    """Return the special swap types of a configuration: the numbers are compiled in, and shown nowhere.

    >>> special_swap_of(frozenset(["MIGRATION"]), (6, 18), 34)
    SpecialSwap(nr_device=0, nr_migration=3, nr_hwpoison=0, pfn_bits=34, nr_marker=1, nr_error=0)
    >>> newest = special_swap_of(frozenset(["MIGRATION", "DEVICE_PRIVATE", "MEMORY_FAILURE"]), (7, 3), 40)
    >>> newest and newest.state_of_types().index(HWPOISON)
    24
    """
    # Two types for device-exclusive memory became one in v6.15 ("mm: use single SWP_DEVICE_EXCLUSIVE entry type"),
    # and more are proposed: on kernels newer than those looked at, they may be others.
    if "DEVICE_PRIVATE" in config and version > NEWEST_KNOWN:
        return None
    # GOOD: since v5.14 (commit b756a3b5e7ea, "mm: device exclusive memory access") memory that a device has alone has
    # two types beside the two of a device's own.
    nr_device = 3 if version >= (6, 15) else 4 if version >= (5, 14) else 2
    # GOOD: since v6.2 (commit 15520a3f0469, "mm: use pte markers for swap errors") there are always markers, and errors
    # of swap are some of them; before that they had a type of their own, above the markers.
    is_new = version >= (6, 2)
    # GOOD: since v5.19 (commit 6c287605fd56, "mm: remember exclusively mapped anonymous pages with PG_anon_exclusive")
    # there is a migration type for exclusive pages, and with the same release came errors (14a762dd1977) and markers
    # (679d10331910).
    is_middle = (5, 19) <= version < (6, 2)
    return SpecialSwap(
        nr_device=nr_device if "DEVICE_PRIVATE" in config else 0,
        nr_migration=(3 if version >= (5, 19) else 2) if "MIGRATION" in config else 0,
        nr_hwpoison=1 if "MEMORY_FAILURE" in config else 0,
        pfn_bits=pfn_bits,
        nr_marker=1 if is_new or "PTE_MARKER" in config else 0,
        nr_error=int(is_middle),
    )
