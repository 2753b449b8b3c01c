"""Where a process is (/proc/PID/cgroup), where the hierarchies of cgroups are mounted (/proc/self/mountinfo), and which
cgroup a directory is.

Format: proc_pid_mountinfo(5), cgroups(7), "/proc files". What it says is of our cgroup namespace, as is what we read of
other processes.
"""

from __future__ import annotations

from mematlas.errors import FormatError, NotSupported
from mematlas.frozen import record
from mematlas.kernel.swaps import unescape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mematlas.kernel.procfs import ProcessDir

MOUNTINFO = "/proc/self/mountinfo"
MAX_MOUNTS = 16 << 20
"""Bytes of mountinfo that are looked at: a mount has some 100."""


@record
class Mount:
    """Where a hierarchy of cgroups is mounted, or a part of one."""

    number: int
    """Of the mount, as /proc/self/fdinfo has it."""
    point: str
    root: str
    """The cgroup that the mount point is."""
    is_version_1: bool
    controllers: str
    """As /proc/PID/cgroup has them: none in version 2."""
    charges_hugetlb: bool = False
    """Whether pages of the hugetlb pools are charged like other memory: an option of version 2 since Linux 6.7."""

    @property
    def has_memory(self) -> bool:
        """Whether it is the hierarchy of version 1 that charges memory."""
        return "memory" in self.controllers.split(",")

    def cgroup_of(self, directory: str) -> str | None:
        """Return the cgroup that a directory is; None when it does not lie here."""
        if directory != self.point and not directory.startswith(self.point.rstrip("/") + "/"):
            return None
        return "/" + f"{self.root}{directory[len(self.point.rstrip('/')) :]}".strip("/")

    def directory_of(self, cgroup: str) -> str | None:
        """Return the directory of a cgroup; None when it is not in the part that is mounted here."""
        if cgroup != self.root and not cgroup.startswith(self.root.rstrip("/") + "/"):
            return None
        return f"{self.point.rstrip('/')}/{cgroup[len(self.root) :].strip('/')}".rstrip("/") or "/"


def hierarchy_path(text: str, mountinfo: str = MOUNTINFO) -> tuple[str, str | None]:
    """Return the path of a cgroup as /proc/PID/cgroup has it, and of which controllers it is; None for any.

    ``text`` is such a path, or the directory of a cgroup, ``/sys/fs/cgroup/system.slice``.

    >>> hierarchy_path("system.slice/"), hierarchy_path("/")
    (('/system.slice', None), ('/', None))
    """
    return cgroup_named(text, read_mounts(mountinfo))


def cgroup_named(text: str, mounts: Iterable[Mount]) -> tuple[str, str | None]:
    """Return the same, given the mounts."""
    path = "/" + text.strip("/")
    for mount in sorted(mounts, key=lambda mount: len(mount.point), reverse=True):
        if (cgroup := mount.cgroup_of(path)) is not None:
            return cgroup, mount.controllers
    return path, None


def charging(mounts: Sequence[Mount]) -> list[Mount]:
    """Return the mounts of the hierarchy that charges memory: of version 1 where one does so, else of version 2."""
    return [mount for mount in mounts if mount.has_memory] or [mount for mount in mounts if not mount.is_version_1]


def read_mounts(mountinfo: str = MOUNTINFO) -> list[Mount]:
    """Return the mounts of hierarchies of cgroups; none where /proc does not tell."""
    try:
        with open(mountinfo, "rb") as file:
            return list(mounts_of(file.read(MAX_MOUNTS).split(b"\n")))
    except OSError:
        return []


def read_cgroups(process: ProcessDir) -> str | None:
    """Return the lines of /proc/PID/cgroup; None of a kernel or a capture without them."""
    try:
        return process.read_short("cgroup").decode("utf-8", "surrogateescape")
    except NotSupported:
        return None


V1_OPTIONS = frozenset(
    ("rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "favordynmods", "release_agent")
)
"""Options of a hierarchy of version 1 that are no controllers (kernel/cgroup/cgroup-v1.c, cgroup1_show_options())."""


def mounts_of(lines: Iterable[bytes]) -> Iterator[Mount]:
    """Yield the mounts of hierarchies of cgroups in the lines of mountinfo.

    >>> (mount,) = mounts_of([b"35 24 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\\n"])
    >>> mount.point, mount.root, mount.is_version_1, mount.controllers
    ('/sys/fs/cgroup/cpu', '/', True, 'cpu,cpuacct')
    """
    for line in lines:
        head, _, tail = line.rstrip(b"\n").partition(b" - ")
        kind, _, rest = tail.partition(b" ")
        if kind not in (b"cgroup", b"cgroup2"):
            continue
        options = rest.rpartition(b" ")[2]
        try:
            number, _, _, root, point = head.split(b" ")[:5]
            is_number = number.isdigit()
        except ValueError:
            is_number = False
        if not is_number:
            raise FormatError("mountinfo", line[:200].decode("utf-8", "replace"))
        words = options.decode("utf-8", "surrogateescape").split(",")
        controllers = [word for word in words if word.partition("=")[0] not in V1_OPTIONS]
        yield Mount(
            number=int(number),
            point=unescape(point),
            root=unescape(root),
            is_version_1=kind == b"cgroup",
            controllers=",".join(controllers) if kind == b"cgroup" else "",
            charges_hugetlb="memory_hugetlb_accounting" in words,
        )
