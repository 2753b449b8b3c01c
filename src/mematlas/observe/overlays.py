"""Where files that lie below an overlay are seen through it: pages of what it shows are those of files of its layers.

What it shows is asked of it, from a child: a file of a lower layer may be hidden by one above it, or have been copied.
Formats: proc_pid_mountinfo(5); Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import os
import stat
import time

from mematlas.frozen import record
from mematlas.kernel.abandon import Reports
from mematlas.kernel.mounts import format_device, unescaped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mematlas.analysis.cached import CachedFile
    from mematlas.kernel.mounts import MountPoint

    Place = tuple[int, str, str, int]

OVERLAY = "overlay"
UPPER, LOWER = b"upperdir", (b"lowerdir", b"lowerdir+")
PATIENCE, SECONDS = 0.5, 2.0
"""For which one overlay is waited for, and all of them."""


@record
class Seen:
    """A file as an overlay shows it."""

    path: str
    name: tuple[str, int]
    """Its device and inode there, which maps has of whoever maps it through the overlay."""


def find_seen(mounts: Iterable[MountPoint], files: Sequence[CachedFile]) -> dict[tuple[str, int], list[Seen]]:
    """Return where files are seen through overlays in sight, by device and inode; those that are seen nowhere not."""
    overlays = [mount for mount in mounts if mount.fs == OVERLAY]
    there = {index: file for index, file in enumerate(files) if file.path and not file.is_deleted}
    found: dict[tuple[str, int], list[Seen]] = {}
    if not overlays or not there:
        return found
    reports = Reports(lambda mount: places_in(mount, there), overlays, PATIENCE, time.monotonic() + SECONDS)
    for _, (index, path, dev, inode) in reports:
        file = files[index]
        found.setdefault((file.dev, file.inode), []).append(Seen(path, (dev, inode)))
    return found


def places_in(mount: MountPoint, files: dict[int, CachedFile]) -> Iterator[Place]:
    """Yield where an overlay shows files, with device and inode; in a child."""
    try:
        device = os.lstat(mount.point).st_dev
    except OSError:
        return
    for layer, is_upper in layers_of(mount.options):
        top = os.path.realpath(os.fsdecode(layer)).rstrip("/") + "/"
        for index, file in files.items():
            if not file.path or not file.path.startswith(top):
                continue
            path = f"{os.fsdecode(mount.point).rstrip('/')}/{file.path[len(top) :]}"
            try:
                status = os.lstat(path)
            except (OSError, ValueError):
                continue
            # Of a file that was copied up the inode is that of before: what is in the upper layer hides all else.
            # A longer path than PATH_MAX has failed above.
            is_shown = stat.S_ISREG(status.st_mode) and (is_upper or status.st_ino == file.inode)
            if is_shown and status.st_dev == device:
                yield index, path, format_device(status.st_dev), status.st_ino


def layers_of(options: bytes) -> Iterator[tuple[bytes, bool]]:
    r"""Yield the layers of an overlay by the options of its mount, and whether that is the upper one.

    >>> list(layers_of(rb"rw,lowerdir=/a\134:b:/c\040d,upperdir=/u,workdir=/w"))
    [(b'/a:b', False), (b'/c d', False), (b'/u', True)]
    """
    for option in options.split(b","):
        name, _, value = option.partition(b"=")
        if name == UPPER:
            yield unescaped(value), True
        elif name in LOWER:
            # A colon in a path has a backslash before it.
            for part in unescaped(value).replace(rb"\:", b"\0").split(b":"):
                if part:
                    yield part.replace(b"\0", b":"), False
