"""A file that is made as the invoking user, and is there whole or not at all.

A child opens it, who has the rights of that user alone, and hands over the descriptor; so it can be written to by who
has given up all rights. The child waits: when it is told that all is written, the file stays; when it hears nothing
more, the file is taken away again. What is replaced stays as it was until then.
"""

from __future__ import annotations

import os
import signal
import socket
import stat
from contextlib import suppress

from mematlas.errors import BadInput, Error
from mematlas.kernel.descriptors import close_all_but
from mematlas.kernel.newdir import NEW, leads_to
from mematlas.kernel.rights import become, invoking_user

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn, Self

IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)
"""What a terminal sends to all of us: who writes the file says how that ended."""
REPLY = 1 << 13
"""Bytes of what the child says, at the most."""
OPENED, DONE = b"opened", b"done"


class NewFile:
    """A file in the making, for its owner alone to read.

    It stays when `finish` says that it is whole; leaving the block takes it away else.

    Raises:
        BadInput: there is a file of that name, and ``force`` does not say to replace it; or it cannot be made.
    """

    def __init__(self, path: str, force: bool = False) -> None:
        self.path = path
        self.fd = -1
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        user = invoking_user()
        self._pid = os.fork()
        if self._pid == 0:
            run(path, force, user, theirs)
        theirs.close()
        try:
            reply: bytes = b""
            fds: list[int] = []
            with suppress(OSError):
                reply, fds, _, _ = socket.recv_fds(self._control, REPLY, 1)
            if reply != OPENED or not fds:
                raise BadInput(reply.decode("utf-8", "surrogateescape") or f"{path} cannot be written")
            self.fd = fds[0]
            os.set_inheritable(self.fd, False)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def fds(self) -> set[int]:
        """The descriptors that are needed to the end."""
        return {self.fd, self._control.fileno()}

    def write(self, data: bytes) -> None:
        """Add to it.

        Raises:
            Error: there is no room.
        """
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self.fd, view) :]
        except OSError as error:
            raise Error(f"{self.path}: {error.strerror}") from None

    @property
    def size(self) -> int:
        """Bytes of what is in it so far."""
        return os.fstat(self.fd).st_size

    def finish(self) -> None:
        """Have it stay.

        Raises:
            Error: its name leads to something else by now.
        """
        reply = b""
        with suppress(OSError):  # it was killed
            self._control.sendall(DONE)
            reply = self._control.recv(REPLY)
        if reply != DONE:
            raise Error(reply.decode("utf-8", "surrogateescape") or f"{self.path}: what keeps it was killed")

    def close(self) -> None:
        """Let go of it: what was not finished is taken away."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        if self._control.fileno() >= 0:
            self._control.close()
            os.waitpid(self._pid, 0)


# In the child


def run(path: str, force: bool, user: tuple[int, int] | None, control: socket.socket) -> NoReturn:
    """Make a file, hand it over, and let it stay or take it away."""
    try:
        for number in IGNORED:
            signal.signal(number, signal.SIG_IGN)
        close_all_but({control.fileno()})
        if user and os.geteuid() == 0:
            become(*user)
        keep(Made(path, force), control)
    except (Error, OSError, MemoryError) as error:
        with suppress(OSError):
            control.sendall((str(error) or type(error).__name__).encode("utf-8", "surrogateescape")[:REPLY])
    finally:
        os._exit(0)


def keep(made: Made, control: socket.socket) -> None:
    """Hand a file over, and wait for what is to become of it."""
    is_whole = False
    try:
        socket.send_fds(control, [OPENED], [made.fd])
        if control.recv(REPLY) == DONE:
            made.put_in_place()
            is_whole = True
            control.sendall(DONE)
    finally:
        if not is_whole:
            made.remove()


class Made:
    """A new file, by its name in a directory that is held; one that is to replace another has a name of its own."""

    def __init__(self, path: str, force: bool) -> None:
        self.path = path
        parent, self.name = os.path.split(path)
        try:
            # The way there is the caller's own, and may lead over links. It is gone once.
            self.parent = os.open(parent or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            self.now = f".mematlas-{os.urandom(6).hex()}" if force and self._is_file() else self.name
            """The name that it has until it is whole."""
            self.fd = os.open(self.now, os.O_WRONLY | NEW, 0o600, dir_fd=self.parent)
        except FileExistsError:
            why = "is no regular file: give another name" if force else "exists: give another name, or --force"
            raise BadInput(f"{path} {why}") from None
        except OSError as error:
            raise BadInput(f"{path}: {error.strerror}") from None

    def _is_file(self) -> bool:
        """Whether there is a file of its name; anything else keeps from harm what it leads to."""
        try:
            return stat.S_ISREG(os.stat(self.name, dir_fd=self.parent, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return False

    def put_in_place(self) -> None:
        """Give it its name.

        Raises:
            Error: it has been moved away meanwhile.
        """
        if not leads_to(self.now, self.parent, self.fd):
            raise Error(f"{self.path} was moved away while it was written")
        try:
            if self.now != self.name:
                os.replace(self.now, self.name, src_dir_fd=self.parent, dst_dir_fd=self.parent)
        except OSError as error:
            raise Error(f"{self.path}: {error.strerror}") from None

    def remove(self) -> None:
        """Take it away."""
        if leads_to(self.now, self.parent, self.fd):
            with suppress(OSError):
                os.unlink(self.now, dir_fd=self.parent)
