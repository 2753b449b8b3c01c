"""The regular files at or below a path, to be asked about: path_resolution(7), open(2).

Whoever owns a tree may change it while it is walked. So a directory is held while what is in it is looked at, each name
in it is looked up once and without following a link, and what that led to is known (O_PATH) before it is opened: a FIFO
would hold us up, and a device may do something. No other file system is entered.
"""

from __future__ import annotations

import os
import stat

from mematlas.errors import BadInput, Error, PermissionDenied, TargetNotFound
from mematlas.kernel.directory import translate_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PLACE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
QUIETLY = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""Neither waiting nor becoming anybody's terminal."""
LONGEST = 1 << 13
"""Characters of a path: twice what can be opened by one (PATH_MAX). What lies deeper is left out."""
SHOWN = 80
"""Characters that are shown of a longer one."""
TYPES = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


class Tree:
    """The regular files at or below a path, one after the other, and how many could not be looked at.

    Iterating yields the path of each, a descriptor that tells which file it is and reads nothing (O_PATH), which holds
    until the next, and what fstat(2) says of it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.nr_refused = 0
        """Directories that may not be listed."""
        self.nr_failed = 0
        """What could not be opened for other reasons, such as a disk that fails, or a path that is too long."""
        self.nr_elsewhere = 0
        """Directories and files that are of another file system."""
        self._device = self._system = 0

    def __iter__(self) -> Iterator[tuple[str, int, os.stat_result]]:
        """Yield the files.

        Raises:
            TargetNotFound: nothing is called so.
            BadInput: it is neither a file nor a directory, or a link.
            PermissionDenied: it may not be looked at.
        """
        fd = open_place(self.path)
        try:
            status = os.fstat(fd)
            if stat.S_ISREG(status.st_mode):
                yield self.path, fd, status
                return
            if not stat.S_ISDIR(status.st_mode):
                raise BadInput(f"{self.path} is {what_is(self.path, status)}")
            self._device, self._system = status.st_dev, os.fstatvfs(fd).f_fsid
            try:
                top = TreeLevel(fd, self.path)
            except PermissionError:
                raise PermissionDenied(self.path, "CAP_DAC_READ_SEARCH") from None
            except OSError as error:
                raise translate_error(error, self.path) from None
        finally:
            os.close(fd)
        yield from self._walk(top)

    def _walk(self, top: TreeLevel) -> Iterator[tuple[str, int, os.stat_result]]:
        # A list of levels, not calls within calls: a tree may be deeper than those can be.
        levels = [top]
        try:
            while levels:
                level, fd = levels[-1], -1
                try:
                    if (name := level.next_name()) is None:
                        levels.pop().close()
                        continue
                    path = level.path_of(name)
                    if len(path) > LONGEST:
                        self.nr_failed += 1
                        continue
                    fd = os.open(name, PLACE, dir_fd=level.fd)
                    status = os.fstat(fd)
                    if not self._is_here(fd, status):
                        self.nr_elsewhere += 1
                    elif stat.S_ISDIR(status.st_mode):
                        levels.append(TreeLevel(fd, path))
                    elif stat.S_ISREG(status.st_mode):
                        yield path, fd, status
                except (FileNotFoundError, NotADirectoryError):
                    pass  # gone meanwhile
                except PermissionError:
                    self.nr_refused += 1
                except OSError:
                    self.nr_failed += 1
                finally:
                    if fd >= 0:
                        os.close(fd)
        finally:
            for level in levels:
                level.close()

    def _is_here(self, fd: int, status: os.stat_result) -> bool:
        """Whether something is of the file system of the top; on overlayfs files may have devices of their own."""
        if status.st_dev == self._device:
            return True
        return stat.S_ISREG(status.st_mode) and 0 != os.fstatvfs(fd).f_fsid == self._system


class TreeLevel:
    """A directory of a tree, held open, and what is in it."""

    def __init__(self, place: int, path: str) -> None:
        self.path = path
        self.fd = reopened(place, os.O_DIRECTORY)
        try:
            self._entries = os.scandir(self.fd)
        except BaseException:
            os.close(self.fd)
            raise

    def next_name(self) -> str | None:
        """Return the next name of a file or a directory in it; None where there are no more."""
        for entry in self._entries:
            if entry.is_dir(follow_symlinks=False) or entry.is_file(follow_symlinks=False):
                return entry.name
        return None

    def path_of(self, name: str) -> str:
        """Return the path of what is in it."""
        return os.path.join(self.path, name)

    def close(self) -> None:
        """Let go of it."""
        self._entries.close()
        os.close(self.fd)


def open_place(path: str) -> int:
    """Return a descriptor of what a path leads to, unopened (O_PATH)."""
    try:
        return os.open(path, PLACE)
    except (FileNotFoundError, NotADirectoryError):
        raise TargetNotFound(f"{path}: no such file or directory") from None
    except PermissionError:
        raise PermissionDenied(path, "CAP_DAC_READ_SEARCH") from None
    except ValueError:
        raise BadInput("a path has no zero byte") from None
    except OSError as error:
        shown = path if len(path) <= LONGEST else f"{path[:SHOWN]}..."
        raise Error(f"{shown}: {os.strerror(error.errno or 0)}") from None


def what_is(path: str, status: os.stat_result) -> str:
    """Return what something is that is neither a file nor a directory."""
    if stat.S_ISLNK(status.st_mode):
        return f"a link, and none is followed: give {os.path.realpath(path)}"
    return TYPES.get(stat.S_IFMT(status.st_mode), "of an unknown type") + ": give a file or a directory"


def reopened(place: int, more: int = 0) -> int:
    """Return a descriptor that reads what one without rights (O_PATH) is of, and leaves its time of access as it is."""
    path = f"/proc/self/fd/{place}"
    try:
        return os.open(path, QUIETLY | os.O_NOATIME | more)
    except PermissionError:
        return os.open(path, QUIETLY | more)  # O_NOATIME is for owners
