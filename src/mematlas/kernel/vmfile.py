"""What the file behind a VMA is: memory, a device, or a file of a disk.

A line of maps has the device and the inode of the file, and a name that anybody may choose. What it is, the file itself
tells: the link /proc/PID/map_files/START-END (proc_pid_map_files(5)) leads to it under whatever name or none, deleted,
or on a file system that is mounted elsewhere or nowhere. It is never opened: opening a device may do something.
Following the link needs CAP_CHECKPOINT_RESTORE; without it the mounts of the process say it, and names are a guess.

A file system with a server (FUSE, NFS) hands on what it is asked, and the server may never answer. So only those that
answer by themselves are asked; the mounts say which one a device is, and, where it is mounted nowhere, a child.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from mematlas.errors import NotSupported, PermissionDenied
from mematlas.frozen import record
from mematlas.kernel.mounts import format_device, hugetlb_devices, parse_mountinfo, shmem_device
from mematlas.notes import Note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.procfs import ProcessDir

ZERO_DEVICE = os.makedev(1, 5)
"""/dev/zero, under any name (drivers/char/mem.c)."""

# Magic numbers of statfs(2), include/uapi/linux/magic.h, and the types of mountinfo that are the same file systems.
SYSFS_MAGIC = 0x62656572
KIND_OF_MAGIC = {
    0x01021994: "shmem",  # TMPFS_MAGIC
    0x958458F6: "hugetlb",  # HUGETLBFS_MAGIC
    0x09041934: "special",  # ANON_INODE_FS_MAGIC
    0x534F434B: "special",  # SOCKFS_MAGIC
    0x444D4142: "special",  # DMA_BUF_MAGIC
    0x5345434D: "special",  # SECRETMEM_MAGIC
    0x474D454D: "special",  # GUEST_MEMFD_MAGIC
    0xA10A10A1: "special",  # AIO_RING_MAGIC
    SYSFS_MAGIC: "special",  # resources of PCI devices
    0x00009FA0: "special",  # PROC_SUPER_MAGIC
    0x64626720: "special",  # DEBUGFS_MAGIC
    0x74726163: "special",  # TRACEFS_MAGIC: rings of traces
    0x794C7630: "stacked",  # OVERLAYFS_SUPER_MAGIC
    0x65735546: "stacked",  # FUSE_SUPER_MAGIC: its files may be those of another (passthrough, v6.9)
}
KIND_OF_TYPE = {
    "tmpfs": "shmem",
    "devtmpfs": "shmem",
    "hugetlbfs": "hugetlb",
    **dict.fromkeys(("sysfs", "proc", "debugfs", "tracefs"), "special"),
    **dict.fromkeys(("overlay", "fuse", "fuseblk"), "stacked"),
}
"""``stacked``: a file system that shows files of others, whose memory is of those others' kind."""
ROOTFS = "rootfs"
"""The first root, where an initramfs is unpacked: tmpfs, but ramfs where ``root=`` was given (init/do_mounts.c)."""
LOCAL_TYPES = frozenset(("overlay", "btrfs", "zfs", "bcachefs", ROOTFS, *KIND_OF_TYPE)) - {"fuse", "fuseblk"}
"""File systems without a device of their own that answer at once: others may ask a server, which may not answer."""
FUSE_ON_DISK = "fuseblk"
"""The one with a device of its own that has a server."""
EXT4, XFS, BTRFS, FUSE = 0xEF53, 0x58465342, 0x9123683E, 0x65735546
LOCAL_MAGICS = frozenset((EXT4, XFS, BTRFS, *KIND_OF_MAGIC)) - {FUSE}
NO_ANSWER, REFUSED = -1, -2
AHEAD_SIZE = 1 << 15
"""Bytes of maps of which the files are asked about all at once."""
ANSWER_SECONDS = 1.0
"""For a file system to say what it is."""

PROCMAP_QUERY = 0xC0686611  # _IOWR('f', 17, struct procmap_query)
NR_BLOCKS = 64
"""Blocks of entries that are searched for a page of the file itself."""


@record
class Devices:
    """The devices, as maps prints them (``major:minor``, hexadecimal), that are memory rather than disks."""

    shmem: frozenset[str] = frozenset()
    hugetlb: frozenset[str] = frozenset()

    def kind(self, span: str, dev: str, inode: int, path: str) -> str:
        """Return the kind of memory that a file is, guessed where only its name says it."""
        if not path.startswith(("/", "[")):
            return "special"
        if dev in self.shmem or dev in self.hugetlb:
            return "shmem" if dev in self.shmem else "hugetlb"
        if not dev.startswith("00:"):
            return "file"
        # Mapped privately. Mapped shared it reads "/dev/zero (deleted)", and is shared memory.
        if path == "/dev/zero":
            return "anon"
        for name, kind in NAMES.items():
            if path.startswith(name):
                return kind
        return "file"

    def notes(self) -> list[Note]:
        """Return what is to be said about what was found out."""
        return []


NAMES = {
    "[anon_shmem:": "shmem",
    "/memfd:": "shmem",
    "/SYSV": "shmem",
    "/dev/zero (deleted)": "shmem",
    "/anon_hugepage": "hugetlb",
    "/secretmem": "special",
    "/dmabuf:": "special",
    "/[aio]": "special",
    "/dev/shm/": "shmem",
    "/dev/hugepages/": "hugetlb",
    "/dev/": "special",
}
"""How the names of files begin that are most often of a kind. The first that fits counts."""
NO_DEVICES = Devices()
GUESSED = "the kind of some memory is guessed from file names"
SILENT = "a file system does not answer; its files are counted as ordinary files"
NOBODY_ANSWERS = "its file system does not answer"
NAMED = 3
"""Devices that a note names."""


class SavedFiles:
    """The files of a captured process, of the kinds that were found out when it was captured."""

    def __init__(self, kinds: dict[str, str]) -> None:
        self.kinds = kinds
        """By ``major:minor inode``; files of disks are left out."""

    def kind(self, span: str, dev: str, inode: int, path: str) -> str:
        """Return the kind of memory that a file is."""
        return self.kinds.get(f"{dev} {inode}", "file")

    def notes(self) -> list[Note]:
        """Return what is to be said about what was found out."""
        return []


def link_of(span: str) -> str:
    """Return what the link in map_files is called of a range that maps shows: that pads the numbers of low addresses.

    Source: fs/proc/base.c, proc_map_files_readdir() and dname_to_vma_addr().

    >>> link_of("00400000-0041f000"), link_of("7f10-7f20")
    ('400000-41f000', '7f10-7f20')
    """
    return "-".join(number.lstrip("0") or "0" for number in span.split("-"))


class LiveFiles:
    """The files that a running process maps. Each is asked once, and what is so of a whole device but once for that."""

    def __init__(self, process: ProcessDir) -> None:
        self._process = process
        self._kinds: dict[tuple[str, int, int], str] = {}
        self._of_device: dict[str, str] = {}
        self._mounts: dict[str, str] | None = None
        self._own_mounts: dict[str, str] | None = None
        self._magics: dict[str, int] = {}
        """Of devices that a child was asked about; `NO_ANSWER` where there was none."""
        self._shmem: str | None = None
        self._hugetlb: frozenset[str] | None = None
        """The devices of the kernel's own mounts; None while these were not asked for."""
        self._huge: set[int] | None = None
        """The starts of the VMAs of hugetlb; None while these were not needed."""
        self._searched: set[str] = set()
        """Where no page was found that could show it."""
        self._refused = ""
        """Why map_files cannot be followed."""
        self._ahead: dict[str, os.stat_result] | None = None
        """What stat(2) says of files that will be met, asked all at once where a question takes long."""
        self._nr_guessed = 0

    def kind(self, span: str, dev: str, inode: int, path: str) -> str:
        """Return the kind of memory that the file of a VMA is, one of `mematlas.kernel.maps.KINDS`."""
        # Inodes are unique within what maps calls a device, but on btrfs and overlayfs. Paths can be long.
        key = dev, inode, hash(path)
        kind = self._kinds.get(key)
        if kind is None:
            kind, is_known = self._find(span, dev, inode, path)
            if is_known:
                self._kinds[key] = kind
        return kind

    def notes(self) -> list[Note]:
        """Return what is to be said about what was found out."""
        notes = []
        if self._nr_guessed:
            text = f"{GUESSED} ({self._nr_guessed} files): {self._refused}"
            notes.append(Note("guessed-kinds", text))
        if silent := [dev for dev, magic in self._magics.items() if magic == NO_ANSWER]:
            named = ", ".join(silent[:NAMED]) + (", ..." if len(silent) > NAMED else "")
            notes.append(Note("silent-files", f"{SILENT} (device {named})"))
        return notes

    def is_silent(self, span: str, dev: str) -> bool:
        """Whether the file system of a VMA's file has a server that does not answer: who opens the file waits."""
        return self.may_wait(span, dev) and self._magic(span, dev) == NO_ANSWER

    def may_wait(self, span: str, dev: str) -> bool:
        """Whether asking about the file of a VMA may take as long as a server likes."""
        has_disk = not dev.startswith("00:")
        if not has_disk and dev == self._shmem_device():
            return False
        mounted = self._type(dev)
        if mounted is not None:
            return mounted == FUSE_ON_DISK if has_disk else mounted not in LOCAL_TYPES
        if not has_disk and dev in self._hugetlb_devices():
            return False
        # Without the right to follow the link nobody gets so far as to ask.
        return self._magic(span, dev) not in LOCAL_MAGICS and not self._refused

    def to_save(self) -> dict[str, str]:
        """Return what `SavedFiles` takes."""
        known = ((dev, inode, kind) for (dev, inode, _), kind in self._kinds.items())
        return {f"{dev} {inode}": kind for dev, inode, kind in known if kind != "file"}

    def _find(self, span: str, dev: str, inode: int, path: str) -> tuple[str, bool]:
        """Return the kind of a file, and whether that is all that can be found out about it."""
        # "anon_inode:[perf_event]", "socket:[123]": no file of a file system is shown so.
        if not path.startswith(("/", "[")):
            return "special", True
        kind: str | None = "file"  # a disk: file systems without one have devices of major 0
        if dev.startswith("00:"):
            kind = self._kind_of_device(span, dev)
            if dev == self._shmem_device():
                return "shmem", True
        status = self._status(span, dev, inode, path)
        if status is not None and not stat.S_ISREG(status.st_mode):
            return kind_of_node(status), True
        if kind == "stacked":
            kind = self._kind_below(span)
            return kind or "file", kind is not None
        if kind is None:
            self._nr_guessed += bool(self._refused)
            return NO_DEVICES.kind(span, dev, inode, path), bool(self._refused)
        return kind, status is not None or bool(self._refused) or self.may_wait(span, dev)

    def _kind_of_device(self, span: str, dev: str) -> str | None:
        """Return the kind of the files of a device; None where it cannot be found out."""
        if dev == self._shmem_device():
            return "shmem"
        if dev not in self._of_device:
            mounted = self._type(dev)
            kind = None if mounted is None else kind_of_mounted(mounted, dev)
            kind = kind or self._kind_of_what_is_not_seen(span, dev)
            if kind is None:
                return None
            self._of_device[dev] = kind
        return self._of_device[dev]

    def _kind_of_what_is_not_seen(self, span: str, dev: str) -> str | None:
        """Return the kind of the files of a device that no mount in sight tells; None where nothing else does."""
        if dev in self._hugetlb_devices():
            return "hugetlb"
        if not self._refused and (magic := self._magic(span, dev)) is not None:
            return KIND_OF_MAGIC.get(magic, "file")
        if self._refused and self._has_huge_pages(int(span.partition("-")[0], 16)):
            return "hugetlb"
        return None

    def _shmem_device(self) -> str:
        if self._shmem is None:
            self._shmem = shmem_device()
        return self._shmem

    def _hugetlb_devices(self) -> frozenset[str]:
        if self._hugetlb is None:
            self._hugetlb = hugetlb_devices()
        return self._hugetlb

    def _has_huge_pages(self, start: int) -> bool:
        """Whether the VMA at an address is one of hugetlb."""
        try:
            return vma_page_size(self._process, start) > self._process.procfs.page_size
        except NotSupported:
            if self._huge is None:
                self._huge = huge_vmas(self._process)
            return start in self._huge

    def _type(self, dev: str) -> str | None:
        """Return the type of the file system on a device, of those mounted where the process lives, or where we do."""
        if self._mounts is None:
            self._mounts = self._process.parsed_lines("mountinfo", parse_mountinfo)
        if dev in self._mounts:
            return self._mounts[dev]
        if self._own_mounts is None:
            self._own_mounts = self._process.procfs.parsed_lines("self/mountinfo", parse_mountinfo)
        return self._own_mounts.get(dev)

    def _status(self, span: str, dev: str, inode: int, path: str) -> os.stat_result | None:
        """Return what stat(2) says of a file; None where it cannot be asked, or not without waiting for a server."""
        if self.may_wait(span, dev):
            return None
        if not self._refused:
            try:
                return self._status_of(span)
            except PermissionError:
                self._refused = "following map_files needs CAP_CHECKPOINT_RESTORE"
            except OSError:
                return None  # the VMA has changed meanwhile
        if KIND_OF_TYPE.get(self._type(dev) or "") != "shmem":
            return None
        # Nodes of devices are mostly on file systems in memory, where to look at a path asks nobody else.
        try:
            status = self._process.status(f"root{path}")
        except (OSError, ValueError):
            return None
        return status if (format_device(status.st_dev), status.st_ino) == (dev, inode) else None

    def _status_of(self, span: str) -> os.stat_result:
        if self._ahead is None:
            self._ahead = self._look_ahead() if self._process.procfs.lender else {}
        name = link_of(span)
        return self._ahead.pop(name, None) or self._process.status(f"map_files/{name}")

    def _look_ahead(self) -> dict[str, os.stat_result]:
        """Return what stat(2) says of the files at the beginning of maps, by their span: each once, none that waits."""
        spans, seen = [], set()
        for line in self._process.read_start("maps", AHEAD_SIZE).split(b"\n")[:-1]:
            span, *rest = os.fsdecode(line).split(None, 5)
            file = tuple(rest[2:])
            if file in seen or not rest[-1].startswith("/"):
                continue
            seen.add(file)
            if rest[2] != self._shmem_device() and self._type(rest[2]) and not self.may_wait(span, rest[2]):
                spans.append(link_of(span))
        return self._process.statuses_of_mapped(spans)

    def _magic(self, span: str, dev: str) -> int | None:
        """Return the magic number of the file system of a file; None where it cannot be asked."""
        if dev in self._magics or self._refused:
            return self._magics.get(dev)
        # One is waited for, and not every mount that somebody makes.
        answer = NO_ANSWER if NO_ANSWER in self._magics.values() else self._ask_for_magic(span)
        if answer == REFUSED:
            self._refused = "following map_files needs CAP_CHECKPOINT_RESTORE"
        elif answer is not None:
            self._magics[dev] = answer
        return self._magics.get(dev)

    def _ask_for_magic(self, span: str) -> int | None:
        from mematlas.kernel.abandon import Inquiry, lacks_room

        inquiry = Inquiry(
            lambda link: (ask_for_magic(self._process, link), -1),
            [f"map_files/{link_of(span)}"],
            deadline=time.monotonic() + ANSWER_SECONDS,
        )
        try:
            answers = [answer for _, answer, _ in inquiry]
        except OSError as error:
            if not lacks_room(error):
                raise
            answers = []  # there may be no child to ask (ulimit -u, pids.max)
        return answers[0] if answers else NO_ANSWER

    def _kind_below(self, span: str) -> str | None:
        """Return the kind of the memory of a file that is another file system's, by a page that is mapped."""
        from mematlas.kernel.kpage import KPF_SWAPBACKED

        if span in self._searched:
            return None
        self._searched.add(span)
        start, _, end = span.partition("-")
        try:
            flags = flags_of_file_page(self._process, int(start, 16), int(end, 16))
        except (PermissionDenied, NotSupported):
            return "file"
        if flags is None:
            return None
        return "shmem" if flags & KPF_SWAPBACKED else "file"


def kind_of_mounted(name: str, dev: str) -> str | None:
    """Return the kind of the files of a file system that is mounted, by its type; None where that does not tell it."""
    if name != ROOTFS:
        return KIND_OF_TYPE.get(name, "file")
    fd = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        is_ours = format_device(os.fstat(fd).st_dev) == dev
        magic = magic_of(fd) if is_ours else None
    finally:
        os.close(fd)
    return None if magic is None else KIND_OF_MAGIC.get(magic, "file")


def kind_of_node(status: os.stat_result) -> str:
    """Return the kind of memory that something is which is no plain file.

    >>> kind_of_node(os.stat("/dev/zero")), kind_of_node(os.stat("/dev/null"))
    ('anon', 'special')
    """
    if stat.S_ISBLK(status.st_mode):
        return "file"  # the page cache of a disk
    # Mapped shared it is shared memory, with another file.
    return "anon" if stat.S_ISCHR(status.st_mode) and status.st_rdev == ZERO_DEVICE else "special"


def ask_for_magic(process: ProcessDir, link: str) -> int | None:
    """Return the magic number of the file system that a link leads to, or `REFUSED`; None where it leads nowhere."""
    try:
        return process.procfs.ask(magic_behind, process, link)
    except PermissionError:
        return REFUSED
    except OSError:
        return None


def magic_behind(process: ProcessDir, link: str) -> int | None:
    """Return the magic number of the file system that a link of a process leads to. Raises OSError."""
    fd = os.open(link, os.O_PATH | os.O_CLOEXEC, dir_fd=process.fd)
    try:
        return magic_of(fd)
    finally:
        os.close(fd)


def magic_of(fd: int) -> int | None:
    """Return the magic number of the file system that a descriptor is on: fstatfs(2)."""
    import ctypes

    from mematlas.kernel.libc import libc

    answer = (ctypes.c_long * 32)()  # struct statfs begins with f_type, a word
    return None if libc().fstatfs(fd, answer) else answer[0] & 0xFFFFFFFF


def is_renamed(magic: int | None) -> bool:
    """Whether maps has other devices and inodes for files of a file system than stat(2) has: its magic number is given.

    `mematlas.kernel.cachestat.name_in_maps` asks for those.
    """
    return magic == BTRFS or KIND_OF_MAGIC.get(magic or 0) == "stacked"


def vma_page_size(process: ProcessDir, address: int) -> int:
    """Return the size of the pages of the VMA at an address; 0 where none is there any more.

    PROCMAP_QUERY on /proc/PID/maps, since Linux commit ed5d583a88a9 (v6.11).

    Raises:
        NotSupported: on a kernel without it.
    """
    from fcntl import ioctl

    # struct procmap_query: size, query_flags, query_addr, vma_start, vma_end, vma_flags, vma_page_size, ...
    query = memoryview(bytearray(104)).cast("Q")
    query[0], query[2] = 104, address
    fd = process.open_fd("maps")
    try:
        ioctl(fd, PROCMAP_QUERY, query)
        return query[6]
    except OSError as error:
        if error.errno == errno.ENOTTY:
            raise NotSupported("PROCMAP_QUERY", "Linux 6.11") from None
        return 0
    finally:
        os.close(fd)


def huge_vmas(process: ProcessDir) -> set[int]:
    """Return the starts of the VMAs of hugetlb: ``ht`` of VmFlags in smaps."""
    starts = set()
    span = b""
    for line in process.lines("smaps"):
        # The names of fields begin with a capital letter, the addresses of a VMA never.
        if not line[:1].isupper():
            span = line.partition(b"-")[0]
        elif line.startswith(b"VmFlags:") and b"ht" in line.split():
            starts.add(int(span, 16))
    return starts


def flags_of_file_page(process: ProcessDir, start: int, end: int) -> int | None:
    """Return the kpageflags of the first page found that is the file's own, no private copy; None when there is none.

    Raises:
        PermissionDenied: frames and their flags need CAP_SYS_ADMIN.
    """
    from mematlas.kernel.kpage import FrameWords
    from mematlas.kernel.pagemap import FILE, PM_PFRAME, PRESENT, Pagemap, frames_hidden

    with Pagemap(process) as pagemap:
        for _, block in zip(range(NR_BLOCKS), pagemap.blocks(start, end), strict=False):
            for byte, entry in zip(block.states, block.entries, strict=True):
                if byte & (PRESENT | FILE) != PRESENT | FILE:
                    continue
                if not (frame := entry & PM_PFRAME):
                    raise frames_hidden(process.path)
                with FrameWords(process.procfs, "kpageflags") as words:
                    return words.get([frame]).get(frame)
    return None


def devices_of(mounts: dict[str, str]) -> Devices:
    """Return the devices that are memory, of file systems by their device."""
    kinds = {dev: kind_of_mounted(name, dev) for dev, name in mounts.items()}
    return Devices(
        shmem=frozenset(dev for dev, kind in kinds.items() if kind == "shmem"),
        hugetlb=frozenset(dev for dev, kind in kinds.items() if kind == "hugetlb"),
    )


def internal_devices() -> Devices:
    """Return the devices of the kernel's own mounts of memory."""
    return Devices(frozenset((shmem_device(),)) - {""}, hugetlb_devices())


def memory_devices(process: ProcessDir) -> Devices:
    """Return the devices that are memory: the kernel's own, and what is mounted where a process lives."""
    own = internal_devices()
    mounted = devices_of(process.parsed_lines("mountinfo", parse_mountinfo))
    return Devices(own.shmem | mounted.shmem, own.hugetlb | mounted.hugetlb)


def find_files(process: ProcessDir) -> LiveFiles | SavedFiles | Devices:
    """Return what knows the files that a process maps, or as its capture recorded them."""
    machine = process.procfs.machine
    if machine is None:
        return LiveFiles(process)
    if "kinds" in machine:
        return SavedFiles(machine["kinds"])  # checked by `mematlas.kernel.machine`
    # Captures of 0.1 have the devices alone.
    saved = machine["devices"]
    return Devices(frozenset(saved["shmem"]), frozenset(saved["hugetlb"]))
