"""/proc/PID/mountinfo: which file system each device is, as far as it is mounted where a process lives.

Format: proc_pid_mountinfo(5). The kernel also has mounts of its own, which no process sees: shared anonymous memory,
memfd and System V segments live there (mm/shmem.c, shm_mnt; fs/hugetlbfs/inode.c, hugetlbfs_vfsmount, one for each huge
page size). A memfd of ours lies on the same ones, so its device is theirs.
"""

from __future__ import annotations

import os

from mematlas.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MFD_CLOEXEC = 0x1
MFD_HUGETLB = 0x4
MFD_HUGE_SHIFT = 26
HUGE_PAGES = "/sys/kernel/mm/hugepages"


def shmem_device() -> str:
    """Return the device of the kernel's own mount of shared memory; empty when it cannot be found out."""
    return memfd_device(MFD_CLOEXEC)


def hugetlb_devices() -> frozenset[str]:
    """Return the devices of the kernel's own mounts of huge pages, found by making a file on each."""
    try:
        sizes = [int(name[10:-2]) * 1024 for name in os.listdir(HUGE_PAGES)]
    except (OSError, ValueError):
        sizes = []
    flags = (MFD_CLOEXEC | MFD_HUGETLB | size.bit_length() - 1 << MFD_HUGE_SHIFT for size in sizes)
    return frozenset(map(memfd_device, flags)) - {""}


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


def parse_mountinfo(lines: Iterable[bytes]) -> dict[str, str]:
    """Return the file systems in the lines of a mountinfo file: ``tmpfs``, by device as maps prints it."""
    return {dev: tail.split(b" ", 1)[0].decode("ascii", "replace") for dev, tail in parts_of(lines)}


def parse_options(lines: Iterable[bytes]) -> dict[str, list[str]]:
    """Return the options that the file systems were mounted with, in the lines of a mountinfo file, by device.

    >>> parse_options([b"22 27 0:21 / /proc rw,relatime - proc proc rw,subset=pid"])
    {'00:15': ['rw', 'subset=pid']}
    """
    options = {dev: tail.split(b" ")[-1] for dev, tail in parts_of(lines)}
    return {dev: text.decode("ascii", "replace").split(",") for dev, text in options.items()}


def parts_of(lines: Iterable[bytes]) -> Iterator[tuple[str, bytes]]:
    """Yield the device of each file system, as maps prints it, and the end of its line: type, source, options."""
    for line in lines:
        # "36 35 98:0 /root /mount options [fields...] - type source options": the dash ends the optional fields.
        head, dash, tail = line.partition(b" - ")
        if dash:
            try:
                major, _, minor = head.split(b" ", 3)[2].partition(b":")
                yield f"{int(major):02x}:{int(minor):02x}", tail
            except (IndexError, ValueError):
                raise FormatError("mountinfo", line.decode("utf-8", "replace")) from None
