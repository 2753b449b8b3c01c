"""What help says of each page: what its keys do, and what its words, signs and numbers mean."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    Texts = tuple[tuple[str, str], ...]

LISTS: Texts = (
    ("< >", "sort by another column (or click on its heading)"),
    ("I", "sort the other way round"),
)
KEYS: dict[str, Texts] = {
    "Processes": (
        ("Enter", "to the map of the process; of a group, open and close it"),
        ("g", "groups by name, container, unit, user; then the list again"),
        ("t F5", "tree of parents and children, and back"),
        *LISTS,
        ("\\", "filter by name, PID, user, container, unit; Esc shows all"),
        ("space", "tag: those tagged are added up; Esc takes the tags away"),
        ("- +", "close and open a group, or a branch of the tree (also ← →)"),
    ),
    "Map": (
        ("+ -", "fewer or more pages in a cell, down to one"),
        ("c", "colours: state, last change, accessed, shared, huge, node"),
        ("i", "what the cursor is on (where it is not beside the map)"),
        ("o", "which processes have the page that the cursor is on"),
        ("f", "follow: the cursor goes to where most changes"),
        ("w", "the whole address space again"),
        ("/", "to a VMA by part of its name, or to an address (0x7f...)"),
    ),
    "VMAs": (
        ("Enter", "to the VMA on the map; of a group, list its VMAs"),
        ("g", "add up by path, by kind; then single VMAs again"),
        *LISTS,
        ("\\", "show only VMAs with a text; Esc shows all"),
        ("/", "search in names, kinds, permissions and addresses"),
    ),
    "Time": (
        ("← →", "a moment earlier, later: all pages then show that one"),
        ("↑ ↓", "choose a VMA"),
        ("+ -", "less or more time in sight"),
        ("c", "curves: RSS with its USS, kinds of memory, or one amount alone"),
        ("v", "shades: in RAM, compared with its most, changed, accessed"),
        ("Home End", "the oldest moment; the newest, as it comes"),
        ("Enter", "to the map, at this moment"),
    ),
    "Tables": (
        ("→ ←", "open and close a table, down to single entries (also Enter)"),
        ("*", "open all tables below this one"),
        (".", "to the place that is chosen on the map, or in the list of VMAs"),
        ("m", "to this place on the map"),
        ("u", "read the tables again now"),
        ("\\", "filter by names of VMAs; an empty one shows all"),
        ("/", "to a VMA by part of its name, or to an address (0x7f...)"),
    ),
    "RAM": (
        ("v", "what RAM is used for, files of the page cache, or both"),
        ("\\", "filter by path; an empty one shows all"),
        *LISTS,
    ),
}
"""By the names of pages: their own keys, with more words than the last row has room for."""
OF_AMOUNTS: Texts = (
    ("RSS", "all its pages in RAM; sums count shared ones many times"),
    ("PSS", "the same, a page that n processes map as 1/n: adds up right"),
    ("USS", "pages in RAM that no other process maps"),
)
MEANINGS: dict[str, Texts] = {
    "Processes": (
        *OF_AMOUNTS,
        ("SWAP", "what of it is in swap"),
        ("ΔUSS", "growth within a minute, or since the snapshot"),
        ("10 min", "USS over ten minutes; each curve is scaled to its own most"),
        ("≥ Σ", "of groups: at least so much; a plain sum"),
        ("MOSTLY", "what most of it is: anon (no file behind it), file, shmem, hugetlb"),
        ("▾ ▴", "sorted by it, or the other way; branches by all in them"),
        ("* + -", "tagged; started, ended since the snapshot"),
        ("hidden", "processes that may not be looked at with these rights"),
    ),
    "Map": (
        ("a cell", "so many pages by address; it shows the commonest state"),
        ("│", "another VMA begins: a range of addresses of one kind"),
        ("+2", "behind a name: so many other names are in this row"),
        ("[1.2G]", "left out: never touched, or between VMAs"),
        ("░▒▓█ own", "in RAM, mapped by this process alone; fuller is more of it"),
        ("-=+# shared", "in RAM, and mapped more than once"),
        ("0 zero", "the page of zeros: read, never written"),
        ("s swapped", "in swap"),
        ("c cached", "shared memory in RAM, but not mapped by this process"),
        ("· absent", "no page: never touched, or given back"),
        ("g ! ?", "guard; in transit; not known"),
        ("i", "accessed: in RAM, not used since the kernel looked last"),
        ("reversed", "just changed, or since the snapshot (█ is @ there, ░▒ are o); bold: 2 s ago; white: the cursor"),
        ("numbers", "in the row above the keys: pages of all the process"),
        ("present", "in RAM and mapped: RSS, as pages say it"),
    ),
    "VMAs": (
        ("VMA", "a range of addresses of one kind: a line of /proc/PID/maps"),
        ("SIZE", "how many addresses, in RAM or not"),
        *OF_AMOUNTS,
        ("DIRTY", "in RAM and written: not saved yet in a file, or in swap"),
        ("Δ", "change of RSS within a minute, or since the snapshot"),
        ("bars", "in RAM, of that dirty, in swap; the heading has the scale"),
        ("+ -", "before an address: came, went since then"),
        ("anon", "no file behind it: malloc and mmap; [heap] and [stack] are the same, apart"),
        ("file", "programs, libraries, mapped files"),
        ("shmem", "shared memory, memfd, tmpfs"),
    ),
    "Time": (
        *OF_AMOUNTS,
        ("columns", "are moments, reversed is this one; a gap: nobody looked"),
        ("below", "rows of VMAs, those of one file together: the largest"),
        ("at 5 s", "since this screen, or the recording, began"),
    ),
    "Tables": (
        ("pgd ... pte", "levels, from the top: 512 entries, each leads to a table below"),
        ("TRANSLATES", "the first address that the table is for"),
        ("MAPPED", "memory that is reached through it"),
        ("full", "used entries of all tables of that level"),
        ("■", "a huge page: one entry maps 2 MiB or 1 GiB"),
        ("wxuadg", "writable, executable, user, accessed, dirty, global"),
        ("ACC DIRTY", "what part of that is marked as accessed, as written"),
        ("VMA +2", "the first VMA that it maps, and how many others"),
    ),
    "RAM": (
        ("anon", "memory of processes without a file behind it"),
        ("file", "page cache, can be dropped; file_dirty is written first"),
        ("shmem", "tmpfs, memfd, shared memory"),
        ("slab", "objects of the kernel"),
        ("table", "page tables"),
        ("reserved", "the kernel itself, and what firmware keeps"),
        ("untouched", "free, never used yet; cpu_free is kept by a CPU"),
        ("CHANGE", "since the look before (every 10 s)"),
        ("MAPPED", "what of it processes map"),
        ("PRESSURE", "time for which some programs, or all, wait for memory"),
        ("FREE BLOCKS", "pieces of free memory by size: huge pages need large ones"),
    ),
}
"""By the names of pages: what is to be seen there."""
ABOVE: Texts = (
    ("free", "RAM that nobody uses; programs can get the page cache besides"),
    ("9.0 %", "of a processor core: what this screen takes, with all that looks for it"),
    ("root, apart", "what draws has no rights, a part of its own has root's"),
    ("no act", "a says why nothing can be done to processes"),
    ("live", "the newest; 30.0 of 52.0 s: earlier, since the screen or the recording began"),
    ("vs 30.0 s", "all is compared with the snapshot of then (s, d)"),
)
"""What stands in the two rows above every page."""
EVERYWHERE: Texts = (
    ("1 to 6, Tab", "pages"),
    ("arrows, hjkl", "move; PgUp, PgDn, Home, End"),
    ("wheel", "scrolls lists; zooms the map, and time"),
    ("Enter / Esc", "into / back"),
    ("/ n N, F3", "search; next, previous"),
    ("\\, F4", "filter: show only what has a text"),
    ("[ ] { }", "a second earlier, later, of a recording a moment; ten"),
    ("z, space", "freeze; go on with the newest (space tags processes)"),
    ("s d", "snapshot, which all is compared with; compare no more"),
    ("r", "record the process into a file from now on; end that"),
    ("a", "act on the process (page out ...): the plan first"),
    ("y", "copy the command line that shows the same"),
    ("? F1, q F10", "help, quit"),
)
