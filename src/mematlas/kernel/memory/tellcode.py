"""The program that tells what frames are: it goes through struct pages in the kernel, and leaves a byte for each frame.

It is given pages of the array by their numbers, ascending. What a frame is it looks up in tables that it is given: by
its type, or by a key of its flags, its mapping and whether there are references. Tails are what their head is, and what
lies inside a free block is free. No pointer is followed: a tail that does not lie behind its head is left as `LOST`,
for others to look into.

With "skips" neither what lies inside a free block is read, nor what lies behind the head of a folio of which no page is
mapped by itself. Each page of the array is copied at once, so that what is told together was there together.
"""

from __future__ import annotations

from mematlas.errors import NotSupported
from mematlas.frozen import record
from mematlas.kernel.memory.bpfcall import HELPER_PROBE_READ_KERNEL
from mematlas.kernel.memory.bpfcode import R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, MapCode
from mematlas.kernel.memory.compound import LOWEST_MASK
from mematlas.kernel.memory.framearray import FOLIO_PAGES_MAPPED, GRANULE_SHIFT, LOWEST_TYPE, MOST_ORDER, NO_TYPE
from mematlas.kernel.memory.framebyte import MAPPED_MORE, START, STATE_SHIFT, STATE_UNKNOWN
from mematlas.kernel.memory.x86 import PAGE, PAGE_SHIFT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.memory.bpfcode import Code, Register
    from mematlas.kernel.memory.framearray import FrameArray

MARK = STATE_UNKNOWN << STATE_SHIFT
LOST, UNREAD = MARK, MARK | 1
"""What stands in the place of a byte: a tail whose head is elsewhere, and what cannot be read."""
NR_PAGES = 256
"""Pages of the array, of 64 frames mostly, that one call goes through: 0.05 to 0.3 ms."""
LOW_BITS, HIGH_BITS = 13, 14
"""Flags are looked up in two halves."""
NR_KEY_BITS = 12
MAPPING_SHIFT, POINTER_SHIFT, REFERENCED_SHIFT = 8, 10, 11
"""Where in a key the lowest two bits of the mapping are, its highest, and whether there are references. The lowest bits
are flags.
"""
UNTYPED = 0xFF
"""What the table of types has for what is none."""
EVERY_BYTE = 0x0101010101010101
GROUP = 8
"""Frames that are looked at in one step."""

WORDS = (
    # The first three are set at once: where the array begins, and how many pages there are in "pages".
    *("base", "nr", "skips"),
    # How many frames more are what "fill" is eight times, and which page comes next if they go on; the row, frame and
    # address of the page that is gone through.
    *("left", "fill", "next", "row", "first", "at"),
    # The word of the tails of the folio that was begun last, what that is, and how often it is mapped as a whole.
    *("expected", "owner", "entire"),
    # How many marks were left in the place of bytes.
    "marks",
)
STATE_AT = 8 * WORDS.index("left")
NR_STATE = 8 * (len(WORDS) - WORDS.index("left"))


def make_offsets(size: int) -> dict[str, int]:
    """Return where what the program and we share lies: single words by name, then arrays."""
    offsets = {name: 8 * number for number, name in enumerate(WORDS)}
    at = 8 * len(WORDS)
    arrays = {"pages": 8 * NR_PAGES, "types": 1 << 8, "kinds": 1 << NR_KEY_BITS, "page": PAGE + size}
    arrays |= {"low": 1 << LOW_BITS, "high": 1 << HIGH_BITS, "out": NR_PAGES * (PAGE // size)}
    for name, length in arrays.items():
        offsets[name] = at
        at += length
    offsets["end of all"] = -(-at // PAGE) * PAGE
    return offsets


@record
class Told:
    """What is told of what the program knows by itself, as the tables have it."""

    free: int
    """A free block."""
    unaccepted: int
    """A block that is not accepted yet."""
    strongest: int
    """What no type overrules."""
    free_alone: int
    """What is free, and in no block."""
    untouched: int
    """What that is where its map count was never set."""


class TellCode(MapCode):
    """Writes the program, for an array of struct pages."""

    def __init__(self, map_fd: int, array: FrameArray, told: Told) -> None:
        super().__init__(map_fd, make_offsets(array.size))
        self.told = told
        self.size, self.size_shift, self.shift = array.size, array.size.bit_length() - 1, array.shift
        self.types, self.unaccepted_type = array.types, array.unaccepted
        self.head_flag = 1 << array.bits["PG_head"]
        self.members = dict(array.at)
        # Of the head of a folio more is said in the struct page behind it.
        for name, offset in (
            ("next head", array.at["head"]),
            ("entire", array.entire_at),
            ("nr_mapped", array.nr_mapped_at),
            ("order", array.order_at),
        ):
            if offset is None or not 0 <= offset < self.size:
                raise NotSupported("telling frames with BPF where folios do not say how large they are")
            self.members[name] = self.size + offset

    def write(self) -> Code:
        """Return the whole program."""
        self._main()
        self._page()
        self._group()
        self._other()
        return self.code

    def _main(self) -> None:
        self._begin("main", 1)
        self._get(R1, "nr")
        self._loop("page")
        self.code.leave(0)

    def _load(self, dst: Register, member: str, size: int = 8, number: int = 0) -> None:
        """Set a register to a member of the struct page that R6 leads to, or of one that is so many behind it."""
        self.code.load(dst, R6, self.at["page"] + number * self.size + self.members[member], size)

    # Pages of the array

    def _page(self) -> None:
        """Go through a page of the array, the R1st; or pass it by where it is known what its frames are."""
        code, nr = self.code, 1 << self.shift
        self._begin("page", 2, is_static=True)
        code.jump_if(R1, ">", NR_PAGES - 1, "out")
        code.do(R7, "=", R1)
        code.do(R7, "<<=", self.shift)
        self._take_page()
        self._get(R1, "left")
        code.jump_if(R1, "<", nr, "read")
        self._get(R2, "skips")
        code.jump_if(R2, "==", 0, "read")
        code.do(R1, "-=", nr)
        self._put("left", R1)
        self._get(R1, "fill")
        self._fill_page()
        code.label("read")
        self._copy_page()
        code.jump_if(R0, "!=", 0, "unread")
        code.do(R1, "=", nr // GROUP)
        self._loop("group")
        code.leave(0)
        code.label("unread")
        self._put("left", 0)
        self._put("expected", 0)
        self._count_mark()
        code.wide(R1, UNREAD * EVERY_BYTE)
        self._fill_page()
        code.label("out")
        code.leave(1)

    def _fill_page(self) -> None:
        """Let all bytes of the page whose row is in R7 be those of R1, and leave."""
        code = self.code
        code.do(R7, "+=", R8)
        code.do(R7, "+=", self.at["out"])
        for offset in range(0, 1 << self.shift, 8):
            code.store(R7, offset, R1)
        code.leave(0)

    def _take_page(self) -> None:
        """Have R6 be the number of the R1st page. Behind a gap nothing goes on."""
        code = self.code
        code.do(R1, "<<=", 3)
        code.do(R1, "+=", R8)
        code.load(R6, R1, self.at["pages"])
        self._get(R1, "next")
        code.jump_if(R1, "==", R6, "goes on")
        self._put("left", 0)
        self._put("expected", 0)
        code.label("goes on")
        code.do(R1, "=", R6)
        code.do(R1, "+=", 1)
        self._put("next", R1)

    def _copy_page(self) -> None:
        """Copy the page with its number in R6 and its row in R7, and note where it is. R0 is 0 where that was done."""
        code = self.code
        self._put("row", R7)
        code.do(R1, "=", R6)
        code.do(R1, "<<=", self.shift)
        self._put("first", R1)
        self._get(R3, "base")
        code.do(R6, "<<=", PAGE_SHIFT)
        code.do(R3, "+=", R6)
        self._put("at", R3)
        code.do(R1, "=", R8)
        code.do(R1, "+=", self.at["page"])
        code.do(R2, "=", PAGE)
        code.helper(HELPER_PROBE_READ_KERNEL)

    # Frames

    def _group(self) -> None:
        """Tell what some frames of the page are. `other` tells what is, or begins, more than a single page."""
        code = self.code
        self._begin("group", 2, is_static=True)
        code.jump_if(R1, ">", (1 << self.shift) // GROUP - 1, "out")
        code.do(R9, "=", R1)
        code.do(R9, "<<=", GROUP.bit_length() - 1)
        self._take_frame(GROUP)
        for number in range(GROUP):
            self._plain(number)
        code.leave(0)
        for number in range(GROUP):
            self._not_plain(number)
        code.label("out")
        code.leave(1)

    def _take_frame(self, nr: int) -> None:
        """Have R6 lead to the R9th struct page, and R7 to its byte; go to "out" where there are not so many bytes."""
        code = self.code
        code.do(R6, "=", R9)
        code.do(R6, "<<=", self.size_shift)
        code.do(R6, "+=", R8)
        self._get(R7, "row")
        code.do(R7, "+=", R9)
        code.jump_if(R7, ">", (NR_PAGES << self.shift) - nr, "out")
        code.do(R7, "+=", R8)
        code.do(R7, "+=", self.at["out"])

    def _plain(self, number: int) -> None:
        """Tell what a frame of the group is that is a single page without a type; else go to where that is done."""
        code = self.code
        self._get(R1, "left")
        code.jump_if(R1, "!=", 0, f"inside{number}")
        self._load(R1, "head", number=number)
        self._load(R2, "page_type", 4, number)
        code.jump_if(R1, "&", 1, f"tail{number}")
        self._load(R3, "flags", number=number)
        code.jump_if(R3, "&", self.head_flag, f"other{number}")
        code.do(R4, "=", R2)
        code.do(R4, ">>=", 24)
        code.do(R4, "-=", LOWEST_TYPE)
        code.jump_if(R4, "<", NO_TYPE - LOWEST_TYPE, f"other{number}")
        self._take_kind(number)
        self._put("expected", 0)
        self._take_count()
        code.jump_if(R3, "==", self.told.free_alone, f"alone{number}")
        code.jump_if(R2, ">", 1, f"many{number}")
        code.label(f"state{number}")
        code.do(R2, "<<=", STATE_SHIFT)
        code.do(R3, "|=", R2)
        code.do(R3, "|=", START)
        code.label(f"told{number}")
        code.store(R7, number, R3, 1)
        code.label(f"next{number}")

    def _not_plain(self, number: int) -> None:
        """Tell what any other frame of the group is."""
        code = self.code
        code.label(f"alone{number}")
        code.jump_if(R2, "!=", 1, f"many{number}")
        code.do(R3, "=", self.told.untouched)
        code.do(R2, "=", 0)
        code.jump(f"state{number}")
        code.label(f"many{number}")
        self._limit_count(f"many{number}")
        code.jump(f"state{number}")
        code.label(f"inside{number}")
        code.do(R1, "-=", 1)
        self._put("left", R1)
        self._get(R3, "fill")
        code.jump(f"told{number}")
        code.label(f"tail{number}")
        self._take_tail(f"tail{number}")
        code.jump(f"told{number}")
        code.label(f"other{number}")
        code.do(R1, "=", R9)
        code.do(R1, "+=", number)
        code.call("other")
        code.jump(f"next{number}")

    def _take_kind(self, number: int = 0) -> None:
        """Have R3, the flags of a frame, be what the table has for the frame's key. Takes R4 and R5."""
        code = self.code
        code.do(R4, "=", R3)
        code.do(R4, "&=", (1 << LOW_BITS) - 1)
        self._look_up(R4, "low")
        code.do(R3, ">>=", LOW_BITS)
        code.do(R3, "&=", (1 << HIGH_BITS) - 1)
        self._look_up(R3, "high")
        code.do(R3, "|=", R4)
        self._load(R4, "mapping", number=number)
        code.do(R5, "=", R4)
        code.do(R5, "&=", 3)
        code.do(R5, "<<=", MAPPING_SHIFT)
        code.do(R3, "|=", R5)
        code.do(R4, ">>=", 63)
        code.do(R4, "<<=", POINTER_SHIFT)
        code.do(R3, "|=", R4)
        self._load(R4, "_refcount", 4, number)
        # 0 less one is the only one with the highest bit.
        code.do(R4, "-=", 1)
        code.do(R4, ">>=", 63)
        code.do(R4, "^=", 1)
        code.do(R4, "<<=", REFERENCED_SHIFT)
        code.do(R3, "|=", R4)
        code.do(R3, "&=", (1 << NR_KEY_BITS) - 1)
        self._look_up(R3, "kinds")

    def _look_up(self, index: Register, table: str) -> None:
        """Have a register be the byte of a table that it is the index of."""
        self.code.do(index, "+=", R8)
        self.code.load(index, index, self.at[table], 1)

    def _take_count(self) -> None:
        """Have R2, which is less by one, be the number of 32 bits that the map count is."""
        code = self.code
        code.do(R2, "+=", 1)
        code.do(R2, "<<=", 32)
        code.do(R2, ">>=", 32)

    def _limit_count(self, name: str) -> None:
        """Have R2 be 2 where it is more, and 0 where it is a negative number of 32 bits: a type."""
        code = self.code
        code.jump_if(R2, "<=", MAPPED_MORE, f"limited {name}")
        code.jump_if(R2, ">", 0x7FFFFFFF, f"typed {name}")
        code.do(R2, "=", MAPPED_MORE)
        code.jump(f"limited {name}")
        code.label(f"typed {name}")
        code.do(R2, "=", 0)
        code.label(f"limited {name}")

    def _take_tail(self, name: str) -> None:
        """Have R3 be the byte of the tail with the word in R1 and the type in R2."""
        code = self.code
        self._get(R3, "expected")
        code.jump_if(R1, "!=", R3, f"lost {name}")
        self._take_count()
        self._limit_count(name)
        self._add_head(name)
        code.jump(f"known {name}")
        code.label(f"lost {name}")
        self._count_mark()
        code.do(R3, "=", LOST)
        code.label(f"known {name}")

    def _count_mark(self) -> None:
        self._get(R1, "marks")
        self.code.do(R1, "+=", 1)
        self._put("marks", R1)

    def _add_head(self, name: str) -> None:
        """Have R3 be the byte of a frame with the count in R2, of the folio that was begun last."""
        code = self.code
        self._get(R3, "entire")
        code.do(R2, "+=", R3)
        code.jump_if(R2, "<=", MAPPED_MORE, f"added {name}")
        code.do(R2, "=", MAPPED_MORE)
        code.label(f"added {name}")
        code.do(R2, "<<=", STATE_SHIFT)
        self._get(R3, "owner")
        code.do(R3, "|=", R2)

    def _other(self) -> None:
        """Tell what the R1st frame of the page is, whatever that be but a tail."""
        code = self.code
        self._begin("other", 1)
        code.jump_if(R1, ">", (1 << self.shift) - 1, "out")
        code.do(R9, "=", R1)
        self._take_frame(1)
        self._load(R4, "page_type", 4)
        code.do(R4, ">>=", 24)
        if "PGTY_hugetlb" in self.types:
            code.jump_if(R4, "==", self.types["PGTY_hugetlb"], "hugetlb")
        code.label("first")
        code.jump_if(R4, "==", self.types["PGTY_buddy"], "block")
        if self.unaccepted_type != NO_TYPE:
            code.jump_if(R4, "==", self.unaccepted_type, "unaccepted")
        self._take_owner()
        self._load(R1, "flags")
        code.jump_if(R1, "&", self.head_flag, "head")
        code.label("count")
        self._load(R2, "page_type", 4)
        self._take_count()
        self._limit_count("first")
        self._add_head("first")
        code.do(R3, "|=", START)
        code.label("told")
        code.store(R7, 0, R3, 1)
        code.leave(0)
        code.label("head")
        self._take_expected()
        self._take_entire()
        self._skip_folio()
        code.label("block")
        self._load(R4, "private")
        self._take_block(self.told.free)
        if self.unaccepted_type != NO_TYPE:
            code.label("unaccepted")
            code.do(R4, "=", GRANULE_SHIFT)
            self._take_block(self.told.unaccepted)
        code.label("hugetlb")
        self._check_copy()
        code.label("out")
        code.leave(1)

    def _take_owner(self) -> None:
        """Note what the frame is, by its type before its key, and as yet that it is no head."""
        code = self.code
        self._load(R3, "flags")
        self._take_kind()
        self._load(R4, "page_type", 4)
        code.do(R4, ">>=", 24)
        code.do(R4, "&=", 0xFF)
        self._look_up(R4, "types")
        code.jump_if(R4, "==", UNTYPED, "known")
        code.jump_if(R3, "==", self.told.strongest, "known")
        code.do(R3, "=", R4)
        code.label("known")
        self._put("owner", R3)
        self._put("entire", 0)
        self._put("expected", 0)

    def _take_expected(self) -> None:
        """Note the word of the tail behind a head, if it leads there: all tails of the folio have the same."""
        code = self.code
        code.do(R5, "=", R9)
        code.do(R5, "<<=", self.size_shift)
        self._get(R1, "at")
        code.do(R5, "+=", R1)
        self._load(R1, "next head")
        # As `mematlas.kernel.memory.compound.heads_of` does it.
        code.wide(R2, LOWEST_MASK)
        code.jump_if(R1, ">=", R2, "mask")
        code.do(R4, "=", R1)
        code.do(R4, "-=", 1)
        code.jump("compare")
        code.label("mask")
        code.do(R4, "=", R5)
        code.do(R4, "+=", self.size)
        code.do(R4, "&=", R1)
        code.label("compare")
        code.jump_if(R4, "!=", R5, "elsewhere")
        self._put("expected", R1)
        code.label("elsewhere")

    def _take_entire(self) -> None:
        """Note how often the folio is mapped as a whole."""
        self._load(R2, "entire", 4)
        self._take_count()
        self._limit_count("entire")
        self._put("entire", R2)

    def _skip_folio(self) -> None:
        """Let all that lies behind a head be as it is, if no page is mapped by itself; go to "count"."""
        code = self.code
        self._get(R1, "skips")
        code.jump_if(R1, "==", 0, "count")
        self._load(R1, "nr_mapped", 4)
        code.do(R1, "&=", FOLIO_PAGES_MAPPED)
        code.jump_if(R1, "!=", 0, "count")
        code.do(R2, "=", 0)
        self._add_head("whole")
        code.wide(R1, EVERY_BYTE)
        code.do(R3, "*=", R1)
        self._put("fill", R3)
        self._load(R4, "order")
        code.do(R4, "&=", 0xFF)
        self._take_left("count")
        code.jump("count")

    def _take_block(self, kind: int) -> None:
        """Let all that lies in a block of the order R4 be of a kind."""
        code = self.code
        self._put("expected", 0)
        code.wide(R1, kind * EVERY_BYTE)
        self._put("fill", R1)
        code.do(R3, "=", kind | START)
        self._take_left("told")
        code.jump("told")

    def _take_left(self, label: str) -> None:
        """Note how many frames are behind the first of 1 << R4; go elsewhere where it is the first of no so many."""
        code = self.code
        code.jump_if(R4, "==", 0, label)
        code.jump_if(R4, ">", MOST_ORDER, label)
        self._jump_unless_multiple(label)
        self._put("left", R5)

    def _jump_unless_multiple(self, label: str) -> None:
        """Jump unless the frame is a multiple of 1 << R4; have R5 be that less one."""
        code = self.code
        code.do(R5, "=", 1)
        code.do(R5, "<<=", R4)
        code.do(R5, "-=", 1)
        self._get(R1, "first")
        code.do(R1, "+=", R9)
        code.do(R1, "&=", R5)
        code.jump_if(R1, "!=", 0, label)

    def _check_copy(self) -> None:
        """Go to "first", unless what looks like the head of a hugetlb folio is the copy of one: then it is a tail (HVO,
        see `mematlas.kernel.memory.framearray`), with the word of the next one.
        """
        code = self.code
        self._load(R4, "order")
        code.do(R4, "&=", 0xFF)
        code.jump_if(R4, "<=", MOST_ORDER, "order")
        code.do(R4, "=", MOST_ORDER)
        code.label("order")
        self._jump_unless_multiple("copy")
        code.do(R4, "=", self.types.get("PGTY_hugetlb", NO_TYPE))
        code.jump("first")
        code.label("copy")
        self._load(R1, "next head")
        self._load(R2, "page_type", 4)
        self._take_tail("copy")
        code.jump("told")
