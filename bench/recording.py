"""What recording costs, and what reading a recording does: figures for docs/performance.md.

.venv/bin/python bench/recording.py [GIB] [--way WAY] [--days DAYS]

As root; of a process of so many GiB (default 1), changing in a WAY; and of a recording of so many days (default 1; ten
are 1 GB).

WAY is one of `WAYS` (default: a part of it after the other). It is no timed test: nothing here fails. CPU times are of
the recorder and of what writes for it.
"""

from __future__ import annotations

import argparse
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
from random import Random
from typing import Any

from mematlas.analysis.results import Counters, Reading, UsageResult
from mematlas.analysis.usage import Usage
from mematlas.kernel.status import Faults
from mematlas.timeline import writing
from mematlas.timeline.encoding import Encoder
from mematlas.timeline.sampler import Cost, Snapshot
from mematlas.timeline.watch import Look, Seen

MIB, GIB = 1 << 20, 1 << 30
SECONDS = 33
"""As many looks, one of which records pages whole."""
NR_PROCESSES = 100
ROUNDS, LOOKS = 3, 20
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


def of_looks(size: int) -> None:
    """What the looks of ``usage -i`` take after the first, beside a fresh ``usage``: of a tiny process, and a large."""
    for size_of_it in (MIB, size):
        with running(CHANGING.replace("while True:", "while time.sleep(1000) or True:"), size_of_it, WAYS[0]) as target:
            assert target.stdout
            target.stdout.readline()
            fresh = min(cpu_of("usage", target.pid)[0] for _ in range(ROUNDS))
            one, many = (
                min(cpu_of("usage", target.pid, "-i", "50ms", "-n", count)[0] for _ in range(ROUNDS))
                for count in (1, LOOKS + 1)
            )
            each = (many - one) / LOOKS
            told(
                f"usage -i of {size_of_it / MIB:.0f} MiB, each look after the first",
                f"{1e3 * each:7.2f} ms; a fresh usage {1e3 * fresh:.0f} ms ({each / fresh:.2f})",
            )


def of_days(directory: str, nr_days: int) -> None:
    """How large a recording of many processes becomes, a moment every ten seconds, and what its summary takes."""
    for part in (0.1, 1.0):
        path = f"{directory}/days.mematlas"
        make_days(path, nr_days * 8640, part)
        told(
            f"{nr_days} days of {NR_PROCESSES} processes every 10 s, {100 * part:.0f} % of them changing",
            f"{os.stat(path).st_size / 1e6:7.0f} MB",
        )
        told("report of it", f"{min(cpu_of('report', path)[0] for _ in range(ROUNDS)):7.2f} s of CPU")
        os.unlink(path)


def make_days(path: str, nr_moments: int, part: float) -> None:
    """Write a recording of made-up processes, of which a part has other amounts at each moment than at the last."""
    random = Random(1)
    pages = [random.randrange(2_000, 200_000) for _ in range(NR_PROCESSES)]
    looks = [seen(number, nr) for number, nr in enumerate(pages)]
    encoder = Encoder()
    writing.make(path, force=True)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        writing.prepare(database)
        database.execute("PRAGMA synchronous = OFF").fetchall()
        facts = {"host": '"oak"', "kernel": '"6.18"', "page_size": str(mmap.PAGESIZE), "what": '["usage"]'}
        writing.add(database, {"recording": list(facts.items())})
        for moment in range(nr_moments):
            for number in range(NR_PROCESSES):
                if random.random() < part:
                    pages[number] = max(pages[number] + random.randrange(-300, 310), 1)
                    looks[number] = seen(number, pages[number])
            counters = {"MemFree": random.randrange(1 << 34), "pgfault": 1000 * moment}
            snapshot = Snapshot(1.79e9 + 10 * moment, 10.0 * moment, Look(tuple(looks), (), counters), Cost(0.03, 0.0))
            writing.add(database, encoder.rows_of(snapshot))
        writing.finish(database)


def seen(number: int, nr_pages: int) -> Seen:
    """Return a made-up process."""
    uss, shared = nr_pages * mmap.PAGESIZE, 6 * MIB
    known: dict[str, Any] = {
        "rss": uss + shared,
        "pss": uss + shared // 3,
        "uss": uss,
        "anon": uss,
        "file": shared,
        "zero": None,
    }
    usage = Usage(**dict.fromkeys(Usage.__match_args__, 0) | known | {"nr_pages": 90_000, "nr_exclusive": nr_pages})
    counters = Counters(None, 400 * MIB, 401 * MIB, uss + 2 * shared, 0, 0, 0)
    reading = Reading("smaps_rollup", 0.001, torn=False, notes=())
    result = UsageResult(usage, 200 << 10, reading, counters=counters)
    return Seen(1000 + number, 77, f"program-{number}", "machine", result, Faults(nr_pages, 3), None)


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


def bytes_of(text: str) -> int:
    """Return so many GiB in bytes, as whole pages."""
    size = int(float(text) * GIB)
    return size - size % mmap.PAGESIZE


def main() -> int:
    """Measure all of it."""
    parser = argparse.ArgumentParser(description="Measure what recording costs, and what reading a recording does.")
    parser.add_argument("gib", nargs="?", type=bytes_of, default="1", help="GiB of memory (default 1)")
    parser.add_argument("--way", choices=WAYS, default=WAYS[0])
    parser.add_argument("--days", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        of_one(arguments.gib, arguments.way, directory)
        if arguments.way == WAYS[0]:
            of_many(directory)
            of_days(directory, arguments.days)
    if arguments.way == WAYS[0]:
        of_looks(arguments.gib)
        of_target()
    return 0


if __name__ == "__main__":
    sys.exit(main())
