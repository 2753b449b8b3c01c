"""The program that counts, its part that walks: from the top table down to each table of entries."""

from __future__ import annotations

from mematlas.kernel.memory.bpfcall import HELPER_PROBE_READ_KERNEL
from mematlas.kernel.memory.bpfcode import R0, R1, R2, R3, R4, R6, R7, R8, R9, R10
from mematlas.kernel.memory.countframes import FrameCode
from mematlas.kernel.memory.countmap import (
    AT,
    CHANGED,
    JUNK,
    NOT_FOUND,
    NR_LISTED,
    NR_SAMPLES,
    SEARCH_WORK,
    TABLE_WORK,
)
from mematlas.kernel.memory.x86 import (
    NR_ENTRIES,
    PAGE,
    PAGE_SHIFT,
    PMD_SHIFT,
    PUD_SHIFT,
    X86_HUGE,
    X86_PRESENT,
    X86_USER,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.memory.bpfcode import Register


class WalkCode(FrameCode):
    """Writes the functions that walk. `group` looks at the entries that they find."""

    def _step(self) -> None:
        """Take one step: a search from the top, an entry of the PMD that is held, or all of the table it points at."""
        code = self.code
        self._begin("step", 2, is_static=True)
        self._stop_at_limits()
        self._get(R1, "pmd_low")
        code.jump_if(R6, "<", R1, "search")
        self._get(R1, "pmd_high")
        code.jump_if(R6, "<", R1, "held")
        code.label("search")
        code.do(R1, "=", R6)
        code.call("search")
        code.jump_if(R0, "!=", 0, "go on")
        code.label("held")
        self._take_pmd_entry()
        self._put("address", R9)
        code.label("go on")
        code.leave(0)
        code.label("stop")
        code.leave(1)

    def _stop_at_limits(self) -> None:
        """Have R6 be the address that the walk has reached; go to "stop" where it must not go further."""
        code = self.code
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

    def _take_pmd_entry(self) -> None:
        """Look at the PMD entry of the address in R6: list a leaf, look at a table. R9 is where the next one begins."""
        code = self.code
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
        code.do(R2, "&=", X86_PRESENT | X86_HUGE)
        code.jump_if(R2, "==", X86_PRESENT, "table")
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

    def _check_table(self, entry: Register) -> None:
        """Have R3 be the address of the table that an entry points at; go to "junk" where no entry of a table can."""
        code = self.code
        self._get(R2, "reserved")
        code.do(R2, "|=", X86_PRESENT | X86_USER)
        code.do(R2, "&=", entry)
        code.jump_if(R2, "!=", X86_PRESENT | X86_USER, "junk")
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
        self._copy_table()
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
        self._keep_sample()
        code.leave(0)
        code.label("junk")
        self._fail(JUNK)
        code.label("changed")
        self._fail(CHANGED)

    def _copy_table(self) -> None:
        """Copy the table at R3 from the entry of the address in R6 on, up to the end of the range or of the table.
        R9 is the number of entries. Goes to "changed" where the entry that led to it, in R7, is another one by now.
        """
        code = self.code
        code.do(R1, "=", R6)
        code.do(R1, ">>=", PAGE_SHIFT)
        code.do(R1, "&=", NR_ENTRIES - 1)
        code.do(R2, "=", NR_ENTRIES)
        code.do(R2, "-=", R1)
        code.do(R1, "<<=", 3)
        code.do(R3, "+=", R1)
        self._get(R4, "end")
        code.do(R4, "-=", R6)
        code.do(R4, ">>=", PAGE_SHIFT)
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

    def _keep_sample(self) -> None:
        """Count a table, and keep the last entry counted in it: some of these are compared with the kernel's files."""
        code = self.code
        self._get(R2, "tables")
        code.do(R1, "=", R2)
        code.do(R1, "+=", 1)
        self._put("tables", R1)
        code.do(R2, "&=", NR_SAMPLES - 1)
        code.do(R2, "<<=", 3)
        code.do(R2, "+=", R8)
        self._get(R1, "last")
        code.store(R2, AT["samples"], R1)

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
        code.do(R1, "&=", X86_PRESENT | X86_HUGE)
        code.jump_if(R1, "==", X86_PRESENT, f"table{level}")
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
        self._put(f"chain{level}_address", R7)
        self._put(f"chain{level}_entry", R9)
        self._check_table(R9)
        code.do(R7, "=", R3)

    def _verify(self) -> None:
        """Read the entries that led to the PMD once more."""
        code = self.code
        self._begin("verify", 0)
        for level in range(3):
            self._get(R3, f"chain{level}_address")
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
