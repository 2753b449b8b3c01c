"""The workload of the lessons: it does what each line says, and reports what is true then.

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
from mematlas.frozen import record
from mematlas.kernel.hugepage import huge_size
from mematlas.kernel.libc import libc
from mematlas.kernel.madvise import MADV_COLLAPSE, MADV_HUGEPAGE, MADV_PAGEOUT, SINCE_COLLAPSE, drain_batches
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
MAX_DIGITS = 19
MAX_PAGES = 1 << 28
"""A TiB of 4 KiB pages: far more than any lesson has."""
MAX_FILE_PAGES = 1 << 16
MAX_STACK_PAGES = 1024
MAX_BLOCKS = 1 << 20
STACK_GAP = 1 << 20
"""Bytes of the stack's limit that are left for what the program does later."""


def play(console: Console) -> None:
    """Obey line after line, to the end of the input."""
    actor = Actor()
    console.report("started", f"PID {shown_pid()}: {', '.join(VERBS)}", **actor.truth())
    try:
        while True:
            words = console.ask("What now?").split()
            if words:
                answer(console, actor, words)
    finally:
        actor.close()


def answer(console: Console, actor: Actor, words: list[str]) -> None:
    """Do what one line says, and report what is true then."""
    try:
        truth = actor.obey(words)
    except BadInput as error:
        console.refuse(str(error))
    except NotSupported as error:
        console.report("unavailable", str(error), what=error.what, needs=error.needs)
    else:
        event = truth.pop("event", words[0])
        text = ", ".join(f"{name} {value}" for name, value in truth.items() if name != "touched")
        console.report(event, f"{event}: {text}", **truth)


class Actor:
    """What one process of a lesson holds."""

    def __init__(self) -> None:
        self.memory: KnownMemory | None = None
        self.file: FileMemory | None = None
        self.child: ForkedActor | None = None
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
        name, *arguments = words
        if name == "child":
            if not self.child:
                raise BadInput("no child: fork comes first")
            if not arguments:
                raise BadInput("child needs a line to do")
            return self.child.send(arguments)
        if name not in VERBS:
            raise BadInput(f"unknown command {name[:40]!r}: choose from {', '.join(VERBS)}")
        verb = VERBS[name]
        values = verb.parse(name, arguments)
        try:
            more = verb.do(self, *values) or {}
        except OSError as error:
            raise NotSupported(name, (error.strerror or str(error)).lower()) from None
        return self.truth() | self.counts | more

    def count(self, work: Callable[..., object], *arguments: object) -> None:
        """Do some work, and count its page faults: nothing else may touch memory meanwhile."""
        before = resource.getrusage(resource.RUSAGE_SELF)
        start = time.perf_counter()
        work(*arguments)
        seconds = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_SELF)
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

    def do_map(self, nr_pages: int, *how: str) -> None:
        if self.memory:
            self.memory.close()
        size = pages_of(nr_pages) * PAGE_SIZE
        self.memory = KnownMemory(
            size,
            "lesson",
            shared="shared" in how,
            huge="huge" in how,
            alignment=huge_size(),
        )

    def do_write(self, first: int, count: int) -> None:
        area = self.area()
        low, nr_pages = part(area, first, count)
        area.touched.update(range(low, low + nr_pages))
        self.count(ctypes.memset, area.page_address(low), 1, nr_pages * PAGE_SIZE)

    def do_scatter(self, first: int, count: int, distance: int) -> None:
        area = self.area()
        last = first + (count - 1) * distance // PAGE_SIZE
        if count > MAX_BLOCKS or last >= area.nr_pages:
            raise BadInput(f"scatter {first} {count} {distance}: only {area.nr_pages} pages")
        area.touch(sorted({first + number * distance // PAGE_SIZE for number in range(count)}))

    def do_read(self, first: int, count: int) -> None:
        area = self.file or self.area()
        if self.file and self.file.map.closed:
            raise BadInput("the file is not mapped: remap comes first")
        self.count(area.read, *part(area, first, count))

    def do_drop(self, first: int, count: int, step: int = 1) -> None:
        if not step:
            raise BadInput("the step must be 1 or more")
        area = self.area()
        low, nr_pages = part(area, first, count)
        for page in range(low, low + nr_pages, step):
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
            self.area().advise(MADV_HUGEPAGE)
            self.area().advise(MADV_COLLAPSE)
        except OSError as error:
            raise NotSupported(
                "madvise(MADV_COLLAPSE)", f"{SINCE_COLLAPSE}, and free memory: {error.strerror}"
            ) from None

    # Files

    def do_file(self, nr_pages: int) -> Truth:
        fd = make_file(pages_of(nr_pages, MAX_FILE_PAGES))
        self.file = FileMemory(fd, nr_pages)
        return {"path": f"/proc/{shown_pid()}/fd/{fd}"}

    def do_open(self, path: str, nr_pages: int) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        size = os.fstat(fd).st_size
        if pages_of(nr_pages) * PAGE_SIZE > size:
            os.close(fd)
            raise BadInput(f"open {path} {nr_pages}: it has {size} bytes")
        self.file = FileMemory(fd, nr_pages)

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
        self.child = ForkedActor(self)

    # The stack

    def do_stack(self, nr_pages: int) -> None:
        if nr_pages > MAX_STACK_PAGES:
            raise BadInput(f"stack {nr_pages}: 0 to {MAX_STACK_PAGES} pages")
        vma = next(vma for vma in own_vmas() if vma.kind == "stack")
        address = vma.start - nr_pages * PAGE_SIZE
        limit = resource.getrlimit(resource.RLIMIT_STACK)[0]
        if limit != resource.RLIM_INFINITY and vma.end - address + STACK_GAP > limit:
            raise NotSupported("a larger stack", f"a higher limit: ulimit -s says {limit >> 10} KiB")
        # What a function with a large array does: the stack pointer leaps over pages that nothing has touched.
        ctypes.memset(address, 1, 1)

    # The C library

    def do_malloc(self, count: int, size: int) -> Truth:
        if not 0 < count <= MAX_BLOCKS:
            raise BadInput(f"malloc {count}: 1 to {MAX_BLOCKS} blocks")
        self.blocks = (ctypes.c_void_p * count)()
        for number in range(count):
            self.blocks[number] = allocate(size)
        return {"block": hex(self.blocks[0])}

    def do_free(self) -> None:
        for number in range(len(self.blocks) - 1):
            allocator().free(self.blocks[number])

    def do_trim(self) -> None:
        allocator().malloc_trim(0)

    def do_thread(self, size: int) -> Truth:
        allocator()
        blocks: list[int] = []
        ready = threading.Event()

        def work() -> None:
            try:
                blocks.append(allocate(size))
            finally:
                ready.set()
            self.done.wait()

        self.threads.append(threading.Thread(target=work, daemon=True))
        self.threads[-1].start()
        ready.wait()
        if not blocks:
            raise NotSupported(f"malloc({size})", "more memory")
        return {"block": hex(blocks[0])}


def number(word: str) -> int:
    """Return the number that a word is. Raises `BadInput`."""
    if not (word.isascii() and word.isdigit() and len(word) <= MAX_DIGITS):
        raise BadInput(f"{word[:40]!r} is not a number")
    return int(word)


@record
class Verb:
    """What a line can ask for: what does it, and the words it takes."""

    do: Callable[..., Truth | None]
    takes: tuple[Callable[[str], Any], ...] = ()
    """What each word that follows is turned into by."""
    nr_optional: int = 0
    """How many of them, the last ones, may be left out."""
    options: tuple[str, ...] = ()
    """What may follow those, in any order."""

    def parse(self, name: str, words: list[str]) -> list[Any]:
        """Return what words mean. Raises `BadInput`."""
        given = words[: len(self.takes)]
        more = words[len(self.takes) :]
        unknown = next((word for word in more if word not in self.options), None)
        if len(given) < len(self.takes) - self.nr_optional or unknown is not None:
            nr_words = len(self.takes)
            what = "1 word" if nr_words == 1 else f"{nr_words} words"
            if self.options:
                what += f", then {' or '.join(self.options)}"
            line = " ".join([name, *words])[:80]
            raise BadInput(f"{line!r}: {name} takes {what}; see mematlas.labs.actor")
        return [take(word) for take, word in zip(self.takes, given, strict=False)] + more


VERBS = {
    "map": Verb(Actor.do_map, (number,), options=("huge", "shared")),
    "write": Verb(Actor.do_write, (number, number)),
    "scatter": Verb(Actor.do_scatter, (number, number, number)),
    "read": Verb(Actor.do_read, (number, number)),
    "drop": Verb(Actor.do_drop, (number, number, number), 1),
    "pageout": Verb(Actor.do_pageout),
    "incore": Verb(Actor.do_incore),
    "collapse": Verb(Actor.do_collapse),
    "file": Verb(Actor.do_file, (number,)),
    "open": Verb(Actor.do_open, (str, number)),
    "evict": Verb(Actor.do_evict),
    "unmap": Verb(Actor.do_unmap),
    "remap": Verb(Actor.do_remap),
    "fork": Verb(Actor.do_fork),
    "stack": Verb(Actor.do_stack, (number,)),
    "malloc": Verb(Actor.do_malloc, (number, number)),
    "free": Verb(Actor.do_free),
    "trim": Verb(Actor.do_trim),
    "thread": Verb(Actor.do_thread, (number,)),
}


class ForkedActor:
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
        """As /proc counts: only the child itself knows."""

    def send(self, words: list[str]) -> Truth:
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


def part(area: KnownMemory | FileMemory, first: int, nr_pages: int) -> tuple[int, int]:
    """Return which pages of an area are meant: the first, and how many. Raises `BadInput`."""
    if first + nr_pages > area.nr_pages:
        raise BadInput(f"pages {first} to {first + nr_pages - 1}: only {area.nr_pages} pages")
    return first, nr_pages


def pages_of(nr_pages: int, most: int = MAX_PAGES) -> int:
    """Return how many pages there are to be. Raises `BadInput`."""
    if not 0 < nr_pages <= most:
        raise BadInput(f"{nr_pages} pages: 1 to {most:,} there can be")
    return nr_pages


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
