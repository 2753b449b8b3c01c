"""Lessons on swap: paged out and back, and shared memory that hides there."""

from __future__ import annotations

from mematlas.actions.verbs import pageout
from mematlas.errors import NotSupported, PermissionDenied
from mematlas.kernel.backing import has_cachestat
from mematlas.kernel.pagemap import PM_PRESENT, PM_SWAP, Pagemap
from mematlas.kernel.procfs import ProcFS
from mematlas.kernel.rights import effective_capabilities
from mematlas.kernel.swaps import free_swap, read_swaps
from mematlas.labs.lesson import Lesson, Stage, Step
from mematlas.labs.lessons.files import MINOR, NO_FAULT
from mematlas.labs.memory import PAGE_SIZE
from mematlas.labs.question import PAGES, OneOf, Question
from mematlas.model.address_space import Selection
from mematlas.views.swap import ways_to_swap

NEEDED = max(16 << 20, 2048 * PAGE_SIZE)
"""Bytes of swap space: twice what is paged out, which is some `NR_PAGED` pages."""
TO_MAKE = max(64 << 20, 2 * NEEDED) >> 20
"""MiB of swap space to propose where there is too little."""


class NoSwap(NotSupported):
    """Memory has nowhere to go; the lines after the first say how to change that."""

    def __init__(self) -> None:
        super().__init__("paging out", f"{NEEDED >> 20} MiB of free swap space")
        self.args = ("\n".join([str(self), *ways_to_swap(TO_MAKE, "this lesson")]),)


def check_swap() -> None:
    """Raise `NotSupported` where memory has nowhere to go, with the way to get swap space."""
    try:
        free = free_swap(read_swaps(ProcFS()))
    except NotSupported:
        raise NotSupported("paging out", "CONFIG_SWAP") from None
    if free < NEEDED:
        raise NoSwap


def page_out(stage: Stage, free: bool = False) -> None:
    """Have the workload's memory moved to swap: from outside where we may, else by itself.

    ``free`` has it read back and paged out once more: what is in swap already needs no writing, so that the kernel
    frees its frames at once, and keeps none of them in the swap cache.
    """
    again: list[bool] = []
    stage.know(freed="")

    def look() -> int:
        again.append(page_out_once(stage, free))
        return stage.rss()

    def empty_cache() -> int:
        if not stage.send("incore")["nr_in_ram"]:
            return 0
        again.append(True)
        stage.send(f"read 0 {stage.facts['nr_pages']}")
        stage.wait(look, 0)
        return int(stage.send("incore")["nr_in_ram"])

    left = stage.wait(look, 0)
    if free and not left:
        kept = stage.wait(empty_cache, 0)
        freed = FREED if any(again) else NONE_THERE
        if kept:
            freed = STILL_THERE.format(nr_pages=kept)
        stage.know(freed=freed)
        left = stage.rss()
    if left:
        raise NotSupported(f"paging out: {left} pages stay", "a memory cgroup that allows swap")


def page_out_once(stage: Stage, free: bool) -> bool:
    """Page the workload's memory out, and note how that was done; return whether the swap cache kept any of it."""
    start, size = stage.facts["address"], stage.facts["size"]
    if "CAP_SYS_NICE" not in effective_capabilities():
        stage.know(how=BY_ITSELF)
        stage.send("pageout")
        return False
    options = " --free" if free else ""
    stage.know(how=f"mematlas pageout {stage.facts['pid']} {start:#x}+{size}{options}")
    try:
        effect = pageout(stage.process(), Selection(span=(start, start + size)), free=free)
    except PermissionDenied:
        stage.send("pageout")
        return False
    except NotSupported:
        if not free:
            raise
        return page_out_once(stage, free=False)  # before Linux 5.15 it is the workload that reads its memory back
    return bool(effect.freed and effect.freed.nr_kept)


BY_ITSELF = "the workload itself, by madvise(2) with MADV_PAGEOUT: doing it to others needs CAP_SYS_NICE"
NR_PAGED, NR_REFAULTED = 1000, 10
MAJOR = "A major fault: it must be read from swap"


FREED = (
    "So that you see a major one, all pages were read back and paged out once more: what is in swap already needs no "
    "writing, and its frame is given up at once."
)
NONE_THERE = "Here the kernel kept none of them there: swap in RAM (zram) needs no such cache."
STILL_THERE = (
    "All pages were read back and paged out once more, which gives their frames up where swap has room; here "
    "{nr_pages:,} pages are in the swap cache all the same."
)


def write_pages(stage: Stage) -> None:
    stage.send(f"map {NR_PAGED}")
    stage.send(f"write 0 {NR_PAGED}")


def move_out(stage: Stage) -> int:
    page_out(stage, free=True)
    return stage.rss()


def count_swapped(stage: Stage) -> int:
    first = stage.process().translate([stage.facts["address"]])[0]
    stage.know(swap_type=first.swap_type, swap_offset=first.swap_offset)
    stage.know(swap=stage.vma().usage.swap)
    return stage.states().count("swapped")


def read_one(stage: Stage) -> str:
    stage.send("read 0 1")
    stage.know(slow=stage.facts["seconds"])
    kind = NO_FAULT
    if stage.facts["major"] or stage.facts["minor"]:
        kind = MAJOR if stage.facts["major"] else MINOR
    stage.send("read 0 1")
    return kind


def refault(stage: Stage) -> int:
    stage.send(f"read 1 {NR_REFAULTED - 1}")
    stage.know(nr_major=stage.facts["major"], nr_minor=stage.facts["minor"])
    return stage.rss()


PAGEOUT = Lesson(
    name="pageout",
    title="Paging out, and coming back",
    rights="swap space; CAP_SYS_NICE does it from outside",
    intro="""\
When memory is short the kernel writes pages to swap and takes their frames. The program notices nothing, until it
touches such a page. We page out by hand, a process of our own: PID {pid}.""",
    steps=(
        Step(
            title="Out",
            text="""\
The workload has written to {nr_pages:pages} at {address:#x}. All are in RAM. Now they are paged out.""",
            question=Question("out", "How many of them does RSS count then?", PAGES),
            measure=move_out,
            source="RSS of the VMA at {address:#x}, from /proc/{pid}/smaps",
            explain="""\
Done by {how}.

The program still owns every byte. Its addresses are valid, its data is safe: only not in RAM.""",
            prepare=write_pages,
        ),
        Step(
            title="Where they are",
            text="The entry of a page says where it is: in a frame, in swap, or nowhere.",
            question=Question("swapped", "How many of the {nr_pages:,} entries say: in swap?", PAGES),
            measure=count_swapped,
            source="bit 62 of the entries of /proc/{pid}/pagemap",
            explain="""\
Where the entry held a frame it now holds a swap slot: page 0 is in area {swap_type} at slot {swap_offset}.
Swap in smaps says the same for the VMA: {swap:size}.""",
        ),
        Step(
            title="One byte",
            text="Now the workload reads one byte of page 0.",
            question=Question("cost", "What does this read cost?", OneOf((NO_FAULT, MINOR, MAJOR))),
            measure=read_one,
            source="getrusage(2) in the workload: ru_minflt and ru_majflt",
            explain="""\
It took {slow:seconds}; the same read once more took {seconds:seconds}. The touch was a page fault, and brought the page
back: a refault.

A page that was written to swap stays in RAM beside it, in the swap cache, until somebody needs its frame; come back
before that, and the fault is a minor one. {freed}""",
        ),
        Step(
            title="Back",
            text="It reads one byte of each of the pages 1 to 9 too.",
            question=Question("back", "How many pages does RSS count then?", PAGES),
            measure=refault,
            source="RSS of the VMA at {address:#x}, from /proc/{pid}/smaps",
            explain="""\
The workload had {nr_major:,} major and {nr_minor:,} minor faults. A minor one finds its page in the swap cache:
from a disk the kernel reads some neighbours along with each page, since they will probably be wanted next. They are in
RAM, but nobody maps them until they are touched, so RSS leaves them out.

Memory that is paged out and never touched again costs nothing; memory that comes back at once is what makes a machine
crawl.""",
        ),
    ),
    outro="""\
Paging out moves data, it loses none. The price is paid by the refaults: measure these.

 mematlas pageout PID --dry-run             what would move
 mematlas pageout PID --watch-refaults 10s  what comes back""",
    check=check_swap,
)


NR_SHARED, NR_TOUCHED, UNTOUCHED_PAGE = 120, 100, 110
EMPTY, IN_SWAP, PRESENT = "As if it had never been touched", "In swap, with its slot", "Present"


def write_shared(stage: Stage) -> None:
    stage.send(f"map {NR_SHARED} shared")
    stage.send(f"write 0 {NR_TOUCHED}")
    stage.know(before=stage.rss())
    page_out(stage)


def raw_entries(stage: Stage) -> list[int]:
    """Return the entries as the kernel gives them, nothing added."""
    size = stage.facts["page_size"]
    with Pagemap(stage.process().dir) as pagemap:
        return [pagemap.entry(stage.facts["address"] + page * size) for page in range(NR_SHARED)]


def swapped_entries(stage: Stage) -> int:
    return sum(bool(entry & PM_SWAP) for entry in raw_entries(stage))


def look_of_entry(stage: Stage) -> str:
    entries = raw_entries(stage)
    stage.know(entry=entries[0], untouched=entries[UNTOUCHED_PAGE])
    # Not 0 where the kernel has soft-dirty bits: a mapping that is new has them all.
    if entries[0] == entries[UNTOUCHED_PAGE] and not entries[0] & (PM_PRESENT | PM_SWAP):
        return EMPTY
    return IN_SWAP if entries[0] & PM_SWAP else PRESENT


def smaps_swap(stage: Stage) -> int:
    return stage.nr_pages(stage.vma().usage.swap)


def find_swapped(stage: Stage) -> int:
    states = stage.states()
    if "unknown" in states:
        raise PermissionDenied(
            "the file behind the mapping",
            "CAP_CHECKPOINT_RESTORE",
            text="CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN",
        )
    return states.count("swapped")


def why_not_shown(stage: Stage) -> str:
    if not {"CAP_CHECKPOINT_RESTORE", "CAP_SYS_ADMIN"} & effective_capabilities():
        return "opening the file behind a mapping needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN (root)"
    if has_cachestat():
        return ""
    return "only cachestat(2), since Linux 6.5, shows pages that wait in the swap cache"


SHMEM = Lesson(
    name="shmem",
    title="Swapped shared memory looks untouched",
    rights="swap space; CAP_SYS_ADMIN finds the pages",
    intro="""\
Shared memory belongs to a file without a disk (shmem, tmpfs), not to one process. That changes what its page-table
entries can say. The workload is PID {pid}.""",
    steps=(
        Step(
            title="Paged out",
            text="""\
The workload has {nr_pages:pages} of shared memory. It wrote to the first 100, and RSS was {before:pages}. Then they
were paged out: RSS is 0 now. With private memory, 100 entries would say "in swap".""",
            question=Question("entries", "How many of the entries say: in swap?", PAGES),
            measure=swapped_entries,
            source="bit 62 of the entries of /proc/{pid}/pagemap",
            explain="""\
None. Several processes can map this memory, so the kernel does not note the slot in every page table. It notes it
once, in the file, and clears the entries.""",
            prepare=write_shared,
        ),
        Step(
            title="The entry",
            text="Page 0 was written to and is in swap. Page 110 was never touched by anyone.",
            question=Question("entry", "What does the entry of page 0 look like?", OneOf((PRESENT, IN_SWAP, EMPTY))),
            measure=look_of_entry,
            source="/proc/{pid}/pagemap: {entry:#018x} for page 0, {untouched:#018x} for page 110",
            explain="""\
The two look the same. (Bit 55, where both have it, is "soft-dirty": the mapping is new.) A tool that only
reads pagemap says that this memory was never used, and is wrong by all of it.""",
        ),
        Step(
            title="What smaps says",
            text="smaps asks the file.",
            question=Question("smaps", "How many pages of this VMA are in swap, by smaps?", PAGES),
            measure=smaps_swap,
            source="Swap of the VMA at {address:#x}, from /proc/{pid}/smaps",
            explain="The sum is known, then. But smaps does not say which pages they are.",
        ),
        Step(
            title="Page by page",
            text="mematlas opens the file behind the mapping (/proc/{pid}/map_files) and asks it with cachestat(2).",
            question=Question("found", "How many pages does mematlas find in swap, page by page?", PAGES),
            measure=find_swapped,
            source="mematlas pages {pid} {address:#x}+{size}",
            explain="""\
Entry and file together say all: pages 0 to 99 are in swap, the others were never touched. Without the right to open
the file mematlas says "unknown", and never "absent".""",
            unless=why_not_shown,
        ),
    ),
    outro="""\
An empty entry of shared memory means nothing by itself. Ask smaps for the sum, mematlas for the pages.

 mematlas pages PID --runs
 mematlas usage PID --verify""",
    check=check_swap,
)
