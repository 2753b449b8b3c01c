"""Page tables counted in the kernel: the program of `mematlas.kernel.memory.countcode`, loaded, and asked.

It is called for some hundred microseconds at a time, in our own context: longer would keep others from our processor
where the kernel does not preempt itself. Nothing of it stays when the program is closed.
"""

from __future__ import annotations

import struct

from mematlas.errors import NotSupported
from mematlas.kernel.memory.bpfcall import lowest_kernel_address
from mematlas.kernel.memory.bpfprogram import ONE_SECTION, SLEEPABLE, SharedProgram
from mematlas.kernel.memory.btf import FITTING
from mematlas.kernel.memory.countcode import Counting
from mematlas.kernel.memory.countmap import (
    ASK,
    AT,
    COUNT_LEAVES,
    FIRST_MARKER_TYPE,
    LISTED_NR_SHIFT,
    MANY,
    NR_COUNTS,
    NR_RAM_RANGES,
    NR_SAMPLES,
    NR_WORDS,
    READ_WORDS,
    SPECIAL,
    SUMS,
    SUMS_AT,
    SUMS_SIZE,
    WALK,
)
from mematlas.kernel.memory.x86 import PAGE, U64, X86_ADDRESS, X86_HUGE, X86_PRESENT, X86_SPECIAL, X86_USER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.memory.btf import StructLayout
    from mematlas.kernel.memory.iomem import RamRanges

BUDGET = 3 << 10
"""The work of a call, roughly, in groups of 8 entries: 0.2 to 0.8 ms."""

INPUT_WORDS = struct.Struct("=6Q")
WORD, PAIR, ASKED = struct.Struct("=Q"), struct.Struct("=2Q"), struct.Struct("=Qq")
SUM_WORDS, COUNT_WORDS = struct.Struct(f"={len(SUMS)}Q"), struct.Struct(f"={NR_COUNTS}Q")
NO_SUMS, NO_COUNTS = bytes(SUMS_SIZE), bytes(8 * NR_COUNTS)
MARKER0, TYPE0 = SUMS.index("marker0"), SUMS.index("type0")


def pair_at(array: str, index: int) -> int:
    """Return where in the map the pair of words with an index begins, of ``words``, ``ram`` or ``list``."""
    return AT[array] + 16 * index


class Sums:
    """What one or more calls have counted."""

    def __init__(self) -> None:
        self.single = self.single_anon = self.shared = self.shared_anon = 0
        """Pages whose frames are mapped once, and other ones; those of them that belong to no file."""
        self.accessed = self.dirty = self.unknown = 0
        self.types: dict[int, int] = {}
        """How many entries that map nothing have which swap type."""
        self.markers: dict[tuple[int, int], int] = {}
        """What those of the two highest types mark, by type and offset; 0 stands for all that are above 7."""
        self.counts: dict[int, int] = {}
        """How many pages have which map count, where that is more than one."""
        self.special: list[tuple[int, int]] = []
        """Frames that special entries map, each with its mark."""
        self.leaves: list[tuple[int, int]] = []
        """Entries of upper levels that are no tables, each with its address and the shift of its level."""


class CountProgram(SharedProgram):
    """The program, loaded. Not for two threads at once: they share its map.

    Raises:
        PermissionDenied: without CAP_BPF and CAP_PERFMON (or CAP_SYS_ADMIN), or behind a seccomp filter.
        NotSupported: a kernel before 6.3, without type information, or locked down to confidentiality.
    """

    kinds = (ONE_SECTION, SLEEPABLE)
    """No table that a call comes to is freed while it runs, unless the kernel takes the other one alone."""

    def __init__(self, layout: StructLayout) -> None:
        if PAGE % layout["page"]:
            raise NotSupported(f"struct pages of {layout['page']} bytes", "struct pages that fill pages evenly")
        super().__init__(AT["end of all"], lambda map_fd: Counting(map_fd, layout).write())
        try:
            self.read([])
            self._lowest = lowest_kernel_address(self._get("task"))
        except BaseException:
            self.close()
            raise

    def _get(self, name: str) -> int:
        (value,) = WORD.unpack_from(self._shared, AT[name])
        return int(value)

    def _set(self, **values: int) -> None:
        for name, value in values.items():
            WORD.pack_into(self._shared, AT[name], value & U64)

    def _run(self, mode: int, nr: int = 0) -> None:
        PAIR.pack_into(self._shared, AT["mode"], mode, nr)
        self.run()

    # Single words

    def read(self, addresses: list[int]) -> list[int | None]:
        """Return the words at up to `NR_WORDS` kernel addresses; None for one that cannot be read."""
        for number, address in enumerate(addresses):
            # See `mematlas.kernel.memory.bpf.BpfReader.read_batch`: the kernel may warn of an address that none has.
            known = address if address >= self._lowest else 0
            WORD.pack_into(self._shared, pair_at("words", number), known)
        self._run(READ_WORDS, len(addresses))
        return [None if error else word for word, error in self._answers(len(addresses))]

    def _answers(self, nr: int) -> list[tuple[int, int]]:
        """Return the first pairs of ``words``, in which the program leaves its answers."""
        return [ASKED.unpack_from(self._shared, pair_at("words", number)) for number in range(nr)]

    def word(self, address: int) -> int:
        """Return the word at a kernel address."""
        (word,) = self.read([address & U64])
        if word is None:
            # Neither the address nor what was read is said: they are the kernel's.
            raise NotSupported("following the kernel's structures with BPF", FITTING)
        return word

    def private_data(self, fd: int, layout: StructLayout) -> int:
        """Return what our own open file ``fd`` is made of; see `mematlas.kernel.memory.bpf.BpfReader`."""
        self.read([])
        at = self._get("task")
        for step in (layout["task_struct.files"], layout["files_struct.fdt"], layout["fdtable.fd"]):
            at = self.word(at + step)
        return self.word(self.word(at + 8 * fd) + layout["file.private_data"])

    # Tables and frames

    def set_machine(self, base: int, struct_pages: int, ram: RamRanges, phys_bits: int, levels: int) -> None:
        """Set where memory, its struct pages and RAM are.

        Raises:
            NotSupported: RAM is in too many pieces.
        """
        if len(ram.ranges) > NR_RAM_RANGES:
            what = f"counting with BPF where RAM is in {len(ram.ranges)} ranges"
            raise NotSupported(what, f"{NR_RAM_RANGES} at most")
        largest_first = sorted(ram.ranges, key=lambda span: span[0] - span[1])
        for number, (start, end) in enumerate(largest_first):
            # Pages that are RAM in part hold no tables, and are mapped by nobody.
            first = -(-start // PAGE)
            PAIR.pack_into(self._shared, pair_at("ram", number), first, end // PAGE - first)
        reserved = (1 << 52) - (1 << phys_bits) if phys_bits < 52 else 0
        self._set(
            base=base,
            struct_pages=struct_pages,
            nr_frames=ram.memory_end // PAGE,
            address_mask=X86_ADDRESS,
            reserved=reserved,
            usual=reserved | X86_PRESENT | X86_USER | X86_SPECIAL,
            table_mask=X86_ADDRESS | X86_PRESENT | X86_HUGE,
            has_five_levels=int(levels == 5),
        )

    def set_process(self, pgd: int, dirty_shift: int) -> None:
        """Set whose tables are walked, by where the top one is, and the second bit that makes an entry dirty."""
        self._set(pgd=pgd, dirty_shift=dirty_shift)

    def walk(self, sums: Sums, start: int, end: int, first_at: int = 0) -> int | None:
        """Count a range up to where the work of one call is done; return that address.

        None where it is not known, since tables changed or were none: then nothing was counted. The entry of the
        address ``first_at`` is kept for `first`.
        """
        INPUT_WORDS.pack_into(self._shared, AT["mode"], WALK, 0, start, end, BUDGET, first_at)
        self._clear()
        self.run()
        if self._get("status"):
            return None
        self._add(sums)
        return self._get("address")

    @property
    def first(self) -> int:
        """The entry of the last level that the last walk found at the address it was given; 0 where there was none."""
        return self._get("first")

    @property
    def samples(self) -> list[int]:
        """Some entries of the last walk that map memory: at most one of each table."""
        nr = min(self._get("tables"), NR_SAMPLES)
        return [word for word in struct.unpack_from(f"={nr}Q", self._shared, AT["samples"]) if word]

    @property
    def nr_large(self) -> int:
        """How many frames of large folios the last call has looked at."""
        return self._get("large")

    def count_leaves(self, sums: Sums, leaves: list[tuple[int, int, int]]) -> None:
        """Count the pages of huge leaves: the first frame of each, how many, and how many more share its table.

        Raises:
            NotSupported: one has more map counts than the list holds.
        """
        nr_done, most = 0, NR_WORDS
        while nr_done < len(leaves):
            few = leaves[nr_done : nr_done + most]
            for number, (pfn, nr_pages, shares) in enumerate(few):
                lengths = nr_pages | (shares & 0xFFFFFFFF) << 32
                PAIR.pack_into(self._shared, pair_at("words", number), pfn, lengths)
            self._set(budget=BUDGET, work=0)
            self._clear()
            self._run(COUNT_LEAVES, len(few))
            if not self._get("status"):
                self._add(sums)
                nr_done += self._get("done")
                most = NR_WORDS
            elif most > 1:
                most = 1
            else:
                raise NotSupported("counting a huge page with BPF that so many map in so many ways")

    def ask(self, pfns: list[int]) -> list[tuple[int, bool]]:
        """Return how often each of some frames is mapped, -1 if unknown, and whether it belongs to no file."""
        for number, pfn in enumerate(pfns):
            WORD.pack_into(self._shared, pair_at("words", number), pfn)
        self._run(ASK, len(pfns))
        return [(mark >> 1, bool(mark & 1)) for _, mark in self._answers(len(pfns))]

    def _clear(self) -> None:
        self._shared[SUMS_AT : SUMS_AT + SUMS_SIZE] = NO_SUMS
        # What a call has counted that failed, or whose end somebody did not wait for.
        self._shared[AT["counts"] : AT["counts"] + len(NO_COUNTS)] = NO_COUNTS

    def _add(self, sums: Sums) -> None:
        """Add what the last call has counted."""
        words = SUM_WORDS.unpack_from(self._shared, SUMS_AT)
        if not any(words):
            return
        single, single_anon, shared, shared_anon, accessed, dirty, unknown, _, _, nr_listed = words[:10]
        sums.single += single
        sums.single_anon += single_anon
        sums.accessed += accessed
        sums.dirty += dirty
        if any(words[TYPE0:MARKER0]):
            self._add_types(sums, words)
        if shared:
            sums.shared += shared
            sums.shared_anon += shared_anon
            sums.unknown += unknown
            self._add_counts(sums)
        for number in range(nr_listed):
            value, mark = PAIR.unpack_from(self._shared, pair_at("list", number))
            if mark & 0x1F == MANY:
                sums.counts[value] = sums.counts.get(value, 0) + (mark >> LISTED_NR_SHIFT)
            elif mark & 0x1F == SPECIAL:
                sums.special.append((value, mark))
            else:
                sums.leaves.append((value, mark))

    def _add_types(self, sums: Sums, words: tuple[int, ...]) -> None:
        for kind, nr in enumerate(words[TYPE0:MARKER0]):
            if nr:
                sums.types[kind] = sums.types.get(kind, 0) + nr
        for number, nr in enumerate(words[MARKER0:]):
            if nr:
                key = (FIRST_MARKER_TYPE + (number >> 3), number & 7)
                sums.markers[key] = sums.markers.get(key, 0) + nr

    def _add_counts(self, sums: Sums) -> None:
        for map_count, nr in enumerate(COUNT_WORDS.unpack_from(self._shared, AT["counts"])):
            if nr:
                sums.counts[map_count] = sums.counts.get(map_count, 0) + nr
