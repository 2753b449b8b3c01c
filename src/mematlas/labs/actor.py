"""The workload of the lessons: it does what each line says, and tells what is true then.

    map N [huge] [shared]  N pages of memory; only small ones, unless huge ones are asked for
    write FIRST COUNT      one byte to each of these pages
    scatter FIRST COUNT BYTES
                           COUNT bytes from page FIRST on, each so many BYTES after the last
    read FIRST COUNT       one byte of each of these pages
    drop FIRST COUNT STEP  give every STEPth of these pages back
    pageout | collapse     advice about all of its pages: out of RAM; into huge pages
    incore                 how many are in RAM, the swap cache included
    file N | open PATH N   map N pages of a new file, or of another process's
    unmap | remap          map the file no longer; map it again
    evict                  take the file out of the page cache
    fork | child LINE      start a child; have it do a line
    stack N                write to the stack, N pages below all of it
    malloc COUNT SIZE      COUNT blocks of the C library, a byte written to each
    free | trim            all of them but the last; malloc_trim(3)
    thread SIZE            one block, in a new thread

JSON keys beside those of every workload: ``minor major`` (page faults of the last write or read) and ``seconds``;
``path``, ``child``, ``block``. What the machine cannot do has the event ``unavailable`` and says ``what`` and
``needs``.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import signal
import threading
import time

from mematlas.errors import BadInput, NotSupported
from mematlas.kernel.hugepage import huge_size
from mematlas.kernel.libc import libc
from mematlas.kernel.madvise import MADV_COLLAPSE, MADV_PAGEOUT, SINCE_COLLAPSE, drain_batches
from mematlas.labs.mapped import FileMemory, make_file, own_vmas
from mematlas.labs.memory import PAGE_SIZE, KnownMemory
from mematlas.labs.own import shown_pid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, NoReturn

    from mematlas.labs.console import Console

    Truth = dict[str, Any]

PASSES = 3
"""Times that memory is advised away in one step: pages that wait in a batch of their CPU are passed over."""
MAX_STACK_PAGES = 1024
MAX_BLOCKS = 1 << 20
STACK_GAP = 1 << 20
"""Bytes of the stack's limit that are left for what the program does later."""


def play(console: Console) -> None:
    """Obey line after line, to the end of the input."""
    actor = Actor()
    console.tell("started", f"PID {shown_pid()}: {', '.join(VERBS)}", **actor.truth())
    try:
        while True:
            words = console.ask("What now?").split()
            if words:
                answer(console, actor, words)
    finally:
        actor.close()


def answer(console: Console, actor: Actor, words: list[str]) -> None:
    """Do what one line says, and tell the truth after it."""
    try:
        truth = actor.obey(words)
    except BadInput as error:
        console.refuse(str(error))
    except NotSupported as error:
        console.tell("unavailable", str(error), what=error.what, needs=error.needs)
    else:
        event = truth.pop("event", words[0])
        text = ", ".join(f"{name} {value}" for name, value in truth.items() if name != "touched")
        console.tell(event, f"{event}: {text}", **truth)


class Actor:
    """What one process of a lesson holds."""

    def __init__(self) -> None:
        self.memory: KnownMemory | None = None
        self.file: FileMemory | None = None
        self.child: Child | None = None
        self.blocks: Any = ()
        self.threads: list[threading.Thread] = []
        self.done = threading.Event()
        self.counts = {"minor": 0, "major": 0, "seconds": 0.0}
        self.count(bool)  # the first time touches pages of its own

    def close(self) -> None:
        """End the child and the threads."""
        self.done.set()
        if self.child:
            self.child.close()

    def obey(self, words: list[str]) -> Truth:
        """Do what one line says; return what is true then."""
        verb, *arguments = words
        if verb == "child":
            if not self.child:
                raise BadInput("no child: fork comes first")
            return self.child.tell(arguments)
        if verb not in VERBS:
            raise BadInput(f"{verb[:40]!r} is no command: {', '.join(VERBS)}")
        try:
            more = getattr(self, f"do_{verb}")(*arguments) or {}
        except (TypeError, ValueError, IndexError, OverflowError, MemoryError):
            raise BadInput(f"{' '.join(words)[:80]!r} makes no sense: see mematlas.labs.actor") from None
        except OSError as error:
            raise NotSupported(verb, (error.strerror or str(error)).lower()) from None
        return self.truth() | self.counts | more

    def count(self, work: Callable[..., object], *arguments: object) -> None:
        """Do some work, and count its page faults: nothing else may touch memory meanwhile."""
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        work(*arguments)
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
        self.counts = {
            "minor": after.ru_minflt - before.ru_minflt,
            "major": after.ru_majflt - before.ru_majflt,
            "seconds": round(seconds, 6),
        }

    def truth(self) -> Truth:
        """Return what is true now."""
        truth: Truth = {"pid": shown_pid(), "page_size": PAGE_SIZE}
        if area := self.file or self.memory:
            truth |= {"address": hex(area.address), "nr_pages": area.nr_pages, "size": area.nr_pages * PAGE_SIZE}
        if self.memory:
            truth["nr_touched"] = len(self.memory.touched)
        if self.child:
            truth["child"] = self.child.pid
        return truth

    def area(self) -> KnownMemory:
        """Return the memory that a line is about."""
        if self.memory is None:
            raise BadInput("no memory: map comes first")
        return self.memory

    # Memory

    def do_map(self, nr_pages: str, *how: str) -> None:
        if unknown := set(how).difference(("huge", "shared")):
            raise BadInput(f"map {unknown.pop()!r}: huge or shared")
        if self.memory:
            self.memory.close()
        self.memory = KnownMemory(
            int(nr_pages) * PAGE_SIZE, "lesson", shared="shared" in how, huge="huge" in how, alignment=huge_size()
        )

    def do_write(self, first: str, count: str) -> None:
        area = self.area()
        low, nr_pages = part(area, first, count)
        area.touched.update(range(low, low + nr_pages))
        self.count(ctypes.memset, area.page_address(low), 1, nr_pages * PAGE_SIZE)

    def do_scatter(self, first: str, count: str, distance: str) -> None:
        pages = {int(first) + number * int(distance) // PAGE_SIZE for number in range(int(count))}
        if pages.difference(range(self.area().nr_pages)):
            raise BadInput(f"scatter {first} {count} {distance}: there are {self.area().nr_pages} pages")
        self.area().touch(sorted(pages))

    def do_read(self, first: str, count: str) -> None:
        area = self.file or self.area()
        self.count(area.read, *part(area, first, count))

    def do_drop(self, first: str, count: str, step: str = "1") -> None:
        area = self.area()
        low, nr_pages = part(area, first, count)
        for page in range(low, low + nr_pages, int(step)):
            area.advise(mmap.MADV_DONTNEED, page, 1)
            area.touched.discard(page)

    def do_pageout(self) -> None:
        for _ in range(PASSES):
            try:
                self.area().advise(MADV_PAGEOUT)
            except OSError:
                raise NotSupported("madvise(MADV_PAGEOUT)", "Linux 5.4") from None
            drain_batches()

    def do_incore(self) -> Truth:
        return {"nr_in_ram": self.area().nr_in_ram()}

    def do_collapse(self) -> None:
        try:
            self.area().advise(mmap.MADV_HUGEPAGE)
            self.area().advise(MADV_COLLAPSE)
        except (AttributeError, OSError) as error:
            why = getattr(error, "strerror", None)
            raise NotSupported("madvise(MADV_COLLAPSE)", f"{SINCE_COLLAPSE}, and free memory: {why}") from None

    # Files

    def do_file(self, nr_pages: str) -> Truth:
        fd = make_file(int(nr_pages))
        self.file = FileMemory(fd, int(nr_pages))
        return {"path": f"/proc/{shown_pid()}/fd/{fd}"}

    def do_open(self, path: str, nr_pages: str) -> None:
        self.file = FileMemory(os.open(path, os.O_RDONLY), int(nr_pages))

    def do_evict(self) -> None:
        self._file().evict()

    def do_unmap(self) -> None:
        self._file().close()

    def do_remap(self) -> None:
        self.file = FileMemory(self._file().fd, self._file().nr_pages)

    def _file(self) -> FileMemory:
        if self.file is None:
            raise BadInput("no file: file comes first")
        return self.file

    # A child

    def do_fork(self) -> None:
        if self.child:
            raise BadInput("one child is enough")
        self.child = Child(self)

    # The stack

    def do_stack(self, nr_pages: str) -> None:
        vma = next(vma for vma in own_vmas() if vma.kind == "stack")
        address = vma.start - int(nr_pages) * PAGE_SIZE
        limit = resource.getrlimit(resource.RLIMIT_STACK)[0]
        if not 0 <= int(nr_pages) <= MAX_STACK_PAGES:
            raise BadInput(f"stack {nr_pages}: 0 to {MAX_STACK_PAGES} pages")
        if limit != resource.RLIM_INFINITY and vma.end - address + STACK_GAP > limit:
            raise NotSupported("a larger stack", f"a higher limit: ulimit -s says {limit >> 10} KiB")
        # What a function with a large array does: the stack pointer leaps over pages that nothing has touched.
        ctypes.memset(address, 1, 1)

    # The C library

    def do_malloc(self, count: str, size: str) -> Truth:
        if not 0 < int(count) <= MAX_BLOCKS:
            raise BadInput(f"malloc {count}: 1 to {MAX_BLOCKS} blocks")
        self.blocks = (ctypes.c_void_p * int(count))()
        for number in range(int(count)):
            self.blocks[number] = allocate(int(size))
        return {"block": hex(self.blocks[0])}

    def do_free(self) -> None:
        for number in range(len(self.blocks) - 1):
            allocator().free(self.blocks[number])

    def do_trim(self) -> None:
        allocator().malloc_trim(0)

    def do_thread(self, size: str) -> Truth:
        number = int(size)
        allocator()
        found: list[int] = []
        ready = threading.Event()

        def work() -> None:
            try:
                found.append(allocate(number))
            finally:
                ready.set()
            self.done.wait()

        self.threads.append(threading.Thread(target=work, daemon=True))
        self.threads[-1].start()
        ready.wait()
        if not found:
            raise NotSupported(f"malloc({number})", "more memory")
        return {"block": hex(found[0])}


VERBS = tuple(name[3:] for name in vars(Actor) if name.startswith("do_"))


class Child:
    """A forked copy of the program, which does as its parent says."""

    def __init__(self, actor: Actor) -> None:
        # The lines for the child, and its answers.
        theirs, self.lines = os.pipe()
        self.answers, ours = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            os.close(self.lines)
            os.close(self.answers)
            self._live(actor, theirs, ours)
        os.close(theirs)
        os.close(ours)
        self.pid = int(next(read_lines(self.answers)))
        """As /proc counts: only the child itself can tell."""

    def tell(self, words: list[str]) -> Truth:
        """Have it do one line; return what is true for it then."""
        import json

        os.write(self.lines, " ".join(words).encode() + b"\n")
        truth: Truth = json.loads(next(read_lines(self.answers)))
        if "refused" in truth:
            raise BadInput(truth["refused"])
        return truth

    def close(self) -> None:
        """End it."""
        os.close(self.lines)
        os.close(self.answers)
        os.waitpid(self._child, 0)

    def _live(self, actor: Actor, lines: int, answers: int) -> NoReturn:
        # In the child: nothing here may return. It ends with its input, and so with its parent at the latest.
        import json

        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            os.write(answers, f"{shown_pid()}\n".encode())
            for line in read_lines(lines):
                try:
                    truth = actor.obey(line.split())
                except (BadInput, NotSupported) as error:
                    truth = {"refused": str(error)}
                os.write(answers, json.dumps(truth).encode() + b"\n")
        finally:
            os._exit(0)


def read_lines(fd: int) -> Iterator[str]:
    """Yield lines as they come, reading none beyond them."""
    line = b""
    while part := os.read(fd, 1):
        line += part
        if part == b"\n":
            yield line.decode()
            line = b""


def part(area: KnownMemory | FileMemory, first: str, count: str) -> tuple[int, int]:
    """Return which pages of an area are meant: the first, and how many."""
    low, nr_pages = int(first), int(count)
    if not 0 <= low <= low + nr_pages <= area.nr_pages:
        raise BadInput(f"pages {first}, {count} of them: there are {area.nr_pages}")
    return low, nr_pages


def allocate(size: int) -> int:
    """Return the address of a block from malloc, the first byte written to."""
    block: int | None = allocator().malloc(size)
    if not block:
        raise NotSupported(f"malloc({size})", "more memory")
    if size:
        ctypes.memset(block, 1, 1)
    return block


def allocator() -> ctypes.CDLL:
    """Return the C library, its malloc declared; refuse one whose malloc works in another way than glibc's."""
    library = libc()
    if not hasattr(library, "malloc_trim") or not hasattr(library, "gnu_get_libc_version"):
        raise NotSupported("malloc_trim", "the GNU C library; this program runs on another")
    library.malloc.restype = ctypes.c_void_p
    library.malloc.argtypes = (ctypes.c_size_t,)
    library.free.argtypes = (ctypes.c_void_p,)
    library.free.restype = None
    library.malloc_trim.argtypes = (ctypes.c_size_t,)
    return library
