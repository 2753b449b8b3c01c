"""Our own open files: proc_pid_fd(5)."""

from __future__ import annotations

import os
import select
from _signal import SIGALRM, alarm, signal  # type: ignore[import-not-found]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import NoReturn

OPEN_FILES = "/proc/self/fd"
STREAMS = (0, 1, 2)
STDERR = 2


def open_files() -> set[int]:
    """Return what we have open, and the number that listing it took."""
    return set(map(int, os.listdir(OPEN_FILES)))


def close_all_but(kept: Collection[int]) -> None:
    """Close what is open but the standard streams and some more."""
    # Not all numbers there may be: where close_range(2) is missing or refused, that is a call for each of a billion.
    # Nor up to the bound of today, which may have been lowered.
    for fd in open_files():
        if fd not in STREAMS and fd not in kept:
            try:
                os.close(fd)
            except OSError:
                continue  # that of the listing


def write_within(seconds: int, fd: int, data: bytes) -> None:
    """Write to what others have too, in as many seconds, or twice that: they may fill a pipe, or stop a terminal.

    It takes SIGALRM. What cannot be written is dropped.
    """
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    if not poll.poll(1000 * seconds):
        return
    signal(SIGALRM, give_up)
    alarm(seconds)
    try:
        os.write(fd, data)
    except OSError:
        pass
    finally:
        alarm(0)


def give_up(number: int, frame: object) -> NoReturn:
    """End a wait, as a handler of signals."""
    raise TimeoutError
