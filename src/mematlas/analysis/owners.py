"""Who made the memory of a process: its threads, its allocators and runtimes, as far as that can be known.

It is known by the kernel's name of a VMA, by where the stack of a thread is, or by a shape that one maker alone leaves.
Memory is never read for it: that would bring pages in. Nothing is guessed in silence: an `Owner` comes with what it is
known by, and memory of which nothing is known is `REST`.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import takewhile

from mematlas.frozen import Record, record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from mematlas.kernel.maps import Vma
    from mematlas.kernel.threads import Thread

    Found = Iterator[tuple[int, "Owner"]]


@record
class Owner(Record):
    """Who made the memory of a VMA, and how that is known."""

    what: str
    """``thread stack``, ``glibc arena``, ``Go heap`` ...: of memory with a file, its kind."""
    names: tuple[str, ...] = ()
    """Its threads' names, each once; of other memory the name or path that the kernel shows, where it has one."""
    known_by: tuple[str, ...] = ()
    """``name``, ``path``, ``control block``, ``stack pointer``, ``guard``, ``shape``, ``address``, ``section`` ..."""
    tids: tuple[int, ...] = ()
    """The threads whose stack it is."""


REST = Owner("other anonymous")


def together(owners: Iterable[Owner]) -> Owner:
    """Return owners that are one, such as threads of one name, with all that they are known by."""
    every = list(owners) or [REST]
    known_by = dict.fromkeys(by for owner in every for by in owner.known_by)
    tids = dict.fromkeys(tid for owner in every for tid in owner.tids)
    return replace(every[0], known_by=tuple(known_by), tids=tuple(tids))


@record
class Clues:
    """What was found out of a process besides its VMAs."""

    page_size: int
    pid: int
    threads: Sequence[Thread] = ()
    data_end: int = 0
    """Where the data of the program ends that its file holds; 0 where that is not known."""
    is_go: bool | None = None
    """Whether the program is one of Go; None where that is not known, and where it does not matter."""


MIB = 1 << 20
ARENA_SIZE = 64 * MIB
"""Of a heap of glibc (malloc/arena.c, HEAP_MAX_SIZE), and of an arena of Go (runtime/malloc.go, heapArenaBytes), on 64
bits: either begins at a multiple of it."""
GO_STARTS = frozenset((0xC0 << 32, 0x40 << 32))
"""Where Go asks for its first arena: on most processors, and on arm64 (runtime/malloc.go, mallocinit())."""
MAX_TLS = MIB
"""Between the control block of a thread and the top of its stack some processors have what is its own (TLS)."""
MAX_GUARD = MIB
USUAL_GUARD = MIB >> 4
STACK_STEP, LEAST_STACK = MIB >> 4, MIB >> 3
"""Sizes of stacks are multiples of 64 KiB, with the guard or without; 128 KiB is the default of musl."""


class Space:
    """The VMAs of a process, with the owner of each as far as it is known already."""

    def __init__(self, vmas: Sequence[Vma], clues: Clues) -> None:
        self.vmas = vmas
        self.clues = clues
        self.owners = list(map(owner_by_name, vmas))
        self._starts = [vma.start for vma in vmas]

    def find(self, address: int | None) -> int | None:
        """Return the index of the VMA that an address lies in."""
        if address is None:
            return None
        index = bisect_right(self._starts, address) - 1
        return index if index >= 0 and address < self.vmas[index].end else None

    def is_data(self, index: int) -> bool:
        """Whether this is writable memory without a name of which nothing is known yet."""
        return self.owners[index] is None and self.vmas[index].perms[:2] == "rw"

    def is_reserve(self, index: int) -> bool:
        """Whether nobody may access this memory without a name, and nothing is known of it yet."""
        return self.owners[index] is None and self.vmas[index].perms[:3] == "---"

    def follows(self, index: int) -> bool:
        """Whether a VMA begins where the one before it ends."""
        return 0 < index < len(self.vmas) and self.vmas[index - 1].end == self.vmas[index].start

    def has_guard(self, index: int, most: int = MAX_GUARD) -> bool:
        """Whether a little memory that nobody may access lies right below."""
        return self.follows(index) and self.is_reserve(index - 1) and self.vmas[index - 1].size <= most

    def run(self, first: int) -> Iterator[int]:
        """Yield the VMAs of which nothing is known that lie one behind the other, from this one on."""
        yield first
        for index in range(first + 1, len(self.vmas)):
            if not self.follows(index) or self.owners[index] is not None:
                break
            yield index


def find_owners(vmas: Sequence[Vma], clues: Clues) -> list[Owner]:
    """Return the owner of each VMA, given all of a process, in address order.

    >>> from mematlas.kernel.maps import parse_maps
    >>> lines = b"1000-3000 rw-p 0 00:00 0 [heap]", b"8000000-8021000 rw-p 0 00:00 0", b"8021000-c000000 ---p 0 00:00 0"
    >>> for owner in find_owners(parse_maps(lines), Clues(page_size=4096, pid=7)):
    ...     print(owner.what, owner.known_by)
    heap ('name',)
    glibc arena ('shape',)
    glibc arena ('shape',)
    """
    space = Space(vmas, clues)
    for rule in RULES:
        for index, owner in list(rule(space)):
            space.owners[index] = space.owners[index] or owner
    return [owner or REST for owner in space.owners]


# --- names


OF_KIND = {"heap": "heap", "stack": "main stack"}


def owner_by_name(vma: Vma) -> Owner | None:
    """Return the owner of a VMA by its name; None of one that has none, and of stacks, which have threads."""
    if vma.kind == "anon" and (not vma.path or tid_in_name(vma.path) is not None):
        return None
    by = "name" if vma.path[:1] in ("", "[") else "path"
    what = "named" if vma.kind == "anon" else OF_KIND.get(vma.kind, vma.kind)
    return Owner(what, (vma.path or vma.kind,), (by,))


STACK_NAMES = ("[anon: glibc: pthread stack: ", "[anon: glibc: pthread user stack: ", "[anon:stack_and_tls:")
"""What names of stacks begin with; the number of the thread follows. The C libraries are glibc (from 2.39 on, where
glibc.mem.decorate_maps asks for it) and that of Android."""


def tid_in_name(name: str) -> int | None:
    """Return the number of the thread that the name of its stack has, as its own PID namespace counts.

    >>> tid_in_name("[anon: glibc: pthread stack: 4711]"), tid_in_name("[anon: glibc: malloc]")
    (4711, None)
    """
    prefix = next((prefix for prefix in STACK_NAMES if name.startswith(prefix)), None)
    digits = name[len(prefix) :].removesuffix("]") if prefix else ""
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 10 else None


# --- rules: each yields VMAs by their index, with their owner. The first that knows a VMA is right.


def program_data(space: Space) -> Found:
    """Find what a program has of data that begins as zeros (.bss): the kernel maps it behind what the file holds."""
    page = space.clues.page_size
    index = space.find(-(-space.clues.data_end // page) * page)
    if space.clues.data_end and index is not None and space.is_data(index) and space.follows(index):
        yield index, Owner("program data", known_by=("address",))


def may_be_go(vmas: Iterable[Vma]) -> bool:
    """Whether it matters what the program is made of: there is memory as Go has it."""
    return any(is_go_start(vma) for vma in vmas)


def is_go_start(vma: Vma) -> bool:
    """Whether the first arena of Go may begin here: where it asks for it, or where one is reserved first of all.

    Since Go 1.26 the place is chosen at random, and so is that of the first object in it.
    """
    is_reserved = vma.perms[:3] == "---" and not vma.start % ARENA_SIZE
    return vma.kind == "anon" and not vma.path and (vma.start in GO_STARTS or is_reserved)


def go_heap(space: Space) -> Found:
    """Find the arenas of Go: whole ones, from where Go asks for them; elsewhere only in a program that is of Go."""
    is_go = space.clues.is_go is True
    index = 0
    while index < len(space.vmas):
        vma = space.vmas[index]
        is_usual = vma.start in GO_STARTS
        if space.owners[index] is not None or not (is_usual or (is_go and is_go_start(vma))):
            index += 1
            continue
        run = list(space.run(index))
        index = run[-1] + 1
        if (space.vmas[run[-1]].end - vma.start) % ARENA_SIZE == 0 and any(map(space.is_data, run)):
            by = ("address",) * is_usual + ("section",) * is_go + ("shape",) * (not is_usual)
            yield from ((each, Owner("Go heap", known_by=by)) for each in run)


def glibc_arenas(space: Space) -> Found:
    """Find the arenas that threads get from malloc: memory from a multiple of 64 MiB on, the rest up to the next
    reserved. Heaps that are full have no rest, and are known where there are others.
    """
    owner = Owner("glibc arena", known_by=("shape",))
    full = []
    is_any = False
    for index, vma in enumerate(space.vmas):
        if vma.start % ARENA_SIZE or not space.is_data(index):
            continue
        if vma.end % ARENA_SIZE == 0:
            full.append(index)
        elif space.follows(index + 1) and space.is_reserve(index + 1):
            rest = space.vmas[index + 1]
            if rest.end % ARENA_SIZE == 0 and rest.size < ARENA_SIZE:
                is_any = True
                yield from ((index, owner), (index + 1, owner))
    if is_any:
        yield from ((index, owner) for index in full)


def thread_stacks(space: Space) -> Found:
    """Find the stacks of threads, each with its guard."""
    threads = {thread.tid: thread for thread in space.clues.threads}
    named = dict(named_stacks(space.vmas))
    blocks = by_control_block(space)
    pointers = by_stack_pointer(space, {thread for those in blocks.values() for thread in those})
    for index in sorted({*named, *blocks, *pointers}):
        those = [*blocks.get(index, ()), *pointers.get(index, ())]
        if not those and (thread := threads.get(named[index])):
            those = [thread]
        by = ("control block",) * (index in blocks) + ("stack pointer",) * (index in pointers)
        names = tuple(sorted({thread.name for thread in those}))
        owner = Owner("thread stack", names, ("name",) if index in named else by, tuple(each.tid for each in those))
        yield index, owner
        if space.has_guard(index):
            yield index - 1, replace(owner, tids=())


def by_control_block(space: Space) -> dict[int, list[Thread]]:
    """Return the VMAs that have the control block of a thread near their end, with all threads that have it there."""
    found: dict[int, list[Thread]] = {}
    for thread in space.clues.threads:
        index = space.find(thread.robust_list)
        # That of the first thread is no part of its stack; though it can be in one VMA with the stack of another.
        if index is not None and space.is_data(index) and thread.tid != space.clues.pid:
            found.setdefault(index, []).append(thread)
    # Stacks that have their guards within them (glibc 2.42, MADV_GUARD_INSTALL) are one VMA where they meet.
    last = {index: max(thread.robust_list or 0 for thread in those) for index, those in found.items()}
    return {index: those for index, those in found.items() if space.vmas[index].end - last[index] <= MAX_TLS}


def by_stack_pointer(space: Space, known: Collection[Thread]) -> dict[int, list[Thread]]:
    """Return the VMAs with a guard in which other threads than those known have their stack pointer.

    It may lie in any memory: malloc or a runtime can have given a piece of theirs to run on.
    """
    found: dict[int, list[Thread]] = {}
    for thread in space.clues.threads:
        index = space.find(thread.stack_pointer)
        if index is not None and thread not in known and space.is_data(index) and space.has_guard(index, USUAL_GUARD):
            found.setdefault(index, []).append(thread)
    return found


def named_stacks(vmas: Sequence[Vma]) -> Iterator[tuple[int, int]]:
    """Yield the stacks that have the number of their thread in their name, by their index, with it."""
    for index, vma in enumerate(vmas):
        if vma.path and (tid := tid_in_name(vma.path)) is not None:
            yield index, tid


def other_stacks(space: Space) -> Found:
    """Find what has the shape of a stack, of no thread that is known: one that has ended, or one to switch to."""
    owner = Owner("other stack", known_by=("shape",))
    for index, vma in enumerate(space.vmas):
        if space.is_data(index) and space.has_guard(index, USUAL_GUARD):
            whole = vma.end - space.vmas[index - 1].start
            if whole >= LEAST_STACK and not (vma.size % STACK_STEP and whole % STACK_STEP):
                yield from ((index - 1, owner), (index, owner))


LIBJVM = "/libjvm.so"
CLASS_ARCHIVE = ".jsa"
COMPRESSED_END = 32 << 30
"""Up to where references of 32 bits reach, in units of 8 bytes: the JVM reserves its heap below, if it fits."""
CLASS_SPACE, CLASS_ALIGNMENT = 1 << 30, 16 * MIB
"""What the JVM reserves for classes (CompressedClassSpaceSize), behind the archive of classes that it maps."""
LEAST_REGION = MIB
"""Of what the heap is made of."""
METASPACE, ROOT_CHUNK = 64 * MIB, 4 * MIB
"""What it reserves for the rest of classes at a time, and in what pieces it begins to use it (memory/metaspace)."""


def java(space: Space) -> Found:
    """Find what the JVM has for objects, code and classes."""
    if not any(vma.path.endswith(LIBJVM) for vma in space.vmas):
        return
    classes = Owner("Java classes", known_by=("libjvm", "shape"))
    code = Owner("Java code", known_by=("libjvm", "perms"))
    heap = Owner("Java heap", known_by=("libjvm", "address"))
    for index, vma in enumerate(space.vmas):
        if vma.path.endswith(CLASS_ARCHIVE):
            yield from ((each, classes) for each in class_space(space, index))
        elif space.owners[index] is None and vma.perms[:3] == "rwx":
            yield index, code
            if space.follows(index + 1) and space.is_reserve(index + 1):
                yield index + 1, code
        elif not vma.start % ROOT_CHUNK and space.is_data(index):
            yield from ((each, classes) for each in metaspace(space, index))
    yield from ((index, heap) for index, vma in enumerate(space.vmas) if vma.end <= COMPRESSED_END)


def class_space(space: Space, archive: int) -> Iterator[int]:
    """Yield the VMAs that the JVM reserves for classes around its archive of them.

    Parts of the archive are in its heap, too: objects follow there, and nothing smaller than a region lies before.
    """
    if space.has_guard(archive, LEAST_REGION - 1):
        yield archive - 1
    first = archive + 1
    if space.follows(first) and (space.is_reserve(first) or not space.vmas[first].start % CLASS_ALIGNMENT):
        end = -(-space.vmas[archive].end // CLASS_ALIGNMENT) * CLASS_ALIGNMENT + CLASS_SPACE
        yield from takewhile(lambda index: space.vmas[index].end <= end, space.run(first))


def metaspace(space: Space, first: int) -> Sequence[int]:
    """Return the VMAs from this one on that are a piece of metaspace; none where they have another shape."""
    start = space.vmas[first].start
    for index in space.run(first):
        vma = space.vmas[index]
        if space.is_data(index) and vma.start % ROOT_CHUNK:
            break
        if vma.end - start >= METASPACE:
            return range(first, index + 1) if vma.end - start == METASPACE and space.is_reserve(index) else ()
    return ()


RULES: tuple[Callable[[Space], Found], ...] = (program_data, go_heap, glibc_arenas, thread_stacks, java, other_stacks)
