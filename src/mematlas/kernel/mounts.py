"""Which devices are memory: the file systems that keep their files in RAM (tmpfs) or in huge pages (hugetlbfs).

A line of maps names the device of the backing file, not its file system. Mounted file systems are in
/proc/PID/mountinfo (proc_pid_mountinfo(5)). The kernel also has mounts of its own, which no process sees: shared
anonymous memory, memfd and System V segments live there (mm/shmem.c, shm_mnt; fs/hugetlbfs/inode.c,
hugetlbfs_vfsmount, one for each huge page size). A memfd of ours lies on the same ones, so its device is theirs.
"""

from __future__ import annotations

import os

from mematlas.errors import FormatError
from mematlas.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mematlas.kernel.procfs import ProcessDir

MFD_CLOEXEC = 0x1
MFD_HUGETLB = 0x4
MFD_HUGE_SHIFT = 26
HUGE_PAGES = "/sys/kernel/mm/hugepages"


@record
class Devices:
    """The devices, as maps prints them (``major:minor``, hexadecimal), that are memory rather than disks."""

    shmem: frozenset[str] = frozenset()
    hugetlb: frozenset[str] = frozenset()

    def __or__(self, other: Devices) -> Devices:
        return Devices(self.shmem | other.shmem, self.hugetlb | other.hugetlb)


NO_DEVICES = Devices()


class LiveDevices:
    """The devices that are memory for a running process, found when first asked for: most processes need none."""

    def __init__(self, process: ProcessDir) -> None:
        self._process = process
        self._found: Devices | None = None

    @property
    def shmem(self) -> frozenset[str]:
        return self._find().shmem

    @property
    def hugetlb(self) -> frozenset[str]:
        return self._find().hugetlb

    def _find(self) -> Devices:
        if self._found is None:
            self._found = internal_devices() | read_mounted_devices(self._process)
        return self._found


def find_devices(process: ProcessDir) -> Devices | LiveDevices:
    """Return the devices that are memory, as a process sees them, or as its capture recorded them."""
    if process.procfs.machine is None:
        return LiveDevices(process)
    saved = process.procfs.machine["devices"]
    return Devices(frozenset(saved["shmem"]), frozenset(saved["hugetlb"]))


def internal_devices() -> Devices:
    """Return the devices of the kernel's own mounts, found by making a file on each."""
    shmem = memfd_device(MFD_CLOEXEC)
    try:
        sizes = [int(name[10:-2]) * 1024 for name in os.listdir(HUGE_PAGES)]
    except OSError:
        sizes = []
    hugetlb = (memfd_device(MFD_CLOEXEC | MFD_HUGETLB | size.bit_length() - 1 << MFD_HUGE_SHIFT) for size in sizes)
    return Devices(frozenset((shmem,)) - {""}, frozenset(hugetlb) - {""})


def memfd_device(flags: int) -> str:
    """Return the device on which such a memfd lies; empty when the kernel makes none."""
    try:
        fd = os.memfd_create("mematlas", flags)
    except OSError:
        return ""
    try:
        return format_device(os.fstat(fd).st_dev)
    finally:
        os.close(fd)


def format_device(dev: int) -> str:
    """Return a device number as maps prints it."""
    return f"{os.major(dev):02x}:{os.minor(dev):02x}"


def read_mounted_devices(process: ProcessDir) -> Devices:
    """Return the devices of the memory file systems mounted where the process lives."""
    return process.parsed_lines("mountinfo", parse_mountinfo)


def parse_mountinfo(lines: Iterable[bytes]) -> Devices:
    """Return the memory devices that the lines of a mountinfo file name."""
    shmem: set[str] = set()
    hugetlb: set[str] = set()
    for line in lines:
        # "36 35 98:0 /root /mount options [fields...] - type source options": the dash ends the optional fields.
        head, dash, tail = line.partition(b" - ")
        kind = tail.split(b" ", 1)[0]
        if dash and kind in (b"tmpfs", b"hugetlbfs"):
            try:
                major, _, minor = head.split(b" ", 3)[2].partition(b":")
                device = f"{int(major):02x}:{int(minor):02x}"
            except (IndexError, ValueError):
                raise FormatError("mountinfo", line.decode("utf-8", "replace")) from None
            (shmem if kind == b"tmpfs" else hugetlb).add(device)
    return Devices(frozenset(shmem), frozenset(hugetlb))
