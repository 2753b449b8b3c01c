"""What frames are, told in the kernel: the program of `mematlas.kernel.memory.tellcode`, loaded, and asked."""

from __future__ import annotations

import struct

from mematlas.arrays import Bytes, Words, np
from mematlas.errors import NotSupported
from mematlas.frozen import record
from mematlas.kernel.memory.bpfprogram import SharedProgram
from mematlas.kernel.memory.tellcode import NR_PAGES, NR_STATE, STATE_AT, WORDS, TellCode, Told, make_offsets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.memory.framearray import FrameArray

INPUT_WORDS, WORD = struct.Struct("=3Q"), struct.Struct("=Q")
NO_STATE = bytes(NR_STATE)


@record
class TellTables:
    """What the program looks up: of each index a byte."""

    types: Bytes
    """By the top byte of the type."""
    low: Bytes
    high: Bytes
    """What the lower and the higher flags add to a key."""
    kinds: Bytes
    """By the key."""
    strongest: int
    """What of a key no type overrules."""
    free_alone: int
    """What is free, and in no block."""
    untouched: int
    """What that is where its map count was never set."""


class TellProgram(SharedProgram):
    """The program, loaded. Not for two threads at once: they share its map.

    Raises:
        PermissionDenied: without CAP_BPF and CAP_PERFMON (or CAP_SYS_ADMIN), or behind a seccomp filter.
        NotSupported: a kernel without bpf_loop (before Linux 5.17), or that is locked down to confidentiality; or the
            memory of the kernel is read by something else.
    """

    _pages: Words
    _told: Bytes

    def __init__(self, array: FrameArray, tables: TellTables) -> None:
        if array.memory.name != "bpf":
            raise NotSupported(f"telling frames with BPF where memory is read by {array.memory.name}")
        self.array = array
        at = make_offsets(array.size)
        free, unaccepted = tables.types[[array.types["PGTY_buddy"], array.unaccepted]].tolist()
        kinds = Told(free, unaccepted, tables.strongest, tables.free_alone, tables.untouched)
        self._let_go()
        super().__init__(at["end of all"], lambda fd: TellCode(fd, array, kinds).write())
        for name in ("types", "low", "high", "kinds"):
            table = getattr(tables, name)
            self._shared[at[name] : at[name] + len(table)] = table.tobytes()
        self._pages = np.frombuffer(self._shared, np.uint64, NR_PAGES, at["pages"])
        self._told = np.frombuffer(self._shared, np.uint8, NR_PAGES << array.shift, at["out"])

    def close(self) -> None:
        """Let go of the program and the map."""
        self._let_go()
        super().close()

    def _let_go(self) -> None:
        """Have no view of the map: with one it cannot be closed."""
        self._pages, self._told = np.zeros(0, np.uint64), np.zeros(0, np.uint8)

    def tell(self, pages: Words, into: Bytes, skips: bool = True) -> bool:
        """Tell what the frames of pages of the array are, by their numbers, ascending: a row for each.

        With ``skips`` ranges that are alike are not read. Whether there are marks in the place of bytes is returned.
        """
        self._shared[STATE_AT : STATE_AT + NR_STATE] = NO_STATE
        shift = self.array.shift
        flat = into.reshape(-1)
        for start in range(0, len(pages), NR_PAGES):
            some = pages[start : start + NR_PAGES]
            nr = len(some)
            self._pages[:nr] = some
            INPUT_WORDS.pack_into(self._shared, 0, self.array.base, nr, skips)
            self.run()
            flat[start << shift : start + nr << shift] = self._told[: nr << shift]
        (nr_marks,) = WORD.unpack_from(self._shared, 8 * WORDS.index("marks"))
        return bool(nr_marks)
