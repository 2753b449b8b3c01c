"""The program that counts, its part about frames: how often each is mapped, and what that adds to the sums."""

from __future__ import annotations

from mematlas.kernel.memory.bpfcall import HELPER_PROBE_READ_KERNEL
from mematlas.kernel.memory.bpfcode import R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10, MapCode
from mematlas.kernel.memory.compound import LOWEST_MASK, head_word
from mematlas.kernel.memory.countmap import (
    AT,
    FULL,
    LISTED_NR_SHIFT,
    MANY,
    NR_COUNTS,
    NR_LISTED,
    NR_RAM_RANGES,
    PAGES_MAPPED,
    SPECIAL,
)
from mematlas.kernel.memory.x86 import PAGE_SHIFT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.memory.bpfcode import Register
    from mematlas.kernel.memory.btf import StructLayout


class FrameCode(MapCode):
    """Writes functions of the program."""

    def __init__(self, map_fd: int, layout: StructLayout) -> None:
        super().__init__(map_fd, AT)
        self.layout = layout
        self.size = layout["page"]
        self.shift = self.size.bit_length() - 1
        self.head_word = head_word(layout)
        self.mapping = layout["folio.mapping" if "folio.mapping" in layout else "page.mapping"]

    # What many of them need

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

    def _read(self, offset: int, size: int) -> None:
        """Copy from the kernel address in R3 to the stack; R0 is 0 where that could be done."""
        self.code.do(R1, "=", R10)
        self.code.do(R1, "+=", offset)
        self.code.do(R2, "=", size)
        self.code.helper(HELPER_PROBE_READ_KERNEL)

    def _struct_page(self, address: Register) -> None:
        """Have R0 be the struct page at an address, to be read in place."""
        if address is not R1:
            self.code.do(R1, "=", address)
        self.code.do(R2, "=", self.layout["type.page"])
        self.code.kernel_function(self.layout["type.bpf_rdonly_cast"])

    def _frame_of(self, dst: Register, entry: Register) -> None:
        """Have a register be the frame of an entry, which is in another."""
        self._get(dst, "address_mask")
        self.code.do(dst, "&=", entry)
        self.code.do(dst, ">>=", PAGE_SHIFT)

    # Frames

    def _count_page(self) -> None:
        """Return how often the frame in R1 is mapped (folio_precise_page_mapcount), -1 where that is not known;
        "is_anon" is 1 where it belongs to no file (folio_test_anon).
        """
        code = self.code
        self._begin("count_page", 1)
        code.do(R6, "=", R1)
        code.call("in_ram")
        code.jump_if(R0, "==", 0, "unknown")
        code.do(R6, "<<=", self.shift)
        self._get(R1, "struct_pages")
        code.do(R6, "+=", R1)
        self._struct_page(R6)
        self._take_own_count()
        self._take_owner()
        code.do(R1, "=", R6)
        code.do(R1, "|=", self.size)
        self._struct_page(R1)
        code.load(R1, R0, self.head_word)
        code.jump_if(R1, "&", 1, "large")
        code.label("counted")
        self._put("is_anon", R9)
        code.do(R0, "=", R7)
        code.leave()
        code.label("unknown")
        self._put("is_anon", 0)
        code.leave(-1)
        code.label("large")
        self._add_mappings_of_head()
        code.jump("counted")

    def _take_own_count(self) -> None:
        """Have R7 be how often the page is mapped by itself whose struct page is R0."""
        code = self.code
        code.load(R7, R0, self.layout["page._mapcount"], 4)
        code.do(R7, "+=", 1)
        code.sign_extend(R7)
        # What is below -1 is a type, of pages that nobody maps.
        code.jump_if(R7, "s<", 0, "typed")
        code.jump("mapped")
        code.label("typed")
        code.do(R7, "=", 0)
        code.label("mapped")

    def _take_owner(self) -> None:
        """Have R9 be 1 where the page belongs to no file whose struct page is R0, else 0."""
        code = self.code
        code.do(R9, "=", 0)
        code.load(R1, R0, self.layout["page.mapping"])
        code.jump_if(R1, "&", 1, "anon")
        code.jump("file")
        code.label("anon")
        code.do(R9, "=", 1)
        code.label("file")

    def _add_mappings_of_head(self) -> None:
        """Add to R7 how often the large folio is mapped as a whole whose tail has the word in R1; R6 is the struct page
        of any page of it. R9 is "is_anon". Goes to "unknown" where that is not known.
        """
        code = self.code
        # The verifier takes the word for a pointer, until it has been elsewhere.
        self._put("scratch", R1)
        self._get(R1, "scratch")
        # As `heads_of` does it.
        code.wide(R2, LOWEST_MASK)
        code.jump_if(R1, ">=", R2, "mask")
        code.do(R6, "=", R1)
        code.do(R6, "-=", 1)
        code.jump("head")
        code.label("mask")
        code.do(R6, "&=", R1)
        code.label("head")
        self._add("large", 1)
        self._get(R1, "head")
        code.jump_if(R1, "==", R6, "known head")
        self._read_head()
        code.label("known head")
        self._get(R1, "head_count")
        code.jump_if(R1, "s<", 0, "unknown")
        code.do(R7, "+=", R1)
        self._get(R9, "head_anon")

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
        for offset, size in ((layout["folio._entire_mapcount"], 4), (self.mapping, 8)):
            code.do(R3, "=", R6)
            code.do(R3, "+=", offset)
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
