"""Lessons on files in memory: the page cache, the two kinds of page fault, memory shared by several."""

from __future__ import annotations

import os

from mematlas.errors import NotSupported
from mematlas.kernel.backing import cachestat_ranges, call_cachestat, mincore_ranges
from mematlas.kernel.pagemap import CACHED
from mematlas.labs.lesson import Lesson, Stage, Step
from mematlas.labs.question import PAGES, Number, OneOf, Question

FAULT_SLACK = 5
"""Page faults that the interpreter of the workload may have of its own meanwhile."""

NR_FILE = 256
READ_AT = 100
NONE, ONE, SEVERAL = "None", "Exactly one", "Several"
MINOR, MAJOR, NO_FAULT = (
    "A minor fault: it is in RAM, only the entry is missing",
    "A major fault: it must be read from disk",
    "No fault at all",
)


def make_file(stage: Stage) -> None:
    stage.send(f"file {NR_FILE}")
    stage.know(nr_cached=count_cached(stage))


def count_cached(stage: Stage) -> int:
    """Return how many pages of the workload's file are in the page cache, whoever maps them."""
    fd = os.open(stage.facts["path"], os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    size = stage.facts["page_size"]
    try:
        try:
            parts = cachestat_ranges(fd, 0, NR_FILE * size, size, call_cachestat)
        except NotSupported:
            parts = mincore_ranges(fd, 0, NR_FILE * size, size)
    finally:
        os.close(fd)
    return sum(end - start for start, end, mark in parts if mark == CACHED) // int(size)


def evict(stage: Stage) -> None:
    """Have the workload's file taken out of the page cache."""

    def look() -> int:
        stage.send("evict")
        return count_cached(stage)

    if stage.wait(look, 0):
        raise NotSupported("taking a file out of the page cache", "a file system on a disk")


def fault_kind(stage: Stage) -> str:
    """Return what the last read was."""
    if stage.facts["major"]:
        return MAJOR
    return MINOR if stage.facts["minor"] else NO_FAULT


def read_one(stage: Stage) -> str:
    stage.send(f"read {READ_AT} 1")
    rss = stage.rss()
    stage.know(rss=rss)
    return {0: NONE, 1: ONE}.get(rss, SEVERAL)


def unmap(stage: Stage) -> int:
    stage.send("unmap")
    return count_cached(stage)


def read_evicted(stage: Stage) -> str:
    evict(stage)
    stage.send("remap")
    stage.send("read 0 1")
    stage.know(nr_cached=count_cached(stage), slow=stage.facts["seconds"])
    kind = fault_kind(stage)
    stage.send("read 0 1")
    return kind


CACHE = Lesson(
    name="cache",
    title="A mapped file and the page cache",
    rights="none",
    intro="""\
Programs and libraries are files that are mapped. Whose memory is that? The workload, PID {pid}, makes a file of its
own on a disk; the file has no name and vanishes with the workload.""",
    steps=(
        Step(
            title="Mapped",
            text="""\
The file has {nr_pages:pages}. It was written just now, so {nr_cached:,} of them are in RAM: in the page cache, the
kernel's memory of files. The workload has mapped the file at {address:#x}, and has read nothing of it.""",
            question=Question("mapped", "How many pages of the mapping does RSS count?", PAGES),
            measure=lambda stage: stage.rss(),
            source="RSS of the VMA at {address:#x}, from /proc/{pid}/smaps",
            explain="""\
In RAM is one thing, mapped is another. The page table of the workload has no entry for the file yet, so nothing is
charged to it. The page cache belongs to the kernel, and free(1) shows it as buff/cache.""",
            prepare=make_file,
        ),
        Step(
            title="One byte",
            text="Now the workload reads one single byte, in page 100.",
            question=Question("read", "How many pages does RSS count then?", OneOf((NONE, ONE, SEVERAL))),
            measure=read_one,
            source="RSS of the VMA at {address:#x}, from /proc/{pid}/smaps",
            explain="""\
{rss:pages}: the kernel enters the neighbours that are in the cache too, commonly 64 KiB at once (with pages of 64 KiB
that is none), because they will probably be wanted next and faults are expensive. This is called fault-around. So the
RSS of a file grows in steps, and holds pages that the program never looked at.""",
        ),
        Step(
            title="Unmapped",
            text="The workload unmaps the file: munmap(2). The addresses are gone, and the RSS with them.",
            question=Question("unmapped", "How many pages of the file are in RAM now?", PAGES),
            measure=unmap,
            source="cachestat(2), or mincore(2), on the file",
            explain="""\
Unmapping takes the entries away, not the pages. They stay in the page cache until memory is short or the file is
deleted: whoever opens the file next finds them there. That is why a program starts faster the second time, and why
memory that is "used" by the cache is no cause for alarm.""",
        ),
        Step(
            title="Evicted",
            text="""\
Now the kernel is asked to forget the file: posix_fadvise(2), POSIX_FADV_DONTNEED. The workload maps it again and
reads one byte.""",
            question=Question("evicted", "What does this read cost?", OneOf((NO_FAULT, MINOR, MAJOR))),
            measure=read_evicted,
            source="getrusage(2) in the workload: ru_minflt and ru_majflt",
            explain="""\
It took {slow:seconds}; reading the same byte once more took {seconds:seconds}. And {nr_cached:pages} of the file
are in the cache again, not one: while it waits for the disk the kernel reads ahead.""",
        ),
    ),
    outro="""\
The page cache holds files whether anyone maps them or not. RSS counts only what is mapped here.

 mematlas usage PID          its line "file"
 mematlas maps PID --kind file""",
)


NR_FRESH = 500
RUSAGE = "getrusage(2) in the workload: {name}"


def fresh(stage: Stage) -> None:
    stage.send(f"map {NR_FRESH}")


def write_fresh(stage: Stage) -> int:
    stage.know(name="ru_minflt")
    minor = int(stage.send(f"write 0 {NR_FRESH}")["minor"])
    stage.know(first=stage.facts["seconds"])
    return minor


def write_again(stage: Stage) -> int:
    return int(stage.send(f"write 0 {NR_FRESH}")["minor"])


def prepare_evicted(stage: Stage) -> None:
    make_file(stage)
    evict(stage)


def read_from_disk(stage: Stage) -> int:
    stage.know(name="ru_majflt")
    major = int(stage.send("read 0 1")["major"])
    stage.know(slow=stage.facts["seconds"])
    return major


def forget_entries(stage: Stage) -> None:
    stage.send("unmap")
    stage.send("remap")


def read_from_cache(stage: Stage) -> str:
    stage.know(name="ru_minflt and ru_majflt")
    stage.send("read 0 1")
    return fault_kind(stage)


FAULTS = Lesson(
    name="faults",
    title="Minor and major faults",
    rights="none",
    intro="""\
A page fault is the CPU's question to the kernel: what about this address? Nearly all are harmless, some are slow.
The kernel counts both kinds for each process. The workload is PID {pid}.""",
    steps=(
        Step(
            title="Fresh memory",
            text="The workload has mapped {nr_pages:pages} of private memory. Now it writes to each of them.",
            question=Question("fresh", "How many minor faults does it have?", Number("", FAULT_SLACK)),
            measure=write_fresh,
            source=RUSAGE,
            explain="""\
One for each page. A fault is minor when the kernel can answer it without waiting for a disk: here it took a free
frame and filled it with zeros. All {nr_pages:,} took {first:seconds} together.""",
            prepare=fresh,
        ),
        Step(
            title="The same again",
            text="It writes to the same pages a second time.",
            question=Question("again", "How many minor faults does it have this time?", Number("", FAULT_SLACK)),
            measure=write_again,
            source=RUSAGE,
            explain="""\
The entries are there now, so the CPU does not ask. It took {seconds:seconds}. A program has most of its faults
when it starts and when it grows. Many faults in a program that does neither mean that it gives memory back and
takes it again.""",
        ),
        Step(
            title="From the disk",
            text="""\
The workload has mapped a file of {nr_pages:pages} that is on the disk and nowhere in RAM. It reads one byte.""",
            question=Question("disk", "How many major faults does it have?", Number("")),
            measure=read_from_disk,
            source=RUSAGE,
            explain="""\
A fault is major when the program has to wait for a disk: for a file that is not in the page cache, or for memory
that was paged out and has no frame any more (the lesson pageout). This one took {slow:seconds}. A program that has many
of them each second is mostly waiting.""",
            prepare=prepare_evicted,
        ),
        Step(
            title="From the page cache",
            text="It unmaps the file, maps it again, and reads the same byte.",
            question=Question("cache", "What does this read cost?", OneOf((NO_FAULT, MINOR, MAJOR))),
            measure=read_from_cache,
            source=RUSAGE,
            explain="""\
The entry went with the old mapping, the page did not: it is in the page cache. So the kernel only has to enter it.
It took {seconds:seconds}.""",
            prepare=forget_entries,
        ),
    ),
    outro="""\
Minor faults cost about a microsecond, major faults wait for a disk. Watch the major ones.

 ps -o min_flt,maj_flt PID    since the process started""",
)


NR_LIBRARY = 120


def one_reader(stage: Stage) -> None:
    stage.send(f"file {NR_LIBRARY}")
    stage.send(f"read 0 {NR_LIBRARY}")


def more_readers(stage: Stage) -> None:
    for _ in range(2):
        other = stage.start()
        stage.send(f"open {stage.facts['path']} {NR_LIBRARY}", other)
        stage.send(f"read 0 {NR_LIBRARY}", other)


def uss(stage: Stage) -> int:
    return stage.nr_pages(stage.vma().usage.uss)


def pss(stage: Stage) -> int:
    whole = stage.process().usage("smaps").usage
    stage.know(all_rss=whole.rss, all_pss=whole.pss, all_uss=whole.uss)
    # Thirds of pages: the kernel rounds the sum down.
    return stage.rounded_pages(stage.vma().usage.pss)


def end_others(stage: Stage) -> int:
    while len(stage.workloads) > 1:
        stage.workloads.pop().end()
    return uss(stage)


SHARING = Lesson(
    name="sharing",
    title="Why USS, PSS and RSS differ",
    rights="none",
    intro="""\
How much memory does a process use? There are three honest answers. They differ because of libraries: many processes
map the same file. A file of 120 pages plays the library; the first process is PID {pid}.""",
    steps=(
        Step(
            title="Alone",
            text="Process {pid} has mapped the library and read all of its {nr_pages:pages}. Nobody else has.",
            question=Question("alone", "How many pages of it are in its USS?", PAGES),
            measure=lambda stage: uss(stage),
            source="USS of the VMA at {address:#x}, from /proc/{pid}/smaps",
            explain="""\
USS counts the pages that only this process maps. It is alone, so all of them count. If it ended now, that many
pages would no longer be mapped by anyone; being a file's, they would stay in the cache until room is needed.""",
            prepare=one_reader,
        ),
        Step(
            title="Three of them",
            text="Two more processes have mapped the same library and read all of it.",
            question=Question("rss", "How many pages of it are in the RSS of the first process now?", PAGES),
            measure=lambda stage: stage.rss(),
            source="RSS of the VMA at {address:#x}, from /proc/{pid}/smaps",
            explain="""\
RSS does not care who else is there: what is mapped here counts in full. Added up over the three it is 360 pages,
though the library has only 120.""",
            prepare=more_readers,
        ),
        Step(
            title="Shared by three: USS",
            text="",
            question=Question("uss", "How many pages of it are in the USS of the first process now?", PAGES),
            measure=lambda stage: uss(stage),
            source="USS of the VMA at {address:#x}, from /proc/{pid}/smaps",
            explain="""\
No page is its own any more. USS says roughly what would be freed if this process alone ended: of the library, nothing.
Added up over all processes USS leaves out whatever is shared.""",
        ),
        Step(
            title="Shared by three: PSS",
            text="",
            question=Question("pss", "And how many pages of it are in its PSS?", PAGES),
            measure=pss,
            source="PSS of the VMA at {address:#x}, from /proc/{pid}/smaps",
            explain="""\
PSS divides each page by the number of its mappings: 120 / 3. It is the only one of the three that can be added up
over processes. For the whole workload, with its real libraries:

 RSS {all_rss:size}
 PSS {all_pss:size}
 USS {all_uss:size}""",
        ),
        Step(
            title="Alone again",
            text="The two others end now.",
            question=Question("alone_again", "How many pages of it are in the USS of the first process then?", PAGES),
            measure=end_others,
            source="USS of the VMA at {address:#x}, from /proc/{pid}/smaps",
            explain="""\
The first process did nothing, and its USS and PSS jumped. When a number of a process changes, look at its neighbours
too.""",
        ),
    ),
    outro="""\
RSS: what it can reach. PSS: its fair share; add these up. USS: what it maps alone,
a rough guide to what would be freed if it ended.

 mematlas usage PID            all three
 mematlas usage PID --if-ended what would be freed, and what not
 mematlas maps PID             all three, for each VMA""",
)
