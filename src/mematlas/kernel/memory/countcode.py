"""The program that counts: it walks page tables in the kernel, and adds up what its entries and their frames say.

It is given a top table and a range of addresses, and stops when it has done so much work: what it has not reached it
leaves to the next call. No lock of the process is held. A table of entries is copied, then the entry that led to it is
read again: if it still points there, the table was in place while it was copied. The entries further up are read again
at the end of a call, or of a GiB; where one has changed, the call's numbers are worth nothing.

A frame's struct page is read in place (bpf_rdonly_cast, since Linux 6.2, commit a35b9af4ec2c): where nothing can be
read, the processor's fault is caught, and what is read is 0. Entries are those of x86-64, as
`mematlas.model.pagetables.modes` describes them.
"""

from __future__ import annotations

from mematlas.kernel.memory.bpfcall import HELPER_GET_CURRENT_TASK, HELPER_PROBE_READ_KERNEL
from mematlas.kernel.memory.bpfcode import R0, R1, R2, R3, R4, R6, R7, R8, R9, R10, Code
from mematlas.kernel.memory.countmap import (
    ASK,
    AT,
    COUNT_LEAVES,
    FIRST_MARKER_TYPE,
    FRESH,
    JUNK,
    LISTED_NR_SHIFT,
    NR_WORDS,
    READ_WORDS,
    SPECIAL,
    STEPS,
    WALK,
)
from mematlas.kernel.memory.countwalk import WalkCode
from mematlas.kernel.memory.x86 import (
    NR_ENTRIES,
    PAGE_SHIFT,
    X86_ACCESSED_SHIFT,
    X86_DIRTY_SHIFT,
    X86_PRESENT,
    X86_PROT_NONE,
    X86_SPECIAL,
    X86_SWAP_TYPE_SHIFT,
    X86_USER,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.memory.bpfcode import Register


class Counting(WalkCode):
    """Writes the program, function by function."""

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
        functions = {READ_WORDS: "read_word", COUNT_LEAVES: "count_leaf", ASK: "ask_frame"}
        for mode, function in functions.items():
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

        Where no page of the folio is mapped by itself, all have the count of its head. "done" says how many leaves were
        counted before it was too much work.
        """
        code = self.code
        self._item("count_leaf")
        self._get(R2, "work")
        self._get(R3, "budget")
        code.jump_if(R2, ">", R3, "out")
        code.do(R1, "+=", 1)
        self._put("done", R1)
        self._take_leaf()
        code.do(R1, "=", R6)
        code.call("count_page")
        self._jump_unless_whole("singly")
        self._with_shares()
        code.do(R2, "=", R7)
        code.call("tally")
        code.leave(0)
        code.label("singly")
        self._add("work", R7)
        code.do(R1, "=", R7)
        self._loop("count_leaf_page")
        code.leave(0)
        code.label("out")
        code.leave(1)

    def _take_leaf(self) -> None:
        """Have R6 be the first frame of the leaf that R6 leads to, and R7 how many pages it has; keep its shares."""
        code = self.code
        code.load(R9, R6, AT["words"] + 8)
        code.do(R7, "=", R9)
        code.do(R7, "<<=", 32)
        code.do(R7, ">>=", 32)
        code.do(R9, ">>=", 32)
        code.sign_extend(R9)
        self._put("shares", R9)
        code.load(R6, R6, AT["words"])
        self._put("item", R6)

    def _jump_unless_whole(self, label: str) -> None:
        """Jump unless the frame in R6 is the head of a folio none of whose pages is mapped by itself. Loses R6."""
        code = self.code
        code.do(R6, "<<=", self.shift)
        self._get(R1, "struct_pages")
        code.do(R6, "+=", R1)
        self._get(R1, "head")
        code.jump_if(R1, "!=", R6, label)
        self._get(R1, "head_mapped")
        code.jump_if(R1, "!=", 0, label)

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
        """Count one page of the huge leaf whose first frame is "item"; R1 is the page's index in it."""
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
        for offset in range(8, 64, 8):
            code.load(R2, R6, offset)
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
        """Add one entry of the group at R6 to R7, if it is plainly present; else go to where it is looked at alone."""
        code = self.code
        other = f"other{number}"
        code.load(R1, R6, 8 * number)
        code.do(R2, "=", R1)
        code.do(R2, "&=", R9)
        code.jump_if(R2, "!=", X86_PRESENT | X86_USER, other)
        self._jump_if_not_single(other)
        code.load(R2, R0, self.layout["page.mapping"])
        code.jump_if(R2, "&", 1, f"anon{number}")
        code.jump(f"count{number}")
        code.label(f"anon{number}")
        code.wide(R2, 1 << 48)
        code.do(R7, "+=", R2)
        code.label(f"count{number}")
        code.load(R1, R6, 8 * number)
        code.do(R2, "=", R1)
        code.do(R2, "&=", 1 << X86_ACCESSED_SHIFT)
        code.do(R2, "<<=", 16 - X86_ACCESSED_SHIFT)
        code.do(R7, "+=", R2)
        self._dirty_bit(R2, R1, R3)
        code.do(R2, "<<=", 32)
        code.do(R7, "+=", R2)
        code.do(R7, "+=", 1)
        code.store(R10, -16, R1)
        code.label(f"next{number}")

    def _jump_if_not_single(self, other: str) -> None:
        """Have R0 be the struct page that the entry in R1 maps; jump unless it is a single page, mapped once."""
        code = self.code
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
        code.load(R2, R0, self.head_word)
        code.jump_if(R2, "&", 1, other)
        code.load(R1, R10, -8)
        self._struct_page(R1)
        code.load(R2, R0, self.layout["page._mapcount"], 4)
        code.jump_if(R2, "!=", 0, other)

    def _dirty_bit(self, dst: Register, entry: Register, scratch: Register) -> None:
        """Have a register be 1 where an entry is dirty: by either of two bits, or twice the same. Loses the entry's."""
        code = self.code
        self._get(scratch, "dirty_shift")
        code.do(dst, "=", entry)
        code.do(dst, ">>=", scratch)
        code.do(scratch, "=", entry)
        code.do(scratch, ">>=", X86_DIRTY_SHIFT)
        code.do(dst, "|=", scratch)
        code.do(dst, "&=", 1)

    def _add_group(self) -> None:
        """Add the four numbers in R7 to the sums; go to "empty" where it has counted nothing."""
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
        code.jump_if(R2, "==", X86_PRESENT | X86_USER, "usual")
        code.jump_if(R6, "&", X86_PRESENT, "special")
        code.jump_if(R6, "&", X86_PROT_NONE, "hidden")
        self._count_type()
        self._list_special()
        code.label("hidden")
        # pte_pfn(): what is not present, but not empty, has its frame flipped.
        code.do(R2, "=", -1)
        code.do(R7, "^=", R2)
        code.jump_if(R6, "&", X86_SPECIAL, "listed")
        self._frame_of(R3, R7)
        code.do(R7, "=", R3)
        code.jump("count")
        code.label("usual")
        self._frame_of(R3, R7)
        code.do(R7, "=", R3)
        self._get(R2, "nr_frames")
        code.jump_if(R7, ">=", R2, "junk")
        code.label("count")
        self._count_mapped()
        code.label("junk")
        self._fail(JUNK, 0)

    def _list_special(self) -> None:
        """Put the entry in R6 and R7 into the list; go to "junk" where it is no entry of user space."""
        code = self.code
        code.label("special")
        self._get(R2, "reserved")
        code.do(R2, "|=", X86_USER)
        code.do(R2, "&=", R6)
        code.jump_if(R2, "!=", X86_USER, "junk")
        code.label("listed")
        self._get(R1, "address_mask")
        code.do(R1, "&=", R7)
        code.do(R1, ">>=", PAGE_SHIFT)
        self._dirty_bit(R2, R6, R3)
        code.do(R2, "<<=", 6)
        code.do(R6, "&=", 1 << X86_ACCESSED_SHIFT)
        code.do(R2, "|=", R6)
        code.do(R2, "|=", SPECIAL | 1 << LISTED_NR_SHIFT)
        code.call("append")
        code.leave(0)

    def _count_mapped(self) -> None:
        """Count the entry in R6, which maps the frame in R7."""
        code = self.code
        self._add("work", 1)
        self._put("last", R6)
        code.do(R1, "=", R6)
        code.do(R1, ">>=", X86_ACCESSED_SHIFT)
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

    def _count_type(self) -> None:
        """Count the entry in R6, which maps nothing, by its swap type; those of a marker's by what it marks."""
        code = self.code
        code.do(R1, "=", R6)
        code.do(R1, ">>=", X86_SWAP_TYPE_SHIFT)
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
