"""What the memory cgroup of a process still allows, in version 1 and 2 of the hierarchy.

Format: Documentation/admin-guide/cgroup-v2.rst, memory.max, memory.swap.max and memory.stat; cgroup-v1/memory.rst.
In version 1 the limit of memory and swap together is no obstacle: paging out moves from one to the other.
"""

from __future__ import annotations

import os

from mematlas.errors import Error
from mematlas.frozen import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mematlas.kernel.procfs import ProcessDir

CGROUPS = "/sys/fs/cgroup"
V2_STAT = ("inactive_file", "active_anon", "inactive_anon", "anon", "shmem")
V1_STAT = ("total_inactive_file", "total_active_anon", "total_inactive_anon", "total_rss", "total_shmem")


@record
class Room:
    """Bytes up to the nearest limit; None without one that can be seen."""

    memory: int | None
    """With what makes room by itself: page cache that nobody used lately, and swap cache that nobody maps."""
    swap: int | None


NO_LIMIT = Room(None, None)


def read_room(process: ProcessDir, root: str = CGROUPS) -> Room:
    """Return what is left of the limits of the process's groups, up to the root of the hierarchy."""
    try:
        lines = process.read("cgroup").decode("utf-8", "surrogateescape").split("\n")
    except Error:
        return NO_LIMIT
    memory: list[int] = []
    swap: list[int] = []
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            for base in (root, f"{root}/unified"):
                memory += rooms(base, path, "memory.max", "memory.current", V2_STAT)
                swap += rooms(base, path, "memory.swap.max", "memory.swap.current")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
            memory += rooms(f"{root}/memory", path, *names, V1_STAT)
    return Room(min(memory, default=None), min(swap, default=None))


def hierarchy_path(text: str, mountinfo: str = "/proc/self/mountinfo") -> tuple[str, str | None]:
    """Return the path of a cgroup as /proc/PID/cgroup has it, and of which controllers it is; None for any.

    ``text`` is such a path, or the directory of a cgroup, ``/sys/fs/cgroup/system.slice``. What mountinfo says is of
    our cgroup namespace, as is what we read of other processes.

    >>> hierarchy_path("system.slice/"), hierarchy_path("/")
    (('/system.slice', None), ('/', None))
    """
    path = "/" + text.strip("/")
    try:
        with open(mountinfo, "rb") as file:
            mounts = list(mounts_of(file))
    except OSError:
        mounts = []
    for point, root, controllers in sorted(mounts, key=lambda mount: len(mount[0]), reverse=True):
        if path == point or path.startswith(point + "/"):
            return "/" + f"{root}{path[len(point) :]}".strip("/"), controllers
    return path, None


V1_OPTIONS = frozenset(
    ("rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "favordynmods", "release_agent")
)
"""Options of a hierarchy of version 1 that are no controllers (kernel/cgroup/cgroup-v1.c, cgroup1_show_options())."""


def mounts_of(lines: Iterable[bytes]) -> Iterator[tuple[str, str, str]]:
    """Yield where each cgroup hierarchy is mounted, which part of it, and its controllers as /proc/PID/cgroup has them.

    >>> list(mounts_of([b"35 24 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\\n"]))
    [('/sys/fs/cgroup/cpu', '/', 'cpu,cpuacct')]
    """
    for line in lines:
        head, _, tail = line.decode("utf-8", "surrogateescape").rstrip("\n").partition(" - ")
        kind, *_, options = tail.split(" ")
        if kind in ("cgroup", "cgroup2"):
            root, point = head.split(" ")[3:5]
            words = options.split(",") if kind == "cgroup" else ()
            controllers = [word for word in words if word.partition("=")[0] not in V1_OPTIONS]
            yield point, root, ",".join(controllers)


def rooms(base: str, path: str, limit: str, usage: str, stat: tuple[str, ...] = ()) -> list[int]:
    """Return limit less usage of a group and of each above it that has a limit; ``stat`` names what is spare."""
    amounts = []
    path = path.strip("/")
    while path:
        most, used = (read_number(f"{base}/{path}/{name}") for name in (limit, usage))
        if most is not None and used is not None and most < 1 << 60:
            amounts.append(max(most - used + read_spare(f"{base}/{path}/memory.stat", stat), 0))
        path = os.path.dirname(path)
    return amounts


def read_number(path: str) -> int | None:
    """Return the number in a file; None when there is no such file, or it says ``max``."""
    try:
        with open(path, "rb") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def read_spare(path: str, names: tuple[str, ...]) -> int:
    """Return the bytes of a group that the kernel can take back at once; 0 when it does not say."""
    try:
        with open(path, "rb") as file:
            pairs = dict(line.split() for line in file)
        inactive_file, *anon, mapped, shmem = (int(pairs[name.encode()]) for name in names)
    except (OSError, ValueError, KeyError):
        return 0
    # Of the anonymous pages on the LRU lists, those that are neither mapped nor shared memory are swap cache.
    return inactive_file + max(sum(anon) - mapped - shmem, 0)
