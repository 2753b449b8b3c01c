"""Histories of made-up processes, moment by moment, and recordings of them: what was there is known."""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from mematlas.analysis.results import Counters, Reading, UsageResult, VmaUsage
from mematlas.analysis.usage import Usage
from mematlas.errors import NotSupported
from mematlas.frozen import replace
from mematlas.kernel.maps import Vma
from mematlas.kernel.status import Faults
from mematlas.notes import Note
from mematlas.timeline import writing
from mematlas.timeline.encoding import Encoder
from mematlas.timeline.moment import files_at
from mematlas.timeline.recording import Recording
from mematlas.timeline.ring import Ring
from mematlas.timeline.sampler import Cost, Snapshot
from mematlas.timeline.summary import summary_of
from mematlas.timeline.tracks import curves_of, tracks_of
from mematlas.timeline.watch import EXEC, EXIT, Files, Happening, Look, Seen
from mematlas.timeline.words import Sparse
from mematlas.views.figures.heatmap import heatmap_picture, what_is_missing
from mematlas.views.figures.svg import svg_of
from mematlas.views.report import summary_table
from mematlas.views.tracks import churn_table, curves_table, growth_table, heatmap_table
from mematlas.words import Kind

Rows = dict[str, list[tuple[Any, ...]]]
PAGE = 4096
NOTHING = Usage(**dict.fromkeys(Usage.__match_args__, 0))
FACTS = {"host": '"oak"', "kernel": '"6.18"', "page_size": str(PAGE)}
STAYS = 0.6
"""How likely it is that the files of a process are as they were a moment before."""


def usage_of(random: Random, nr_pages: int) -> Usage:
    rss = random.choice([None, random.randrange(1 << 40)])
    return replace(NOTHING, rss=rss, uss=random.randrange(1 << 30), nr_pages=nr_pages)


def vma_at(random: Random, number: int) -> VmaUsage:
    start = number << 24 if number else 0xFFFFFFFFFF600000
    path = random.choice(["", "[heap]", "/srv/a b\n.so", "\udcff"])
    perms = random.choice(["rw-p", "r-xp"])
    kind: Kind = random.choice(["anon", "file", "heap"])
    vma = Vma(
        start, start + PAGE * random.randrange(1, 99), perms, 0, "00:00", random.choice([0, (1 << 64) - 1]), path, kind
    )
    return VmaUsage(vma, usage_of(random, vma.size // PAGE), None, None, random.choice([None, 3]), None)


def files_of(random: Random) -> Files:
    """Return files that a capture might hold, of few pages: some stay, some change, some are not always there."""
    there = {4: 1 << 63, 5: random.randrange(1, 3), 9: 1 << 62}
    there |= {index: random.randrange(1, 3) for index in range(20, 30) if random.random() < 0.2}
    words = Sparse(*np.array([sorted(there), [there[index] for index in sorted(there)]], np.uint64))
    texts = {"stat": b"7 (shop) S" + b" 1" * 49 + b"\n", "machine.json": b'{"hidden": [], "zero_known": true}'}
    if random.random() < 0.5:
        texts["status"] = b"Threads:\t%d\n" % random.randrange(3)
    return Files(texts, {"pagemap": words})


def seen(
    pid: int, vmas: list[VmaUsage], name: str = "shop", notes: tuple[Note, ...] = (), files: Files | None = None
) -> Seen:
    reading = Reading("smaps", 0.001, torn=False, notes=notes)
    counters = Counters(nr_vmas=len(vmas), size=1, peak_size=None, peak_rss=3, locked=0, pinned=0, ksm=None)
    total = replace(NOTHING, rss=sum(item.rss or 0 for item in vmas), uss=len(vmas))
    result = UsageResult(total, 4096, reading, counters=counters)
    return Seen(pid, 77, name, "name:shop", result, Faults(1, 2), vmas, files)


@dataclass
class History:
    """Moments of some processes, as they were, a second after one another."""

    moments: list[dict[int, list[VmaUsage]]] = field(default_factory=list)
    rows: list[Rows] = field(default_factory=list)

    def add(
        self,
        encoder: Encoder,
        looked: list[Seen],
        happenings: list[Happening] = [],  # noqa: B006
        counters: dict[str, int] = {},  # noqa: B006
    ) -> None:
        number = len(self.moments)
        self.moments.append({one.pid: one.vmas or [] for one in looked})
        snapshot = Snapshot(
            1e9 + number, float(number), Look(tuple(looked), tuple(happenings), counters), Cost(0.01, 0.002)
        )
        self.rows.append(encoder.rows_of(snapshot))


def random_history(random: Random, most: int = 25) -> History:
    """VMAs come, go, and change, and so do files; processes come, start other programs, and end."""
    history, encoder = History(), Encoder(with_peaks=False)
    counters = {"pgfault": 0, "MemFree": 1 << 63}
    living: dict[int, list[VmaUsage]] = {}
    names: dict[int, str] = {}
    files: dict[int, Files] = {}
    for _ in range(random.randrange(2, most)):
        happenings = []
        for pid in list(living):
            if random.random() < 0.08:
                del living[pid]
                happenings.append(Happening(pid, 77, EXIT, "ended"))
                continue
            if random.random() < 0.05:
                names[pid] = random.choice(["shop", "till", "cart"])
                happenings.append(Happening(pid, 77, EXEC, "started another program"))
            living[pid] = changed_vmas(random, living[pid])
        if random.random() < 0.3 and len(living) < 8:
            pid = len(history.moments) + 100
            living[pid] = sorted(
                (vma_at(random, number) for number in range(random.randrange(8))), key=lambda item: item.start
            )
        looked = []
        for pid, vmas in living.items():
            if pid not in files or random.random() > STAYS:
                files[pid] = files_of(random)
            notes = (Note("torn", random.choice("ab")),) if random.random() < 0.2 else ()
            looked.append(seen(pid, list(vmas), names.get(pid, "shop"), notes, files[pid]))
        counters = {name: value + random.choice([0, 0, 4096]) for name, value in counters.items()}
        history.add(encoder, looked, happenings, counters)
    return history


def changed_vmas(random: Random, vmas: list[VmaUsage]) -> list[VmaUsage]:
    """Return VMAs a moment later."""
    kept = [item for item in vmas if random.random() > 0.1]
    kept = [
        replace(item, usage=usage_of(random, item.usage.nr_pages)) if random.random() < 0.2 else item for item in kept
    ]
    taken = {item.start for item in kept}
    new = [vma_at(random, random.randrange(12)) for _ in range(random.randrange(3))]
    return sorted(
        {item.start: item for item in [*new, *kept] if item in kept or item.start not in taken}.values(),
        key=lambda item: item.start,
    )


def changed_usage(random: Random, item: VmaUsage) -> VmaUsage:
    """Return a VMA with other amounts."""
    return replace(item, usage=usage_of(random, item.usage.nr_pages))


def write(path: Path, rows: list[Rows], facts: dict[str, str] = FACTS) -> Path:
    """Write a recording, in this process."""
    writing.make(str(path), force=False)
    database = sqlite3.connect(path, isolation_level=None)
    writing.prepare(database)
    for moment in ({"recording": list(facts.items())}, *rows):
        writing.add(database, moment)
    writing.finish(database)
    database.close()
    return path


def write_ring(path: Path, rows: list[Rows], keep: float, facts: dict[str, str] = FACTS) -> Path:
    """Write a ring, in this process."""
    writing.make(str(path), force=False)
    database = sqlite3.connect(path, isolation_level=None)
    writing.prepare(database)
    writing.add(database, {"recording": list((facts | {"keep": str(keep)}).items())})
    feed(database, Ring(keep), rows)
    writing.finish(database)
    database.close()
    return path


def feed(database: sqlite3.Connection, ring: Ring, rows: list[Rows]) -> None:
    """Add moments to a ring."""
    for moment in rows:
        writing.add(database, ring.based(moment))
        ring.advance(database, moment)


def as_utf8(item: VmaUsage) -> VmaUsage:
    """Return a VMA as a recording has it: with a path that UTF-8 can have."""
    path = os.fsencode(item.vma.path).decode("utf-8", "replace")
    return replace(item, vma=replace(item.vma, path=path))


def read_all(path: Path) -> int:
    """Read whatever can be asked of a recording; return how many moments it has."""
    with Recording(str(path)) as recording:
        for process in recording.processes(50):
            recording.vmas_at(process, process.first)
            last = recording.last_moment(process)
            with suppress(NotSupported):
                list(files_at(recording, [process], last))
        summary, tracks = summary_of(recording), list(tracks_of(recording))
        assert list(summary_table(summary).lines(width=80))
        assert list(heatmap_table(summary, tracks, "change", None, ascii_only=False).lines(width=80))
        if what_is_missing(tracks, "present") is None:
            assert list(svg_of(heatmap_picture(summary, tracks, "present", None, ascii_only=False)))
        assert list(growth_table(summary, tracks, None).lines(width=80))
        assert list(churn_table(summary, tracks, None).lines(width=80))
        assert list(curves_table(summary, curves_of(recording), None, ascii_only=True).lines(width=80))
        nr: int = recording.nr_moments
        return nr
