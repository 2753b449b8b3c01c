"""/proc/PID/maps: one line per VMA, in address order.

Format: proc_pid_maps(5); fs/proc/task_mmu.c, show_map_vma(). Paths are those of the target's mount namespace.
"""

from __future__ import annotations

import os

from mematlas.errors import Error, FormatError
from mematlas.kernel.mounts import NO_DEVICES
from mematlas.record import record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.mounts import Devices, LiveDevices
    from mematlas.kernel.procfs import ProcessDir

KINDS = ("heap", "stack", "anon", "file", "shmem", "hugetlb", "vdso", "vvar", "vsyscall", "special")
"""What a VMA can be; see `kind_of`."""

ANON_KINDS = frozenset(("heap", "stack", "anon"))
"""The kinds whose fresh pages come from nowhere, so that reading them maps the zero page."""


@record
class Vma:
    """One line of ``/proc/PID/maps``: a range of addresses with one backing and one set of rights."""

    start: int
    end: int
    """First address after it."""
    perms: str
    """``r`` ``w`` ``x``, each or ``-``, then ``p`` (private, copy-on-write) or ``s`` (shared)."""
    offset: int
    """Bytes into the backing file; 0 for anonymous memory."""
    dev: str
    """``major:minor`` of the backing file, in hexadecimal, as the kernel prints it."""
    inode: int
    path: str
    """As the kernel shows it, with ``\\012`` turned back into a newline; empty for unnamed anonymous memory."""
    kind: str
    """One of `KINDS`."""

    @property
    def size(self) -> int:
        """Bytes of address space, whether memory stands behind them or not."""
        return self.end - self.start


def read_maps(process: ProcessDir, devices: Devices | LiveDevices = NO_DEVICES) -> list[Vma]:
    """Return the VMAs of a process, in address order; none for a kernel thread or a zombie.

    >>> from mematlas.kernel.procfs import ProcFS
    >>> with ProcFS().process(os.getpid()) as process:
    ...     any(vma.kind == "stack" for vma in read_maps(process))
    True
    """
    data = process.read("maps")
    return (
        [exact_name(process, vma) for vma in parse_maps(data, devices)] if ESCAPE in data else parse_maps(data, devices)
    )


ESCAPE = b"\\012"
"""How the kernel writes a newline in a path; a backslash it leaves as it is, so a name may hold this itself."""


def exact_name(process: ProcessDir, vma: Vma) -> Vma:
    """Return the VMA with its path as the link in map_files has it, where a newline in it is in doubt."""
    if "\n" not in vma.path:
        return vma
    if process.procfs.machine is not None:
        return replace(vma, path=process.procfs.machine.get("paths", {}).get(f"{vma.start:x}", vma.path))
    try:
        return replace(vma, path=process.readlink(f"map_files/{vma.start:x}-{vma.end:x}"))
    except Error:
        return vma  # not ours to ask


def parse_maps(data: bytes, devices: Devices | LiveDevices = NO_DEVICES) -> list[Vma]:
    """Return the VMAs in the text of a maps file.

    Raises:
        FormatError: with the line that is not as the kernel writes it.
    """
    # Not splitlines(): a path may hold a carriage return or a form feed, which that would split at. The kernel
    # escapes the newline alone.
    return [parse_line(line, devices) for line in data.split(b"\n") if line]


def parse_line(line: bytes, devices: Devices | LiveDevices = NO_DEVICES) -> Vma:
    """Return the VMA of one line of maps, or of the head line of an entry of smaps."""
    # The path may hold spaces, so split five times and no more. The inode is the one decimal number among
    # hexadecimal ones.
    fields = line.split(None, 5)
    try:
        start, _, end = fields[0].partition(b"-")
        name = fields[5] if len(fields) > 5 else b""
        if ESCAPE in name:
            name = name.replace(ESCAPE, b"\n")
        path = os.fsdecode(name)
        perms = fields[1].decode("ascii")
        dev = fields[3].decode("ascii")
        inode = int(fields[4])
        kind = kind_of(path, dev, inode, devices)
        return Vma(int(start, 16), int(end, 16), perms, int(fields[2], 16), dev, inode, path, kind)
    except (IndexError, ValueError):
        raise FormatError("maps", line.decode("utf-8", "replace")) from None


def kind_of(path: str, dev: str, inode: int, devices: Devices | LiveDevices = NO_DEVICES) -> str:
    """Return what backs a VMA, as one of `KINDS`.

    ``shmem`` is memory that belongs to a file without a disk: shared anonymous memory, memfd, System V segments,
    tmpfs. A private mapping of an ordinary file is ``file``, though the pages written to are anonymous. ``special`` is
    what devices and the kernel itself put there: its pages may have no entries that pagemap shows (VM_PFNMAP).
    """
    # The inode of a System V segment is its identifier, which may be 0 (ipc/shm.c, newseg).
    if inode == 0 and not path.startswith("/"):
        # A name in brackets is the kernel's own; "[anon:NAME]" was given by prctl(PR_SET_VMA_ANON_NAME).
        if not path or path.startswith("[anon:"):
            return "anon"
        return SPECIAL_NAMES.get(path) or ("stack" if path.startswith("[stack") else "special")
    if path == "/dev/zero":
        return "anon"  # mapped privately; mapped shared it reads "/dev/zero (deleted)" and lies on the shmem mount
    if not dev.startswith("00:"):
        return "file"  # a disk: file systems without one have devices of major 0
    if (not path.startswith("/") and not path.startswith("[")) or path.startswith(("/dev/", "/secretmem")):
        # "anon_inode:[perf_event]", "socket:[123]", a device: unless it is a file of a tmpfs that lies there.
        return "shmem" if dev in devices.shmem else "special"
    if dev in devices.shmem or path.startswith("[anon_shmem:"):
        return "shmem"
    if dev in devices.hugetlb or path.startswith("/anon_hugepage"):
        return "hugetlb"
    return "file"


SPECIAL_NAMES = {
    "[heap]": "heap",
    "[stack]": "stack",
    "[vdso]": "vdso",
    "[vvar]": "vvar",
    "[vvar_vclock]": "vvar",
    "[vsyscall]": "vsyscall",
}
