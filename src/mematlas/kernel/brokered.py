"""The side without rights: /proc, with what takes a right asked of a broker (`mematlas.kernel.broker`).

A `BrokeredFS` is a `ProcFS`, and everything above works on it: what this side may open itself it opens itself.
"""

from __future__ import annotations

import _socket
import errno
import marshal
import os
import sys

# signal would bring in enum, for 5 ms; of this one typeshed has nothing.
from _signal import (  # type: ignore[import-not-found]
    SIG_BLOCK,
    SIG_DFL,
    SIG_IGN,
    SIG_SETMASK,
    SIGHUP,
    SIGINT,
    SIGIO,
    SIGTERM,
    pthread_sigmask,
    signal,
)
from _thread import _local

from mematlas.errors import Error, put_together
from mematlas.kernel import messages
from mematlas.kernel.confine import import_nothing_from_here
from mematlas.kernel.descriptors import STDERR
from mematlas.kernel.libc import plain_function
from mematlas.kernel.messages import encode, receive, receive_whole
from mematlas.kernel.procfs import PAGE_FILES, ProcessDir, ProcFS, started_by
from mematlas.kernel.status import read_processor_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Concatenate, NoReturn, ParamSpec, TypeVar

    from mematlas.kernel.directory import Directory
    from mematlas.kernel.messages import Grant
    from mematlas.kernel.shared_areas import Looked

    P = ParamSpec("P")
    T = TypeVar("T")

ASKED_FIRST = frozenset(("iomem",))
"""Files that anybody may open, and that show more to whoever has a right."""
ENDING = (SIGHUP, SIGINT, SIGTERM)
F_SETOWN, F_SETFL = 8, 4
"""fcntl(2): include/uapi/asm-generic/fcntl.h."""
ENDED = "the part of mematlas that has the rights has ended"


class BrokerGone(Error):
    """The side that has the rights has ended."""


class _Connection(_local):
    """The connection of a thread, and the process that it was made in."""

    def __init__(self) -> None:
        self.socket: _socket.socket | None = None
        self.pid = 0
        self.worker = 0
        """Who serves it."""
        self.seconds: dict[int, float] = {}
        """What each who has served this thread had taken of processors, when that was asked last."""
        self.areas: dict[int, Looked] = {}
        """What long answers come in, by the number that whoever answers has for it."""

    def begin(self, connection: _socket.socket, worker: int) -> None:
        """Ask through a new connection."""
        if self.socket is not None:
            self.socket.close()
        self.socket, self.pid, self.worker, self.areas = connection, os.getpid(), worker, {}


class _Asked:
    """A question under way: leave it with all of the answer heard, or the next one gets a new connection."""

    def __init__(self, own: _Connection, connection: _socket.socket, question: bytes) -> None:
        self.own = own
        self.connection = connection
        self.question = question

    def __enter__(self) -> _socket.socket:
        # In one message, since each wakes who answers.
        begins = [b"%c%d" % (messages.TAKEN_BACK, number) for number, area in self.own.areas.items() if area.let_go()]
        try:
            self.connection.sendmsg([*begins, self.question])
        except BrokenPipeError:
            raise BrokerGone(ENDED) from None
        return self.connection

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if kind is not None:
            self.connection.close()
            self.own.socket = None
            if issubclass(kind, ConnectionResetError | BrokenPipeError):
                raise BrokerGone(ENDED) from None


class Lender:
    """Asks a broker. Each thread, and each process that is forked, gets a connection of its own when it first asks."""

    def __init__(self, control: _socket.socket, pid: int) -> None:
        self.control = control
        self.pid = pid
        """The broker's."""
        self.workers: set[int] = set()
        """The PIDs of those that serve this process."""
        self._own = _Connection()
        self._ahead: list[int] = []
        """The PID of who has asked for a connection before one is needed."""

    def ask(self, name: str, *parts: object) -> tuple[Any, int]:
        """Return the answer to a question, and the descriptor that came with it, or -1.

        Raises:
            OSError, Error: what the broker was told instead.
        """
        with self._asked(name, parts) as connection:
            kind, data, fd = receive_whole(connection)
        if kind == messages.ARRAYS:
            return with_arrays(self._own.areas, data, fd), -1
        return answer_of(kind, data), fd

    def each(self, name: str, *parts: object) -> Iterator[Any]:
        """Yield the answers to a question that has any number of them."""
        with self._asked(name, parts) as connection:
            while (message := receive_whole(connection))[0] == messages.PIECE:
                yield marshal.loads(message[1])
        answer_of(*message[:2])

    def tell(self, name: str, *parts: object) -> None:
        """Say what gets no answer.

        Raises:
            BrokerGone: nobody hears it.
        """
        with self._asked(name, parts):
            pass

    def _asked(self, name: str, parts: tuple[object, ...]) -> _Asked:
        question = encode(name, *parts)
        if len(question) > messages.QUESTION_SIZE:
            raise OSError(errno.E2BIG, f"too much to be asked at once: {name}")
        return _Asked(self._own, self._connection(), question)

    def _connection(self) -> _socket.socket:
        own = self._own
        if own.socket is None or own.pid != os.getpid():
            own.begin(*self._connect())
        assert own.socket
        return own.socket

    def _connect(self) -> tuple[_socket.socket, int]:
        try:
            # Who asks at the same time may get ours, and we theirs: one is like the other.
            if self._next_asker() != os.getpid():
                self.control.sendmsg([messages.CONNECT])
            data, fd = receive(self.control)
        except (BrokenPipeError, ConnectionResetError):
            raise BrokerGone(ENDED) from None
        if not data:
            raise BrokerGone(ENDED)
        if fd < 0:
            raise OSError(errno.EAGAIN, "too many ask at once")
        self.workers.add(int(data))
        return _socket.socket(fileno=fd), int(data)

    def _next_asker(self) -> int:
        """Return the PID of who has asked ahead, for one thread alone; 0 for nobody."""
        try:
            return self._ahead.pop()
        except IndexError:
            return 0

    def seconds(self, procfs: ProcFS) -> float:
        """Return the processor seconds that those have taken who have served this thread."""
        own = self._own
        if own.worker:
            # Of one that has ended, what it had taken before.
            own.seconds[own.worker] = read_processor_seconds(procfs, own.worker) or own.seconds.get(own.worker, 0.0)
        return sum(own.seconds.values())

    def end_with(self, watched: int) -> None:
        """Have us end, with an error, when the broker does: it has the other end of a pipe open."""
        signal(SIGIO, raise_gone)
        call = plain_function("fcntl")  # the module takes 0.5 ms
        call(watched, F_SETOWN, os.getpid())
        call(watched, F_SETFL, os.O_ASYNC)

    def introduce(self) -> None:
        """Have the broker remember who we are now, so that it can end whoever is left of us; and ask for a connection.

        Raises:
            BrokerGone: it has ended.
        """
        try:
            for word in (messages.INTRODUCE, messages.CONNECT):
                self.control.sendmsg([word])
        except (BrokenPipeError, ConnectionResetError):
            raise BrokerGone(ENDED) from None
        self._ahead.append(os.getpid())

    def close(self) -> None:
        """Let go of the broker, which ends when we have."""
        signal(SIGIO, SIG_IGN)
        try:
            # Children of ours that cannot end hold it too.
            self.control.shutdown(_socket.SHUT_RDWR)
        except OSError:
            pass  # the broker was first
        self.control.close()
        if self._own.socket:
            self._own.socket.close()


def start(grant: Grant, queries: str) -> tuple[int, _socket.socket, int]:
    """Start a broker; return its PID, where connections are asked for, and a pipe that is closed when it ends.

    We become its front end. ``queries`` names what it answers, ``MODULE:NAME``. What it alone needs it loads itself,
    meanwhile: of what is in memory when it is forked, each side copies what it goes on with, at 2 to 7 µs a page in a
    virtual machine.
    """
    front = os.pidfd_open(os.getpid())
    theirs, ours = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    ours.setsockopt(_socket.SOL_SOCKET, _socket.SO_PASSCRED, 1)
    watched, alive = os.pipe()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    # What is typed at a terminal is for the front end: it waits until the broker is out of the terminal's reach.
    held = pthread_sigmask(SIG_BLOCK, ENDING)
    try:
        pid = os.fork()
        if pid == 0:
            theirs.close()
            os.close(watched)
            become_broker(ours, front, alive, grant, queries, held)
    finally:
        pthread_sigmask(SIG_SETMASK, held)
    for fd in (alive, front):
        os.close(fd)
    ours.close()
    return pid, theirs, watched


def become_broker(
    control: _socket.socket, front: int, alive: int, grant: Grant, queries: str, held: set[int]
) -> NoReturn:
    """Be the broker: nothing here may return. ``held`` are the signals that were held back before."""
    try:
        os.setsid()
        for number in (*ENDING, SIGIO):
            signal(number, SIG_IGN)  # what has come by now is forgotten
            signal(number, SIG_DFL)
        pthread_sigmask(SIG_SETMASK, held)
        import_nothing_from_here()
        from mematlas.kernel.broker import run
    except BaseException as error:
        text = f"mematlas: the part that keeps the rights cannot begin: {type(error).__name__}: {error}\n"
        os.write(STDERR, text.encode("utf-8", "replace"))
        os._exit(1)
    run(control, front, alive, grant, queries)


def raise_gone(number: int, frame: object) -> NoReturn:
    """Say that the broker has ended."""
    raise BrokerGone(ENDED)


def answer_of(kind: bytes, data: bytes) -> Any:
    """Return an answer. Raises what it says instead."""
    if kind == messages.ANSWER:
        return marshal.loads(data) if data else None
    if kind == messages.RECORD:
        import pickle

        return pickle.loads(data)
    if kind == messages.REFUSAL:
        code = marshal.loads(data)
        raise OSError(code, os.strerror(code))
    if kind == messages.FAILURE:
        raise put_together(*marshal.loads(data))
    if kind == messages.MISTAKE:
        sys.stderr.write(data.decode("utf-8", "replace"))
    raise BrokerGone(ENDED)


def with_arrays(areas: dict[int, Looked], data: bytes, fd: int) -> Any:
    """Return a record whose arrays are in an area; they hold its memory."""
    import pickle

    from mematlas.kernel.shared_areas import NO_AREA, Looked

    number, size, where, record = marshal.loads(data)
    if fd >= 0:
        areas[number] = Looked(fd, size)
    parts = (areas.pop(number) if number == NO_AREA else areas[number]).parts(where)
    return pickle.loads(record, buffers=parts)


class BrokeredFS(ProcFS):
    """/proc, through a broker where a right is needed."""

    def __init__(self, lender: Lender, root: str = "/proc") -> None:
        super().__init__(root)
        self.lender: Lender = lender

    def __repr__(self) -> str:
        return f"BrokeredFS({self.root!r}, broker={self.lender.pid})"

    @property
    def helpers(self) -> frozenset[int]:
        """The PIDs of those that work for us: the broker, and whom it has started for us and for our children."""
        broker_pid = self.lender.pid
        return frozenset((broker_pid, *self.lender.workers, *started_by(broker_pid, self)))

    def seconds(self) -> float:
        """Return the processor seconds of this thread, and of the worker that serves it."""
        return super().seconds() + self.lender.seconds(self)

    def open_of(self, directory: Directory, name: str, flags: int) -> int:
        """Open a file: by ourselves where we may."""
        if name not in ASKED_FIRST:
            try:
                return super().open_of(directory, name, flags)
            except PermissionError:
                if name.startswith("self/"):
                    with self.process(int(os.readlink("self", dir_fd=self.fd))) as own:
                        return self.open_of(own, name.removeprefix("self/"), flags)
        if isinstance(directory, ProcessDir):
            fd = self.lender.ask("open_file", *directory.identity, name, flags)[1]
        else:
            fd = self.lender.ask("open_page_file" if name in PAGE_FILES else "open_machine_file", name)[1]
        if fd < 0:  # it came, and there was no room for it
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return fd

    def ask(
        self, function: Callable[Concatenate[ProcessDir, P], T], process: ProcessDir, *args: P.args, **more: P.kwargs
    ) -> T:
        """Return what a function finds out about a process, which the broker calls."""
        answer: T = self.lender.ask(function.__name__, *process.identity, *args, *more.values())[0]
        return answer
