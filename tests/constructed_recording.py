"""Recordings of processes that never were, of which all that is in them is known."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path

from mematlas.analysis.results import Counters, Reading, UsageResult, VmaUsage
from mematlas.analysis.usage import Usage, total
from mematlas.kernel.maps import Vma
from mematlas.kernel.status import Faults
from mematlas.timeline import writing
from mematlas.timeline.encoding import Encoder
from mematlas.timeline.sampler import Cost, Snapshot
from mematlas.timeline.watch import EXIT, Happening, Look, Seen

PAGE = 4096
MIB = 1 << 20
BEGAN = 1e9
START_TIME = 77

Looks = Sequence[Mapping[tuple[int, str], list[VmaUsage]]]
"""The VMAs of processes, by PID and name, at one moment after the other."""


def item(start: int, size: int, rss: int, path: str, swap: int = 0) -> VmaUsage:
    usage = Usage(rss, rss, rss, swap, rss, 0, 0, 0, 0, 0, size // PAGE, rss // PAGE, swap // PAGE, 0)
    vma = Vma(start, start + size, "rw-p", 0, "00:00", 0, path, "heap" if path == "[heap]" else "anon")
    return VmaUsage(vma, usage, None, None, rss // PAGE // 2, None)


def seen(pid: int, name: str, vmas: list[VmaUsage]) -> Seen:
    result = UsageResult(
        total(one.usage for one in vmas),
        PAGE,
        Reading("tables", 0.001, torn=False, notes=()),
        counters=Counters(len(vmas), MIB, None, None, 0, 0, None),
    )
    return Seen(pid, START_TIME, name, name, result, Faults(1, 2), vmas)


def write_looks(path: Path, looks: Looks, step: float = 1.0) -> str:
    """Write a recording of processes that had these VMAs, so many seconds after one another; who is not there any more
    has ended.
    """
    writing.make(str(path), force=False)
    database = sqlite3.connect(path, isolation_level=None)
    writing.prepare(database)
    writing.add(database, {"recording": [("page_size", str(PAGE)), ("host", '"oak"')]})
    encoder = Encoder()
    before: set[tuple[int, str]] = set()
    for number, look in enumerate(looks):
        ends = tuple(Happening(pid, START_TIME, EXIT, "") for pid, _ in sorted(before - look.keys()))
        before = set(look)
        shown = Look(tuple(seen(pid, name, vmas) for (pid, name), vmas in look.items()), ends, {})
        snapshot = Snapshot(BEGAN + number * step, number * step, shown, Cost(0.01, 0.0))
        writing.add(database, encoder.rows_of(snapshot))
    writing.finish(database)
    database.close()
    return str(path)


def write(path: Path, looks: list[list[VmaUsage]]) -> str:
    """Write a recording of one process that had these VMAs, a second after the other."""
    return write_looks(path, [{(7, "shop"): vmas} for vmas in looks])
