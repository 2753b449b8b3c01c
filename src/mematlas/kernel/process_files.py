"""The regular files of a process, to be asked about: those it maps (proc_pid_map_files(5)) and those it has open.

They are reached through the links of /proc, which lead to the file itself: deleted, or where no path of ours leads.
"""

from __future__ import annotations

import errno
import os
import stat

from mematlas.errors import PermissionDenied
from mematlas.kernel.cachestat import name_in_maps
from mematlas.kernel.directory import translate_error
from mematlas.kernel.mounts import format_device
from mematlas.kernel.tree import reopened
from mematlas.kernel.vmfile import is_renamed, magic_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from mematlas.kernel.procfs import ProcessDir

    Found = tuple[str, int, os.stat_result]

UNOPENED = os.O_PATH | os.O_CLOEXEC


class ProcessFiles:
    """The files of a process, each once: as `mematlas.kernel.tree.Tree` has those below a path."""

    nr_elsewhere = nr_failed = 0

    def __init__(self, process: ProcessDir) -> None:
        self.process = process
        self.nr_refused = 0
        """Files that it maps and that we may not follow the link to; 1 for those that it has open."""

    def __iter__(self) -> Iterator[Found]:
        """Yield the path of each, a descriptor that tells which file it is (O_PATH), and what fstat(2) says of it.

        Raises:
            PermissionDenied: what it maps may not be read.
            ProcessGone: it ended.
        """
        seen: set[tuple[int, int]] = set()
        for path, fd in self._places():
            try:
                status = os.fstat(fd)
                file = status.st_dev, status.st_ino
                if stat.S_ISREG(status.st_mode) and file not in seen:
                    seen.add(file)
                    yield path, fd, status
            finally:
                os.close(fd)

    def _places(self) -> Iterator[tuple[str, int]]:
        mapped: dict[tuple[bytes, bytes], tuple[str, str]] = {}
        for line in self.process.lines("maps"):
            # The path, which may look like anything, is the last field.
            span, _, _, dev, inode, *path = line.split(None, 5) or (b"",) * 5
            if path and inode != b"0":
                name = os.fsdecode(path[0].replace(b"\\012", b"\n"))
                # maps pads the numbers of low addresses, the links do not (fs/proc/base.c, proc_map_files_readdir()).
                start, end = (int(number, 16) for number in span.split(b"-"))
                mapped.setdefault((dev, inode), (f"{start:x}-{end:x}", name))
        for (dev, inode), (place, path_there) in mapped.items():
            if (fd := self._open_mapped(place, dev, inode, path_there)) is not None:
                yield path_there, fd
        yield from self._open_files()

    def _open_mapped(self, span: str, dev: bytes, inode: bytes, path: str) -> int | None:
        try:
            return os.open(f"map_files/{span}", UNOPENED, dir_fd=self.process.fd)
        except PermissionError:
            pass  # without CAP_CHECKPOINT_RESTORE its path may do, if it still leads there
        except OSError:
            return None  # unmapped meanwhile
        try:
            fd = os.open(f"root/{path.lstrip('/')}", UNOPENED | os.O_NOFOLLOW, dir_fd=self.process.fd)
        except (OSError, ValueError):
            self.nr_refused += 1
            return None
        try:
            status = os.fstat(fd)
            name: tuple[str, int] | None = format_device(status.st_dev), status.st_ino
            if is_renamed(magic_of(fd)):
                name = self._name_in_maps(fd)
            if name == (dev.decode("ascii"), int(inode)):
                taken, fd = fd, -1
                return taken
        finally:
            if fd >= 0:
                os.close(fd)
        self.nr_refused += 1
        return None

    def _name_in_maps(self, place: int) -> tuple[str, int] | None:
        try:
            fd = reopened(place)
        except OSError:
            return None
        try:
            return name_in_maps(self.process.procfs, fd)
        finally:
            os.close(fd)

    def _open_files(self) -> Iterator[tuple[str, int]]:
        try:
            directory = self.process.open_fd("fd", os.O_RDONLY | os.O_DIRECTORY)
        except PermissionDenied:
            self.nr_refused += 1
            return
        try:
            for number in os.listdir(directory):
                try:
                    path = os.readlink(number, dir_fd=directory)
                    fd = os.open(number, UNOPENED, dir_fd=directory)
                except OSError as error:
                    self.nr_refused += error.errno in (errno.EACCES, errno.EPERM)
                    continue  # else closed meanwhile
                yield path, fd
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM):
                raise translate_error(error, f"{self.process.path}/fd", self.process.pid) from None
            self.nr_refused += 1
        finally:
            os.close(directory)
