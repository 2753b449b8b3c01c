"""What the screen of ``mematlas top`` costs: of a processor while it watches, of memory; and how soon it shows a key.

    screen.py [GIB] [SECONDS]    a process of so many GiB (4), of which a hundredth changes each second, watched so long
    screen.py vmas               a process of 40,000 VMAs

All of it counts: the screen, what keeps the rights for it (as root), and the recorder that waits beside it. A terminal
of 120 columns and 40 lines takes what is drawn.
"""

from __future__ import annotations

import compileall
import contextlib
import fcntl
import os
import pty
import select
import statistics
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import mematlas
from recording import CHANGING, GIB, MIB, running, told

NR_VMAS = 40_000
MANY_VMAS = """
import mmap, sys, time
page, nr = mmap.PAGESIZE, int(sys.argv[1]) // 2; area = mmap.mmap(-1, 2 * nr * page, mmap.MAP_PRIVATE)
for at in range(0, 2 * nr * page, 2 * page): area[at] = 1; area.madvise(mmap.MADV_DONTFORK, at, page)
print("there", flush=True)
while True:
    for at in range(0, 200 * page, 2 * page): area.madvise(mmap.MADV_DONTNEED, at, page); area[at] = 2
    time.sleep(0.1)
"""
"""Every other page is a VMA of its own."""
KEYS = (b"\x1b[B", b"\x1b[A", b"+", b"-", b"c")
"""Down, up, zoom in and out, another palette."""
ROUNDS = 20
QUIET = 0.25
"""Seconds without anything drawn, after which a key is pressed."""


class Screen:
    """A screen on a terminal of its own."""

    def __init__(self, *words: object) -> None:
        self.fd, inner = pty.openpty()
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
        for name in ("NO_COLOR", "COLUMNS", "LINES", "PYTHONDONTWRITEBYTECODE"):
            environment.pop(name, None)
        line = [sys.executable, "-m", "mematlas", "top", *map(str, words)]
        self.process = subprocess.Popen(
            line, stdin=inner, stdout=inner, stderr=inner, env=environment, start_new_session=True
        )
        os.close(inner)

    def drawn(self, seconds: float) -> int:
        """Return how many bytes are drawn within so long; at once, when something was."""
        if not select.select([self.fd], [], [], seconds)[0]:
            return 0
        try:
            return len(os.read(self.fd, 1 << 16))
        except OSError:
            return 0  # it has ended

    def take(self, seconds: float) -> int:
        """Take what is drawn for so long; return how many bytes that was."""
        end, nr = time.perf_counter() + seconds, 0
        while (left := end - time.perf_counter()) > 0:
            nr += self.drawn(left)
        return nr

    def pids(self) -> list[int]:
        """Return the processes of it: itself, and all below it."""
        pids = [self.process.pid]
        for pid in pids:
            try:
                for task in os.listdir(f"/proc/{pid}/task"):
                    pids += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
            except OSError:
                continue
        return pids

    def spent(self) -> float:
        """Return the processor seconds of all of it so far."""
        nanoseconds = 0
        for pid in self.pids():
            for schedule in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                try:
                    nanoseconds += int(schedule.read_text().split()[0])
                except OSError:
                    continue
        return nanoseconds / 1e9

    def memory(self) -> tuple[int, int]:
        """Return RSS of the screen itself, and PSS of all of it."""
        of_all = 0
        for pid in self.pids():
            try:
                text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:
                continue
            fields = dict(line.split(":", 1) for line in text.splitlines()[1:])
            of_all += int(fields["Pss"].split()[0]) << 10
            if pid == self.process.pid:
                rss = int(fields["Rss"].split()[0]) << 10
        return rss, of_all

    def press(self, key: bytes) -> float:
        """Return how long it takes from a key until something is drawn."""
        while self.drawn(QUIET):
            pass
        began = time.perf_counter()
        os.write(self.fd, key)
        while not self.drawn(1.0):
            pass
        return time.perf_counter() - began

    def close(self) -> None:
        """End it."""
        os.write(self.fd, b"q")
        end = time.perf_counter() + 10
        while self.process.poll() is None and time.perf_counter() < end:
            self.drawn(0.1)
        self.process.kill()
        self.process.wait()
        os.close(self.fd)


@contextlib.contextmanager
def watching(code: str, *words: object) -> Iterator[Screen]:
    """Have a screen of a program, looked at for some seconds, to the end of the block."""
    with running(code, *words) as target:
        assert target.stdout
        target.stdout.readline()
        began = time.perf_counter()
        screen = Screen(target.pid)
        while not screen.drawn(10):
            pass
        screen.take(0.05)
        told("first frame, of processors", f"{screen.spent():7.2f} s, {time.perf_counter() - began:.2f} s by the clock")
        screen.take(10)  # it is opened, and looked at first, meanwhile
        yield screen
        screen.close()


def watch(screen: Screen, seconds: float, what: str) -> None:
    """Say what it costs to watch."""
    before, at = screen.spent(), time.perf_counter()
    nr_bytes = screen.take(seconds)
    part = (screen.spent() - before) / (time.perf_counter() - at)
    told(f"watching {what} twice a second", f"{100 * part:7.1f} % of a core, {nr_bytes / seconds:,.0f} bytes/s")
    rss, pss = screen.memory()
    told("memory", f"{rss / MIB:7.0f} MiB RSS of the screen, {pss / MIB:.0f} MiB PSS of all of it")


def press_keys(screen: Screen) -> None:
    """Say how soon keys are on the screen."""
    for name, page in (("map", b"2"), ("VMAs", b"3"), ("time", b"4"), ("tables", b"5")):
        screen.press(page)
        screen.take(1)
        times = [screen.press(KEYS[number % 2 if name != "map" else number % len(KEYS)]) for number in range(ROUNDS)]
        told(
            f"from a key to the screen, {name}",
            f"{1e3 * statistics.median(times):7.0f} ms, the slowest of {ROUNDS} {1e3 * max(times):.0f} ms",
        )


def main() -> None:
    """Run as a program."""
    compileall.compile_dir(Path(mematlas.__file__).parent, quiet=1)  # as when it is installed
    if sys.argv[1:] == ["vmas"]:
        with watching(MANY_VMAS, NR_VMAS) as screen:
            watch(screen, 20, f"{NR_VMAS:,} VMAs")
            press_keys(screen)
        return
    gib = float(sys.argv[1]) if len(sys.argv) > 1 else 4
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 60
    with watching(CHANGING, int(gib * GIB), "parts") as screen:
        watch(screen, seconds, f"{gib:g} GiB")
        press_keys(screen)


if __name__ == "__main__":
    main()
