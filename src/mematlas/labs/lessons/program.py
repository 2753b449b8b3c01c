"""Lessons on what every program has: a stack, and the C library's heap."""

from __future__ import annotations

import resource

from mematlas.labs.actor import allocator
from mematlas.labs.lesson import Lesson, Stage, Step
from mematlas.labs.question import PAGES, Interval, Number, OneOf, Question
from mematlas.model.address_space import Selection
from mematlas.views.format import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.maps import Vma


NR_GROWN = 100
AS_LIMIT, SMALLER = "As large as the limit allows", "Much smaller: it grows when it is needed"
SHRINKS, STAYS = "It shrinks: the pages are given back", "It stays as large as it was at its largest"


def find_vma(stage: Stage, kind: str) -> Vma | None:
    """Return the first VMA of the workload of one kind."""
    return next((vma for vma in stage.process().address_space().vmas if vma.kind == kind), None)


def look_at_stack(stage: Stage) -> None:
    # The first time touches stack of its own.
    stage.send("stack 0")
    limit = resource.getrlimit(resource.RLIMIT_STACK)[0]
    stack = find_vma(stage, "stack")
    assert stack
    shown = "no limit" if limit == resource.RLIM_INFINITY else f"a limit of {format_size(limit)}"
    stage.know(limit=limit, shown_limit=shown, stack=stack.end - 1, stack_size=stack.size)


def stack_size(stage: Stage) -> str:
    limit = stage.facts["limit"]
    is_small = limit == resource.RLIM_INFINITY or stage.facts["stack_size"] < limit // 2
    return SMALLER if is_small else AS_LIMIT


def grow(stage: Stage) -> int:
    """Have the stack grow; return by how many pages the VMA did, and remember by how many RSS did."""
    before = stage.vma(stage.facts["stack"])
    stage.send(f"stack {NR_GROWN}")
    after = stage.vma(stage.facts["stack"])
    stage.know(stack_size=after.vma.size)
    stage.know(more=stage.nr_pages(after.usage.rss) - stage.nr_pages(before.usage.rss))
    return stage.nr_pages(after.vma.size - before.vma.size)


def shrink(stage: Stage) -> str:
    size_now = stage.vma(stage.facts["stack"]).vma.size
    return STAYS if size_now >= stage.facts["stack_size"] else SHRINKS


STACK = Lesson(
    name="stack",
    title="How a stack grows",
    rights="none",
    intro="""\
Every call of a function takes a little of the stack, and nobody asks the kernel for it. How does it get there? The
workload is PID {pid}.""",
    steps=(
        Step(
            title="At first",
            text="The stack of the workload has {shown_limit} (ulimit -s).",
            question=Question("size", "How large is its VMA, [stack], now?", OneOf((AS_LIMIT, SMALLER))),
            measure=stack_size,
            source="/proc/{pid}/maps",
            explain="""\
It is {stack_size:size}. The kernel makes a small stack when a program starts. The limit is only how far it may
grow.""",
            prepare=look_at_stack,
        ),
        Step(
            title="A large array",
            text="""\
The workload does what a function with a local array of 100 pages does: its stack pointer leaps down, and it writes
one byte at the far end of the array, 100 pages below all that was stack so far. Nothing between is touched.""",
            question=Question("grown", "By how many pages does the VMA grow?", PAGES),
            measure=grow,
            source="/proc/{pid}/maps",
            explain="""\
The address belonged to no VMA, so this should have been a segmentation fault. But the next VMA above it is marked
to grow downwards, and the limit is not reached: the kernel extends it down to the touched page.""",
        ),
        Step(
            title="In RAM",
            text="",
            question=Question("resident", "And by how many pages did the RSS of the stack grow?", Number("pages", 1)),
            measure=lambda stage: int(stage.facts["more"]),
            source="RSS of [stack], from /proc/{pid}/smaps",
            explain="""\
Growing reserves addresses, and touching takes frames, as everywhere: only the page with that one byte has one.""",
        ),
        Step(
            title="Back again",
            text="The function has returned; its array is gone.",
            question=Question("returned", "What does the VMA do?", OneOf((SHRINKS, STAYS))),
            measure=shrink,
            source="/proc/{pid}/maps",
            explain="""\
The kernel cannot know where the stack pointer will go next, and never looks. One deep recursion leaves its pages in
RAM until the process ends, or until memory is short and they are paged out.""",
        ),
    ),
    outro="""\
The main stack grows by page faults and never shrinks. The stacks of threads are ordinary mappings of a fixed size.

 mematlas maps PID stack""",
)


NR_BLOCKS, BLOCK_SIZE, LARGE_BLOCK = 32_000, 1000, 64 << 20
ALL, HALF, NONE = "Nearly all of it", "About half of it", "Next to nothing"
IN_HEAP, APART = "In [heap]", "In a mapping of its own"
HEAP = "RSS of [heap], from /proc/{pid}/smaps"


def check_allocator() -> None:
    """Raise `NotSupported` where malloc works in another way."""
    allocator()


def heap_rss(stage: Stage) -> int:
    """Return the bytes of the C library's heap that are in RAM; 0 while there is none."""
    # Advice about a part of it cuts it into several VMAs.
    heap = stage.process().maps("smaps", selection=Selection(kinds=frozenset(("heap",))))
    return sum(item.usage.rss or 0 for item in heap.vmas)


def allocate(stage: Stage) -> int:
    before = heap_rss(stage)
    stage.send(f"malloc {NR_BLOCKS} {BLOCK_SIZE}")
    stage.know(grown=heap_rss(stage) - before)
    return int(stage.facts["grown"])


def given_back(stage: Stage, line: str) -> str:
    """Return how much of the blocks' memory a line gives back."""
    before = heap_rss(stage)
    stage.send(line)
    stage.know(freed=before - heap_rss(stage))
    share = stage.facts["freed"] / max(stage.facts["grown"], 1)
    if share > 0.9:
        return ALL
    return NONE if share < 0.1 else HALF


def where(stage: Stage, line: str) -> str:
    """Return where the block that a line allocates lies."""
    stage.send(line)
    vma = stage.vma(stage.facts["block"]).vma
    stage.know(start=vma.start, length=vma.size)
    return IN_HEAP if vma.kind == "heap" else APART


MALLOC = Lesson(
    name="malloc",
    title="malloc, its arenas, and trimming",
    rights="the GNU C library",
    intro="""\
malloc(3) stands between the program and the kernel: it takes memory wholesale and hands it out in small pieces. So
free(3) is not what you may think. The workload, PID {pid}, calls malloc and free of its C library.""",
    steps=(
        Step(
            title="Many small blocks",
            text="Now the workload allocates 32,000 blocks of 1,000 bytes, and writes to each.",
            question=Question("allocated", "By how much does the RSS of its heap grow?", Interval("bytes", 2)),
            measure=allocate,
            source=HEAP,
            explain="""\
malloc moves the end of [heap] up with brk(2), and cuts it into blocks. Each block has a header of 8 bytes, and sizes
are rounded up to 16: 32,000 x 1,008 bytes are 30.8 MiB.""",
            # What malloc holds free already would be handed out first.
            prepare=lambda stage: stage.send("trim"),
        ),
        Step(
            title="Freed",
            text="The workload frees all of them but the last one, which lies at the upper end.",
            question=Question("freed", "How much of that memory goes back to the kernel?", OneOf((ALL, HALF, NONE))),
            measure=lambda stage: given_back(stage, "free"),
            source=HEAP,
            explain="""\
{freed:size} went back. free gives blocks back to malloc, which keeps them for the next request. brk can only lower
the upper end of the heap, and there one block is still in use. This is why a program can stay large after it freed
everything, which looks like a leak and is none.""",
        ),
        Step(
            title="Trimmed",
            text="Now it calls malloc_trim(3).",
            question=Question(
                "trimmed", "How much of that memory goes back to the kernel now?", OneOf((ALL, HALF, NONE))
            ),
            measure=lambda stage: given_back(stage, "trim"),
            source=HEAP,
            explain="""\
{freed:size}: malloc_trim gives back every whole free page, in the middle of the heap too, with madvise(2). The
addresses stay; the next use of them is a page fault.""",
        ),
        Step(
            title="One large block",
            text="It allocates one block of 64 MiB.",
            question=Question("large", "Where does the block lie?", OneOf((IN_HEAP, APART))),
            measure=lambda stage: where(stage, f"malloc 1 {LARGE_BLOCK}"),
            source="/proc/{pid}/maps, the VMA at {block:#x}",
            explain="""\
Large blocks, from 128 KiB on at first, get a mapping of their own. free unmaps it, so that all of it goes back at
once, whatever lies above.""",
        ),
        Step(
            title="Another thread",
            text="A second thread of the workload allocates 1,000 bytes.",
            question=Question("thread", "Where does this block lie?", OneOf((IN_HEAP, APART))),
            measure=lambda stage: where(stage, "thread 1000"),
            source="/proc/{pid}/maps, the VMA at {block:#x}",
            explain="""\
Threads that allocate at the same time would wait for each other, so each gets an arena: on 64-bit machines 64 MiB of
addresses, of which {length:size} can be used so far. A program with many threads has many arenas, much address
space, and free memory in each of them. MALLOC_ARENA_MAX limits their number.""",
        ),
    ),
    outro="""\
free returns memory to malloc, not to the kernel. Look at RSS, then ask who holds the pages.

 mematlas maps PID heap
 mematlas map PID --kind heap,anon""",
    check=check_allocator,
)
