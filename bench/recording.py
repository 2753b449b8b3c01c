"""What recording costs, and what reading a recording does: figures for docs/performance.md.

.venv/bin/python bench/recording.py [GIB [WAY]]   as root; of a process of so many GiB (default 1), changing in a WAY

WAY is one of `WAYS` (default: a part of it after the other). It is no timed test: nothing here fails. CPU times are of
the recorder and of what writes for it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import resource
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

MIB, GIB = 1 << 20, 1 << 30
SECONDS = 33
"""As many looks, one of which records pages whole."""
NR_PROCESSES = 100
SETTLED = 5
"""Seconds after the start from which on what it takes is measured: the first looks have more to do."""
CHANGING = """
import mmap, os, random, sys, time
size, way = int(sys.argv[1]), sys.argv[2]; page = mmap.PAGESIZE
area = mmap.mmap(-1, size, (mmap.MAP_SHARED if way == "shared" else mmap.MAP_PRIVATE) | mmap.MAP_ANONYMOUS)
if way != "shared": area.madvise(mmap.MADV_HUGEPAGE if way == "huge" else mmap.MADV_NOHUGEPAGE)
for at in range(0, size, page): area[at] = 1
parent = os.getpid()
if way == "forked" and os.fork() == 0:
    while os.getppid() == parent: time.sleep(0.5)
    os._exit(0)
print("there", flush=True)
nr_pages = size // page
part, number, random, rest = nr_pages // 100, 0, random.Random(1), []
while True:
    if way == "scattered":
        for at in rest: area[at] = 2
        rest = [random.randrange(nr_pages) * page for _ in range(part // 2)]
        for at in rest: area.madvise(mmap.MADV_DONTNEED, at, page)
    elif way == "growing":
        rest.append(mmap.mmap(-1, part * page, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        rest[-1].madvise(mmap.MADV_NOHUGEPAGE)
        for at in range(0, part * page, page): rest[-1][at] = 2
    else:
        first = number * part * page % size
        if way != "forked": area.madvise(mmap.MADV_DONTNEED, first, min(part * page, size - first))
        for at in range(first, min(first + part * page, size), page): area[at] = 2
    number += 1
    time.sleep(1)
"""
WAYS = ("parts", "scattered", "growing", "huge", "shared", "forked")
"""How a hundredth of its pages changes each second: a part after the other is given back and touched again, of private
memory, of huge pages, or of shared memory; pages are, anywhere; a hundredth is added; or written to, of what a child
maps as well.
"""
MAPPING = """
import mmap, sys, time
sys.stdin.readline()
began = time.perf_counter(); nr = 0; longest = []
while time.perf_counter() - began < float(sys.argv[1]):
    before = time.perf_counter()
    mmap.mmap(-1, 1 << 16).close(); nr += 1
    longest.append(time.perf_counter() - before)
longest.sort()
print(nr, longest[int(len(longest) * 0.999)])
"""
SLEEPING = "import time; x = bytearray(3 << 20); time.sleep(1000)"


@contextlib.contextmanager
def running(code: str, *words: object) -> Iterator[subprocess.Popen[str]]:
    """Run a program of Python to the end of the block."""
    line = [sys.executable, "-c", code, *map(str, words)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def cpu_of(*words: object) -> tuple[float, float, str]:
    """Run a command line of ours; return its CPU and wall time, and what it has said."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    run = subprocess.run(
        [sys.executable, "-m", "mematlas", *map(str, words)], capture_output=True, text=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.perf_counter() - began, run.stdout + run.stderr


def told(name: str, value: str) -> None:
    """Say a figure."""
    print(f"{name:58} {value}", flush=True)


def spent(pid: int) -> float:
    """Return the processor seconds of a process and of its children, so far."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        pids = [pid, *map(int, file.read().split())]
    nanoseconds = 0
    for one in pids:
        for thread in os.listdir(f"/proc/{one}/task"):
            with open(f"/proc/{one}/task/{thread}/schedstat") as file:
                nanoseconds += int(file.read().split()[0])
    return nanoseconds / 1e9


def recorded(path: str, *words: object) -> tuple[float, float]:
    """Record for a while; return what part of a core that takes, all of it, and how long a look does in the middle."""
    line = ["record", *words, "-i", "1s", "--budget", "100%", "-o", path]
    with subprocess.Popen([sys.executable, "-m", "mematlas", *map(str, line)], stderr=subprocess.DEVNULL) as recorder:
        time.sleep(SETTLED)
        before, began = spent(recorder.pid), time.perf_counter()
        time.sleep(SECONDS)
        part = (spent(recorder.pid) - before) / (time.perf_counter() - began)
        recorder.send_signal(signal.SIGINT)
    with contextlib.closing(sqlite3.connect(path)) as database:
        looks = [cpu for (cpu,) in database.execute("SELECT cpu_s FROM moment WHERE id > 2")]
    return part, statistics.median(looks)


def of_one(size: int, way: str, directory: str) -> None:
    """A process of which a hundredth changes each second, with the state of its pages."""
    with running(CHANGING, size, way) as target:
        assert target.stdout
        target.stdout.readline()
        for what in ("usage", "vmas", "pages", "frames"):
            path = f"{directory}/{what}.mematlas"
            part, look = recorded(path, target.pid, "--what", what)
            told(
                f"{size / GIB:g} GiB, 1 % of it changing ({way}), --what {what}, 1 s",
                f"{look * 1e3:7.1f} ms a look, {100 * part:5.2f} % of a core, {os.stat(path).st_size / MIB:.2f} MiB",
            )
        cpu, _, _ = cpu_of("diff", f"{directory}/pages.mematlas@1s", f"{directory}/pages.mematlas@10s")
        told(f"diff of two moments of {size / GIB:g} GiB", f"{cpu:7.2f} s of CPU")


def of_many(directory: str) -> None:
    """A hundred processes by usage."""
    with contextlib.ExitStack() as stack:
        pids = [stack.enter_context(running(SLEEPING)).pid for _ in range(NR_PROCESSES)]
        time.sleep(2)
        path = f"{directory}/many.mematlas"
        part, _ = recorded(path, *pids, "--what", "usage")
        told(f"{NR_PROCESSES} processes by usage, 1 s", f"{100 * part:7.1f} % of a core")
        told("as they stand still, on disk", f"{os.stat(path).st_size / MIB:7.2f} MiB in {SETTLED + SECONDS} s")
        cpu, _, _ = cpu_of("report", path)
        told("report of it", f"{cpu:7.2f} s of CPU")


def of_target() -> None:
    """How fast a program maps and unmaps memory, alone and while it is recorded."""
    for is_recorded in (False, True, False, True):
        with running(MAPPING, SECONDS / 2) as target, tempfile.TemporaryDirectory() as directory:
            recorder = None
            if is_recorded:
                line = ["record", str(target.pid), "-i", "1s", "-o", f"{directory}/x.mematlas", "--what", "pages"]
                recorder = subprocess.Popen([sys.executable, "-m", "mematlas", *line], stderr=subprocess.DEVNULL)
                time.sleep(1)
            assert target.stdin
            assert target.stdout
            target.stdin.write("\n")
            target.stdin.flush()
            nr, longest = target.stdout.readline().split()
            told(
                f"a program that maps and unmaps, {'recorded' if is_recorded else 'alone'}",
                f"{int(nr) / SECONDS * 2:9.0f} a second, p99.9 {float(longest) * 1e6:.0f} us",
            )
            if recorder:
                target.kill()
                recorder.wait()


def main() -> int:
    """Measure all of it."""
    size = int(float(sys.argv[1]) * GIB) if len(sys.argv) > 1 else GIB
    size -= size % mmap.PAGESIZE
    way = sys.argv[2] if len(sys.argv) > 2 else WAYS[0]
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        of_one(size, way, directory)
        if way == WAYS[0]:
            of_many(directory)
            of_target()
    return 0


if __name__ == "__main__":
    sys.exit(main())
