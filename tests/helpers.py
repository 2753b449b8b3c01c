"""What several test modules need: programs to look at, the command line as a program, processes made of files."""

from __future__ import annotations

import functools
import json
import os
import select
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn, ParamSpec, TypeVar

import pytest
from hypothesis import settings

from mematlas.analysis.usage import Usage
from mematlas.errors import Error, NotSupported
from mematlas.kernel.backing import has_cachestat
from mematlas.kernel.maps import Vma, parse_maps
from mematlas.kernel.pagemap import PAGE_IS_HUGE, Pagemap, Scanner
from mematlas.kernel.procfs import ProcFS
from mematlas.kernel.vmfile import NO_DEVICES, Devices
from mematlas.labs.workload import run
from mematlas.notes import Note
from mematlas.observe.frames import Frames
from mematlas.observe.process import Process
from mematlas.views.table import Table
from victim import DEADLINE

# The same examples in every run, however slow the machine is today; nothing is kept on disk.
settings.register_profile("mematlas", deadline=None, derandomize=True, database=None)
settings.load_profile("mematlas")

PAGE = os.sysconf("SC_PAGESIZE")

SPARSE = """
import ctypes, json, mmap, sys
size, pages, name = json.loads(sys.argv[1])
NORESERVE, NOHUGEPAGE = 0x4000, getattr(mmap, "MADV_NOHUGEPAGE", 15)
area = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE)
try:
    area.madvise(NOHUGEPAGE)
except OSError:
    pass
for page in pages:
    area[page * mmap.PAGESIZE] = 1
print(json.dumps(ctypes.addressof(ctypes.c_char.from_buffer(area))), flush=True)
"""
"""Maps one private anonymous area and touches some of its pages; tells its address."""

WAIT = "\nsys.stdin.read()\n"


def texts(notes: Iterable[Note | dict[str, str]]) -> list[str]:
    """Return what notes say, those of the library or those of JSON."""
    return [note["text"] if isinstance(note, dict) else note.text for note in notes]


class GivenPages(list[Any]):
    """Pages that were not read: what `mematlas.observe.pages.Pages` yields, and no reading."""

    reading = None

    def close(self) -> None:
        """There is nothing to let go of."""


def given_pages(pieces: Iterable[Any]) -> Any:
    """Return pieces as what a list of pages takes."""
    return GivenPages(pieces)


def frames_by_structs() -> Frames:
    """Return what looks at all frames by their struct pages; skips where these cannot be read, or do not tell."""
    try:
        return Frames(ProcFS(), "structs")
    except Error as error:
        pytest.skip(f"struct pages cannot be read: {error}")


def tables_unread(process: Process) -> str | None:
    """Return why page tables cannot be read here; None when they can."""
    try:
        if why := process.why_no_tables():
            return why.text
        process.maps("tables", first_pages=False)
        return None
    except NotSupported as error:
        return f"page tables cannot be read: {error}"


def skip_without_tables(process: Process) -> None:
    """Skip a test that reads page tables where they cannot be read."""
    if why := tables_unread(process):
        pytest.skip(why)


@dataclass
class Program:
    """A program that runs until its standard input ends."""

    process: subprocess.Popen[str]
    told: Any
    """What it said first, as JSON."""

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        """End it, and reap it."""
        self.process.kill()
        self.process.wait(DEADLINE)


@contextmanager
def program(code: str, argument: object = None, *, wait: str = WAIT, prefix: Sequence[str] = ()) -> Iterator[Program]:
    """Run Python code that imports sys and prints one line of JSON; it waits after that."""
    words = [*prefix, sys.executable, "-I", "-S", "-c", code + wait, json.dumps(argument)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        assert select.select([process.stdout], [], [], DEADLINE)[0], "the program says nothing"
        yield Program(process, json.loads(process.stdout.readline() or "null"))
    finally:
        process.kill()
        process.communicate()


@contextmanager
def sparse(size: int, pages: Sequence[int]) -> Iterator[Program]:
    """Run a program with one area of this size of which these pages are present; it tells the address."""
    with program(SPARSE, [size, list(pages), "sparse"]) as running:
        yield running


def mematlas(*words: object, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line as a program of its own, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "mematlas", *map(str, words)],
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=DEADLINE,
        env={**os.environ, **(env or {})},
        check=False,
    )


P = ParamSpec("P")
T = TypeVar("T")
Smaps = dict[int, dict[str, int]]


def read_smaps(pid: int) -> Smaps:
    """Return the fields of each VMA in bytes, by its start."""
    found: Smaps = {}
    fields: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps").read_bytes().split(b"\n"):
        name, _, rest = line.partition(b" ")
        if name.endswith(b":"):
            if rest.endswith(b" kB"):
                fields[name[:-1].decode()] = int(rest.split()[0]) * 1024
        elif name:
            start, end = (int(part, 16) for part in name.split(b"-"))
            fields = found[start] = {"End": end}
    return found


def steadily(test: Callable[P, None]) -> Callable[P, None]:
    """Repeat a test that fails: a mistake of ours fails every time.

    Pages of libraries are shared with whatever else runs on this machine. When a program starts and ends between
    two readings of smaps, these are alike, and what was counted in between is of another moment. What goes on for
    seconds, as a test beside this one that forks by the dozen, is waited out.
    """

    @functools.wraps(test)
    def repeated(*args: P.args, **kwargs: P.kwargs) -> None:
        for number in range(9):
            try:
                return test(*args, **kwargs)
            except AssertionError:
                time.sleep(min(0.02 * 2**number, 1.0))
        return test(*args, **kwargs)

    return repeated


def alone(test: Callable[P, None]) -> Callable[P, None]:
    """Run a test in a child that has one thread: a signal goes to any thread that does not hold it back."""

    @functools.wraps(test)
    def in_child(*args: P.args, **kwargs: P.kwargs) -> None:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                test(*args, **kwargs)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0, "see what the child wrote"

    return in_child


def children() -> set[int]:
    """Return the children of this process, those that nobody has waited for too."""
    return set(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()))


def look(pid: int, what: Callable[[], T], starts: Collection[int] | None = None) -> tuple[Smaps, T]:
    """Return what was seen, with the smaps before it, which is that after it too: of all VMAs, or those that begin at
    ``starts``. Libraries stand still only while no other program begins or ends.
    """
    end = time.monotonic() + DEADLINE

    def now() -> Smaps:
        return {start: fields for start, fields in read_smaps(pid).items() if starts is None or start in starts}

    while True:
        before, seen = now(), what()
        if now() == before:
            return before, seen
        assert time.monotonic() < end, "smaps never stands still: the machine is too busy"


@functools.cache
def tells_huge_pages() -> bool:
    """Whether pagemap has the huge pages: by PAGEMAP_SCAN."""
    with ProcFS().process(os.getpid()) as process, Pagemap(process) as pagemap:
        try:
            pagemap.scanner.first(0, process.procfs.page_size, PAGE_IS_HUGE)
        except NotSupported:
            return False
    return True


TOLD_BY_SMAPS = {"lazyfree", "swap_pss"}
"""Amounts of which other sources know no more than that there is nothing."""


def tells_swap(source: str, kind: str) -> bool:
    """Whether a source knows what of a VMA is in swap: without cachestat, shared memory on its way counts as RAM."""
    return source == "smaps" or kind != "shmem" or has_cachestat()


def swap_agrees(usage: Usage, by_smaps: int, source: str, vma: Vma) -> bool:
    """Whether what a source found of a VMA in swap is what smaps has, as far as both can tell."""
    assert usage.swap is not None
    if not tells_swap(source, vma.kind):
        return usage.swap <= by_smaps
    if source != "smaps" and vma.kind == "shmem" and vma.perms[1::2] == "-p":
        # smaps adds the pages of the file to the copies of them; private mappings that were writable once have these.
        assert usage.anon is not None
        return 0 <= by_smaps - usage.swap <= usage.anon + usage.swap
    return usage.swap == by_smaps


def assert_equal_smaps(usage: Usage, fields: dict[str, int], source: str, vma: Vma) -> None:
    """Compare the usage of a VMA with smaps, as far as this kernel tells it to our source."""
    assert usage.rss == fields["Rss"]
    assert usage.uss == fields["Private_Clean"] + fields["Private_Dirty"]
    assert swap_agrees(usage, fields["Swap"], source, vma)
    assert usage.anon == fields["Anonymous"]
    for known, name in ((usage.lazyfree, "LazyFree"), (usage.swap_pss, "SwapPss")):
        assert known == fields.get(name) or (source != "smaps" and known is None)
    assert usage.hugetlb == fields["Private_Hugetlb"] + fields["Shared_Hugetlb"]
    if usage.thp is None:
        assert source == "pagemap"
        assert not tells_huge_pages()
    else:
        assert usage.thp == sum(fields[name] for name in ("AnonHugePages", "ShmemPmdMapped", "FilePmdMapped"))
    # The kernel rounds each VMA down to 1 KiB.
    assert usage.pss is not None
    assert 0 <= usage.pss - fields["Pss"] < 1024


STAT = "{pid} (made up) S 1 1 1 0 -1 4194304 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0\n"
STATUS = "Name:\tmade up\nVmRSS:\t{rss} kB\nVmPTE:\t64 kB\n"


def make_process(root: Path, pid: int = 7, maps: str = "", words: Mapping[int, int] | None = None) -> Path:
    """Make a directory as /proc has one for a process, and one file of the machine; return that of the process.

    ``words`` are pagemap entries by page number.
    """
    directory = root / str(pid)
    directory.mkdir(parents=True)
    for name, text in (("stat", STAT), ("status", STATUS), ("maps", maps), ("mountinfo", "")):
        (directory / name).write_text(text.format(pid=pid, rss=8) if name.startswith("stat") else text)
    with open(directory / "pagemap", "wb") as file:
        for page, word in (words or {}).items():
            file.seek(page * 8)
            file.write(struct.pack("=Q", word))
    return directory


def write_words(path: Path, words: Mapping[int, int]) -> None:
    """Write a file of words by frame number, such as kpagecount."""
    with open(path, "wb") as file:
        for place, word in words.items():
            file.seek(place * 8)
            file.write(struct.pack("=Q", word))


def keyed_rows(table: Table) -> list[dict[str, Any]]:
    """Return the rows of a table, also of one that streams, as values by key."""
    return list(table.records())


class Forked:
    """A workload that is forked, not started: nobody may not be able to run the interpreter."""

    def __init__(self, words: Sequence[str]) -> None:
        lines, ours = os.pipe()
        answers, theirs = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(ours)
            os.close(answers)
            self._live(words, os.fdopen(lines), os.fdopen(theirs, "w"))
        os.close(lines)
        os.close(theirs)
        self.stdin, self.stdout = os.fdopen(ours, "w"), os.fdopen(answers)

    def _live(self, words: Sequence[str], reader: IO[str], writer: IO[str]) -> NoReturn:
        # The pipes of others would stay open in us, so that they never end.
        keep = {0, 1, 2, reader.fileno(), writer.fileno()}
        for name in os.listdir("/proc/self/fd"):
            if int(name) not in keep:
                try:
                    os.close(int(name))
                except OSError:
                    continue
        code = 1
        try:
            code = run(words[0], "12", reader, writer, True)  # type: ignore[arg-type]
        finally:
            os._exit(code)

    def communicate(self) -> None:
        self.stdin.close()
        self.stdout.close()
        os.waitpid(self.pid, 0)


def no_scan(self: Scanner, *arguments: int) -> int:
    """Answer as a kernel before v6.7."""
    raise NotSupported("PAGEMAP_SCAN", "Linux 6.7")


def loaded_by(*words: str) -> set[str]:
    """Return the modules that a command loads beyond those of the bare interpreter."""
    code = (
        "import sys; before = set(sys.modules)\n"
        "from mematlas.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "print('\\n' + ' '.join(set(sys.modules) - before), file=sys.stderr)\n"
        "sys.exit(code)"
    )
    run = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    return set(run.stderr.splitlines()[-1].split())


def parse_line(line: bytes, files: Devices = NO_DEVICES) -> Vma:
    """Return the VMA of one line of maps."""
    (vma,) = parse_maps([line], files)
    return vma
