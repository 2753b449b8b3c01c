"""/proc/PID/smaps: what the kernel counts in each VMA.

Format: Documentation/filesystems/proc.rst; fs/proc/task_mmu.c, smap_gather_stats(). The kernel walks every page
under the target's mmap lock: a 4 GiB process cannot map or unmap anything for 90 ms meanwhile.
"""

from __future__ import annotations

import sys

from mematlas.errors import Error, FormatError
from mematlas.kernel.maps import Vma, VmaParser, check_captured, exact_name, max_vmas
from mematlas.kernel.vmfile import NO_DEVICES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mematlas.kernel.maps import Files
    from mematlas.kernel.procfs import ProcessDir

HOLD_PER_BYTE = 21e-6 / (1 << 20)
"""Seconds for which one reading holds the target's mmap lock, for each resident byte (4 KiB pages)."""

FIELDS_USED = frozenset(("Rss", "Pss", "Private_Clean", "Private_Dirty", "Anonymous", "Swap"))
"""What every kernel tells of every VMA, and we compute with: an entry without them was cut short."""

HEX_DIGITS = b"0123456789abcdef"

LEFT_OUT = "smaps leaves out huge pages that nobody may access on this kernel (mended in Linux 6.5)"


def read_smaps(process: ProcessDir, files: Files = NO_DEVICES) -> list[tuple[Vma, dict[str, int]]]:
    """Return each VMA with its fields in bytes, keyed as the kernel spells them (``Rss``, ``Private_Dirty``)."""
    entries = process.parsed_lines("smaps", lambda lines: parse_smaps(lines, files, max_vmas(process)))
    if process.captured:
        check_captured((vma for vma, _ in entries), process)
        if any(min(fields.values(), default=0) < 0 or max(fields.values(), default=0) >> 64 for _, fields in entries):
            raise FormatError(f"{process.path}/smaps", expected="amounts of 64 bits")
    for vma, fields in entries:
        if not fields.keys() >= FIELDS_USED:
            missing = ", ".join(sorted(FIELDS_USED - fields.keys()))
            raise FormatError(f"{process.path}/smaps", place=f"{vma.start:x}-{vma.end:x}", expected=missing)
    return [(exact_name(process, vma) if "\n" in vma.path else vma, fields) for vma, fields in entries]


def parse_smaps(
    lines: Iterable[bytes], files: Files = NO_DEVICES, most: int = sys.maxsize
) -> list[tuple[Vma, dict[str, int]]]:
    """Return the VMAs in the lines of an smaps file, each with its fields in bytes."""
    entries: list[tuple[Vma, dict[str, int]]] = []
    fields: dict[str, int] = {}
    names: dict[bytes, str] = {}  # each name comes once a VMA: decoded once
    parser = VmaParser(files, most)
    for line in lines:
        # Head lines begin with a lower-case hexadecimal digit, field lines with a capital.
        if line[:1] in HEX_DIGITS and line:
            fields = {}
            entries.append((parser.parse(line), fields))
        elif line.endswith(b" kB"):
            key, _, value = line.partition(b":")
            try:
                fields[names.get(key) or name_of(key, names)] = int(value[:-3]) * 1024
            except ValueError:
                text = line[:MAX_NAME].decode("utf-8", "replace")
                raise FormatError("smaps", text, f"VMA {parser.nr_vmas}", "NAME: NUMBER kB") from None
    return entries


MAX_NAMES = 256
MAX_NAME = 64


def name_of(key: bytes, names: dict[bytes, str]) -> str:
    """Return the name of a field, and keep it among those that are known."""
    if len(names) >= MAX_NAMES or len(key) > MAX_NAME:
        raise ValueError
    return names.setdefault(key, key.decode("ascii", "replace"))


def read_vm_flags(process: ProcessDir) -> dict[int, frozenset[str]]:
    """Return the flags of each VMA by its start: ``lo`` means mlocked."""
    return process.parsed_lines("smaps", lambda lines: parse_vm_flags(lines, max_vmas(process)))


def parse_vm_flags(lines: Iterable[bytes], most: int = sys.maxsize) -> dict[int, frozenset[str]]:
    """Return the ``VmFlags`` in the lines of an smaps file, by the start of each VMA."""
    flags: dict[int, frozenset[str]] = {}
    known: dict[bytes, frozenset[str]] = {}
    start = 0
    parser = VmaParser(most=most)
    for line in lines:
        if line[:1] in HEX_DIGITS and line:
            start = parser.parse(line).start
        elif line.startswith(b"VmFlags:"):
            flags[start] = known.get(line) or known.setdefault(line, flags_of(line, f"VMA {parser.nr_vmas}"))
    return flags


MAX_FLAGS = 256
"""Bytes of a line of flags: two letters and a blank for each of 64."""


def flags_of(line: bytes, place: str) -> frozenset[str]:
    """Return the flags in a line of them."""
    if len(line) > MAX_FLAGS or not line.isascii():
        raise FormatError("smaps", line[:MAX_NAME].decode("ascii", "replace"), place, "VmFlags: two letters each")
    return frozenset(line[8:].decode("ascii").split())


def read_rollup(process: ProcessDir) -> dict[str, int]:
    """Return the sums over all VMAs, in bytes.

    Since Linux commit 493b0e9d945f ("mm: add /proc/pid/smaps_rollup", in v4.14) the kernel sums; before that, smaps
    has the same fields, one set per VMA.
    """
    from mematlas.errors import NotSupported

    try:
        return sum_fields(fields for _, fields in process.parsed_lines("smaps_rollup", parse_smaps))
    except NotSupported:
        return sum_fields(fields for _, fields in read_smaps(process))


def sum_fields(entries: Iterable[dict[str, int]]) -> dict[str, int]:
    """Return the sum of each field over all VMAs; page sizes, which are no amounts, are left out."""
    total: dict[str, int] = {}
    for fields in entries:
        for name, value in fields.items():
            if not name.endswith("PageSize") and name != "Size":
                total[name] = total.get(name, 0) + value
    return total


def leaves_out_huge_pages() -> bool:
    """Whether smaps has nothing of huge pages that nobody may access (PROT_NONE): asked about one of our own.

    Linux 6.1 does; commit 8b9c1cc0418a (v6.5) mended it. False where we get no huge page.
    """
    import ctypes
    import mmap

    from mematlas.kernel.libc import libc
    from mematlas.kernel.madvise import huge_size
    from mematlas.kernel.procfs import ProcFS

    size = huge_size()

    def told(name: str) -> int:
        entries = ProcFS().parsed_lines("self/smaps", parse_smaps)
        return next(fields.get(name, 0) for vma, fields in entries if vma.start <= start < vma.end)

    with mmap.mmap(-1, 2 * size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        # What from_buffer() returns pins the mmap: it must die with this line.
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        start = -(-address // size) * size
        try:
            memory.madvise(mmap.MADV_HUGEPAGE)
            memory[start - address] = 1
            is_huge = told("AnonHugePages") >= size
            is_hidden = libc().mprotect(ctypes.c_void_p(start), ctypes.c_size_t(size), 0) == 0
            return is_huge and is_hidden and told("Rss") < size
        except (OSError, Error):
            return False
