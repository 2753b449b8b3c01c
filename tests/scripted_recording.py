"""A recording of three processes that never were, of which everything is known: their pages, tables, files, their end.

It is the same wherever and whenever it is made: no clock, no machine, no user, no kernel has a part in it. Amounts are
added up from the pages, so that screens which show the same in several ways must agree.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from histories import NOTHING, PAGE, write
from mematlas.analysis.cached import CachedFile, CachedGroup, CacheResult
from mematlas.analysis.frames import STRUCTS, FramesResult, FrameUse
from mematlas.analysis.pagetables.results import Origin, SummaryResult, WalkReading
from mematlas.analysis.pagetables.summary import LeafSummary, LevelSummary, Summary
from mematlas.analysis.results import Counters, Reading, UsageResult, VmaUsage
from mematlas.analysis.usage import total
from mematlas.frozen import replace
from mematlas.kernel.maps import Vma
from mematlas.kernel.status import Faults
from mematlas.model.pagetables.modes import mode_named
from mematlas.observe import recorded_tables
from mematlas.timeline.encoding import Encoder
from mematlas.timeline.sampler import Cost, Snapshot
from mematlas.timeline.watch import EXEC, EXIT, Files, Happening, Look, Seen
from mematlas.timeline.words import Sparse
from mematlas.words import Kind

MIB = 1 << 20
BEGAN = 1.8e9
STEP = 2.0
NR_MOMENTS = 48
EXEC_AT, EXIT_AT = 18, 30
"""At which moments the one starts another program, and the other ends."""
SHOP, TILL, BACKUP = 4711, 4712, 4801
START_TIMES = {SHOP: 1201, TILL: 1377, BACKUP: 9001}
FACTS: dict[str, Any] = {
    "mematlas": "0.0.0",
    "host": "oak",
    "kernel": "6.18.0",
    "arch": "x86_64",
    "page_size": PAGE,
    "huge_size": 2 * MIB,
    "targets": ["name:shop"],
    "interval": STEP,
    "what": ["usage", "vmas", "pages", "tables", "ram", "files"],
    "uid": 1000,
    "began": BEGAN,
}

# Entries of pagemap with our state bytes, see `mematlas.kernel.pagemap`.
OWN, SHARED, ZERO, SWAPPED, CACHED, GUARD, HUGE = (byte << 56 for byte in (0x81, 0x80, 0x88, 0x40, 0x10, 0x44, 0x91))
IN_RAM, MAPPED_ONCE = (OWN, SHARED, HUGE), (OWN, HUGE)


@dataclass
class Part:
    """A VMA, with its pages: runs of as many as stand one after the other, of a word each; 0 is absent."""

    start: int
    nr_pages: int
    kind: Kind
    path: str = ""
    perms: str = "rw-p"
    runs: list[tuple[int, int]] = field(default_factory=list)
    accessed: int | None = None

    @property
    def words(self) -> dict[int, int]:
        """The words of pages that have one, by their numbers."""
        found: dict[int, int] = {}
        page = self.start // PAGE
        for number, word in self.runs:
            found |= dict.fromkeys(range(page, page + number), word) if word else {}
            page += number
        return found

    def usage(self) -> VmaUsage:
        """Return the VMA and its amounts."""
        nr: dict[int, int] = {}
        for number, word in self.runs:
            nr[word] = nr.get(word, 0) + number
        resident = sum(nr.get(word, 0) for word in IN_RAM)
        own = sum(nr.get(word, 0) for word in MAPPED_ONCE)
        shared = nr.get(SHARED, 0)
        of = {"file": "file", "shmem": "shmem"}.get(self.kind, "anon")
        amounts = replace(
            NOTHING,
            rss=resident * PAGE,
            pss=own * PAGE + shared * PAGE // 2,
            uss=own * PAGE,
            swap=nr.get(SWAPPED, 0) * PAGE,
            thp=nr.get(HUGE, 0) * PAGE,
            zero=nr.get(ZERO, 0) * PAGE,
            nr_pages=self.nr_pages,
            nr_present=resident + nr.get(ZERO, 0),
            nr_swapped=nr.get(SWAPPED, 0),
            nr_exclusive=own,
            **{of: resident * PAGE},
        )
        end = self.start + self.nr_pages * PAGE
        has_file = self.kind in ("file", "shmem")
        vma = Vma(self.start, end, self.perms, 0, "fd:01" if has_file else "00:00", 7 * has_file, self.path, self.kind)
        return VmaUsage(vma, amounts, None, None, self.accessed, own // 2)


def shop_at(moment: int) -> list[Part]:
    """Return a shop: its heap grows by 24 pages each moment, its orders go to swap from the tenth on."""
    grown = 160 + 24 * moment
    out = 16 * max(moment - 10, 0)
    return [
        Part(0x55D0C0000000, 61, "file", "/srv/shop/bin/shop", "r-xp", [(43, SHARED)], accessed=43),
        Part(0x55D0C4000000, grown + 13, "heap", "[heap]", runs=[(grown, OWN)], accessed=grown // 2),
        Part(
            *(0x7F1200000000, 1031, "anon"),
            runs=[(4, GUARD), (out, SWAPPED), (800 - out, OWN), (32, ZERO)],
            accessed=(800 - out) // 4,
        ),
        Part(0x7F1210000000, 1536, "anon", runs=[(1024, HUGE), (7, OWN)], accessed=1024),
        Part(0x7F1240000000, 251, "shmem", "/dev/shm/cart index", "rw-s", [(180, SHARED), (20, CACHED)], 90),
        Part(0x7F1250000000, 401, "file", "/usr/lib/libshop.so.3", "r-xp", [(20, 0), (173, SHARED)], 100),
        Part(0x7F1251000000, 37, "file", "/srv/naïve/a b\x1b[31m\n/日本語の店.so", "r--p", [(17, OWN)], 0),
        Part(0x7FFD31000000, 33, "stack", "[stack]", runs=[(20, 0), (13, OWN)], accessed=3),
        Part(0x7FFD31FF0000, 2, "vdso", "[vdso]", "r-xp", [(2, SHARED)], accessed=2),
        Part(0xFFFFFFFFFF600000, 1, "vsyscall", "[vsyscall]", "--xp"),
    ]


def till_at(moment: int) -> list[Part]:
    """Return a till, which becomes another program."""
    if moment < EXEC_AT:
        return [
            Part(0x400000, 29, "file", "/srv/shop/bin/till", "r-xp", [(23, SHARED)]),
            Part(0x1C3D000, 67, "heap", "[heap]", runs=[(41 + moment, OWN)]),
            Part(0x7F1240000000, 251, "shmem", "/dev/shm/cart index", "rw-s", [(180, SHARED)]),
        ]
    return [
        Part(0x400000, 103, "file", "/srv/shop/bin/refund", "r-xp", [(71, OWN)]),
        Part(0x2B11000, 67, "heap", "[heap]", runs=[(11, OWN)]),
        Part(0x7FFC20000000, 33, "stack", "[stack]", runs=[(30, 0), (3, OWN)]),
    ]


def backup_at(moment: int) -> list[Part]:
    """Return what reads much, and ends."""
    return [Part(0x7F0000000000, 3001, "anon", runs=[(90 * moment + 1, OWN)])]


PROCESSES = {SHOP: shop_at, TILL: till_at, BACKUP: backup_at}
CGROUPS = {
    SHOP: "0::/system.slice/shop.service",
    TILL: "0::/system.slice/shop.service",
    BACKUP: "0::/system.slice/docker-" + "c0ffee" * 10 + "c0de.scope",
}


def name_of(pid: int, moment: int) -> str:
    if pid == TILL:
        return "till" if moment < EXEC_AT else "refund"
    return "shop" if pid == SHOP else "backup"


def seen_at(pid: int, moment: int) -> Seen:
    """Return a process at a moment."""
    parts = PROCESSES[pid](moment)
    vmas = [part.usage() for part in parts]
    words: dict[int, int] = {}
    for part in parts:
        words |= part.words
    reading = Reading("smaps", 0.001, torn=False, notes=())
    size = sum(item.vma.size for item in vmas)
    result = UsageResult(
        total(item.usage for item in vmas), 40 * PAGE, reading, counters=Counters(len(vmas), size, size, None, 0, 0, 0)
    )
    parent = 1 if pid == SHOP else SHOP
    uid = 1000 if pid != BACKUP else 1001
    texts = {
        "status": f"Name:\t{name_of(pid, moment)}\nPPid:\t{parent}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n".encode(),
        "cgroup": f"{CGROUPS[pid]}\n".encode(),
    }
    if pid == SHOP:
        texts[recorded_tables.NAME] = recorded_tables.to_save(tables_at(moment))
    pages = sorted(words)
    sparse = Sparse(np.array(pages, np.uint64), np.array([words[page] for page in pages], np.uint64))
    name, target = name_of(pid, moment), "name:shop"
    faults = Faults(100 + moment, moment // 4)
    return Seen(pid, START_TIMES[pid], name, target, result, faults, vmas, Files(texts, {"pagemap": sparse}))


def tables_at(moment: int) -> SummaryResult:
    """Return tables of four levels, of which those of the last become more full."""
    mode = mode_named("x86-64, 4 levels")
    assert mode
    nr_used = (3, 6, 17, 1500 + 24 * moment)
    levels = tuple(
        LevelSummary(level.name, nr_tables, nr_tables * PAGE, used, nr_tables // 3)
        for level, nr_tables, used in zip(mode.levels, (1, 3, 6, 17), nr_used, strict=True)
    )
    sizes = [level.size for level in mode.levels if level.can_map]
    nr_leaves = dict(zip(sizes, (0, 2, 1400 + 24 * moment), strict=True))
    leaves = tuple(
        LeafSummary(size, nr, nr // 2, nr, nr // 4, nr * 3 // 4, nr // 3, 0, 0, 0) for size, nr in nr_leaves.items()
    )
    reading = WalkReading(Origin("bpf", mode, "user", None, 0), 0.001, torn=False)
    counted = Summary(levels=levels, leaves=leaves, nr_others={"swap": 16 * max(moment - 10, 0), "marker": 4}, torn=())
    return SummaryResult(counted=counted, reserve=2 * PAGE, kernel=None, reading=reading)


def counters_at(moment: int) -> dict[str, int]:
    anon, cached = 3000 * MIB + 6 * MIB * moment, 2500 * MIB + 3 * MIB * moment
    return {
        "MemTotal": 8192 * MIB,
        "MemFree": 1900 * MIB - 9 * MIB * moment,
        "Buffers": 120 * MIB,
        "Cached": cached,
        "AnonPages": anon,
        "Shmem": 340 * MIB,
        "SwapTotal": 2048 * MIB,
        "SwapFree": 2000 * MIB - 3 * MIB * moment,
        "pswpin": moment * MIB,
        "pswpout": 3 * moment * MIB,
        "pgsteal_kswapd": 5 * moment * MIB,
        "pgsteal_direct": moment * MIB,
        "allocstall": 2 * moment,
        "pressure_some": 40_000 * moment + 90_000 * max(moment - 30, 0),
        "pressure_full": 10_000 * moment,
    }


def ram_at(moment: int) -> FramesResult:
    """Return what frames were used for: all of them for something."""
    sizes = {
        "anon": 3000 + 6 * moment,
        "file": 2100 + 3 * moment,
        "shmem": 340,
        "file_dirty": 80,
        "slab": 310,
        "kernel": 205,
        "table": 57,
        "reserved": 200,
        "free": 1900 - 9 * moment,
    }
    assert sum(sizes.values()) == 8192
    mapped = {"anon": 1.0, "file": 0.25, "shmem": 0.5}
    uses = [
        FrameUse(kind, nr * MIB // PAGE, nr * MIB, int(nr * mapped.get(kind, 0)) * MIB, nr // 10 * MIB)
        for kind, nr in sizes.items()
    ]
    return FramesResult(
        by="kind",
        uses=tuple(sorted(uses, key=lambda use: -use.size)),
        groups=(),
        nr_frames=8192 * MIB // PAGE,
        size=8192 * MIB,
        free_blocks=(903, 411, 300, 150, 90, 60, 33, 17, 8, 4, 400 - moment),
        page_size=PAGE,
        huge_size=2 * MIB,
        reading=Reading(STRUCTS, 0.1, torn=False, notes=()),
    )


def cache_at(moment: int) -> CacheResult:
    paths = [f"/srv/shop/data/orders-{number:04}.db" for number in range(40)]
    paths[3], paths[5] = (
        "/srv/naïve/a b\x1b[31m\n/日本語の店.log",
        "/var/log/a very/long way/down/" + "deeper/" * 20 + "log",
    )
    files = [
        CachedFile(
            *(path, "fd:01", 100 + number, "ext4", (900 - 20 * number) * MIB, (400 - 10 * number) * MIB),
            *(MIB * (number % 3), 0),
            is_deleted=number == 7,
        )
        for number, path in enumerate(paths)
    ]
    files[2] = replace(files[2], resident=(380 + moment) * MIB)
    if moment < 20:
        files = files[1:]
    others = CachedGroup(None, 1234, None, 77 * MIB, 0, 0)
    files.sort(key=lambda file: -file.resident)
    return CacheResult(tuple(files), Reading(STRUCTS, 0.1, torn=False, notes=()), others)


def look_at(moment: int) -> Look:
    """Return all that was there at a moment."""
    there = [pid for pid in PROCESSES if pid != BACKUP or moment < EXIT_AT]
    happenings = []
    if moment == EXEC_AT:
        happenings.append(Happening(TILL, START_TIMES[TILL], EXEC, "started another program"))
    if moment == EXIT_AT:
        happenings.append(Happening(BACKUP, START_TIMES[BACKUP], EXIT, f"process {BACKUP} has ended"))
    seen = tuple(seen_at(pid, moment) for pid in there)
    return Look(seen, tuple(happenings), counters_at(moment), ram_at(moment), cache_at(moment))


def write_scripted(path: Path, moments: Iterable[int] = range(NR_MOMENTS), **facts: Any) -> Path:
    """Write the recording, by what `mematlas record` writes with; ``facts`` are others than `FACTS`."""
    encoder = Encoder()
    rows = [
        encoder.rows_of(Snapshot(BEGAN + STEP * number, STEP * number, look_at(moment), Cost(0.01, 0.0)))
        for number, moment in enumerate(moments)
    ]
    return write(path, rows, {key: json.dumps(value) for key, value in (FACTS | facts).items()})
