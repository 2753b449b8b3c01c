"""The program that counts: it walks page tables in the kernel, and adds up what its entries and their frames say.

It is given a top table and a range of addresses, and stops when it has done so much work: what it has not reached it
leaves to the next call. No lock of the process is held. A table of entries is copied, then the entry that led to it is
read again: if it still points there, the table was in place while it was copied. The entries further up are read again
at the end of a call, or of a GiB; where one has changed, the call's numbers are worth nothing.

A frame's struct page is read in place (bpf_rdonly_cast, since Linux 6.2, commit a35b9af4ec2c): where nothing can be
read, the processor's fault is caught, and what is read is 0. Entries are those of x86-64, as
`mematlas.model.paging_modes` describes them.
"""

from __future__ import annotations

from mematlas.kernel.bpfcall import HELPER_GET_CURRENT_TASK, HELPER_LOOP, HELPER_PROBE_READ_KERNEL
from mematlas.kernel.bpfcode import R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10, Code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.bpfcode import Register
    from mematlas.kernel.btf import Layout

PAGE = 1 << 12
NR_ENTRIES = 512
NR_WORDS = 64
"""Places that are read, and frames and leaves that are looked at, in one call."""
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

PRESENT, USER, ACCESSED_SHIFT, DIRTY_SHIFT, HUGE, PROT_NONE, PTE_SPECIAL = 1, 4, 5, 6, 0x80, 0x100, 0x200
SWAP_TYPE_SHIFT, FIRST_MARKER_TYPE = 59, 30
PMD_SHIFT, PUD_SHIFT = 21, 30
STEPS, TABLE_WORK, SEARCH_WORK = 1 << 16, 16, 2
"""Steps of one call at most; and the work, in groups of 8 entries, that a table and a search from the top are."""
PAGES_MAPPED = 0x7FFFFF
"""FOLIO_PAGES_MAPPED (mm/internal.h): how many pages of a folio are mapped by themselves."""

INPUTS = (
    # The first six are set at once.
    *("mode", "nr", "address", "end", "budget", "first_at", "dirty_shift", "pgd", "base", "has_five_levels"),
    *("struct_pages", "nr_frames", "address_mask", "usual", "reserved", "table_mask", "nothing"),
)
STATE = (
    *("task", "status", "work", "first", "last", "pmd_low", "pmd_high", "pmd_table", "scratch", "item", "shares"),
    *("is_anon", "head", "head_count", "head_anon", "head_mapped"),
    *(f"chain{level}_{what}" for level in range(3) for what in ("place", "entry")),
)
NOT_FOUND = ("pmd_low", "pmd_high", *(f"chain{level}_place" for level in range(3)))
FRESH = ("work", "first", *NOT_FOUND)
"""What each walk begins with as 0."""
SUMS = (
    *("single", "single_anon", "shared", "shared_anon", "accessed", "dirty", "unknown", "large", "tables", "listed"),
    *(f"type{number}" for number in range(32)),
    *(f"marker{number}" for number in range(16)),
)


def make_places() -> dict[str, int]:
    """Return where what the program and we share lies in the map's element: single words by name, then arrays."""
    names = (*INPUTS, *STATE, *SUMS)
    places = {name: 8 * number for number, name in enumerate(names)}
    at = 8 * len(names)
    arrays = {"ram": 16 * NR_RAM_RANGES, "samples": 8 * NR_SAMPLES, "words": 16 * NR_WORDS}
    # Groups of 8 entries are looked at together, so that the last may reach behind the table.
    arrays |= {"counts": 8 * NR_COUNTS, "pmds": PAGE, "table": PAGE + 64, "list": 16 * NR_LISTED}
    for name, size in arrays.items():
        places[name] = at
        at += size
    places["end of all"] = -(-at // PAGE) * PAGE
    return places


AT = make_places()
SUMS_AT, SUMS_SIZE = AT[SUMS[0]], 8 * len(SUMS)


class Counting:
    """Writes the program, function by function. R8 is the map's element everywhere."""

    def __init__(self, map_fd: int, layout: Layout) -> None:
        self.code = Code(map_fd)
        self.layout = layout
        self.size = layout["page"]
        self.shift = self.size.bit_length() - 1
        self.mapping = layout["folio.mapping" if "folio.mapping" in layout else "page.mapping"]

    def write(self) -> Code:
        """Return the whole program."""
        self._main()
        self._read_word()
        self._ask_frame()
        self._count_leaf()
        self._count_leaf_page()
        self._step()
        self._look_at_table()
        self._group()
        self._entry()
        self._count_page()
        self._tally()
        self._append()
        self._in_ram()
        self._verify()
        self._search()
        return self.code

    # What many of them need

    def _get(self, dst: Register, name: str) -> None:
        self.code.load(dst, R8, AT[name])

    def _put(self, name: str, value: int) -> None:
        self.code.store(R8, AT[name], value)

    def _add(self, name: str, value: int) -> None:
        """Add to a word. Takes R1."""
        self._get(R1, name)
        self.code.do(R1, "+=", value)
        self._put(name, R1)

    def _fail(self, status: int, value: int = 1) -> None:
        self._get(R1, "status")
        self.code.do(R1, "|=", status)
        self._put("status", R1)
        self.code.leave(value)

    def _read(self, place: int, size: int) -> None:
        """Copy from the kernel address in R3 to the stack; R0 is 0 where that could be done."""
        self.code.do(R1, "=", R10)
        self.code.do(R1, "+=", place)
        self.code.do(R2, "=", size)
        self.code.helper(HELPER_PROBE_READ_KERNEL)

    def _struct_page(self, address: Register) -> None:
        """Have R0 be the struct page at an address, to be read in place."""
        if address is not R1:
            self.code.do(R1, "=", address)
        self.code.do(R2, "=", self.layout["type.page"])
        self.code.kernel_function(self.layout["type.bpf_rdonly_cast"])

    def _loop(self, function: str) -> None:
        """Call a function so many times as R1 says."""
        code = self.code
        code.address_of(R2, function)
        code.do(R3, "=", 0)
        code.do(R4, "=", 0)
        code.helper(HELPER_LOOP)

    def _frame_of(self, dst: Register, entry: Register) -> None:
        """Have a register be the frame of an entry, which is in another."""
        self._get(dst, "address_mask")
        self.code.do(dst, "&=", entry)
        self.code.do(dst, ">>=", 12)

    def _begin(self, name: str, nr_arguments: int, is_static: bool = False) -> None:
        self.code.function(name, nr_arguments, is_static)
        self.code.map_value(R8)

    # What is asked for

    def _main(self) -> None:
        """Do what the mode says."""
        code = self.code
        self._begin("main", 1)
        self._put("head", 0)
        self._put("status", 0)
        self._get(R1, "mode")
        for mode in (WALK, COUNT_LEAVES, ASK):
            code.jump_if(R1, "==", mode, f"mode{mode}")
        code.helper(HELPER_GET_CURRENT_TASK)
        self._put("task", R0)
        for mode, function in ((READ_WORDS, "read_word"), (COUNT_LEAVES, "count_leaf"), (ASK, "ask_frame")):
            code.label(f"mode{mode}")
            self._get(R1, "nr")
            self._loop(function)
            code.leave(0)
        code.label(f"mode{WALK}")
        for name in FRESH:
            self._put(name, 0)
        code.do(R1, "=", STEPS)
        self._loop("step")
        code.call("verify")
        code.leave(0)

    def _read_word(self) -> None:
        """``words[i].error = bpf_probe_read_kernel(&words[i].word, 8, words[i].word)``."""
        code = self.code
        self._item("read_word")
        code.do(R1, "=", R6)
        code.do(R1, "+=", AT["words"])
        code.do(R2, "=", 8)
        code.load(R3, R6, AT["words"])
        code.helper(HELPER_PROBE_READ_KERNEL)
        code.store(R6, AT["words"] + 8, R0)
        code.leave(0)
        code.label("out")
        code.leave(1)

    def _item(self, function: str) -> None:
        """Begin a function for one of "words": R6 leads there."""
        code = self.code
        code.function(function, 2, is_static=True)
        code.jump_if(R1, ">", NR_WORDS - 1, "out")
        code.map_value(R8)
        code.do(R6, "=", R1)
        code.do(R6, "<<=", 4)
        code.do(R6, "+=", R8)

    def _ask_frame(self) -> None:
        """``words[i].error = count_page(words[i].word) << 1 | is_anon``."""
        code = self.code
        self._item("ask_frame")
        code.load(R1, R6, AT["words"])
        code.call("count_page")
        code.do(R0, "<<=", 1)
        self._get(R1, "is_anon")
        code.do(R0, "|=", R1)
        code.store(R6, AT["words"] + 8, R0)
        code.leave(0)
        code.label("out")
        code.leave(1)

    def _count_leaf(self) -> None:
        """Count the pages of a huge leaf: its first frame is words[i].word; beside it are shares, and number of pages.

        Where no page of the folio is mapped by itself, all have the count of its head.
        """
        code = self.code
        self._item("count_leaf")
        code.load(R9, R6, AT["words"] + 8)
        code.do(R7, "=", R9)
        code.do(R7, "<<=", 32)
        code.do(R7, ">>=", 32)
        code.do(R9, ">>=", 32)
        code.sign_extend(R9)
        self._put("shares", R9)
        code.load(R6, R6, AT["words"])
        self._put("item", R6)
        code.do(R1, "=", R6)
        code.call("count_page")
        code.do(R6, "<<=", self.shift)
        self._get(R1, "struct_pages")
        code.do(R6, "+=", R1)
        self._get(R1, "head")
        code.jump_if(R1, "!=", R6, "singly")
        self._get(R1, "head_mapped")
        code.jump_if(R1, "!=", 0, "singly")
        self._with_shares()
        code.do(R2, "=", R7)
        code.call("tally")
        code.leave(0)
        code.label("singly")
        code.do(R1, "=", R7)
        self._loop("count_leaf_page")
        code.leave(0)
        code.label("out")
        code.leave(1)

    def _with_shares(self) -> None:
        """Have R1 be the count in R0, and as many more as share the table in R9; -1 where either is unknown."""
        code = self.code
        code.do(R1, "=", -1)
        code.jump_if(R0, "s<", 0, "unknown count")
        code.jump_if(R9, "s<", 0, "unknown count")
        code.do(R1, "=", R0)
        code.do(R1, "+=", R9)
        code.label("unknown count")

    def _count_leaf_page(self) -> None:
        code = self.code
        self._begin("count_leaf_page", 2, is_static=True)
        self._get(R2, "item")
        code.do(R1, "+=", R2)
        code.call("count_page")
        self._get(R9, "shares")
        self._with_shares()
        code.do(R2, "=", 1)
        code.call("tally")
        code.leave(0)

    # The walk

    def _step(self) -> None:
        """Take one step: a search from the top, an entry of the PMD that is held, or all of the table it points at."""
        code = self.code
        self._begin("step", 2, is_static=True)
        self._get(R6, "address")
        self._get(R1, "end")
        code.jump_if(R6, ">=", R1, "stop")
        self._get(R1, "status")
        code.jump_if(R1, "!=", 0, "stop")
        self._get(R1, "work")
        self._get(R2, "budget")
        code.jump_if(R1, ">", R2, "stop")
        # Each entry of a table may put something into the list.
        self._get(R1, "listed")
        code.jump_if(R1, ">", NR_LISTED - NR_ENTRIES - 1, "stop")
        self._get(R1, "pmd_low")
        code.jump_if(R6, "<", R1, "search")
        self._get(R1, "pmd_high")
        code.jump_if(R6, "<", R1, "found")
        code.label("search")
        code.do(R1, "=", R6)
        code.call("search")
        code.jump_if(R0, "!=", 0, "go on")
        code.label("found")
        code.do(R1, "=", R6)
        code.do(R1, ">>=", PMD_SHIFT)
        code.do(R9, "=", R1)
        code.do(R9, "+=", 1)
        code.do(R9, "<<=", PMD_SHIFT)
        code.do(R1, "&=", NR_ENTRIES - 1)
        code.do(R1, "<<=", 3)
        code.do(R2, "=", R1)
        code.do(R2, "+=", R8)
        code.load(R7, R2, AT["pmds"])
        code.jump_if(R7, "==", 0, "done")
        code.do(R2, "=", R7)
        code.do(R2, "&=", PRESENT | HUGE)
        code.jump_if(R2, "==", PRESENT, "table")
        code.do(R1, "=", R7)
        code.do(R2, "=", R6)
        code.do(R2, "|=", PMD_SHIFT)
        code.call("append")
        code.jump("done")
        code.label("table")
        self._get(R2, "pmd_table")
        code.do(R1, "+=", R2)
        self._put("scratch", R1)
        code.do(R1, "=", R6)
        code.do(R2, "=", R7)
        code.call("look_at_table")
        code.jump_if(R0, "!=", 0, "stop")
        code.label("done")
        self._put("address", R9)
        code.label("go on")
        code.leave(0)
        code.label("stop")
        code.leave(1)

    def _check_table(self, entry: Register) -> None:
        """Have R3 be the address of the table that an entry points at; go to "junk" where no entry of a table can."""
        code = self.code
        self._get(R2, "reserved")
        code.do(R2, "|=", PRESENT | USER)
        code.do(R2, "&=", entry)
        code.jump_if(R2, "!=", PRESENT | USER, "junk")
        self._frame_of(R1, entry)
        code.call("in_ram")
        code.jump_if(R0, "==", 0, "junk")
        self._get(R3, "address_mask")
        code.do(R3, "&=", entry)
        self._get(R1, "base")
        code.do(R3, "+=", R1)

    def _look_at_table(self) -> None:
        """Copy the part of a table that translates from R1 on, and look at its entries. R2 is the entry that led to it,
        and "scratch" where that stands.
        """
        code = self.code
        self._begin("look_at_table", 2)
        code.do(R6, "=", R1)
        code.do(R7, "=", R2)
        self._add("work", TABLE_WORK)
        self._check_table(R7)
        # From the first entry on, up to the end of the range or of the table.
        code.do(R1, "=", R6)
        code.do(R1, ">>=", 12)
        code.do(R1, "&=", NR_ENTRIES - 1)
        code.do(R2, "=", NR_ENTRIES)
        code.do(R2, "-=", R1)
        code.do(R1, "<<=", 3)
        code.do(R3, "+=", R1)
        self._get(R4, "end")
        code.do(R4, "-=", R6)
        code.do(R4, ">>=", 12)
        code.jump_if(R2, "<=", R4, "whole")
        code.do(R2, "=", R4)
        code.label("whole")
        code.jump_if(R2, "==", 0, "junk")
        code.jump_if(R2, ">", NR_ENTRIES, "junk")
        code.do(R9, "=", R2)
        code.do(R2, "<<=", 3)
        code.do(R1, "=", R8)
        code.do(R1, "+=", AT["table"])
        code.do(R4, "=", R1)
        code.do(R4, "+=", R2)
        for word in range(8):
            code.store(R4, 8 * word, 0)
        code.helper(HELPER_PROBE_READ_KERNEL)
        code.jump_if(R0, "!=", 0, "changed")
        self._get(R3, "scratch")
        self._read(-8, 8)
        code.jump_if(R0, "!=", 0, "changed")
        code.load(R1, R10, -8)
        self._compare(R1, R7)
        self._get(R1, "first_at")
        code.jump_if(R1, "!=", R6, "no first")
        self._get(R1, "table")
        self._put("first", R1)
        code.label("no first")
        self._put("last", 0)
        code.do(R1, "=", R9)
        code.do(R1, "+=", 7)
        code.do(R1, ">>=", 3)
        self._loop("group")
        self._get(R2, "tables")
        code.do(R1, "=", R2)
        code.do(R1, "+=", 1)
        self._put("tables", R1)
        code.do(R2, "&=", NR_SAMPLES - 1)
        code.do(R2, "<<=", 3)
        code.do(R2, "+=", R8)
        self._get(R1, "last")
        code.store(R2, AT["samples"], R1)
        code.leave(0)
        code.label("junk")
        self._fail(JUNK)
        code.label("changed")
        self._fail(CHANGED)

    def _compare(self, now: Register, before: Register) -> None:
        """Go to "changed" where an entry points elsewhere than it did. Takes R2."""
        code = self.code
        code.do(now, "^=", before)
        self._get(R2, "table_mask")
        code.do(now, "&=", R2)
        code.jump_if(now, "!=", 0, "changed")

    def _search(self) -> None:
        """Walk from the top to the PMD that translates R1, and copy it. R0 is 1 where there is none: then "address" is
        behind what is empty, or maps memory itself.
        """
        code = self.code
        self._begin("search", 1)
        code.do(R6, "=", R1)
        self._add("work", SEARCH_WORK)
        code.call("verify")
        for name in NOT_FOUND:
            self._put(name, 0)
        self._get(R7, "pgd")
        self._get(R1, "has_five_levels")
        code.jump_if(R1, "==", 0, "four levels")
        for level, shift in enumerate((48, 39, PUD_SHIFT)):
            if level == 1:
                code.label("four levels")
            self._descend(level, shift)
        code.do(R1, "=", R8)
        code.do(R1, "+=", AT["pmds"])
        code.do(R2, "=", PAGE)
        code.do(R3, "=", R7)
        code.helper(HELPER_PROBE_READ_KERNEL)
        code.jump_if(R0, "!=", 0, "changed")
        self._put("pmd_table", R7)
        code.do(R6, ">>=", PUD_SHIFT)
        code.do(R6, "<<=", PUD_SHIFT)
        self._put("pmd_low", R6)
        code.do(R6, "+=", 1 << PUD_SHIFT)
        self._put("pmd_high", R6)
        code.leave(0)
        code.label("junk")
        self._fail(JUNK)
        code.label("changed")
        self._fail(CHANGED)

    def _descend(self, level: int, shift: int) -> None:
        """Go from the table in R7 to the one that its entry for the address in R6 points at."""
        code = self.code
        code.do(R1, "=", R6)
        code.do(R1, ">>=", shift)
        code.do(R1, "&=", NR_ENTRIES - 1)
        code.do(R1, "<<=", 3)
        code.do(R7, "+=", R1)
        code.do(R3, "=", R7)
        self._read(-8, 8)
        code.jump_if(R0, "!=", 0, "changed")
        code.load(R9, R10, -8)
        code.do(R1, "=", R9)
        code.do(R1, "&=", PRESENT | HUGE)
        code.jump_if(R1, "==", PRESENT, f"table{level}")
        code.jump_if(R9, "==", 0, f"empty{level}")
        code.do(R1, "=", R9)
        code.do(R2, "=", R6)
        code.do(R2, "|=", shift)
        code.call("append")
        code.label(f"empty{level}")
        code.do(R6, ">>=", shift)
        code.do(R6, "+=", 1)
        code.do(R6, "<<=", shift)
        self._put("address", R6)
        code.leave(1)
        code.label(f"table{level}")
        self._put(f"chain{level}_place", R7)
        self._put(f"chain{level}_entry", R9)
        self._check_table(R9)
        code.do(R7, "=", R3)

    def _verify(self) -> None:
        """Read the entries that led to the PMD once more."""
        code = self.code
        self._begin("verify", 0)
        for level in range(3):
            self._get(R3, f"chain{level}_place")
            code.jump_if(R3, "==", 0, f"next{level}")
            self._read(-8, 8)
            code.jump_if(R0, "!=", 0, "changed")
            code.load(R1, R10, -8)
            self._get(R3, f"chain{level}_entry")
            self._compare(R1, R3)
            code.label(f"next{level}")
        code.leave(0)
        code.label("changed")
        self._fail(CHANGED)

    # The entries of a table

    def _group(self) -> None:
        """Count 8 entries. Plainly present ones, whose frame is mapped once and is in no large folio, are counted here,
        in R7: how many, accessed, dirty, anonymous, 16 bits each. `entry` counts the others.
        """
        code = self.code
        code.function("group", 2, is_static=True)
        code.jump_if(R1, ">", NR_ENTRIES // 8, "out")
        code.map_value(R8)
        code.do(R6, "=", R1)
        code.do(R6, "<<=", 6)
        code.do(R6, "+=", R8)
        code.do(R6, "+=", AT["table"])
        code.load(R1, R6, 0)
        for place in range(8, 64, 8):
            code.load(R2, R6, place)
            code.do(R1, "|=", R2)
        code.jump_if(R1, "==", 0, "empty")
        self._add("work", 1)
        self._get(R9, "usual")
        # 0, but of that the verifier must know nothing, or it goes all ways in which R7 may grow.
        self._get(R7, "nothing")
        code.store(R10, -16, R7)
        for number in range(8):
            self._plain_entry(number)
        self._add_group()
        code.label("empty")
        code.leave(0)
        for number in range(8):
            code.label(f"other{number}")
            code.load(R1, R6, 8 * number)
            code.jump_if(R1, "==", 0, f"next{number}")
            code.call("entry")
            code.jump(f"next{number}")
        code.label("out")
        code.leave(1)

    def _plain_entry(self, number: int) -> None:
        code = self.code
        other = f"other{number}"
        code.load(R1, R6, 8 * number)
        code.do(R2, "=", R1)
        code.do(R2, "&=", R9)
        code.jump_if(R2, "!=", PRESENT | USER, other)
        self._frame_of(R3, R1)
        # The largest range of RAM is the first.
        code.do(R2, "=", R3)
        code.load(R4, R8, AT["ram"])
        code.do(R2, "-=", R4)
        code.load(R4, R8, AT["ram"] + 8)
        code.jump_if(R2, ">=", R4, other)
        code.do(R3, "<<=", self.shift)
        self._get(R1, "struct_pages")
        code.do(R1, "+=", R3)
        code.store(R10, -8, R1)
        # Folios are aligned to their size: whoever is in a large one has a tail at the odd place of its pair.
        code.do(R1, "|=", self.size)
        self._struct_page(R1)
        code.load(R2, R0, self.layout["page.compound_head"])
        code.jump_if(R2, "&", 1, other)
        code.load(R1, R10, -8)
        self._struct_page(R1)
        code.load(R2, R0, self.layout["page._mapcount"], 4)
        code.jump_if(R2, "!=", 0, other)
        code.load(R2, R0, self.layout["page.mapping"])
        code.jump_if(R2, "&", 1, f"anon{number}")
        code.jump(f"count{number}")
        code.label(f"anon{number}")
        code.wide(R2, 1 << 48)
        code.do(R7, "+=", R2)
        code.label(f"count{number}")
        code.load(R1, R6, 8 * number)
        code.do(R2, "=", R1)
        code.do(R2, "&=", 1 << ACCESSED_SHIFT)
        code.do(R2, "<<=", 16 - ACCESSED_SHIFT)
        code.do(R7, "+=", R2)
        self._dirty_bit(R2, R1, R3)
        code.do(R2, "<<=", 32)
        code.do(R7, "+=", R2)
        code.do(R7, "+=", 1)
        code.store(R10, -16, R1)
        code.label(f"next{number}")

    def _dirty_bit(self, dst: Register, entry: Register, scratch: Register) -> None:
        """Have a register be 1 where an entry is dirty: by either of two bits, or twice the same. Loses the entry's."""
        code = self.code
        self._get(scratch, "dirty_shift")
        code.do(dst, "=", entry)
        code.do(dst, ">>=", scratch)
        code.do(scratch, "=", entry)
        code.do(scratch, ">>=", DIRTY_SHIFT)
        code.do(dst, "|=", scratch)
        code.do(dst, "&=", 1)

    def _add_group(self) -> None:
        code = self.code
        for number, name in enumerate(("single", "accessed", "dirty", "single_anon")):
            code.do(R1, "=", R7)
            code.do(R1, ">>=", 16 * number)
            code.do(R1, "&=", 0xFFFF)
            self._get(R2, name)
            code.do(R2, "+=", R1)
            self._put(name, R2)
        # One of them to be compared, with what the kernel says of its frame.
        code.do(R7, "&=", 0xFFFF)
        code.jump_if(R7, "==", 0, "empty")
        code.load(R1, R10, -16)
        self._put("last", R1)

    def _entry(self) -> None:
        """Count the entry in R1, whatever it is."""
        code = self.code
        self._begin("entry", 1)
        code.do(R6, "=", R1)
        code.do(R7, "=", R1)
        self._get(R2, "usual")
        code.do(R2, "&=", R6)
        code.jump_if(R2, "==", PRESENT | USER, "usual")
        code.jump_if(R6, "&", PRESENT, "special")
        code.jump_if(R6, "&", PROT_NONE, "hidden")
        self._count_type()
        code.label("special")
        # What is present and not usual is special; else it is no entry of user space.
        self._get(R2, "reserved")
        code.do(R2, "|=", USER)
        code.do(R2, "&=", R6)
        code.jump_if(R2, "!=", USER, "junk")
        code.label("listed")
        self._get(R1, "address_mask")
        code.do(R1, "&=", R7)
        code.do(R1, ">>=", 12)
        self._dirty_bit(R2, R6, R3)
        code.do(R2, "<<=", 6)
        code.do(R6, "&=", 1 << ACCESSED_SHIFT)
        code.do(R2, "|=", R6)
        code.do(R2, "|=", SPECIAL | 1 << LISTED_NR_SHIFT)
        code.call("append")
        code.leave(0)
        code.label("hidden")
        # pte_pfn(): what is not present, but not empty, has its frame flipped.
        code.do(R2, "=", -1)
        code.do(R7, "^=", R2)
        code.jump_if(R6, "&", PTE_SPECIAL, "listed")
        self._frame_of(R3, R7)
        code.do(R7, "=", R3)
        code.jump("count")
        code.label("usual")
        self._frame_of(R3, R7)
        code.do(R7, "=", R3)
        self._get(R2, "nr_frames")
        code.jump_if(R7, ">=", R2, "junk")
        code.label("count")
        self._put("last", R6)
        code.do(R1, "=", R6)
        code.do(R1, ">>=", ACCESSED_SHIFT)
        code.do(R1, "&=", 1)
        self._get(R2, "accessed")
        code.do(R2, "+=", R1)
        self._put("accessed", R2)
        self._dirty_bit(R2, R6, R3)
        self._get(R1, "dirty")
        code.do(R1, "+=", R2)
        self._put("dirty", R1)
        code.do(R1, "=", R7)
        code.call("count_page")
        code.do(R1, "=", R0)
        code.do(R2, "=", 1)
        code.call("tally")
        code.leave(0)
        code.label("junk")
        self._fail(JUNK, 0)

    def _count_type(self) -> None:
        """Count the entry in R6, which maps nothing, by its swap type; those of a marker's by what it marks."""
        code = self.code
        code.do(R1, "=", R6)
        code.do(R1, ">>=", SWAP_TYPE_SHIFT)
        code.do(R2, "=", R1)
        code.do(R2, "<<=", 3)
        code.do(R2, "+=", R8)
        code.load(R3, R2, AT["type0"])
        code.do(R3, "+=", 1)
        code.store(R2, AT["type0"], R3)
        code.jump_if(R1, "<", FIRST_MARKER_TYPE, "typed")
        code.do(R2, "=", -1)
        code.do(R2, "^=", R6)
        code.do(R2, "<<=", 5)
        code.do(R2, ">>=", 14)
        code.jump_if(R2, "<", 8, "known mark")
        code.do(R2, "=", 0)
        code.label("known mark")
        code.do(R1, "&=", 1)
        code.do(R1, "<<=", 3)
        code.do(R2, "+=", R1)
        code.do(R2, "&=", 15)
        code.do(R2, "<<=", 3)
        code.do(R2, "+=", R8)
        code.load(R3, R2, AT["marker0"])
        code.do(R3, "+=", 1)
        code.store(R2, AT["marker0"], R3)
        code.label("typed")
        code.leave(0)

    # Frames

    def _count_page(self) -> None:
        """Return how often the frame in R1 is mapped (folio_precise_page_mapcount), -1 where that cannot be told;
        "is_anon" is 1 where it belongs to no file (folio_test_anon).
        """
        code, layout = self.code, self.layout
        self._begin("count_page", 1)
        code.do(R6, "=", R1)
        code.call("in_ram")
        code.jump_if(R0, "==", 0, "unknown")
        code.do(R6, "<<=", self.shift)
        self._get(R1, "struct_pages")
        code.do(R6, "+=", R1)
        self._struct_page(R6)
        code.load(R7, R0, layout["page._mapcount"], 4)
        code.do(R7, "+=", 1)
        code.sign_extend(R7)
        # What is below -1 is a type, of pages that nobody maps.
        code.jump_if(R7, "s<", 0, "typed")
        code.jump("mapped")
        code.label("typed")
        code.do(R7, "=", 0)
        code.label("mapped")
        code.do(R9, "=", 0)
        code.load(R1, R0, layout["page.mapping"])
        code.jump_if(R1, "&", 1, "anon")
        code.jump("file")
        code.label("anon")
        code.do(R9, "=", 1)
        code.label("file")
        code.do(R1, "=", R6)
        code.do(R1, "|=", self.size)
        self._struct_page(R1)
        code.load(R1, R0, layout["page.compound_head"])
        code.jump_if(R1, "&", 1, "large")
        code.label("told")
        self._put("is_anon", R9)
        code.do(R0, "=", R7)
        code.leave()
        code.label("unknown")
        self._put("is_anon", 0)
        code.leave(-1)
        code.label("large")
        # The verifier takes the word for a pointer, until it has been elsewhere.
        self._put("scratch", R1)
        self._get(R6, "scratch")
        code.do(R6, "-=", 1)
        self._add("large", 1)
        self._get(R1, "head")
        code.jump_if(R1, "==", R6, "known head")
        self._read_head()
        code.label("known head")
        self._get(R1, "head_count")
        code.jump_if(R1, "s<", 0, "unknown")
        code.do(R7, "+=", R1)
        self._get(R9, "head_anon")
        code.jump("told")

    def _read_head(self) -> None:
        """Read what the folio says whose head is the struct page at R6, an address that was found in kernel memory."""
        code, layout = self.code, self.layout
        self._put("head", 0)
        code.do(R1, "=", R6)
        self._get(R2, "struct_pages")
        code.do(R1, "-=", R2)
        code.do(R2, "=", R1)
        code.do(R2, "&=", self.size - 1)
        code.jump_if(R2, "!=", 0, "unknown")
        code.do(R1, ">>=", self.shift)
        code.call("in_ram")
        code.jump_if(R0, "==", 0, "unknown")
        for place, size in ((layout["folio._entire_mapcount"], 4), (self.mapping, 8)):
            code.do(R3, "=", R6)
            code.do(R3, "+=", place)
            self._read(-size, size)
            code.jump_if(R0, "!=", 0, "unknown")
            code.load(R1, R10, -size, size)
            if size == 8:
                code.do(R1, "&=", 1)
                self._put("head_anon", R1)
            else:
                code.do(R1, "+=", 1)
                code.sign_extend(R1)
                self._put("head_count", R1)
        code.do(R1, "=", 1)
        if "folio._nr_pages_mapped" in layout:
            code.do(R3, "=", R6)
            code.do(R3, "+=", layout["folio._nr_pages_mapped"])
            self._read(-4, 4)
            code.jump_if(R0, "!=", 0, "unknown")
            code.load(R1, R10, -4, 4)
            code.do(R1, "&=", PAGES_MAPPED)
        self._put("head_mapped", R1)
        self._put("head", R6)

    def _tally(self) -> None:
        """Count R2 pages whose frames are mapped R1 times, or unknown times: -1."""
        code = self.code
        self._begin("tally", 2)
        code.do(R6, "=", R1)
        code.do(R7, "=", R2)
        self._get(R9, "is_anon")
        code.jump_if(R6, "s<", 0, "unknown")
        # The kernel counts as private what is mapped less than twice.
        code.jump_if(R6, ">", 1, "shared")
        self._add("single", R7)
        code.jump_if(R9, "==", 0, "done")
        self._add("single_anon", R7)
        code.leave(0)
        code.label("unknown")
        self._add("unknown", R7)
        code.jump("not single")
        code.label("shared")
        code.jump_if(R6, ">=", NR_COUNTS, "many")
        code.do(R6, "<<=", 3)
        code.do(R6, "+=", R8)
        code.load(R1, R6, AT["counts"])
        code.do(R1, "+=", R7)
        code.store(R6, AT["counts"], R1)
        code.jump("not single")
        code.label("many")
        code.do(R1, "=", R6)
        code.do(R2, "=", R7)
        code.do(R2, "<<=", LISTED_NR_SHIFT)
        code.do(R2, "|=", MANY)
        code.call("append")
        code.label("not single")
        self._add("shared", R7)
        code.jump_if(R9, "==", 0, "done")
        self._add("shared_anon", R7)
        code.label("done")
        code.leave(0)

    def _append(self) -> None:
        """Put a value (R1) with a mark (R2) into the list. Frames of special entries, and high map counts, carry how
        many there are, and become one with the one before where they are equal.
        """
        code = self.code
        self._begin("append", 2)
        self._get(R3, "listed")
        code.jump_if(R3, ">", NR_LISTED - 1, "full")
        code.do(R4, "=", R3)
        code.do(R4, "<<=", 4)
        code.do(R4, "+=", R8)
        code.jump_if(R3, "==", 0, "new")
        code.do(R5, "=", R2)
        code.do(R5, "&=", 0x1F)
        code.jump_if(R5, ">", MANY, "new")
        code.jump_if(R5, "<", SPECIAL, "new")
        code.load(R5, R4, AT["list"] - 16)
        code.jump_if(R5, "!=", R1, "new")
        code.load(R5, R4, AT["list"] - 8)
        code.do(R0, "=", R5)
        code.do(R0, "^=", R2)
        code.do(R0, "&=", 0xFF)
        code.jump_if(R0, "!=", 0, "new")
        code.do(R2, ">>=", LISTED_NR_SHIFT)
        code.do(R2, "<<=", LISTED_NR_SHIFT)
        code.do(R5, "+=", R2)
        code.store(R4, AT["list"] - 8, R5)
        code.leave(0)
        code.label("new")
        code.store(R4, AT["list"], R1)
        code.store(R4, AT["list"] + 8, R2)
        code.do(R3, "+=", 1)
        self._put("listed", R3)
        code.leave(0)
        code.label("full")
        self._fail(FULL)

    def _in_ram(self) -> None:
        """Return 1 where the frame in R1 is System RAM."""
        code = self.code
        self._begin("in_ram", 1)
        for number in range(NR_RAM_RANGES):
            code.load(R2, R8, AT["ram"] + 16 * number)
            code.load(R3, R8, AT["ram"] + 16 * number + 8)
            code.do(R4, "=", R1)
            code.do(R4, "-=", R2)
            code.jump_if(R4, "<", R3, "inside")
        code.leave(0)
        code.label("inside")
        code.leave(1)
