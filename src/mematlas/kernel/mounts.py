"""/proc/PID/mountinfo: which file system each device is, as far as it is mounted where a process lives.

Format: proc_pid_mountinfo(5). The kernel also has mounts of its own, which no process sees: shared anonymous memory,
memfd and System V segments live there (mm/shmem.c, shm_mnt; fs/hugetlbfs/inode.c, hugetlbfs_vfsmount, one for each huge
page size). A memfd of ours lies on the same ones, so its device is theirs.
"""

from __future__ import annotations

import os

from mematlas.errors import FormatError
from mematlas.frozen import record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

MFD_CLOEXEC = 0x1
MFD_HUGETLB = 0x4
MFD_HUGE_SHIFT = 26
HUGE_PAGES = "/sys/kernel/mm/hugepages"
NOTHING: Mapping[int, set[bytes]] = {}
MOST_NESTED = 1 << 10
"""Mounts within mounts, through which one is looked for."""


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


@record
class MountPoint:
    """A line of mountinfo: what is seen where."""

    dev: str
    """As maps prints it."""
    root: bytes
    """What of its file system is seen there: a path from the root of that."""
    point: bytes
    """Where it is seen."""
    fs: str
    """The type of the file system."""
    options: bytes = b""
    """Those of the file system, with blanks and the like as octal numbers."""
    hidden: Mapping[int, set[bytes]] = NOTHING
    """At and below these paths other mounts are seen in its place; by how many names each has."""

    def shows(self, path: bytes) -> bool:
        """Whether what is seen at a path below is of this mount.

        >>> mount = MountPoint("08:01", b"/", b"/", "ext4", hidden={2: {b"/srv/a"}})
        >>> [mount.shows(path) for path in (b"/srv", b"/srv/a", b"/srv/a/b/c", b"/srv/b")]
        [True, False, False, True]
        """
        if not self.hidden:
            return True
        names = path.split(b"/", max(self.hidden) + 1)
        return not any(b"/".join(names[: nr + 1]) in places for nr, places in self.hidden.items())


def parse_mounts(lines: Iterable[bytes]) -> list[MountPoint]:
    r"""Return the mounts in the lines of a mountinfo file that are seen: no other one is mounted over or above them.

    >>> first, second = b"36 35 98:0 /a /x\\040y rw - ext3 /dev/root rw", b"37 36 0:9 / /x\\040y/z rw - tmpfs none rw"
    >>> parse_mounts([first, second])[0]
    MountPoint(dev='62:00', root=b'/a', point=b'/x y', fs='ext3', options=b'rw', hidden={2: {b'/x y/z'}})
    """
    mounts: dict[int, tuple[int, MountPoint]] = {}
    inside: dict[int, dict[bytes, int]] = {}
    for line in lines:
        for dev, tail in parts_of([line]):
            try:
                head = line.split(b" ", 5)
                number, parent = map(int, head[:2])
                root, point = map(unescaped, head[3:5])
            except ValueError:
                raise FormatError("mountinfo", line.decode("utf-8", "replace")) from None
            fs, _, options = tail.partition(b" ")
            kind = fs.decode("ascii", "replace")
            mounts[number] = parent, MountPoint(dev, root, point, kind, options.rpartition(b" ")[2])
            if number != parent:  # as the first one of all is
                inside.setdefault(parent, {})[point] = number
    return [
        replace(mount, hidden=by_depth(inside.get(number, ())))
        for number, (_, mount) in mounts.items()
        if is_seen(number, mounts, inside)
    ]


def by_depth(paths: Iterable[bytes]) -> dict[int, set[bytes]]:
    """Return paths by how many names each has."""
    found: dict[int, set[bytes]] = {}
    for path in paths:
        found.setdefault(path.count(b"/"), set()).add(path)
    return found


def is_seen(
    number: int, mounts: Mapping[int, tuple[int, MountPoint]], inside: Mapping[int, Mapping[bytes, int]]
) -> bool:
    """Whether a path leads to a mount: given the parent of each, and which are mounted in each, by place."""
    if mounts[number][1].point in inside.get(number, ()):
        return False
    for _ in range(MOST_NESTED):
        parent, mount = mounts[number]
        beside = inside.get(parent, {}) if parent != number else {}
        if any(beside.get(place, number) != number for place in places_above(mount.point)):
            return False
        if parent not in mounts or parent == number:
            return True
        number = parent
    return False


def places_above(path: bytes) -> Iterator[bytes]:
    """Yield a path, and all directories above it.

    >>> list(places_above(b"/a/b"))
    [b'/a/b', b'/a', b'/']
    """
    while path.strip(b"/"):
        yield path
        path = path.rpartition(b"/")[0]
    yield b"/"


def unescaped(text: bytes) -> bytes:
    """Return a path of mountinfo with its blanks, which stand there as octal numbers."""
    first, *others = text.split(b"\\")
    return first + b"".join(bytes((int(part[:3], 8),)) + part[3:] for part in others)


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
