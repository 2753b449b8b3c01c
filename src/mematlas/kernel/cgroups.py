"""What the memory cgroup of a process still allows, in version 1 and 2 of the hierarchy.

Format: Documentation/admin-guide/cgroup-v2.rst, memory.max and memory.swap.max; cgroup-v1/memory.rst. In version 1
the limit of memory and swap together is no obstacle: paging out moves from one to the other.
"""

from __future__ import annotations

import os

from mematlas.errors import Error
from mematlas.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.procfs import ProcessDir

CGROUPS = "/sys/fs/cgroup"


@record
class Room:
    """Bytes up to the nearest limit; None without one that can be seen."""

    memory: int | None
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
                memory += rooms(base, path, "memory.max", "memory.current")
                swap += rooms(base, path, "memory.swap.max", "memory.swap.current")
        elif "memory" in controllers.split(","):
            memory += rooms(f"{root}/memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes")
    return Room(min(memory, default=None), min(swap, default=None))


def rooms(base: str, path: str, limit: str, usage: str) -> list[int]:
    """Return limit less usage of a group and of each above it that has a limit."""
    found = []
    path = path.strip("/")
    while path:
        most, used = (read_number(f"{base}/{path}/{name}") for name in (limit, usage))
        if most is not None and used is not None and most < 1 << 60:
            found.append(max(most - used, 0))
        path = os.path.dirname(path)
    return found


def read_number(path: str) -> int | None:
    """Return the number in a file; None when there is no such file, or it says ``max``."""
    try:
        with open(path, "rb") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None
