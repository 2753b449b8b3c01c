"""Lessons on huge pages: what they save, what they cost, and why they are not always to be had."""

from __future__ import annotations

from mematlas.errors import NotSupported
from mematlas.kernel.buddyinfo import read_free_blocks
from mematlas.kernel.hugepage import THP, huge_size
from mematlas.kernel.procfs import ProcFS
from mematlas.kernel.status import read_status, status_bytes
from mematlas.labs.lesson import Lesson, Stage, Step, hidden_frames
from mematlas.labs.memory import PAGE_SIZE
from mematlas.labs.question import PAGES, Number, OneOf, Question
from mematlas.views.format import format_size

ENABLED = f"{THP}/enabled"
MOST = 512 << 20
"""Bytes that are mapped, but for pages of 64 KiB: there a huge page is as much."""
FAULT_SLACK = 20
TABLE_SLACK = 4 * PAGE_SIZE
FEWER, SAME = "Next to none", "Just as many"


def nr_huge() -> int:
    """Return the number of huge pages that the workload gets."""
    return min(16, max(2, MOST // huge_size()))


def check_huge() -> None:
    """Raise `NotSupported` where there are no transparent huge pages."""
    try:
        with open(ENABLED, encoding="ascii") as file:
            setting = file.read()
    except OSError:
        raise NotSupported("transparent huge pages", "CONFIG_TRANSPARENT_HUGEPAGE") from None
    if "[never]" in setting:
        raise NotSupported("transparent huge pages", f"to be switched on, as root: echo madvise > {ENABLED}")


def table_size(stage: Stage) -> int:
    """Return the bytes of the workload's page tables."""
    size = status_bytes(read_status(stage.process().dir), "VmPTE")
    if size is None:
        raise NotSupported("VmPTE", "a kernel that shows it in status")
    return size


def map_small(stage: Stage) -> None:
    size = huge_size()
    page_size = stage.facts["page_size"]
    stage.know(huge_size=size, nr_huge=nr_huge(), nr_small=size // page_size, per_table=page_size // 8)
    stage.send(f"map {nr_huge() * stage.facts['nr_small']}")


def write_all(stage: Stage) -> int:
    """Have all of the area written to; return the minor faults, and remember what the tables grew by."""
    before = table_size(stage)
    minor = int(stage.send(f"write 0 {stage.facts['nr_pages']}")["minor"])
    stage.know(tables=max(table_size(stage) - before, 0))
    return minor


def small_tables(stage: Stage) -> int:
    stage.know(small_tables=stage.facts["tables"], entries=stage.facts["nr_pages"] * 8)
    return int(stage.facts["tables"])


def map_huge(stage: Stage) -> None:
    stage.send(f"map {stage.facts['nr_pages']} huge")


def write_huge(stage: Stage) -> int:
    minor = write_all(stage)
    must_be_huge(stage, nr_huge())
    return minor


def must_be_huge(stage: Stage, wanted: int) -> None:
    """Raise `NotSupported` unless the kernel found this many huge pages for the area."""
    found = (stage.vma().usage.thp or 0) // stage.facts["huge_size"]
    if found < wanted:
        needs = f"free memory in whole pieces: the kernel found {found}; see the lesson fragments"
        raise NotSupported(f"{wanted} huge pages", needs)


def huge_tables(stage: Stage) -> str:
    return FEWER if stage.facts["tables"] < stage.facts["small_tables"] // 4 else SAME


def touch_one(stage: Stage) -> int:
    map_huge(stage)
    stage.send("write 0 1")
    must_be_huge(stage, 1)
    return stage.rss()


HUGE = Lesson(
    name="huge",
    title="One huge page instead of many small ones",
    rights="none",
    intro="""\
The CPU can map a large stretch of memory with a single entry one level up in the page table: a huge page. Linux gives
them to programs by itself where it is set up to (transparent huge pages). What do they save? The workload is PID
{pid}.""",
    steps=(
        Step(
            title="Small pages",
            text="""\
The workload has mapped {size:size}, which is room for {nr_huge:,} huge pages of {huge_size:size}, and has said
MADV_NOHUGEPAGE: only pages of {page_size} bytes, please. Now it writes to all {nr_pages:,} of them.""",
            question=Question("small_faults", "How many page faults does it have?", Number("", FAULT_SLACK)),
            measure=write_all,
            source="getrusage(2) in the workload: ru_minflt",
            explain="One for each page, each with its way into the kernel and back. It took {seconds:seconds}.",
            prepare=map_small,
        ),
        Step(
            title="Their tables",
            text="Each page has an entry of 8 bytes. A table is itself a page, and holds {per_table:,} entries.",
            question=Question(
                "small_tables", "How many bytes of page tables did this cost?", Number("bytes", TABLE_SLACK)
            ),
            measure=small_tables,
            source="VmPTE in /proc/{pid}/status, after less before",
            explain="""\
{nr_pages:,} entries of 8 bytes are {entries:size}, one byte for each {per_table:,} that they map; a table or two of
the levels above may come on top. It is the kernel's memory, in no RSS, and a process can have a lot of it: hundreds
that map the same large piece of shared memory in small pages each have tables of their own.""",
        ),
        Step(
            title="Huge pages",
            text="""\
Now the workload maps as much again, with MADV_HUGEPAGE: huge pages wherever possible. It writes to all of it.""",
            question=Question(
                "huge_faults", "How many page faults does it have this time?", Number("", FAULT_SLACK // 4)
            ),
            measure=write_huge,
            source="getrusage(2) in the workload: ru_minflt",
            explain="""\
One for each huge page. It took {seconds:seconds}, most of it to fill {size:size} with zeros. The CPU gains too: one
entry of its TLB, the cache of translations, now serves {huge_size:size}, and its walk is one table shorter.""",
            prepare=map_huge,
        ),
        Step(
            title="And their tables?",
            text="A huge page needs one entry in the table above, and no table of its own.",
            question=Question(
                "huge_tables", "How many bytes of tables does the kernel keep for them?", OneOf((FEWER, SAME))
            ),
            measure=huge_tables,
            source="VmPTE in /proc/{pid}/status, after less before",
            explain="""\
{tables:size}, against {small_tables:size} for small pages. The kernel puts an empty table aside for each huge page:
when it must split one it must not fail for lack of memory. So huge pages save faults and walks, and little or nothing
of VmPTE.""",
        ),
        Step(
            title="One byte",
            text="The workload maps a fresh area with MADV_HUGEPAGE, and touches its first small page alone.",
            question=Question("one_byte", "How many small pages does RSS count then?", PAGES),
            measure=touch_one,
            source="RSS of the VMA at {address:#x}, from /proc/{pid}/smaps",
            explain="""\
All or nothing: the touch brought a whole huge page. Programs that touch a little here and a little there grow by
huge pages, and that is why many machines give them only to those who ask.""",
        ),
    ),
    outro="""\
Huge pages make page faults and translation cheaper, and waste memory where it is used thinly.

 mematlas usage PID       its line THP
 mematlas collapse PID    put small pages together""",
    check=check_huge,
)


COPIED, IN_PLACE = "They were copied into other frames", "They stayed where they were"


def show_free_blocks(stage: Stage) -> None:
    blocks = read_free_blocks(ProcFS())
    size = huge_size()
    huge_order = (size // stage.facts["page_size"]).bit_length() - 1
    rows = []
    for order, count in enumerate(blocks):
        size_of_block = format_size(stage.facts["page_size"] << order)
        rows.append(f" free_{order:<3} blocks of {2**order:>5} pages  {size_of_block:>8}  {count:>8}")
    stage.know(**{f"free_{order}": count for order, count in enumerate(blocks)})
    stage.know(free_blocks="\n".join(rows), huge_order=huge_order, huge_size=size, blocks=blocks)
    stage.know(nr_small=1 << huge_order, nr_huge=nr_huge())


def free_huge(stage: Stage) -> int:
    huge_order = stage.facts["huge_order"]
    blocks = stage.facts["blocks"]
    nr_free = sum(count << order for order, count in enumerate(blocks))
    stage.know(free=nr_free * stage.facts["page_size"])
    large_enough = enumerate(blocks[huge_order:])
    return sum(count << excess for excess, count in large_enough)


def make_holes(stage: Stage) -> None:
    stage.send(f"map {nr_huge() * stage.facts['nr_small']}")
    stage.send(f"write 0 {stage.facts['nr_pages']}")
    if not hidden_frames(stage):
        stage.know(before=stage.frames(0, stage.facts["nr_pages"]))


def give_holes(stage: Stage) -> int:
    stage.send(f"drop 0 {stage.facts['nr_pages']} 2")
    return stage.rss()


def whole_blocks(stage: Stage) -> int:
    """Return how many huge pages the given back frames would make: aligned blocks with no page that was kept."""
    stage.know(kept=stage.frames(0, stage.facts["nr_pages"]))
    per_block = stage.facts["nr_small"]
    blocks: dict[int, int] = {}
    for pfn in stage.facts["before"]:
        blocks[pfn // per_block] = blocks.get(pfn // per_block, 0) + 1
    used = {pfn // per_block for pfn in stage.facts["kept"]}
    return sum(count == per_block and block not in used for block, count in blocks.items())


def collapse(stage: Stage) -> int:
    stage.know(rss_before=stage.rss())
    stage.send("collapse")
    must_be_huge(stage, nr_huge())
    return stage.rss()


def moved(stage: Stage) -> str:
    now = stage.frames(0, stage.facts["nr_pages"])[1::2]
    # Where khugepaged makes them, some may be small still, with holes between.
    same = len(set(stage.facts["kept"]).intersection(now))
    return IN_PLACE if same > len(now) // 2 else COPIED


FRAGMENTS = Lesson(
    name="fragments",
    title="Much free memory, and no huge page",
    rights="none; CAP_SYS_ADMIN shows the frames",
    intro="""\
A huge page must be one piece of RAM, and begin at a multiple of its size. Free memory in small pieces is of no use to
it. The workload is PID {pid}.""",
    steps=(
        Step(
            title="The pieces",
            text="""\
The kernel keeps free memory in blocks of 1, 2, 4, ... pages. This is what is free right now (/proc/buddyinfo, all
zones added up):

{free_blocks}

A huge page is {huge_size:size}, a block of order {huge_order}. Larger blocks can be cut in half. Formulas may name
free_0, free_1, ...""",
            question=Question(
                "buddies", "How many huge pages could be made of this without moving anything?", Number("")
            ),
            measure=free_huge,
            source="/proc/buddyinfo, as shown",
            explain="""\
Blocks of order {huge_order} count once, each higher order twice the one before; the smaller ones not at all. The
{free:size} that are free say less than these few blocks.""",
            prepare=show_free_blocks,
        ),
        Step(
            title="Holes",
            text="""\
The workload has written to {nr_pages:pages} ({size:size}, small pages only). Now it gives every second one back:
pages 0, 2, 4, ...""",
            question=Question("kept", "How many pages does it still have in RAM?", PAGES),
            measure=give_holes,
            source="RSS of the VMA at {address:#x}, from /proc/{pid}/smaps",
            explain="Half of the memory went back to the kernel, page by page.",
            prepare=make_holes,
        ),
        Step(
            title="What the holes are worth",
            text="""\
{size:size} were taken in small pages, half of that was given back. Look at the frames that came back.""",
            question=Question("whole", "How many whole huge pages lie in them, if nothing is moved?", Number("")),
            measure=whole_blocks,
            source="the frames in /proc/{pid}/pagemap, before and after",
            explain="""\
Frames are handed out in order where possible, so between two free ones there is nearly always one that was kept.
This is fragmentation: free, and of no use for anything large. Allocators that mix short and long lives do this to a
machine within days.""",
            unless=hidden_frames,
        ),
        Step(
            title="Collapsed",
            text="""\
Now the workload asks for huge pages instead of its small ones: madvise(2), MADV_COLLAPSE. Half of the pages of
each are missing.""",
            question=Question("collapsed", "How many small pages' worth does RSS count then?", PAGES),
            measure=collapse,
            source="RSS of the VMA at {address:#x}, from /proc/{pid}/smaps",
            explain="""\
Before it was {rss_before:pages}. The kernel found {nr_huge:,} whole free blocks, made some by moving other pages if it
had to (compaction), and filled the holes with zeros. A huge page has no holes: what was given back is in use again.""",
        ),
        Step(
            title="The pages that were kept",
            text="",
            question=Question(
                "moved", "What happened to the pages that the workload had kept?", OneOf((COPIED, IN_PLACE))
            ),
            measure=moved,
            source="the frames in /proc/{pid}/pagemap, before and after",
            explain="""\
They lay between holes, so the kernel copied them to where the huge pages are. The program saw nothing of it: its
addresses did not change, only the frames behind them. That is what virtual memory is for.""",
            unless=hidden_frames,
        ),
    ),
    outro="""\
Free memory and free memory in one piece are two things. When huge pages fail, look at the pieces.

 cat /proc/buddyinfo
 grep -E "compact|thp" /proc/vmstat""",
    check=check_huge,
)
