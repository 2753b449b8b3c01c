"""Looking at many processes, any of which may hold the kernel up, in a child that can be left behind.

Opening or reading a file of /proc waits for locks of the process it is about (its mmap lock, or that of an exec in
progress), and a process that is stuck in a file system never lets go of them. So one child of ours asks, item after
item, and says what it found through a pipe. Where it is silent for too long it is killed, and another one goes on
behind the item that held it up.
"""

from __future__ import annotations

import os
import signal
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import NoReturn

PATIENCE = 1.0
"""Seconds for which one item may take."""
MOST_TIME = 10.0
"""Seconds for all of them; what is left then is left out."""
END = b"\0"
"""What ends the answer to an item."""
MOST_ANSWER = 1 << 20
"""Bytes of one answer; more is no answer of ours."""


def ask_apart(
    items: Sequence[int],
    ask: Callable[[int], bytes],
    patience: float = PATIENCE,
    most_time: float = MOST_TIME,
) -> Iterator[tuple[int, bytes | None]]:
    """Yield each item with the answer to it, which holds no zero byte; None where there was none in time.

    ``ask`` runs in a child: it changes nothing here, and must not raise.

    >>> list(ask_apart([1, 2], lambda item: b"%d" % item))
    [(1, b'1'), (2, b'2')]
    """
    end = time.monotonic() + most_time
    place = 0
    while place < len(items):
        if time.monotonic() >= end:
            yield from ((item, None) for item in items[place:])
            return
        for answer in answers(items[place:], ask, patience, end):
            yield items[place], answer
            place += 1


def answers(items: Sequence[int], ask: Callable[[int], bytes], patience: float, end: float) -> Iterator[bytes | None]:
    """Yield what one child answers, up to the first item that it does not answer in time: None stands for that."""
    import select

    pid, fd = start(items, ask)
    try:
        nr_answered = 0
        rest = b""
        while nr_answered < len(items):
            wait = min(patience, end - time.monotonic())
            ready = select.select([fd], [], [], max(wait, 0))[0]
            data = os.read(fd, 1 << 16) if ready else b""
            *whole, rest = (rest + data).split(END)
            yield from whole
            nr_answered += len(whole)
            if not data or len(rest) > MOST_ANSWER:
                if nr_answered < len(items):
                    yield None
                return
    finally:
        os.close(fd)
        os.kill(pid, signal.SIGKILL)
        # One that waits for a lock that no signal ends is left: it goes when that does.
        for _ in range(50):
            if os.waitpid(pid, os.WNOHANG)[0]:
                break
            time.sleep(0.001)


def start(items: Sequence[int], ask: Callable[[int], bytes]) -> tuple[int, int]:
    """Start the child; return its PID and where it answers."""
    import warnings

    read_fd, write_fd = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of forks beside other threads, such as numpy's: the child never needs them.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        answer_all(items, ask, write_fd)
    os.close(write_fd)
    return pid, read_fd


def answer_all(items: Sequence[int], ask: Callable[[int], bytes], fd: int) -> NoReturn:
    """Answer in the child, and end it."""
    try:
        # Ctrl-C is the parent's to handle.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for item in items:
            data = ask(item) + END
            while data:
                data = data[os.write(fd, data) :]
    finally:
        # Not sys.exit(): nothing of the parent's ending is ours to do.
        os._exit(0)
