"""Lessons on private memory: reserved, read, written to, copied."""

from __future__ import annotations

from mematlas.kernel.kpage import FrameWords
from mematlas.labs.lesson import Lesson, Stage, Step, hidden_frames
from mematlas.labs.question import PAGES, Number, OneOf, Question

SMAPS = "RSS of the VMA at {address:#x}, from /proc/{pid}/smaps"

RESERVED = 256 << 20
NR_WRITTEN = 100
SCATTER_AT, SCATTER_COUNT, SCATTER_DISTANCE = 1000, 100, 1000
STAYS, GOES, NOTHING = (
    "The frames go back, the addresses stay valid",
    "The addresses go, touching them would end the program",
    "Nothing: memory goes back only when the program ends",
)


def reserve(stage: Stage) -> None:
    stage.send(f"map {RESERVED // stage.facts['page_size']}")


def write_some(stage: Stage) -> int:
    stage.send(f"write 0 {NR_WRITTEN}")
    return stage.rss()


def scatter(stage: Stage) -> int:
    before = stage.rss()
    stage.send(f"scatter {SCATTER_AT} {SCATTER_COUNT} {SCATTER_DISTANCE}")
    return stage.rss() - before


def give_back(stage: Stage) -> str:
    before = stage.rss()
    stage.send(f"drop 0 {NR_WRITTEN}")
    after = stage.vma()
    stage.know(rss=stage.nr_pages(after.usage.rss))
    if after.vma.size < stage.facts["size"]:
        return GOES
    return STAYS if stage.facts["rss"] == before - NR_WRITTEN else NOTHING


RESERVE = Lesson(
    name="reserve",
    title="Reserved is not used",
    rights="none",
    intro="""\
A program asks the kernel for memory with mmap(2); malloc does so for large blocks. What does it get, and when does
that cost RAM? A workload of ours, PID {pid}, does it step by step. You predict, then we measure.""",
    steps=(
        Step(
            title="Reserved",
            text="""\
The workload has called mmap for {nr_pages:pages}, {size:size}, at address {address:#x}. The call succeeded. The
program has not touched any of it.""",
            question=Question("reserved", "How many of these pages are in RAM?", PAGES),
            measure=lambda stage: stage.rss(),
            source=SMAPS,
            explain="""\
mmap only writes down a promise. The kernel notes a VMA, one line of /proc/{pid}/maps: these addresses are valid,
and this is what to do when one of them is touched. No frame of RAM stands behind them yet. So the size of an
address space (VSZ in ps, VIRT in top) says nothing about RAM.""",
            prepare=reserve,
        ),
        Step(
            title="Touched",
            text="Now the workload writes to the first 100 pages.",
            question=Question("touched", "How many pages are in RAM then?", PAGES),
            measure=write_some,
            source=SMAPS,
            explain="""\
At the first touch of a page the CPU finds no entry for it in the page table and calls the kernel: a page fault.
The kernel looks up the VMA, takes a free frame, fills it with zeros, enters it in the page table, and lets the
program repeat its instruction. This is demand paging: one frame per page, when it is first needed.""",
        ),
        Step(
            title="Touched here and there",
            text="""\
Further on, where nothing was touched yet, it writes 100 single bytes, each 1,000 bytes after the last: at offsets
0, 1000, 2000, ... 99000.""",
            question=Question("scattered", "How many more pages are in RAM then?", PAGES),
            measure=scatter,
            source=SMAPS + ", less what was there before",
            explain="""\
A page has {page_size} bytes here, so several of the bytes fall into one page: they are spread over 99,001 bytes, and
that is part of {reality:pages}. What counts is which pages are touched, not how many bytes are
written. The same 100 bytes, one to a page, would have cost 100 pages.""",
        ),
        Step(
            title="Given back",
            text="The workload gives the first 100 pages back: madvise(2) with MADV_DONTNEED.",
            question=Question("given_back", "What happens?", OneOf((GOES, STAYS, NOTHING))),
            measure=give_back,
            source=SMAPS,
            explain="""\
RSS is {rss:pages} now, and the VMA is as large as before. The promise stands: the next touch is a page fault
again, and brings a fresh page of zeros. Allocators and garbage collectors return memory in this way.""",
        ),
    ),
    outro="""\
The size of a VMA counts addresses. RSS counts pages that have a frame. They diverge at mmap, and meet once every
page has been touched.

 mematlas maps PID     both, for each VMA
 mematlas map PID      every page, drawn""",
)


NR_ZERO_MAPPED, NR_READ, NR_OVERWRITTEN = 512, 64, 10


def map_for_reading(stage: Stage) -> None:
    stage.send(f"map {NR_ZERO_MAPPED}")


def read_some(stage: Stage) -> int:
    stage.send(f"read 0 {NR_READ}")
    return stage.rss()


def count_present(stage: Stage) -> int:
    return sum(state in ("present", "zero") for state in stage.states())


def count_frames(stage: Stage) -> int:
    frames = stage.frames(0, NR_READ)
    stage.know(pfn=frames[0])
    return len(set(frames))


def overwrite(stage: Stage) -> int:
    stage.send(f"write 0 {NR_OVERWRITTEN}")
    stage.know(nr_left=NR_READ - NR_OVERWRITTEN)
    return stage.rss()


ZERO = Lesson(
    name="zero",
    title="The zero page",
    rights="none; CAP_SYS_ADMIN shows the frame",
    intro="""\
Private memory that nobody has written to reads as zeros. Must the kernel find a frame for every page, only to hold
zeros? The workload is PID {pid}.""",
    steps=(
        Step(
            title="Read",
            text="""\
The workload has mapped {nr_pages:pages} of private memory at {address:#x}. Now it reads one byte of each of the
first 64 pages. It writes nothing.""",
            question=Question("resident", "How many pages does RSS count then?", PAGES),
            measure=read_some,
            source=SMAPS,
            explain="""\
Reading needs no memory of one's own. The kernel has one page full of zeros, the zero page, and maps it wherever
someone reads private memory that was never written to. It is nobody's, so RSS leaves it out.""",
            prepare=map_for_reading,
        ),
        Step(
            title="Present",
            text="The page table says more than RSS does. Each page has an entry, with a bit that says: present.",
            question=Question("present", "How many of the {nr_pages:,} pages are present?", PAGES),
            measure=count_present,
            source="bit 63 of the entries of /proc/{pid}/pagemap",
            explain="""\
Every page that was read has an entry that leads to the zero page. Present means that the CPU finds something there
without asking the kernel; resident means that the process is charged for it. Tools that take one for the other
are wrong by these pages.""",
        ),
        Step(
            title="In one frame",
            text="",
            question=Question("frames", "In how many different frames do the 64 pages lie?", Number("")),
            measure=count_frames,
            source="bits 0 to 54 of the entries of /proc/{pid}/pagemap",
            explain="""\
All 64 addresses lead to frame {pfn:#x}, which is the same one for every process of this machine. It is mapped
read-only: that is what keeps it full of zeros.""",
            unless=hidden_frames,
        ),
        Step(
            title="Written to",
            text="Now the workload writes to the first 10 of these pages.",
            question=Question("written", "How many pages does RSS count then?", PAGES),
            measure=overwrite,
            source=SMAPS,
            explain="""\
Writing to a read-only page is a page fault. The kernel sees that the program may write here, takes a fresh frame
of zeros and maps it instead of the zero page: copy-on-write, with zeros as the original. The other
{nr_left:pages} still lead to the zero page.""",
        ),
    ),
    outro="""\
Reading fresh memory is free, writing is not. A page can be present without being anybody's.

 mematlas usage PID    its line "zero" counts such pages""",
)


NR_FORKED, NR_CHILD_WRITES = 100, 30
SHARES = "PSS of the VMA at {address:#x} in both processes, from smaps"


def fork(stage: Stage) -> None:
    stage.send(f"map {NR_FORKED}")
    stage.send(f"write 0 {NR_FORKED}")
    stage.send("fork")


def own_pages(stage: Stage, pid: int) -> int:
    """Return the pages of the area that no other process maps."""
    return stage.nr_pages(stage.vma(pid=pid).usage.uss)


def both_rss(stage: Stage) -> int:
    stage.know(rss=stage.rss(), child_rss=stage.rss(pid=stage.facts["child"]))
    return int(stage.facts["rss"] + stage.facts["child_rss"])


def map_count(stage: Stage) -> int:
    frames = stage.frames(0, NR_FORKED)
    with FrameWords(stage.process().procfs, "kpagecount") as words:
        counts = set(words.get(frames).values())
    stage.know(pfn=frames[0])
    return max(counts)


def child_writes(stage: Stage) -> int:
    stage.send(f"child write 0 {NR_CHILD_WRITES}")
    # Halves of pages: the kernel rounds each sum down.
    parent = stage.vma(pid=stage.workload.pid).usage.pss or 0
    child = stage.vma(pid=stage.facts["child"]).usage.pss or 0
    return stage.rounded_pages(parent + child)


FORK = Lesson(
    name="fork",
    title="Copy-on-write after fork",
    rights="none; CAP_SYS_ADMIN shows the map count",
    intro="""\
fork(2) makes a second process with the same memory. Copying all of it would be slow, and mostly for nothing: many
children start another program at once. The workload is PID {pid}.""",
    steps=(
        Step(
            title="Forked",
            text="""\
The workload has written to {nr_pages:pages}, then forked. Parent {pid} and child {child} both have the pages at
{address:#x}, with equal contents. Neither has written to them since.""",
            question=Question("own", "How many of the child's pages are in frames of its own?", PAGES),
            measure=lambda stage: own_pages(stage, stage.facts["child"]),
            source="USS of the VMA at {address:#x}, from /proc/{child}/smaps",
            explain="""\
fork copied the page table, not the pages. Both processes lead to the same frames, and the entries of both were
made read-only.""",
            prepare=fork,
        ),
        Step(
            title="Counted twice",
            text="ps and top show the RSS of each process.",
            question=Question("sum", "What is the RSS of these pages in parent and child added up?", PAGES),
            measure=both_rss,
            source="RSS of the VMA at {address:#x} in both processes, from smaps",
            explain="""\
RSS counts what a process can reach, shared or not: {rss:,} pages here, {child_rss:,} there. Only {nr_pages:,} frames
exist. The RSS of several processes must not be added up. PSS can be: it divides each page by its number of
mappings, so each of the two is charged with half.""",
        ),
        Step(
            title="The map count",
            text="For every frame the kernel counts how many page-table entries lead to it.",
            question=Question("map_count", "What is the map count of these frames?", Number("")),
            measure=map_count,
            source="/proc/kpagecount, the word of frame {pfn:#x} and of the others",
            explain="This count is what PSS divides by. A page with a count of 1 is exclusive: it belongs to USS.",
            unless=hidden_frames,
        ),
        Step(
            title="The child writes",
            text="Now the child writes to 30 of the pages.",
            question=Question("frames", "How many frames do the two processes hold together then?", PAGES),
            measure=child_writes,
            source=SHARES,
            explain="""\
Each write is a fault on a read-only page. The kernel copies the page into a new frame for the writer: 30 copies
beside the {nr_pages:,} originals. What is not written to stays shared for as long as both live.""",
        ),
        Step(
            title="And the parent?",
            text="The parent has done nothing meanwhile.",
            question=Question("parent", "How many of the parent's pages are in frames of its own now?", PAGES),
            measure=lambda stage: own_pages(stage, stage.workload.pid),
            source="USS of the VMA at {address:#x}, from /proc/{pid}/smaps",
            explain="""\
Where the child took a copy, the parent is the only one left on the original. Its USS rose although it did not run.
Numbers about sharing depend on what the others do.""",
        ),
    ),
    outro="""\
fork shares, the first write copies, one page at a time. Add up PSS, never RSS.

 mematlas usage PID                 RSS beside PSS and USS
 mematlas pages PID ADDRESS+LEN     the map count of each page (as root)""",
)
