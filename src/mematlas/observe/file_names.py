"""What files are called as they are seen from here, by the kernel's own structures: no file is opened for that."""

from __future__ import annotations

import os

from mematlas.arrays import NDArray, np
from mematlas.kernel.memory.inodes import MINOR_BITS
from mematlas.kernel.mounts import parse_mountinfo, parse_mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mematlas.kernel.memory.inodes import FileSystem, FileTable, Inodes
    from mematlas.kernel.mounts import MountPoint
    from mematlas.kernel.procfs import ProcFS

BLOCK_DEVICES = "bdev"
"""The file system of the block devices themselves: what is read of a disk beside the files on it."""
DISKS = "/sys/dev/block"


class FileNames:
    """Finds the paths of files: where their file system is mounted, and what they are called on it."""

    def __init__(self, procfs: ProcFS, inodes: Inodes) -> None:
        self.mounts = procfs.parsed_lines("self/mountinfo", parse_mounts)
        self.types = procfs.parsed_lines("self/mountinfo", parse_mountinfo)
        """Of file systems, by device: those that other mounts hide have one too."""
        self._by_device: dict[str, list[MountPoint]] = {}
        for mount in self.mounts:
            self._by_device.setdefault(mount.dev, []).append(mount)
        self._inodes = inodes

    def of(self, table: FileTable, systems: dict[int, FileSystem]) -> tuple[list[str | None], list[bool]]:
        """Return the paths of files, and whether they are deleted; ``systems`` are their file systems by address.

        None is the path of a file of which the kernel keeps none, or that changed while it was read.
        """
        found = self._inodes.paths(table, systems)
        prefixes = [
            self._seen(directory, systems.get(super_block))
            for directory, super_block in zip(found.directories, found.supers, strict=True)
        ]
        paths = [
            None if name is None else prefixes[place] + os.fsdecode(name)
            for name, place in zip(found.names, found.where, strict=True)
        ]
        name_disks(table, systems, paths)
        return paths, found.is_removed

    def _seen(self, directory: bytes | None, system: FileSystem | None) -> str:
        """Return what stands before the name of a file in a directory: of one that is not mounted here its disk."""
        if directory is None or system is None:
            return ""
        seen = seen_at(directory, self._by_device.get(system.dev, ()))
        return f"{system.id}:{os.fsdecode(directory)}/" if seen is None else f"{os.fsdecode(seen).rstrip('/')}/"


def name_disks(table: FileTable, systems: dict[int, FileSystem], paths: list[str | None]) -> None:
    """Put the names of disks in: their own pages are of files without one."""
    disks = [place for place, system in systems.items() if system.id == BLOCK_DEVICES]
    chosen: NDArray[np.intp] = np.flatnonzero(np.isin(table.supers, np.array(disks, np.uint64)))
    for index, device in zip(chosen.tolist(), table.devices[chosen].tolist(), strict=True):
        paths[index] = disk_path(device)


def seen_at(path: bytes, mounts: Iterable[MountPoint]) -> bytes | None:
    """Return where a path of a file system is seen, given its mounts; None where it is not, or others hide it.

    >>> from mematlas.kernel.mounts import MountPoint
    >>> mounts = [MountPoint("fe:00", b"/a", b"/mnt", "ext4"), MountPoint("fe:00", b"/b/c", b"/", "ext4")]
    >>> [seen_at(path, mounts) for path in (b"/a/x", b"/b/c/x", b"/ab", b"/a")]
    [b'/mnt/x', b'/x', None, b'/mnt']
    >>> hidden = {1: {b"/srv"}}
    >>> mounts = [MountPoint("fe:00", b"/", point, "ext4", hidden=hidden) for point in (b"/", b"/m")]
    >>> [seen_at(path, mounts) for path in (b"/srv", b"/srv/a", b"/srv.d")]
    [b'/m/srv', b'/m/srv/a', b'/srv.d']
    """
    for mount in mounts:
        root = mount.root.rstrip(b"/")
        if path == root or path.startswith(root + b"/"):
            seen = (mount.point.rstrip(b"/") + path[len(root) :]) or b"/"
            if mount.shows(seen):
                return seen
    return None


def disk_path(device: int) -> str | None:
    """Return the path of a block device, by its number as the kernel keeps it; None where it is gone."""
    try:
        link = os.readlink(f"{DISKS}/{device >> MINOR_BITS}:{device & (1 << MINOR_BITS) - 1}")
    except OSError:
        return None
    return f"/dev/{os.path.basename(link).replace('!', '/')}"
