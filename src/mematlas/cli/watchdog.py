"""Ending although the kernel holds us, which a Ctrl-C cannot do by itself, and saying what is waited for.

Who waits for the mmap lock of a process, or for a dead file system, wakes for fatal signals alone. One that has a
handler, as SIGINT has in Python, just stays pending: the handler runs when the wait is over, which may be never.
"""

from __future__ import annotations

import _thread
import os

# signal would bring in enum, for 5 ms.
from _signal import SIG_BLOCK, SIGHUP, SIGINT, SIGTERM, pthread_sigmask  # type: ignore[import-not-found]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

INTERVAL = 0.25
"""Seconds between two looks."""
NR_LOOKS = 4
"""So many looks in a row have to find a signal waiting."""
NR_LOOKS_SILENT = 16
"""So many looks in a row have to find us in a file of a process before somebody at a terminal is told."""
SLOW_FILES = ("maps", "smaps", "smaps_rollup", "numa_maps", "cmdline")
"""Texts that the kernel may take long to write, or be kept from by whoever holds the mmap lock of the process."""
HELD_FILES = (*SLOW_FILES, "pagemap", "mem", "")
"""Files that may have to wait for that lock; and the directory itself, where the call is about its map_files."""
ENDING = (SIGINT, SIGTERM, SIGHUP)


class Watchdog:
    """A thread that ends the process, with the exit code of the signal, when one has been pending for a second.

    What was made for a while, such as temporary swap, is taken away by a process of its own.
    """

    def __init__(self) -> None:
        self._leash = _thread.allocate_lock()
        """Not held for a moment when the thread is to end, which takes it."""
        self._awake = _thread.allocate_lock()
        """Held while there is a thread."""

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(self, *exc: object) -> None:
        self._let_go()

    def begin(self) -> None:
        """Watch from now on."""
        self._awake.acquire()
        self._leash.acquire(blocking=False)  # a thread that has ended has it
        try:
            _thread.start_new_thread(self._watch, ())
        except RuntimeError:
            # No thread is to be had (ulimit -u, pids.max), just when somebody wants to know why: go on without.
            self._awake.release()

    def leave(self) -> None:
        """Watch no more, until it is to begin again: there is no thread then that others would have to wait for."""
        self._let_go()
        with self._awake:
            pass

    def _let_go(self) -> None:
        """Have the thread end. A signal may come between any two of these lines."""
        if self._leash.locked():
            self._leash.release()

    def _watch(self) -> None:
        try:
            self._look_until_left()
        finally:
            self._awake.release()

    def _look_until_left(self) -> None:
        pthread_sigmask(SIG_BLOCK, ENDING)  # they are for the main thread, or for nobody
        nr_seen = nr_waits = 0
        is_watched = os.isatty(2)
        while not self._leash.acquire(timeout=INTERVAL):
            number = pending()
            nr_seen = nr_seen + 1 if number else 0
            if number and nr_seen >= NR_LOOKS:
                os.write(2, b"\nmematlas: ended while the kernel held us up: what was done last is unknown\n")
                os._exit(128 + number)
            if is_watched:
                waited_for = slow_file()
                nr_waits = nr_waits + 1 if waited_for else 0
                if waited_for and nr_waits >= NR_LOOKS_SILENT:
                    is_watched = False
                    tell(waited_for)


def tell(path: str) -> None:
    """Say at the terminal what is waited for."""
    from mematlas.views.live import CLEAR_LINE
    from mematlas.views.progress import waiting_note

    os.write(2, f"\r{CLEAR_LINE}{waiting_note(path)}\n".encode())


def slow_file() -> str | None:
    """Return the file of a process that the main thread is in the middle of reading; None without one.

    A system call that the kernel holds up is shown with its first argument, a descriptor; while it works for us none
    is shown, and the file is one of those that are open.
    """
    try:
        with open("/proc/self/syscall", "rb") as file:
            call = file.read().split()
        works = call[:1] == [b"running"]
        fds = os.listdir("/proc/self/fd") if works else [str(int(call[1], 16))]
    except (OSError, ValueError, IndexError):
        return None
    for fd in fds:
        try:
            path = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        root, _, name = path.removeprefix("/proc/").partition("/")
        if root.isdigit() and name in (SLOW_FILES if works else HELD_FILES):
            return path
    return None


def pending() -> int | None:
    """Return a signal that would end us, is not blocked, and waits to be taken; None without one, or if unknown."""
    try:
        with open("/proc/self/status", "rb") as file:
            lines = [line for line in file if line.startswith((b"ShdPnd:", b"SigBlk:"))]
            sets = [int(line.split()[1], 16) for line in lines]
    except OSError:
        return None
    waiting = sets[0] & ~sets[1] if len(sets) == 2 else 0
    return next((number for number in ENDING if waiting >> number - 1 & 1), None)
