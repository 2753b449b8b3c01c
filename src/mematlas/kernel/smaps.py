"""/proc/PID/smaps: what the kernel counts in each VMA.

Format: Documentation/filesystems/proc.rst; fs/proc/task_mmu.c, smap_gather_stats(). The kernel walks every page
under the target's mmap lock: a 4 GiB process cannot map or unmap anything for 90 ms meanwhile.
"""

from __future__ import annotations

from mematlas.errors import Error, FormatError
from mematlas.kernel.maps import ESCAPE, Vma, exact_name, parse_line
from mematlas.kernel.mounts import NO_DEVICES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mematlas.kernel.mounts import Devices, LiveDevices
    from mematlas.kernel.procfs import ProcessDir

HOLD_PER_BYTE = 21e-6 / (1 << 20)
"""Seconds for which one reading holds the target's mmap lock, for each resident byte (4 KiB pages)."""

FIELDS_USED = frozenset(("Rss", "Pss", "Private_Clean", "Private_Dirty", "Anonymous", "Swap"))
"""What every kernel tells of every VMA, and we compute with: an entry without them was cut short."""

HEX_DIGITS = b"0123456789abcdef"

LEFT_OUT = "smaps leaves out huge pages that nobody may access on this kernel (mended in Linux 6.5)"


def read_smaps(process: ProcessDir, devices: Devices | LiveDevices = NO_DEVICES) -> list[tuple[Vma, dict[str, int]]]:
    """Return each VMA with its fields in bytes, keyed as the kernel spells them (``Rss``, ``Private_Dirty``)."""
    data = process.read("smaps")
    entries = parse_smaps(data, devices)
    for vma, fields in entries:
        if not fields.keys() >= FIELDS_USED:
            missing = ", ".join(sorted(FIELDS_USED - fields.keys()))
            raise FormatError(f"{process.path}/smaps", f"{vma.start:x}-{vma.end:x} without {missing}")
    return [(exact_name(process, vma), fields) for vma, fields in entries] if ESCAPE in data else entries


def parse_smaps(data: bytes, devices: Devices | LiveDevices = NO_DEVICES) -> list[tuple[Vma, dict[str, int]]]:
    """Return the VMAs in the text of an smaps file, each with its fields in bytes."""
    entries: list[tuple[Vma, dict[str, int]]] = []
    fields: dict[str, int] = {}
    names: dict[bytes, str] = {}  # each name comes once a VMA: decoded once
    for line in data.split(b"\n"):
        # Head lines begin with a lower-case hexadecimal digit, field lines with a capital.
        if line[:1] in HEX_DIGITS and line:
            fields = {}
            entries.append((parse_line(line, devices), fields))
        elif line.endswith(b" kB"):
            key, _, value = line.partition(b":")
            name = names.get(key) or names.setdefault(key, key.decode("ascii", "replace"))
            try:
                fields[name] = int(value[:-3]) * 1024
            except ValueError:
                raise FormatError("smaps", line.decode("utf-8", "replace")) from None
    return entries


def read_vm_flags(process: ProcessDir) -> dict[int, frozenset[str]]:
    """Return the flags of each VMA by its start: ``lo`` means mlocked."""
    return parse_vm_flags(process.read("smaps"))


def parse_vm_flags(data: bytes) -> dict[int, frozenset[str]]:
    """Return the ``VmFlags`` in the text of an smaps file, by the start of each VMA."""
    flags: dict[int, frozenset[str]] = {}
    start = 0
    for line in data.split(b"\n"):
        if line[:1] in HEX_DIGITS and line:
            start = parse_line(line).start
        elif line.startswith(b"VmFlags:"):
            flags[start] = frozenset(line[8:].decode("ascii").split())
    return flags


def read_rollup(process: ProcessDir) -> dict[str, int]:
    """Return the sums over all VMAs, in bytes.

    Since Linux commit 493b0e9d945f ("mm: add /proc/pid/smaps_rollup", in v4.14) the kernel sums; before that, smaps
    has the same fields, one set per VMA.
    """
    from mematlas.errors import NotSupported

    try:
        return sum_fields(fields for _, fields in parse_smaps(process.read("smaps_rollup")))
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
        entries = parse_smaps(ProcFS().read("self/smaps"))
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
