"""A memory cgroup: what it is charged, its limits, and what happened at them, in version 1 and 2 of the hierarchy.

Format: Documentation/admin-guide/cgroup-v2.rst, "Memory Interface Files"; cgroup-v1/memory.rst.

Its directory is opened once and held: when the group is removed, its files answer with ENODEV, whoever makes another of
its name. Anything can be mounted over a directory or file, such as a FUSE that never answers, or that lies (lxcfs). So
each is found without being opened (O_PATH), and opened only if it lies on the hierarchy's own mount, which
/proc/self/fdinfo tells without asking the file system.
"""

from __future__ import annotations

import errno
import os

from mematlas.errors import CgroupGone, Error, FormatError, NotSupported, TargetNotFound
from mematlas.frozen import Record, record
from mematlas.kernel.cgroups import MOUNTINFO, cgroup_named, charging, read_cgroups, read_mounts
from mematlas.kernel.directory import Directory, open_directory, translate_error
from mematlas.kernel.procfs import MOUNTED_PROC

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mematlas.kernel.cgroups import Mount
    from mematlas.kernel.procfs import ProcessDir

MAX_SIZE = 1 << 16
"""Bytes of any of its files; memory.stat has 3 KiB."""
MAX_DIGITS = 20
PLACE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
"""How a name is looked up: nothing is opened, and no file system asked."""
REMOVED = (errno.ENOENT, errno.ENODEV)
"""What the kernel says of a group that is no more."""
NO_CHILDREN = 2
"""Links of a directory without directories in it."""
UNLIMITED = 1 << 60
"""From here on a limit is none: version 1 has no word for that, but writes the largest number of whole pages."""


@record
class Version:
    """How a version of the hierarchy calls what a memory cgroup has."""

    number: int
    usage: str
    limits: tuple[tuple[str, str], ...]
    """Each limit, and what is held against it."""
    prefix: str
    """Of the lines of memory.stat that count the groups below as well."""
    stat: dict[str, tuple[str, ...]]
    """Amounts by our names: the lines of memory.stat whose sum each is."""


LRU = ("inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable")
VERSION_2 = Version(
    2,
    "memory.current",
    (
        ("memory.max", "memory.current"),
        ("memory.high", "memory.current"),
        ("memory.swap.max", "memory.swap.current"),
    ),
    "",
    {
        "anon": ("anon",),
        "file": ("file",),
        "shmem": ("shmem",),
        "mapped_file": ("file_mapped",),
        "lru": LRU,
        "lru_anon": LRU[:2],
        "inactive_file": ("inactive_file",),
        "hugetlb": ("hugetlb",),  # since Linux 6.14, where they are charged at all
        "kernel": ("kernel",),  # commit a8c49af3be5f, v5.18
        "slab": ("slab",),
        "stacks": ("kernel_stack",),
        "tables": ("pagetables",),  # commit f0c0c115fb81, v5.11
        "percpu": ("percpu",),
        "vmalloc": ("vmalloc",),  # commit 4e5aa1f4c2b4, v5.18
        "zswap": ("zswap",),
        "sock": ("sock",),
    },
)
VERSION_1 = Version(
    1,
    "memory.usage_in_bytes",
    (
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ("memory.memsw.limit_in_bytes", "memory.memsw.usage_in_bytes"),
    ),
    "total_",
    {
        "anon": ("rss",),
        "file": ("cache",),
        "shmem": ("shmem",),
        "mapped_file": ("mapped_file",),
        "lru": LRU,
        "lru_anon": LRU[:2],
        "inactive_file": ("inactive_file",),
        "swap": ("swap",),
    },
)


@record
class Limit(Record):
    """A limit of a cgroup, or of one above it."""

    name: str
    """The file that sets it."""
    path: str
    """The cgroup whose it is."""
    size: int
    used: int
    """What is held against it now."""
    spare: int
    """Of that, what makes room by itself: page cache that nobody used lately, and swap cache that nobody maps."""

    @property
    def headroom(self) -> int:
        """Bytes that are left; 0 where it is exceeded, as one that was lowered may be."""
        return max(self.size - self.used, 0)

    @property
    def room(self) -> int:
        """Bytes that are left with what makes room by itself."""
        return max(self.size - self.used + self.spare, 0)


@record
class Pressure(Record):
    """How much time was lost by waiting for memory: memory.pressure (Documentation/accounting/psi.rst).

    Percent of the last 10, 60 and 300 seconds, and microseconds since the group was made: while some waited, and while
    nobody worked.
    """

    some: tuple[float, float, float]
    full: tuple[float, float, float]
    some_us: int
    full_us: int


class MemoryCgroup(Directory):
    """A memory cgroup, held by its directory.

    >>> with open_cgroup("/") as cgroup:   # doctest: +SKIP
    ...     cgroup.version.number
    2
    """

    def __init__(self, place: int, cgroup: str, mount: Mount, directory: str) -> None:
        """Open the directory that a descriptor stands for, which may be one that reads nothing."""
        self.cgroup = cgroup
        """Its path, as /proc/PID/cgroup has it."""
        self.mount = mount
        self.version = VERSION_1 if mount.is_version_1 else VERSION_2
        super().__init__(open_directory(f"/proc/self/fd/{place}"), directory, captured=False)

    def open_fd(self, name: str, flags: int = os.O_RDONLY) -> int:
        """Open a file of it; return its descriptor.

        Raises:
            FormatError: something else is mounted over it.
        """
        try:
            place = find(name, self.fd, self.mount, f"{self.path}/{name}")
            try:
                return os.open(f"/proc/self/fd/{place}", flags | os.O_NONBLOCK | os.O_CLOEXEC)
            finally:
                os.close(place)
        except OSError as error:
            raise self._error(error, name) from None

    def _error(self, error: OSError, name: str) -> Exception:
        # A file of a group that was removed says the first when it is open, and cannot be opened any more.
        if error.errno == errno.ENODEV or (error.errno in REMOVED and self.is_removed):
            return CgroupGone(self.cgroup)
        return translate_error(error, f"{self.path}/{name}")

    @property
    def is_removed(self) -> bool:
        """Whether it was removed meanwhile: then it lacks what each group has."""
        try:
            os.close(os.open("cgroup.procs", PLACE, dir_fd=self.fd))
        except FileNotFoundError:
            return True
        return False

    def number(self, name: str) -> int | None:
        """Return the number in a file; None when there is no such file, and where it says that there is no limit."""
        try:
            text = self.read(name, MAX_SIZE).strip()
        except NotSupported:
            return None
        if text == b"max":
            return None
        number = parse_number(text)
        if number is None:
            raise FormatError(f"{self.path}/{name}", text[:200].decode("utf-8", "replace"), expected="a number")
        return number if number < UNLIMITED else None

    def numbers(self, name: str) -> dict[str, int]:
        """Return the lines ``NAME NUMBER`` of a file; none when there is no such file."""
        try:
            return self.parsed(name, parse_numbers, MAX_SIZE)
        except NotSupported:
            return {}

    def amounts(self) -> dict[str, int]:
        """Return memory.stat by our names: what this kernel tells of the group, and of those below."""
        lines = self.numbers("memory.stat")
        prefix = self.version.prefix
        amounts: dict[str, int] = {}
        for ours, names in self.version.stat.items():
            values = [lines.get(prefix + name) for name in names]
            if None not in values:
                amounts[ours] = sum(filter(None, values))
        if not self.mount.charges_hugetlb:
            amounts["hugetlb"] = 0
        if self.version is VERSION_1:
            amounts["sock"] = 0  # it has an account of its own (memory.kmem.tcp.usage_in_bytes)
            if (kernel := self.number("memory.kmem.usage_in_bytes")) is not None:
                amounts["kernel"] = kernel
        return amounts

    @property
    def is_root(self) -> bool:
        """Whether it is that of the whole machine, which nothing is charged to, and that has no limits."""
        # Only there: kernel/cgroup/cgroup-v1.c, CFTYPE_ONLY_ON_ROOT. In version 2 the files of an amount are not.
        if self.version is VERSION_1:
            return self.has("cgroup.sane_behavior")
        return not self.has("cgroup.type")

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        try:
            os.close(self.open_fd(name))
        except NotSupported:
            return False
        return True

    def parent(self) -> MemoryCgroup | None:
        """Return the group above, held; None above the highest that is mounted here."""
        if self.cgroup == self.mount.root:
            return None
        above, _, name = self.cgroup.rpartition("/")
        directory = self.path.removesuffix(f"/{name}")
        try:
            place = find("..", self.fd, self.mount, directory)
        except OSError as error:
            raise self._error(error, "..") from None
        try:
            return MemoryCgroup(place, above or "/", self.mount, directory)
        finally:
            os.close(place)

    def lineage(self) -> Iterator[MemoryCgroup]:
        """Yield the groups whose limits hold for it: itself, and those above; each is closed with the next."""
        yield self
        above = self.parent()
        while above:
            with above:
                # In version 1 groups below may have accounts of their own, up to Linux 5.10 (commit bef8620cd8e0).
                if above.number("memory.use_hierarchy") == 0:
                    return
                yield above
                following = above.parent()
            above = following

    def limits(self) -> list[Limit]:
        """Return the limits that hold for it, its own first, then those of the groups above."""
        return [limit for level in self.lineage() for limit in level.own_limits()]

    def own_limits(self) -> Iterator[Limit]:
        """Yield the limits that it has itself."""
        spare: int | None = None
        for name, usage in self.version.limits:
            size = self.number(name)
            used = None if size is None else self.number(usage)
            if size is None or used is None:
                continue
            if spare is None:
                spare = spare_of(self.amounts())
            yield Limit(name, self.cgroup, size, used, 0 if "swap" in name else spare)

    def of_process(self, process: ProcessDir) -> str | None:
        """Return the cgroup of a process in this hierarchy."""
        return cgroup_of(process, self.mount.controllers)

    def pressure(self) -> Pressure | None:
        """Return the time lost by waiting for memory; None where this kernel does not measure it.

        Version 1 has none. Without CONFIG_PSI there is no file; switched off (psi=0), it cannot be opened or read.
        """
        try:
            return self.parsed("memory.pressure", parse_pressure, MAX_SIZE)
        except NotSupported:
            return None

    def below(self) -> Iterator[tuple[int, str]]:
        """Yield the inode and path of each group below it. Those that are made or removed meanwhile may be missing."""
        path, waiting = self.cgroup.rstrip("/"), [self._children(self.fd)]
        here = os.dup(self.fd)
        try:
            while waiting:
                if not waiting[-1]:
                    waiting.pop()
                    path, step = path.rpartition("/")[0], ".."
                    if not waiting:
                        return
                else:
                    step, inode = waiting[-1].pop()
                    yield inode, f"{path}/{step}"
                there = self._step(step, here)
                if there >= 0:
                    os.close(here)
                    here = there
                    if step != "..":
                        path = f"{path}/{step}"
                        waiting.append(self._children(here))
        finally:
            os.close(here)

    def _step(self, name: str, here: int) -> int:
        """Return a descriptor of a group beside another, for reading; -1 where there is nothing below it to be seen."""
        try:
            place = find(name, here, self.mount, f"{self.path}/.../{name}")
        except FormatError:
            return -1  # what is mounted over it hides it
        except OSError as error:
            if error.errno in REMOVED and name != "..":
                return -1
            raise self._error(error, name) from None
        try:
            # A directory of kernfs counts those in it (fs/kernfs/inode.c, kernfs_refresh_inode()).
            if name != ".." and os.fstat(place).st_nlink <= NO_CHILDREN:
                return -1
            return os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        finally:
            os.close(place)

    def _children(self, directory: int) -> list[tuple[str, int]]:
        """Return the groups just below one, by name and inode."""
        try:
            with os.scandir(directory) as entries:
                return [(entry.name, entry.inode()) for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError as error:
            if error.errno in REMOVED:
                return []
            raise self._error(error, "..") from None


def find(name: str, below: int | None, mount: Mount, path: str) -> int:
    """Return a descriptor that stands for a file or directory of a hierarchy, and reads nothing."""
    place = os.open(name, PLACE, dir_fd=below)
    number = mount_of(place)
    if number == mount.number:
        return place
    os.close(place)
    if number is None:
        raise NotSupported("/proc/self/fdinfo", MOUNTED_PROC)
    raise FormatError(path, expected="a file of the kernel's cgroups: something else is mounted over it")


def mount_of(fd: int) -> int | None:
    """Return the number of the mount that a descriptor is on, as mountinfo has it; None when /proc does not tell."""
    try:
        with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
            lines = dict(line.split(b":", 1) for line in file.read(MAX_SIZE).splitlines() if b":" in line)
    except OSError:
        return None
    return parse_number(lines.get(b"mnt_id", b"").strip())


def parse_number(text: bytes) -> int | None:
    """Return a number; None when the text is none.

    >>> parse_number(b"4096"), parse_number(b"max")
    (4096, None)
    """
    return int(text) if text.isdigit() and len(text) <= MAX_DIGITS else None


def parse_numbers(data: bytes) -> dict[str, int]:
    """Return lines ``NAME NUMBER``. Others are left out: later kernels may add any.

    >>> parse_numbers(b"anon 8192\\nfile 0\\nlow max\\n")
    {'anon': 8192, 'file': 0}
    """
    pairs = (line.split() for line in data.splitlines())
    parsed = ((pair[0], parse_number(pair[1])) for pair in pairs if len(pair) == 2)
    return {name.decode("utf-8", "replace"): number for name, number in parsed if number is not None}


def parse_pressure(data: bytes) -> Pressure:
    """Return what a pressure file says.

    >>> parse_pressure(
    ...     b"some avg10=1.50 avg60=0.25 avg300=0.00 total=7\\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0"
    ... ).some
    (1.5, 0.25, 0.0)
    """
    try:
        lines = {
            words[0]: dict(word.split(b"=") for word in words[1:]) for words in map(bytes.split, data.splitlines())
        }
        return Pressure(
            some=averages_of(lines[b"some"]),
            full=averages_of(lines[b"full"]),
            some_us=int(lines[b"some"][b"total"]),
            full_us=int(lines[b"full"][b"total"]),
        )
    except (ValueError, KeyError, IndexError):
        text = data[:200].decode("utf-8", "replace")
        raise FormatError("memory.pressure", text, expected="some avg10=... and full avg10=...") from None


def averages_of(words: dict[bytes, bytes]) -> tuple[float, float, float]:
    """Return percent of the last 10, 60 and 300 seconds."""
    return float(words[b"avg10"]), float(words[b"avg60"]), float(words[b"avg300"])


def is_within(cgroup: str, other: str) -> bool:
    """Whether a cgroup is another one, or below it.

    >>> is_within("/a/b", "/a"), is_within("/ab", "/a"), is_within("/a", "/")
    (True, False, True)
    """
    return cgroup == other or cgroup.startswith(other.rstrip("/") + "/")


def spare_of(amounts: dict[str, int]) -> int:
    """Return the bytes of a group that the kernel can take back at once; 0 when it does not say."""
    try:
        # Of the anonymous pages on the LRU lists, those that are neither mapped nor shared memory are swap cache.
        unmapped = amounts["lru_anon"] - amounts["anon"] - amounts["shmem"]
        return amounts["inactive_file"] + max(unmapped, 0)
    except KeyError:
        return 0


def open_cgroup(text: str, mountinfo: str = MOUNTINFO) -> MemoryCgroup:
    """Return the memory cgroup that a path names: as /proc/PID/cgroup has it, or its directory.

    Raises:
        TargetNotFound: there is none, or not in the part of the hierarchy that is mounted here.
        NotSupported: memory is charged in another hierarchy, or in none.
    """
    mounts = read_mounts(mountinfo)
    charged = charging_mounts(mounts)
    cgroup, controllers = cgroup_named(text, mounts)
    if controllers not in (None, charged[0].controllers):
        raise NotSupported(f"the charge of {text}", f"a cgroup of the hierarchy at {charged[0].point}")
    return open_in(charged, cgroup)


def open_charged(process: ProcessDir, mountinfo: str = MOUNTINFO) -> MemoryCgroup:
    """Return the memory cgroup that a process is in now.

    Raises:
        TargetNotFound: it is not in the part of the hierarchy that is mounted here.
        NotSupported: there are no memory cgroups.
    """
    charged = charging_mounts(read_mounts(mountinfo))
    cgroup = cgroup_of(process, charged[0].controllers)
    if cgroup is None:
        raise NotSupported(MEMORY_CGROUPS)
    return open_in(charged, cgroup)


def cgroup_of(process: ProcessDir, controllers: str) -> str | None:
    """Return the cgroup of a process in one of the hierarchies; None when it has none there."""
    for line in (read_cgroups(process) or "").split("\n"):
        _, _, rest = line.partition(":")
        theirs, _, cgroup = rest.partition(":")
        if cgroup and theirs == controllers:
            return cgroup
    return None


MEMORY_CGROUPS = "memory cgroups"
MOUNTED = "a hierarchy of cgroups, mounted: as root, mount -t cgroup2 none /sys/fs/cgroup"


def charging_mounts(mounts: Sequence[Mount]) -> list[Mount]:
    """Return the mounts of the hierarchy that charges memory: one, at the least."""
    charged = charging(mounts)
    if not charged:
        raise NotSupported(MEMORY_CGROUPS, MOUNTED)
    return charged


def open_in(mounts: Sequence[Mount], cgroup: str) -> MemoryCgroup:
    """Return a cgroup of a hierarchy, whichever of its mounts shows it."""
    error: Error = TargetNotFound(f"no cgroup {cgroup} in what is mounted at {mounts[0].point}")
    for mount in mounts:
        if (directory := mount.directory_of(cgroup)) is None:
            continue
        try:
            return open_below(mount, cgroup, directory)
        except (TargetNotFound, FormatError) as failed:  # something else may be mounted over this one
            error = failed
    raise error


def open_below(mount: Mount, cgroup: str, directory: str) -> MemoryCgroup:
    """Return a cgroup of a mount; it is walked to by its parts, none of which may lead elsewhere."""
    parts = [part for part in cgroup[len(mount.root) :].split("/") if part]
    nothing = TargetNotFound(f"no cgroup {cgroup!r} at {mount.point}")
    if "\0" in cgroup or not {".", ".."}.isdisjoint(parts):
        raise nothing
    try:
        place = find(mount.point, None, mount, mount.point)
        try:
            for part in parts:
                step = find(part, place, mount, directory)
                os.close(place)
                place = step
            return MemoryCgroup(place, cgroup, mount, directory)
        finally:
            os.close(place)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
            raise nothing from None
        raise translate_error(error, directory) from None


@record
class Room:
    """Bytes up to the nearest limit; None without one that can be seen."""

    memory: int | None
    """With what makes room by itself."""
    swap: int | None


NO_LIMIT = Room(None, None)
HARD, SWAP = ("memory.max", "memory.limit_in_bytes"), ("memory.swap.max",)
"""The limits of memory at which the kernel kills, and those of swap. In version 1 that of both together is no obstacle
to paging out, which moves from one to the other."""


def read_room(process: ProcessDir, mountinfo: str = MOUNTINFO) -> Room:
    """Return what is left of the limits of the process's groups, up to the root of the hierarchy."""
    try:
        with open_charged(process, mountinfo) as cgroup:
            limits = cgroup.limits()
    except Error:
        return NO_LIMIT
    memory = [limit.room for limit in limits if limit.name in HARD]
    swap = [limit.room for limit in limits if limit.name in SWAP]
    return Room(min(memory, default=None), min(swap, default=None))
