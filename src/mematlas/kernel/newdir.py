"""A directory that is filled by descriptor: no path is followed twice.

Root writes where the parents of a directory may be anybody's. Between two looks at a path somebody can put another
directory, or a link to one, in its place; what is held stays what it is. So the parent is opened once, the directory is
made or taken below it and held, and everything in it is made, given away and removed by descriptor.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from mematlas.errors import BadInput, Error
from mematlas.kernel.signals import signals_held

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO, Self

    Owner = tuple[int, int]

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NEW = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def open_made(name: str, parent: int) -> int:
    """Open a directory that we have just made, unless somebody has put another in its place: ours is empty still.

    Raises:
        OSError: it is not ours.
    """
    fd = os.open(name, DIRECTORY, dir_fd=parent)
    status = os.fstat(fd)
    if status.st_uid != os.geteuid() or status.st_mode & 0o077 or not is_empty(fd):
        os.close(fd)
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    return fd


def is_empty(fd: int) -> bool:
    """Whether nothing is in a directory."""
    with os.scandir(fd) as entries:
        return next(entries, None) is None


def leads_to(name: str, parent: int, fd: int) -> bool:
    """Whether a name in a directory is still that of what we hold, and no link."""
    try:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except OSError:
        return False
    return os.path.samestat(status, os.fstat(fd))


class HeldDirectory:
    """A directory, held open, and what we have made in it."""

    def __init__(self, fd: int, owner: Owner | None) -> None:
        self.fd = fd
        self.owner = owner
        """User and group who is to have what is made; None for ourselves."""
        self._files: list[str] = []
        self._below: dict[str, HeldDirectory] = {}

    def close(self) -> None:
        """Let go of it, and of those below it."""
        for below in self._below.values():
            below.close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def below(self, name: str) -> HeldDirectory:
        """Make a directory in it, for its owner alone."""
        # A signal must not come between what is done and what we know of it.
        with signals_held():
            os.mkdir(name, 0o700, dir_fd=self.fd)
            made = self._below[name] = HeldDirectory(-1, self.owner)
        made.fd = open_made(name, self.fd)
        return made

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[BinaryIO]:
        """Make a file in it, for its owner alone."""
        with signals_held():
            fd = os.open(name, os.O_WRONLY | NEW, 0o600, dir_fd=self.fd)
            self._files.append(name)
        with open(fd, "wb") as file:
            yield file
            file.flush()
            if self.owner:
                os.fchown(fd, *self.owner)

    def size(self) -> int:
        """Return the bytes of all files."""
        own = (os.stat(name, dir_fd=self.fd, follow_symlinks=False).st_size for name in self._files)
        return sum(own) + sum(below.size() for below in self._below.values())

    def give(self) -> None:
        """Let the owner have it, last of all: until then nobody else gets in."""
        for below in self._below.values():
            below.give()
        if self.owner:
            os.fchown(self.fd, *self.owner)

    def clear(self) -> None:
        """Remove what we made in it, and nothing else."""
        for name, below in self._below.items():
            if below.fd >= 0:
                below.clear()
            with contextlib.suppress(OSError):
                os.rmdir(name, dir_fd=self.fd)
        for name in self._files:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=self.fd)


class NewDirectory(HeldDirectory):
    """A directory in the making: a new one, or an empty one that is the owner's already.

    As a context manager it stays when all went well, and else what was made is taken away again. One that was there
    before keeps its owner and its mode.

    Raises:
        BadInput: there is something else, or a directory that is another's, or holds something.
    """

    def __init__(self, path: str, owner: Owner | None = None) -> None:
        super().__init__(-1, owner)
        self.path = path
        self._is_new = False
        parent, self.name = os.path.split(path.rstrip("/"))
        if self.name in ("", ".", ".."):
            raise BadInput(f"{path}: give a directory by its name")
        try:
            # The way there is the caller's own, and may lead over links. It is gone once.
            self._parent = os.open(parent or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise BadInput(f"{path}: {error.strerror}") from None
        try:
            self._make_or_take()
        except OSError as error:
            self._remove()
            raise BadInput(f"{path}: {error.strerror}") from None
        except BaseException:
            self._remove()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        try:
            if kind is None:
                self.finish()
        except BaseException:
            self._remove()
            raise
        if kind is None:
            self.close()
        else:
            self._remove()

    def close(self) -> None:
        """Let go of it, of those below it, and of its parent."""
        super().close()
        if self._parent >= 0:
            os.close(self._parent)
            self._parent = -1

    def _make_or_take(self) -> None:
        with signals_held():
            try:
                os.mkdir(self.name, 0o700, dir_fd=self._parent)
                self._is_new = True
            except FileExistsError:
                pass
        try:
            self.fd = os.open(self.name, DIRECTORY, dir_fd=self._parent)
        except NotADirectoryError:
            kind = ", but a link" if self._is_link() else ""
            raise BadInput(f"{self.path} is not a directory{kind}") from None
        uid = self.owner[0] if self.owner and not self._is_new else os.geteuid()
        status = os.fstat(self.fd)
        if status.st_uid != uid:
            self._is_new = False  # another was put in its place
            raise BadInput(f"{self.path} belongs to another user: give a new directory, or an empty one of yours")
        if not is_empty(self.fd):
            raise BadInput(f"{self.path} is not empty: a capture needs a new or an empty directory")
        if status.st_mode & stat.S_IWOTH:
            raise BadInput(f"others may write to {self.path}: give a new directory, or one that only you can write to")

    def _is_link(self) -> bool:
        return stat.S_ISLNK(os.stat(self.name, dir_fd=self._parent, follow_symlinks=False).st_mode)

    def finish(self) -> None:
        """Let the owner have all of it.

        Raises:
            Error: the path leads to something else by now.
        """
        if not self._is_there():
            raise Error(f"{self.path} was moved away while it was written")
        for name, below in self._below.items():
            if not leads_to(name, self.fd, below.fd):
                raise Error(f"{self.path}/{name} was moved away while it was written")
            below.give()
        if self._is_new:
            super().give()

    def _is_there(self) -> bool:
        return leads_to(self.name, self._parent, self.fd)

    def _remove(self) -> None:
        if self.fd >= 0:
            self.clear()
        # Only an empty directory can be removed so, and no link.
        if self._is_new and (self.fd < 0 or self._is_there()):
            with contextlib.suppress(OSError):
                os.rmdir(self.name, dir_fd=self._parent)
        self.close()
