"""The cache of offsets: what was found in the kernel's type information, kept in a small file for the next start.

What stands there decides which addresses of kernel memory are read. So nobody else may have a say in it:

- Root keeps it in /var/cache/mematlas, or in $XDG_CACHE_HOME/mematlas unless sudo or its like started us: then the
  environment is the caller's. Anybody else keeps it in $XDG_CACHE_HOME/mematlas or ~/.cache/mematlas.
- Every directory on the way there is a directory, not a link, that belongs to root or to us, and that nobody else can
  write to. (In one like /tmp, with the sticky bit, others can write, but not replace what is ours.)
- The file is a regular one, ours, and nobody else can write to it. It holds every name, each with a value that can be.

Nothing here fails loudly: without a cache the types are read again.
"""

from __future__ import annotations

import os
import stat

from mematlas.kernel.rights import CALLERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

ROOT_CACHE = "/var/cache"
FORMAT = 2
"""Of the file; another format is another version's."""
MAX_FILE = 1 << 16
MAX_SIZE = 1 << 16
"""Bytes. No structure that we look into is larger."""
FOUR_BYTES = frozenset(
    (
        *("task_struct.pid", "page._mapcount", "page._refcount", "folio._entire_mapcount"),
        *("page.pt_share_count", "ptdesc.pt_share_count", "folio._nr_pages_mapped", "page.page_type"),
        *("super_block.s_dev", "super_block.s_id", "inode.i_nlink", "inode.i_rdev", "dentry.d_seq"),
    )
)
"""All other members are of eight."""
ENUMERATIONS = {"pageflags": 1 << 6, "pagetype": 1 << 8}
"""Of which numbers are kept, each below this."""
TYPE = "type"
"""What stands before the name of a type whose number is kept, not a structure's."""
MAX_TYPE = 0xFFFFF
"""BTF_MAX_TYPE (include/uapi/linux/btf.h)."""

DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def cache_path() -> str | None:
    """Return the path of the cache directory; None where the environment names none that is absolute."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    if os.geteuid() == 0:
        home = ROOT_CACHE if not home or any(name in os.environ for name in CALLERS) else home
    elif not home:
        home = os.path.expanduser("~/.cache")
    return os.path.join(home, "mematlas") if os.path.isabs(home) else None


def open_trusted(path: str, uid: int) -> int | None:
    """Return a descriptor of a directory that only root and this user have a say in; None when it is not so.

    Its last two components are made when they are missing.
    """
    names = [name for name in path.split("/") if name not in ("", ".")]
    if ".." in names:
        return None
    fd = os.open("/", DIRECTORY)
    try:
        for nr_left in range(len(names), 0, -1):
            status = os.fstat(fd)
            is_open_to_others = status.st_mode & OTHERS_WRITE and not status.st_mode & stat.S_ISVTX
            if status.st_uid not in (0, uid) or is_open_to_others:
                return None
            below = open_below(fd, names[-nr_left], make=nr_left <= 2)
            os.close(fd)
            fd = below
        if not is_of_one(os.fstat(fd), uid):
            return None
        result, fd = fd, -1
        return result
    finally:
        if fd >= 0:
            os.close(fd)


def is_of_one(status: os.stat_result, uid: int) -> bool:
    """Whether something belongs to a user, and nobody else can write to it."""
    return status.st_uid == uid and not status.st_mode & OTHERS_WRITE


def open_below(fd: int, name: str, make: bool) -> int:
    """Return a descriptor of a directory in another, made when it is missing and ``make`` says so."""
    try:
        return os.open(name, DIRECTORY, dir_fd=fd)
    except FileNotFoundError:
        if not make:
            raise
    try:
        os.mkdir(name, 0o700, dir_fd=fd)
    except FileExistsError:  # by another process, just now
        pass
    return os.open(name, DIRECTORY, dir_fd=fd)


class LayoutCache:
    """The cache directory, held open."""

    def __init__(self, fd: int, uid: int) -> None:
        self.fd = fd
        self.uid = uid

    @classmethod
    def open(cls) -> LayoutCache | None:
        """Open the directory, made when missing. None when there can be none, or none to be trusted."""
        uid = os.geteuid()
        try:
            path = cache_path()
            fd = None if path is None else open_trusted(path, uid)
        except (OSError, ValueError):
            return None
        return None if fd is None else cls(fd, uid)

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self.fd)

    def load(self, key: str, wanted: Mapping[str, tuple[str, ...]]) -> dict[str, int] | None:
        """Return what was kept for ``key``; None when there is nothing, or nothing that can be right."""
        # A FIFO in its place would not let go of us.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = os.open(name_of(key), flags, dir_fd=self.fd)
            try:
                status = os.fstat(fd)
                if not stat.S_ISREG(status.st_mode) or not is_of_one(status, self.uid):
                    return None
                kept = parse_kept(os.read(fd, MAX_FILE))
            finally:
                os.close(fd)
        except (OSError, ValueError):
            return None
        return values_of(kept, wanted)

    def store(self, key: str, values: Mapping[str, int], wanted: Mapping[str, tuple[str, ...]]) -> None:
        """Keep ``values``: written beside, then renamed, so that nobody reads half a file."""
        temporary = f".btf-{os.getpid()}-{os.urandom(8).hex()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        text = text_of({name: values.get(name) for name in names_of(wanted)})
        try:
            fd = os.open(temporary, flags, 0o600, dir_fd=self.fd)
        except OSError:
            return
        try:
            with open(fd, "w", encoding="ascii") as file:
                file.write(text)
            os.rename(temporary, name_of(key), src_dir_fd=self.fd, dst_dir_fd=self.fd)
        except OSError:
            self._discard(temporary)
        except BaseException:  # such as Ctrl-C
            self._discard(temporary)
            raise

    def _discard(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self.fd)
        except OSError:
            pass


HEAD, TAIL = f'{{"format": {FORMAT}, "layout": {{', "}}"


def text_of(layout: Mapping[str, int | None]) -> str:
    """Return what the file holds: JSON, of which nothing but names and numbers is needed. Loading json takes 8 ms.

    >>> text_of({"page": 64, "page.mapping": None})
    '{"format": 2, "layout": {"page": 64, "page.mapping": null}}'
    """
    members = (f'"{name}": {"null" if value is None else value}' for name, value in layout.items())
    return HEAD + ", ".join(members) + TAIL


def parse_kept(data: bytes) -> dict[str, Any]:
    """Return the content of the file. Raises ValueError for all that `text_of` does not write."""
    text = data.decode("ascii")
    if not (text.startswith(HEAD) and text.endswith(TAIL)):
        raise ValueError("another format")
    layout: dict[str, int | None] = {}
    for item in text[len(HEAD) : -len(TAIL)].split(", "):
        name, _, value = item.partition(": ")
        is_number = value.isdecimal() and len(value) < 10
        if name[:1] + name[-1:] != '""' or not (is_number or value == "null"):
            raise ValueError(name)
        layout[name[1:-1]] = int(value) if is_number else None
    return {"format": FORMAT, "layout": layout}


def name_of(key: str) -> str:
    """Return the name of the file for ``key``."""
    return f"btf-{key.replace('/', '_')}.json"


def names_of(wanted: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Return all names that a layout has values of."""
    names: list[str] = []
    for kind, members in wanted.items():
        names += (kind, *(f"{kind}.{member}" for member in members))
    return names


def values_of(kept: Any, wanted: Mapping[str, tuple[str, ...]]) -> dict[str, int] | None:
    """Return the values in a cache's content; None unless it holds every name, with values that can be.

    What a kernel lacks is null, and left out.
    """
    if not isinstance(kept, dict) or kept.get("format") != FORMAT:
        return None
    layout = kept.get("layout")
    if not isinstance(layout, dict) or set(layout) != set(names_of(wanted)):
        return None
    values = {name: value for name, value in layout.items() if value is not None}
    for name, value in values.items():
        kind, is_member, _ = name.partition(".")
        size = layout[kind] if is_member else None
        if type(value) is not int or not is_sane(name, value, size):
            return None
    return values


def is_sane(name: str, value: int, size: Any) -> bool:
    """Whether this can be a structure's size or, with the size of its structure, a member's offset."""
    if name.startswith(f"{TYPE}."):
        return 0 < value <= MAX_TYPE
    if "." not in name:
        return 0 < value <= MAX_SIZE
    if (end := ENUMERATIONS.get(name.partition(".")[0])) is not None:
        return 0 <= value < end
    length = 4 if name in FOUR_BYTES else 8
    return type(size) is int and 0 <= value <= size - length and value % length == 0
