"""What a Python program does to look at a process, for the harness to measure from outside.

    observe.py KIND PID [REPEAT]    observe REPEAT times, report the CPU time of each
    observe.py KIND PID loop        observe until stdin is closed, report how often

With --apart first, the rights are left to a broker (``mematlas --apart``); with --elapsed the times are not the
processor's but the clock's, since a part of the work is another's then. KIND is one of `OBSERVERS`. Arguments and
answers are those of the C scanners, so that nothing else differs.
"""

import json
import os
import select
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mematlas.kernel.procfs import ProcFS
    from mematlas.observe.frames import Frames
    from mematlas.observe.process import Process

# As the command line does (mematlas.cli.load): the threads of OpenBLAS spin, and count as our time.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

Observe = Callable[[int], int | None]
"""Looks at a process once; returns the number of present pages, when it counts them."""


PLACES: list["ProcFS"] = []
"""Where processes are read from, if not from /proc as it is."""


def leave_rights() -> None:
    """Have what takes a right asked of a broker from now on."""
    from mematlas.cli.apart import QUERIES
    from mematlas.kernel import brokered, confine, descriptors, libc, messages, rights

    held = rights.effective_capabilities()
    libc.libc()
    pid, control, watched = brokered.start(messages.Grant(os.getpid()), QUERIES)
    descriptors.close_all_but({control.fileno(), watched, *confine.hold_modules()})
    confine.confine()
    rights.lend(held)
    PLACES.append(brokered.BrokeredFS(brokered.Lender(control, pid)))


def observe_pages(pid: int) -> int:
    """Count the pages of every VMA by state, without pauses: the library's own scan of pagemap."""
    from mematlas.analysis.page_usage import PageCounts
    from mematlas.kernel.pagemap import PRESENT, Block
    from mematlas.observe.process import Process

    by_vma: defaultdict[int, PageCounts] = defaultdict(PageCounts)
    with Process(pid, *PLACES) as process:
        for vma, piece in process.pages(paced=False):
            if isinstance(piece, Block):
                by_vma[vma.start].add(piece.kinds)
    return sum(counts.nr_with(PRESENT, PRESENT) for counts in by_vma.values())


def observe_arrays(pid: int) -> int:
    """Count the present pages alone, with numpy on the entries that the library hands out."""
    import numpy as np

    from mematlas.kernel.pagemap import Block
    from mematlas.observe.process import Process

    nr_present = 0
    with Process(pid, *PLACES) as process:
        for _, piece in process.pages(paced=False):
            if isinstance(piece, Block):
                # The present bit is the highest: as signed integers, present entries are the negative ones.
                nr_present += int(np.count_nonzero(np.frombuffer(piece.raw, np.int64) < 0))
    return nr_present


def observe_usage(pid: int) -> None:
    """Ask for the usage as the command does when nothing is said: the default source, paced."""
    from mematlas.observe.process import Process

    with Process(pid, *PLACES) as process:
        process.usage()


def observe_again(pid: int) -> None:
    """Ask for the usage as the command does with ``-i``: the default source of who looks again and again."""
    process = held_process(pid)
    process.expect_more_looks()
    process.usage()


def observe_nothing(pid: int) -> None:
    """Keep the processor busy for some milliseconds."""
    sum(range(100_000))


def observe_paced(pid: int) -> None:
    """Ask for the usage by pagemap, with pauses."""
    from mematlas.observe.process import Process

    with Process(pid, *PLACES) as process:
        process.usage("pagemap")


def held_process(pid: int) -> "Process":
    """Return the process, held from one observation to the next, with what page tables are read with."""
    from mematlas.observe.process import Process

    if not HELD:
        HELD.append(Process(pid, *PLACES))
    return HELD[0]


HELD: list["Process"] = []


def observe_tables(pid: int) -> None:
    """Ask for the usage by page tables and struct pages."""
    held_process(pid).usage("tables")


def observe_walk(pid: int, reader: str = "auto") -> None:
    """Read every page table of the process."""
    from mematlas.model.pagetables.walk import walk

    process = held_process(pid)
    access = process.page_table_access(reader)
    with access.memory.open_mm(pid, process.dir) as mm:
        walk(access.memory, access.mode, mm.pgd)


def observe_snapshot(pid: int) -> int:
    """Read every page table, and decode flags, frame or swap slot of every page; count the present ones."""
    import numpy as np

    from mematlas.model.pagetables.blocks import page_blocks
    from mematlas.model.pagetables.entries import PRESENT, PROT_NONE, holds, swap_fields
    from mematlas.model.pagetables.walk import walk

    process = held_process(pid)
    access = process.page_table_access()
    nr_present = 0
    with access.memory.open_mm(pid, process.dir) as mm:
        for block in page_blocks(walk(access.memory, access.mode, mm.pgd)):
            is_present = (block.states == PRESENT) | (block.states == PROT_NONE)
            is_special = holds(block.entries, access.mode.special)
            others = np.flatnonzero(~is_present & (block.entries != 0))
            swap_fields(access.mode, block.entries[others])
            nr_present += int(np.count_nonzero(is_present & ~is_special))
    return nr_present


def observe_kernel(pid: int) -> None:
    """Read every page table of the kernel half."""
    from mematlas.model.pagetables.walk import walk

    process = held_process(pid)
    access = process.page_table_access()
    with access.memory.open_mm(pid, process.dir) as mm:
        walk(access.memory, access.mode, mm.pgd, access.mode.kernel_start, 1 << 64)


def observe_counts(pid: int) -> None:
    """Sum USS and PSS with a map count from kpagecount for every frame that pagemap shows."""
    import numpy as np

    from mematlas.analysis.page_usage import shared_pss
    from mematlas.kernel.memory.structpage import read_kernel_counts
    from mematlas.kernel.pagemap import EXCLUSIVE, PM_PFRAME, PRESENT, Block
    from mematlas.model.pagetables.vma_counts import VmaCounts

    process = held_process(pid)
    sums = VmaCounts()
    for _, piece in process.pages(paced=False, source="pagemap"):
        if isinstance(piece, Block):
            entries = np.frombuffer(piece.raw, np.uint64)
            frames = entries[entries >> np.uint64(63) != 0] & np.uint64(PM_PFRAME)
            counts = read_kernel_counts(process.procfs, frames)
            sums.add(PRESENT | EXCLUSIVE, int(np.count_nonzero(counts == 1)))
            sums.add_sharers(counts)
    shared_pss(sums.sharers, process.page_size)


def observe_rollup(pid: int) -> None:
    """Read the kernel's own sum."""
    with open(f"/proc/{pid}/smaps_rollup", "rb", buffering=0) as file:
        while file.read(1 << 16):
            pass


FRAMES: list["Frames"] = []


def observe_census(_: int, skip: bool = True) -> None:
    """Find out what every frame of RAM is, and how often it is mapped, by struct pages that are held open."""
    from mematlas.kernel.procfs import ProcFS
    from mematlas.observe.frames import Frames

    if not FRAMES:
        FRAMES.append(Frames(ProcFS(), "structs"))
        FRAMES[0].census()  # the first look alone asks the hypervisor for pages
    held = FRAMES[0].held
    assert held is not None
    held.teller.census(skip).counts()


NR_NAMES = 40_000
CACHED: list["Any"] = []


def observe_names(_: int) -> None:
    """Find out what so many files of the page cache are called; where there are fewer, some of them again."""
    from mematlas.arrays import np
    from mematlas.kernel.memory.inodes import Inodes
    from mematlas.kernel.procfs import ProcFS
    from mematlas.model.cached_pages import count_cached_pages
    from mematlas.observe.frames import open_decoder

    if not CACHED:
        held = open_decoder(ProcFS())
        mappings = count_cached_pages(held.array, held.decoder).mappings
        CACHED.extend((Inodes(held.memory), np.resize(mappings, NR_NAMES)))
    inodes, mappings = CACHED
    table = inodes.of_mappings(mappings)
    paths = inodes.paths(table, inodes.file_systems(table.supers[table.good].tolist()))
    assert sum(name is not None for name in paths.names) > NR_NAMES // 2


OBSERVERS: dict[str, Observe] = {
    "census": observe_census,
    "census-all": partial(observe_census, skip=False),
    "names": observe_names,
    "pages": observe_pages,
    "arrays": observe_arrays,
    "usage": observe_usage,
    "again": observe_again,
    "rollup": observe_rollup,
    "paced": observe_paced,
    "nothing": observe_nothing,
    "tables": observe_tables,
    "walk": observe_walk,
    "walk-bpf": partial(observe_walk, reader="bpf"),
    "walk-kcore": partial(observe_walk, reader="kcore"),
    "walk-module": partial(observe_walk, reader="module"),
    "snapshot": observe_snapshot,
    "kernel": observe_kernel,
    "counts": observe_counts,
}


def is_stop_asked() -> bool:
    """Return True when somebody wrote to our stdin, or when its other end has gone."""
    return bool(select.select([sys.stdin], [], [], 0)[0])


def observe_in_a_loop(observe: Observe, pid: int) -> dict[str, int]:
    """Observe without a pause until asked to stop. The last may end after the target: not counted."""
    nr_observations = 0
    # Imports and caches are not part of looking: the first one comes before the target is asked to run.
    observe(pid)
    print("ready", flush=True)
    observe(pid)
    while not is_stop_asked():
        nr_observations += 1
        observe(pid)
    return {"nr_observations": nr_observations}


def observe_repeatedly(observe: Observe, pid: int, repeat: int, clock: Callable[[], int]) -> dict[str, object]:
    """Observe some times; return the time of each."""
    cpu_ns = []
    nr_present = None
    for _ in range(repeat):
        before = clock()
        nr_present = observe(pid)
        cpu_ns.append(clock() - before)
    return {"nr_present": nr_present, "cpu_ns": cpu_ns}


def main() -> None:
    """Run as a program."""
    words = sys.argv[1:]
    clock = time.process_time_ns
    if "--apart" in words:
        words.remove("--apart")
        leave_rights()
    if "--elapsed" in words:
        words.remove("--elapsed")
        clock = time.perf_counter_ns
    kind, pid, *rest = words
    how = rest[0] if rest else "1"
    observe = OBSERVERS[kind]
    if how == "loop":
        print(json.dumps(observe_in_a_loop(observe, int(pid))))
    else:
        print(json.dumps(observe_repeatedly(observe, int(pid), int(how), clock)))


if __name__ == "__main__":
    main()
