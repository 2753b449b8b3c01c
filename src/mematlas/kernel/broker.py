"""The side that keeps the rights: it answers named questions of a front end that has none.

What runs for hours, and parses what others wrote, has no business with the rights of root. So it is split in two. The
front end gives them up (`mematlas.kernel.confine`), and asks this side over a socket pair for the few things that take
one: a descriptor of one of some files of /proc, where a link of it leads, advice to a process that was named at the
start. There are no other questions, and none has an address of kernel memory in it or in its answer.

The kernel checks rights when a file of /proc is opened (fs/proc/base.c, mm_access()), so most is read by the front end
itself, through descriptors. What is checked when it is read, or called, is done here, by the same function that does it
where nothing is split.

Whoever asks is taken for an attacker. A question is text with few parts, each of which has to be one of a list or a
number in range; anything else ends the front end. A process is named by its PID and its start, so nobody who is given
that PID later is taken for it. What may wait for ever in the kernel, as half of these questions may, waits in a worker:
each process and thread of the front end that asks has one to itself, which is ended with it.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import marshal
import os
import select
import sys

# signal would bring in enum, for 5 ms.
from _signal import (  # type: ignore[import-not-found]
    SIG_DFL,
    SIG_IGN,
    SIGHUP,
    SIGINT,
    SIGIO,
    SIGKILL,
    SIGPIPE,
    SIGTERM,
    pidfd_send_signal,
    signal,
)
from resource import RLIMIT_NOFILE, getrlimit, setrlimit

from mematlas.errors import Error, ProcessGone, TargetNotFound, taken_apart
from mematlas.kernel.abandon import end_with, lacks_room, let_go_of_streams
from mematlas.kernel.confine import USERS, unused_user
from mematlas.kernel.descriptors import STDERR, close_all_but, write_within
from mematlas.kernel.messages import (
    ANSWER,
    ARRAYS,
    CONNECT,
    FAILURE,
    FD_SIZE,
    INTRODUCE,
    MESSAGE_SIZE,
    MISTAKE,
    PIECE,
    QUESTION_SIZE,
    RECORD,
    REFUSAL,
    TAKEN_BACK,
    Grant,
    carrying,
    send_whole,
)
from mematlas.kernel.procfs import ProcFS, started_by
from mematlas.kernel.queries import NonsenseError, Query, named, number
from mematlas.kernel.status import read_stat, read_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn

    from mematlas.kernel.procfs import ProcessDir
    from mematlas.kernel.shared_areas import Areas

MOST_WORKERS = 64
"""Each takes four descriptors of the broker's, and what it has answered last: up to some 20 MiB."""
MOST_HELD = 16
"""Processes that a worker holds open."""
PLACE_SIZE = 32
"""Bytes that say where an array is, at the most."""
LONG = 1 << 14
"""Bytes of arrays from which on these are not sent but put into memory."""
MOST_TAKEN_BACK = 16
"""Bytes of areas that are taken back before a question."""
MOST_WAIT = 1
"""Seconds that standard error is waited for, and once more in writing to it."""
MOST_SHOWN = 64
"""Bytes of nonsense that is shown."""
GRACE_MS = 5000
"""Milliseconds that a front end may go on that asks for nothing any more."""
CREDENTIALS_SIZE = 3 * FD_SIZE
"""Bytes of a struct ucred: the process, the user and the group, an int each."""
SIOCOUTQ = 0x5411
"""How many bytes that were sent nobody has taken: include/uapi/linux/sockios.h."""


# --- one connection


class Worker:
    """Answers what comes over one connection, one question after the other."""

    def __init__(self, connection: _socket.socket, grant: Grant, queries: tuple[Query, ...]) -> None:
        self.connection = connection
        self.queries = {query.name.encode("ascii"): query for query in queries}
        self.procfs = ServedFS(grant)
        self._held: dict[tuple[int, int], ProcessDir] = {}

    def serve(self) -> None:
        """Answer until nobody asks any more.

        Raises:
            NonsenseError: this is no question.
        """
        while True:
            # Without room for them, the kernel closes descriptors that come along.
            data, _, flags, _ = self.connection.recvmsg(MOST_TAKEN_BACK + QUESTION_SIZE)
            if not data:
                return
            try:
                if flags & _socket.MSG_TRUNC:
                    raise NonsenseError
                self.take(data)
            except NonsenseError as error:
                error.question = data[:MOST_SHOWN]
                raise

    def take(self, data: bytes) -> None:
        """Do what a message says: use areas again, and answer a question.

        Raises:
            NonsenseError: no front end says this.
        """
        while data.startswith(TAKEN_BACK):
            if not self.procfs.areas.take_back(number(data[1:2])):
                raise NonsenseError
            data = data[2:]
        self._answer(data)

    def _answer(self, data: bytes) -> None:
        question, about, args = self.understood(data)
        if question.is_told:
            try:
                question.answering()(self.procfs, *args)
            except (Error, OSError):
                pass  # nobody waits to hear it
            return
        try:
            if question.is_about_everybody and self.procfs.grant.processes is not None:
                raise PermissionError(errno.EACCES, "only some processes were asked for at the start")
            subject = self._process(*about) if about else self.procfs
            if question.is_act and not self.may_act(about, question.name, args):
                raise PermissionError(errno.EACCES, "not to be acted on, or not so")
            result = question.answering()(subject, *args)
            if question.is_opening:
                self._send_descriptor(result)
                return
            if question.is_stream:
                for piece in result:
                    send_whole(self.connection, PIECE, marshal.dumps(piece))
                result = None
        except Error as error:
            send_whole(self.connection, FAILURE, marshal.dumps(taken_apart(error)))
        except OSError as error:
            send_whole(self.connection, REFUSAL, marshal.dumps(error.errno or errno.EIO))
        else:
            self._send_result(result)

    def understood(self, data: bytes) -> tuple[Query, tuple[int, ...], list[Any]]:
        """Return a question, the PID and start of the process it is about, and its parts.

        Raises:
            NonsenseError: this is none.
        """
        name, sign, rest = data.partition(b"\0")
        question = self.queries.get(name)
        if question is None:
            raise NonsenseError
        nr_parts = len(question.vets) + 2 * question.is_about_process
        parts = rest.split(b"\0", nr_parts - 1) if sign and nr_parts else []
        if len(parts) != nr_parts or (sign and not nr_parts):
            raise NonsenseError
        about: tuple[int, ...] = ()
        if question.is_about_process:
            about, parts = (number(parts[0]), number(parts[1])), parts[2:]
        return question, about, [vet(part) for vet, part in zip(question.vets, parts, strict=True)]

    def may_act(self, about: tuple[int, ...], name: str, args: list[Any]) -> bool:
        """Whether a process may be acted on in this way."""
        from mematlas.kernel.madvise import MADV_WILLNEED

        advice = args[0] if name == "give_advice" else MADV_WILLNEED
        return about in self.procfs.grant.acts and advice in self.procfs.grant.advice

    def may_look(self, process: ProcessDir) -> bool:
        """Whether a process may be looked at, or the one that it is a thread of."""
        grant = self.procfs.grant
        if grant.processes is None:
            return True
        status = read_status(process)
        with self.procfs.process(grant.front) as front:
            users = status.get("Uid", "").split(), read_status(front).get("Uid", "").split()
        if users[0] == users[1] != [str(os.getuid())] * 4:
            return True
        with self.procfs.process(int(status.get("Tgid", "0"))) as first:
            return (first.pid, read_stat(first).start_time) in grant.processes

    def _process(self, pid: int, start: int) -> ProcessDir:
        """Return a process, held open. Raises OSError: it has ended, or is none that may be looked at."""
        process = self._held.pop((pid, start), None) or self._opened(pid, start)
        self._held[pid, start] = process  # as the last one
        while len(self._held) > MOST_HELD:
            self._held.pop(next(iter(self._held))).close()
        return process

    def _opened(self, pid: int, start: int) -> ProcessDir:
        try:
            process = self.procfs.process(pid)
        except TargetNotFound:
            raise ProcessLookupError(errno.ESRCH, "ended") from None
        try:
            if read_stat(process).start_time != start:
                raise ProcessGone(pid)
            if not self.may_look(process):
                raise PermissionError(errno.EACCES, "not asked for at the start")
        except BaseException as error:
            process.close()
            if isinstance(error, ProcessGone | TargetNotFound):
                raise ProcessLookupError(errno.ESRCH, "ended") from None
            raise
        return process

    def _send_result(self, result: object) -> None:
        """Send a result: as `marshal` has it, or as `pickle` where it is a record."""
        try:
            # What marshal has no form for raises ValueError.
            send_whole(self.connection, ANSWER, marshal.dumps(result))  # type: ignore[arg-type]
            return
        except ValueError:
            import pickle
        arrays: list[Any] = []
        data = pickle.dumps(result, protocol=5, buffer_callback=arrays.append)
        buffers = [array.raw() for array in arrays]
        if sum(map(len, buffers)) < LONG or len(data) + PLACE_SIZE * len(buffers) > MESSAGE_SIZE:
            send_whole(self.connection, RECORD, pickle.dumps(result))
        else:
            self._send_arrays(buffers, data)

    def _send_arrays(self, buffers: list[memoryview], data: bytes) -> None:
        """Send a record whose arrays are in an area."""
        from mematlas.kernel.shared_areas import NO_AREA

        area_number, area, is_new, where = self.procfs.areas.hand_over(buffers)
        try:
            message = marshal.dumps((area_number, area.size, where, data))
            self.connection.sendmsg([ARRAYS, message], carrying(area.fd) if is_new else ())
            area.is_looked_at = True
        finally:
            if area_number == NO_AREA:
                area.close()

    def _send_descriptor(self, fd: int) -> None:
        """Send a descriptor: the only one that is on its way, since all of root's together may be no more than 1,024.

        Raises:
            NonsenseError: it was asked for before the answer to an earlier question was taken.
        """
        try:
            if any(fcntl.ioctl(self.connection, SIOCOUTQ, bytes(FD_SIZE))):
                raise NonsenseError
            self.connection.sendmsg([ANSWER], carrying(fd))
        finally:
            os.close(fd)


class ServedFS(ProcFS):
    """/proc, as a worker looks at it for a front end."""

    def __init__(self, grant: Grant) -> None:
        super().__init__()
        self.grant = grant
        self._areas: Areas | None = None

    @property
    def areas(self) -> Areas:
        """What long answers are handed over in."""
        from mematlas.kernel.shared_areas import Areas  # with numpy, which few need

        if self._areas is None:
            self._areas = Areas()
        return self._areas

    @property
    def helpers(self) -> frozenset[int]:
        """The PIDs of the front end and of the broker: they belong to us."""
        broker = os.getppid()
        return frozenset((self.grant.front, broker, *started_by(broker, self)))


# --- all connections


class Broker:
    """Keeps a worker for each connection, until the front end ends or asks nonsense."""

    def __init__(self, control: _socket.socket, front: int, grant: Grant) -> None:
        """``control`` is where connections are asked for, ``front`` a pidfd of the front end."""
        self.control = control
        self.front = front
        self.grant = grant
        self.queries: tuple[Query, ...] = ()
        """What it may ask."""
        self.poll = select.poll()
        self.user: int | None = None
        """Whom the front end runs as."""
        self._workers: dict[int, Served] = {}
        """Each worker, by its pidfd."""
        self._of_connection: dict[int, int] = {}
        """The pidfd of each worker, by our descriptor of its end of the connection."""
        self._spare: tuple[int, _socket.socket | None] | None = None
        """A worker for who asks first: it is started while that gets ready."""

    def serve(self) -> None:
        """Serve until the end of the front end, or until it asks nonsense, or for nothing any more."""
        spare = self._start()
        self._spare = spare if spare[1] else None
        self.poll.register(self.control, select.POLLIN)
        self.poll.register(self.front, select.POLLIN)
        is_wanted = True
        while is_wanted:
            for fd, _ in self.poll.poll():
                if fd == self.front:
                    is_wanted = False
                elif fd == self.control.fileno():
                    is_wanted = is_wanted and self._hear()
                elif fd in self._workers:
                    is_wanted = self._ended(fd) and is_wanted
                elif fd in self._of_connection:
                    # Nobody is there to hear the answer: it may wait for ever for what it was asked.
                    end(self._of_connection[fd])
                    self.poll.unregister(fd)

    def _hear(self) -> bool:
        """Do what is asked where connections are; return whether the front end goes on."""
        try:
            asked = self._hear_user()
        except ConnectionResetError:
            return False  # it has let go of an answer
        if asked == CONNECT:
            self._connect()
        elif asked and asked != INTRODUCE:
            self._end_front(asked)
            return False
        return bool(asked)

    def _hear_user(self, flags: int = 0) -> bytes:
        """Return what is said where connections are, and remember who says it, once that has become somebody else.

        The kernel notes who sends what, at that moment (unix(7), SO_PASSCRED).
        """
        asked, rights, _, _ = self.control.recvmsg(len(CONNECT) + 1, _socket.CMSG_SPACE(CREDENTIALS_SIZE), flags)
        for _, kind, data in rights:
            if kind == _socket.SCM_CREDENTIALS and self.user is None:
                user = int.from_bytes(data[FD_SIZE : 2 * FD_SIZE], sys.byteorder)
                self.user = user if user in USERS else None
        return asked

    def _answer(self, data: bytes, rights: Sequence[tuple[int, int, bytes]] = ()) -> None:
        try:
            self.control.sendmsg([data], rights, _socket.MSG_DONTWAIT)
        except OSError:
            pass  # it asks, and takes nothing; or too many descriptors are on their way to it

    def _connect(self) -> None:
        """Make a connection for whoever asks."""
        pid, theirs = self._spare or (self._start() if len(self._workers) < MOST_WORKERS else (0, None))
        self._spare = None
        self._answer(str(pid).encode("ascii"), carrying(theirs.fileno()) if theirs else ())
        if theirs:
            theirs.close()

    def _start(self) -> tuple[int, _socket.socket | None]:
        """Start a worker; return its PID, and what it is asked through: 0 and nothing where there is no room."""
        opened: list[int] = []
        try:
            ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
            watched, alive = made = os.pipe()
            opened += made
            heard, said = made = os.pipe()
            opened += made
            pid = os.fork()
        except OSError:
            for fd in opened:
                os.close(fd)
            return 0, None
        if pid == 0:
            work(ours, self.grant, self.queries, watched, said, (theirs.fileno(), alive, heard))
        for fd in (watched, said):
            os.close(fd)
        os.set_blocking(heard, False)  # a child of the worker's may hold the other end for ever
        pidfd = os.pidfd_open(pid)
        self._workers[pidfd] = Served(pid, ours, alive, heard)
        self._of_connection[ours.fileno()] = pidfd
        self.poll.register(pidfd, select.POLLIN)
        self.poll.register(ours, 0)  # its end alone
        return pid, theirs

    def _ended(self, pidfd: int) -> bool:
        """Let go of a worker that has ended; return whether the front end goes on."""
        served = self._workers.pop(pidfd)
        self.poll.unregister(pidfd)
        if self._of_connection.pop(served.connection.fileno(), None):
            try:
                self.poll.unregister(served.connection)
            except KeyError:
                pass  # its front end ended first
        try:
            nonsense = os.read(served.heard, MOST_SHOWN)
        except BlockingIOError:
            nonsense = b""
        served.close()
        os.close(pidfd)
        os.waitpid(served.pid, 0)
        if nonsense:
            self._end_front(nonsense)
        return not nonsense

    def end_all(self) -> None:
        """End the workers, the front end, and all of its children: they are of its user, which nobody else is.

        A front end that is done asking has some time to end by itself. We become its user as far as signals go, and
        nobody whom it may signal. The kernel goes through all processes in one go, and lets none fork that it has
        signalled (kernel/signal.c, kill_something_info(), kill_ok_by_cred(); kernel/fork.c, copy_process()).
        """
        for worker in self._workers:
            end(worker)
        try:
            while self.user is None and self._hear_user(_socket.MSG_DONTWAIT):
                pass  # it may have ended before it was heard
        except OSError:
            pass  # there is no more
        waiting = select.poll()
        waiting.register(self.front, select.POLLIN)
        waiting.poll(GRACE_MS)
        end(self.front)
        if self.user is not None:
            os.setresuid(unused_user(self.user), self.user, 0)
            try:
                os.kill(-1, SIGKILL)
            except ProcessLookupError:
                pass  # there is nobody

    def _end_front(self, nonsense: bytes) -> None:
        """End the front end, which asked nonsense, and say so; what it leaves behind is answered no more by then."""
        end(self.front)
        for worker in self._workers:
            end(worker)
        say(ENDED.format(ascii(nonsense)[1:]).encode("ascii"))


def end(pidfd: int) -> None:
    """End a process, unless it has ended."""
    try:
        pidfd_send_signal(pidfd, SIGKILL)
    except ProcessLookupError:
        pass


def say(text: bytes) -> None:
    """Write a message to standard error, unless nobody takes it: a pipe that is full keeps no rights alive."""
    write_within(MOST_WAIT, STDERR, text[: select.PIPE_BUF])


ENDED = """\
mematlas: the part without rights asked for what it has no business with, and was ended: {}
Somebody may have taken it over, by what it looked at. If not, it is a mistake of ours: please report it.
"""


class Served:
    """A worker, as its broker knows it."""

    def __init__(self, pid: int, connection: _socket.socket, alive: int, heard: int) -> None:
        self.pid = pid
        self.connection = connection
        """Its end: what tells that nobody holds the other one any more."""
        self.alive = alive
        """Ends it when it is closed, as it is when we end."""
        self.heard = heard
        """Where it says what nonsense it was asked; closed without a word otherwise."""

    def close(self) -> None:
        """Let go of it."""
        self.connection.close()
        os.close(self.alive)
        os.close(self.heard)


def work(
    connection: _socket.socket,
    grant: Grant,
    queries: tuple[Query, ...],
    broker: int,
    said: int,
    others: tuple[int, ...],
) -> NoReturn:
    """Serve one connection, in a worker: nothing here may return. ``others`` are the broker's ends."""
    try:
        for fd in others:  # the next step takes one
            os.close(fd)
        # What others' ends are known by, too: each is to notice when we end.
        close_all_but({connection.fileno(), broker, said})
        for signal_number in (SIGHUP, SIGINT, SIGTERM, SIGIO, SIGPIPE):
            signal(signal_number, SIG_DFL)
        end_with(broker)
        let_go_of_streams()
        Worker(connection, grant, queries).serve()
    except NonsenseError as error:
        os.write(said, error.question)
    except BaseException as error:
        if not lacks_room(error):
            # What went wrong is said, and not what was found: the message of an error may show any of that.
            where = error.__traceback__
            while where and where.tb_next:
                where = where.tb_next
            line = f"{where.tb_frame.f_code.co_name}:{where.tb_lineno}" if where else ""
            connection.sendmsg([MISTAKE, f"mematlas: a mistake of ours: {type(error).__name__} at {line}\n".encode()])
    finally:
        os._exit(0)


def run(control: _socket.socket, front: int, alive: int, grant: Grant, queries: str) -> NoReturn:
    """Be the broker: nothing here may return. ``alive`` is closed when we end; ``queries`` names what is answered."""
    broker = Broker(control, front, grant)
    try:
        signal(SIGPIPE, SIG_IGN)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for fd in (0, 1):
            os.dup2(null, fd)
        close_all_but((control.fileno(), front, alive))
        _, most = getrlimit(RLIMIT_NOFILE)
        setrlimit(RLIMIT_NOFILE, (most, most))
        broker.queries = named(queries)
        broker.serve()
        let_go_of_streams()  # nothing is left to say: who reads it waits for no end of ours
    except BaseException:
        import traceback

        say(traceback.format_exc().encode("utf-8", "replace"))
    finally:
        try:
            broker.end_all()
        finally:
            os._exit(0)
