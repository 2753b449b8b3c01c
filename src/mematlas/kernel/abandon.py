"""Questions that may never be answered, asked by children that can be left behind.

Whoever reads maps, smaps or the command line of a process waits for its mmap lock, and there is no bound to how long
somebody else may hold that: a thread that waits for a dead file system holds it for ever. Such a wait ends for fatal
signals alone. So what looks at processes that nobody asked for looks from a child. Where that falls silent another one
goes on with the next process, and in the end it is killed. Even that may not end it: who waits for a server of FUSE
that has taken the request waits for the answer (fs/fuse/dev.c, request_wait_answer()). So it holds none of our streams.
"""

from __future__ import annotations

import _socket  # socket itself costs 9 ms, a third of a whole command
import marshal
import os
import select
import sys
import time

# signal would bring in enum, for 5 ms.
from _signal import SIG_DFL, SIGHUP, SIGINT, SIGIO, SIGKILL, SIGTERM, signal  # type: ignore[import-not-found]

from mematlas.errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any, NoReturn

    Ask = Callable[[Any], tuple[Any, int]]

SILENCE = 0.02
"""Seconds without an answer after which another child goes on with the rest. Most take a thousandth of that."""
PATIENCE = 0.3
"""Seconds after which an answer is waited for no more, if the child itself waits for something in the kernel."""
MESSAGE_SIZE = 1 << 16
MISTAKE = b"!"
"""Begins a message that is no answer but a traceback; nothing that marshal writes begins so."""
LITTLE_ROOM = 1 << 11
"""Bytes of messages, with what the kernel adds to each: it makes room for a few short ones of this."""
FD_SIZE = 4
"""Bytes of an int, which a descriptor is."""
FAREWELL = 0.02
"""Seconds to wait for a child that was killed; one that the kernel does not let go is left to the init process."""


class Inquiry:
    """Asks about one thing after the other, until ``deadline``, and waits ``patience`` for who hangs in the kernel.

    ``ask`` runs in a child. What it returns must be plain (see `marshal`): numbers, texts, tuples, None. A descriptor
    may go with it, and arrives as one of ours. Iterating yields each thing with its answer and that descriptor, or -1,
    as the answers come. What was not answered, and what there was no time for, is kept.

    >>> list(Inquiry(lambda number: (number * number, -1), [2, 3]))
    [(2, 4, -1), (3, 9, -1)]
    """

    def __init__(
        self,
        ask: Ask,
        things: Sequence[Any],
        patience: float = PATIENCE,
        deadline: float = float("inf"),
        silence: float = SILENCE,
        is_heavy: bool = False,
        most: int = 1 << 10,
    ) -> None:
        """After ``silence`` the next thing is asked about besides, unless ``most`` children are at work by then.

        ``is_heavy`` says that answers come with files of memory: then few of them may wait to be taken.
        """
        self.ask = ask
        self.things = things
        self.patience = patience
        self.silence = silence
        self.is_heavy = is_heavy
        self.most = most
        self.deadline = deadline
        """By the clock of `time.monotonic`."""
        self.unanswered: list[Any] = []
        """What its answer has to wait for, in the kernel."""
        self.unasked: list[Any] = []
        """What there was no time for, or too little; and what its child ended at, for want of memory or descriptors."""
        self._index = 0
        """Of the thing that is asked about now, or next."""
        self._now: Child | None = None
        self._silent: list[Child] = []

    def __iter__(self) -> Iterator[tuple[Any, Any, int]]:
        try:
            while (left := self.deadline - time.monotonic()) > 0 and self._go_on():
                for child in self._listen(left):
                    thing, answer = self.things[child.index], child.answer()
                    self._has_answered(child, answer is None)
                    if answer is None:
                        self.unasked.append(thing)
                    else:
                        yield thing, *answer
                self._look_at_clock()
            # Who works still has not been held up: there was too little time.
            for child in self._silent:
                things = self.unanswered if child.waits() else self.unasked
                things.append(self.things[child.index])
            self.unasked += self.things[self._index :]
        finally:
            for child in (*self._silent, *([self._now] if self._now else [])):
                child.close()

    def _go_on(self) -> bool:
        """Have a child ask about what is left; return whether any answer may come still."""
        if self._now is None and self._index < len(self.things):
            answers = map(self.ask, self.things[self._index :])
            try:
                self._now = Child(answers, self._index, self.is_heavy)
            except OSError as error:
                # Those that are silent have the descriptors or the room: one of them answers, or is given up.
                if not (self._silent and lacks_room(error)):
                    raise
        return bool(self._now or self._silent)

    def _listen(self, left: float) -> list[Child]:
        """Return the children that have answered; none of them after a silence."""
        now = time.monotonic()
        children = list(self._silent)
        ends = [now + left, *(child.since + self.patience for child in self._silent)]
        if self._now:
            children.append(self._now)
            ends.append(self._now.since + self.silence)
        poll = select.poll()
        for child in children:
            poll.register(child.fd, select.POLLIN)
        # It counts in milliseconds: one too many, rather than to come too early again and again.
        ready = {fd for fd, _ in poll.poll(max(min(ends) - now, 0) * 1000 + 1)}
        return [child for child in children if child.fd in ready]

    def _has_answered(self, child: Child, is_dead: bool) -> None:
        """Have a child that has answered go on with the next thing, unless another one does."""
        if child is not self._now:
            self._silent.remove(child)
            child.close()
            return
        self._index += 1
        child.index, child.since = self._index, time.monotonic()
        if is_dead or self._index == len(self.things):
            self._now = None
            child.close()

    def _look_at_clock(self) -> None:
        """Hand over to another child after a silence, and give up waiting after a long one."""
        now = time.monotonic()
        if self._now and now - self._now.since >= self.silence:
            self._silent.append(self._now)
            if len(self._silent) < self.most or sum(not child.waits() for child in self._silent) < self.most:
                self._now = None
                self._index += 1
            else:
                self._silent.pop()
                self._now.since = now
        for child in list(self._silent):
            if now - child.since < self.patience:
                continue
            if not child.waits():
                child.since = now
            else:
                self._silent.remove(child)
                self.unanswered.append(self.things[child.index])
                child.close()


class Reports:
    """Asks about one thing after the other, until ``deadline``; what is found out about each comes in pieces.

    ``find`` runs in a child, which goes on to the end of all things: where it says nothing for so long as ``patience``,
    and does not work then, it is ended, and another one begins with the next thing. Who waits for a server of FUSE
    sleeps as if for a pause; here is none. Each piece is to be plain and no longer than a message, as the answers of an
    `Inquiry`. Iterating yields each thing with each piece, as they come.

    >>> list(Reports(range, [2, 1], 1.0, time.monotonic() + 60))
    [(2, 0), (2, 1), (1, 0)]
    """

    def __init__(
        self, find: Callable[[Any], Iterable[Any]], things: Sequence[Any], patience: float, deadline: float
    ) -> None:
        self.find = find
        self.things = things
        self.patience = patience
        self.deadline = deadline
        """By the clock of `time.monotonic`."""
        self.unanswered: list[Any] = []
        """What had to be waited for, in the kernel: what came of it before is all that there is."""
        self.unasked: list[Any] = []
        """What there was no time for, or too little; and where the child ended, for want of memory perhaps."""
        self._child: Child | None = None
        self._is_stopped = False

    def stop(self) -> None:
        """Ask about nothing more; what was found out until now is still to come."""
        self._is_stopped = True
        if self._child:
            os.kill(self._child.pid, SIGKILL)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        index = 0
        try:
            while index < len(self.things) and time.monotonic() < self.deadline:
                child = self._child = self._child or Child(self._answers(index), index)
                if child.speaks(min(self.deadline, child.since + self.patience)):
                    child.since = time.monotonic()
                    answer = child.answer()
                    if answer and answer[0]:
                        yield self.things[index], answer[0][0]
                        continue
                    if answer:
                        index += 1
                        continue
                    if self._is_stopped:
                        break
                    self.unasked.append(self.things[index])
                elif child.state() != b"R":
                    self.unanswered.append(self.things[index])
                else:
                    child.since = time.monotonic()
                    continue
                child.close()
                self._child = None
                index += 1
            self.unasked += self.things[index:]
        finally:
            if self._child:
                self._child.close()

    def _answers(self, index: int) -> Iterator[tuple[tuple[Any, ...], int]]:
        """Yield each piece in a tuple, and after those of each thing an empty one."""
        for thing in self.things[index:]:
            for piece in self.find(thing):
                yield (piece,), -1
            yield (), -1


class Child:
    """A child that sends each of some answers as a message; they are to be found out when they are asked for."""

    def __init__(self, answers: Iterable[tuple[Any, int]], index: int, is_heavy: bool = False) -> None:
        self.index = index
        """Of the thing that it asks about."""
        before = time.monotonic()
        self._socket, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        if is_heavy:
            theirs.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, LITTLE_ROOM)
        self.fd = self._socket.fileno()
        watched, self._alive = os.pipe()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # or what waits there would be written twice
        try:
            self.pid = os.fork()
        except OSError:
            os.close(watched)
            os.close(self._alive)
            raise
        if self.pid == 0:
            os.close(self._alive)
            run(answers, theirs, watched)
        theirs.close()
        os.close(watched)
        now = time.monotonic()
        # It needs about as long to begin: where that is longer than a silence, each would be left behind.
        self.since = now + (now - before)
        """Since when an answer may be expected."""

    def speaks(self, deadline: float) -> bool:
        """Whether there is a message by then."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        return bool(poll.poll(max(deadline - time.monotonic(), 0) * 1000 + 1))

    def answer(self) -> tuple[Any, int] | None:
        """Return the next answer and its descriptor; None when it has ended, for want of memory perhaps."""
        data, rights, _, _ = self._socket.recvmsg(MESSAGE_SIZE, _socket.CMSG_SPACE(FD_SIZE), _socket.MSG_CMSG_CLOEXEC)
        fd = int.from_bytes(rights[0][2], sys.byteorder) if rights else -1
        if data[:1] == MISTAKE:
            sys.stderr.write(data[1:].decode("utf-8", "replace"))
            return None
        return (marshal.loads(data), fd) if data else None

    def waits(self) -> bool:
        """Whether it waits for what only a fatal signal may interrupt, as far as is known.

        Else it works, waits for a processor, or pauses to be gentle.
        """
        return self.state() in (b"D", b"")

    def state(self) -> bytes:
        """Return what it does, as /proc/PID/stat has it: ``R`` if it works; nothing where /proc does not show it."""
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:
                return file.read().rpartition(b") ")[2][:1]
        except OSError:
            return b""  # a /proc of another PID namespace

    def close(self) -> None:
        """End it; it may not be able to."""
        self._socket.close()
        os.close(self._alive)
        os.kill(self.pid, SIGKILL)
        end = time.monotonic() + FAREWELL
        while not os.waitpid(self.pid, os.WNOHANG)[0]:
            # One that is only short of a processor is waited for: it is no zombie of ours then.
            if time.monotonic() > end and self.waits():
                break
            time.sleep(0.0005)


def run(answers: Iterable[tuple[Any, int]], out: _socket.socket, parent: int) -> NoReturn:
    """Find out answers and send them, in the child: nothing here may return."""
    try:
        for number in (SIGINT, SIGTERM, SIGHUP, SIGIO):
            signal(number, SIG_DFL)
        end_with(parent)
        let_go_of_streams()
        for answer, fd in answers:
            message = [marshal.dumps(answer)]
            if fd < 0:
                out.sendmsg(message)
                continue
            descriptor = fd.to_bytes(FD_SIZE, sys.byteorder)
            out.sendmsg(message, [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, descriptor)])
            os.close(fd)
    except (BrokenPipeError, Error):
        pass  # our parent has enough; or there is no answer
    except BaseException as error:
        if not lacks_room(error):
            import traceback

            # A mistake of ours, to be shown: where it was made is at the end.
            text = traceback.format_exc()[-MESSAGE_SIZE // 2 :]
            out.sendmsg([MISTAKE, text.encode("utf-8", "replace")])
    finally:
        os._exit(0)


def lacks_room(error: BaseException) -> bool:
    """Whether an error is about descriptors or memory that there are no more of: then there is no answer."""
    import errno

    scarce = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in scarce)


def let_go_of_streams() -> None:
    """Leave the standard streams: whoever reads what we write to a pipe would wait for a child that cannot end."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in range(3):
        os.dup2(null, fd)


def end_with(parent: int) -> None:
    """Have the kernel end us when the other end of a pipe is closed, however our parent ends and wherever we wait.

    SIGIO, which reports it, ends whoever has not said otherwise. prctl(2) has PR_SET_PDEATHSIG for this, at the price
    of importing ctypes.
    """
    import fcntl

    fcntl.fcntl(parent, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(parent, fcntl.F_SETFL, os.O_ASYNC)
    poll = select.poll()
    poll.register(parent)
    if poll.poll(0):
        os._exit(0)  # closed already, before the kernel knew whom to signal
