"""The map that the program which counts shares with us: what it is asked, what it keeps, and what it has counted."""

from __future__ import annotations

from mematlas.kernel.memory.x86 import PAGE

NR_WORDS = 64
"""Words that are read, and frames and leaves that are looked at, in one call."""
NR_RAM_RANGES = 16
NR_COUNTS = 1 << 10
"""Map counts below this have a counter each; the others go to the list."""
NR_LISTED = 1 << 10
NR_SAMPLES = 64

READ_WORDS, WALK, COUNT_LEAVES, ASK = range(4)
CHANGED, JUNK, FULL = 1, 2, 4
"""What makes a call's numbers worth nothing: a table moved, held what no table holds, or the list was too short."""

# What stands in the list beside entries of upper levels, whose mark is the shift of their level.
SPECIAL, MANY = 12, 13
LISTED_ACCESSED, LISTED_DIRTY = 1 << 5, 1 << 6
LISTED_NR_SHIFT = 8

FIRST_MARKER_TYPE = 30
STEPS, TABLE_WORK, SEARCH_WORK = 1 << 16, 16, 2
"""Steps of one call at most; and the work that a table and a search from the top are, in groups of 8 entries. A page
that others map too, or that is of a large folio, is as much as a group.
"""
PAGES_MAPPED = 0x7FFFFF
"""FOLIO_PAGES_MAPPED (mm/internal.h): how many pages of a folio are mapped by themselves."""

INPUTS = (
    # The first six are set at once.
    *("mode", "nr", "address", "end", "budget", "first_at", "dirty_shift", "pgd", "base", "has_five_levels"),
    *("struct_pages", "nr_frames", "address_mask", "usual", "reserved", "table_mask", "nothing"),
)
STATE = (
    *("task", "status", "work", "done", "first", "last"),
    *("pmd_low", "pmd_high", "pmd_table", "scratch", "item", "shares"),
    *("is_anon", "head", "head_count", "head_anon", "head_mapped"),
    *(f"chain{level}_{part}" for level in range(3) for part in ("address", "entry")),
)
NOT_FOUND = ("pmd_low", "pmd_high", *(f"chain{level}_address" for level in range(3)))
FRESH = ("work", "first", *NOT_FOUND)
"""What each walk begins with as 0."""
SUMS = (
    *("single", "single_anon", "shared", "shared_anon", "accessed", "dirty", "unknown", "large", "tables", "listed"),
    *(f"type{number}" for number in range(32)),
    *(f"marker{number}" for number in range(16)),
)


def make_offsets() -> dict[str, int]:
    """Return where what the program and we share lies in the map's element: single words by name, then arrays."""
    names = (*INPUTS, *STATE, *SUMS)
    offsets = {name: 8 * number for number, name in enumerate(names)}
    at = 8 * len(names)
    arrays = {"ram": 16 * NR_RAM_RANGES, "samples": 8 * NR_SAMPLES, "words": 16 * NR_WORDS}
    # Groups of 8 entries are looked at together, so that the last may reach behind the table.
    arrays |= {"counts": 8 * NR_COUNTS, "pmds": PAGE, "table": PAGE + 64, "list": 16 * NR_LISTED}
    for name, size in arrays.items():
        offsets[name] = at
        at += size
    offsets["end of all"] = -(-at // PAGE) * PAGE
    return offsets


AT = make_offsets()
SUMS_AT, SUMS_SIZE = AT[SUMS[0]], 8 * len(SUMS)
