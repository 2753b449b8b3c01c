"""/proc/PID/maps: one line per VMA, in address order.

Format: proc_pid_maps(5); fs/proc/task_mmu.c, show_map_vma(). Paths are those of the target's mount namespace.
"""

from __future__ import annotations

import os
import sys
from operator import contains

from mematlas.errors import Error, FormatError
from mematlas.frozen import Record, record, replace
from mematlas.kernel.vmfile import NO_DEVICES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mematlas.kernel.procfs import ProcessDir
    from mematlas.kernel.vmfile import Devices, LiveFiles, SavedFiles
    from mematlas.words import Kind

    Files = Devices | LiveFiles | SavedFiles

KINDS = ("heap", "stack", "anon", "file", "shmem", "hugetlb", "vdso", "vvar", "vsyscall", "special")
"""What a VMA can be.

``shmem`` is memory that belongs to a file without a disk: shared anonymous memory, memfd, System V segments, tmpfs. A
private mapping of an ordinary file is ``file``, though the pages written to are anonymous. ``special`` is what devices
and the kernel itself put there: its pages may have entries that pagemap does not show (VM_PFNMAP).
"""

NO_FILE = "00:00"
"""The device of memory that has no file: no file system is given this number (fs/super.c, get_anon_bdev)."""

ANON_KINDS = frozenset(("heap", "stack", "anon"))
"""The kinds whose fresh pages come from nowhere, so that reading them maps the zero page."""

MAY_BE_HIDDEN = frozenset(("vvar", "special"))
"""The kinds of which pagemap may show nothing, whatever is mapped there."""


@record
class Vma(Record):
    """One line of ``/proc/PID/maps``: a range of addresses with one backing and one set of rights."""

    start: int
    end: int
    """First address after it."""
    perms: str
    """``r`` ``w`` ``x``, each or ``-``, then ``p`` (private, copy-on-write) or ``s`` (shared)."""
    offset: int
    """Bytes into the backing file; 0 for anonymous memory."""
    dev: str
    """``major:minor`` of the backing file, in hexadecimal, as the kernel prints it."""
    inode: int
    path: str
    """As the kernel shows it, with ``\\012`` turned back into a newline; empty for unnamed anonymous memory."""
    kind: Kind
    """One of `KINDS`."""
    path_cut: bool = False
    """Whether the path is longer than what is kept of it, which then ends in ``...``."""

    @property
    def size(self) -> int:
        """Bytes of address space, whether memory stands behind them or not."""
        return self.end - self.start


def read_maps(process: ProcessDir, files: Files = NO_DEVICES) -> list[Vma]:
    """Return the VMAs of a process, in address order; none for a kernel thread or a zombie.

    >>> from mematlas.kernel.procfs import ProcFS
    >>> with ProcFS().process(os.getpid()) as process:
    ...     any(vma.kind == "stack" for vma in read_maps(process))
    True
    """
    return read_marked_maps(process, files)[0]


def read_marked_maps(process: ProcessDir, files: Files = NO_DEVICES) -> tuple[list[Vma], int]:
    """Return the same with the mark of what was read, see `read_mark`."""
    parser = VmaParser(files, max_vmas(process))
    vmas = process.parsed_lines("maps", parser.parse_all)
    if process.captured:
        check_captured(vmas, process)
    return [exact_name(process, vma) if "\n" in vma.path else vma for vma in vmas], parser.mark


def read_mark(process: ProcessDir) -> int:
    """Return the mark of what maps says: another one where it says something else, 0 where it says nothing.

    It shows whether VMAs changed in a fifth of the time that reading them takes.
    """
    mark = 0
    for line in process.lines("maps"):
        if line:
            mark = hash((mark, line[:MAX_PATH]))
    return mark


MAX_PATH = 4 << 10
"""Bytes of a path that are kept: as much as a program can give to open(2) in one go (PATH_MAX)."""
SHORT_PATH = 256
"""What is kept once the lines of a process are longer than `PATHS_ROOM` together."""
PATHS_ROOM = 32 << 20
CUT = "..."
"""What follows the part of a path that is kept."""
MAX_CAPTURED_VMAS = 1 << 18
"""VMAs of a process in a capture: four times what the kernel allows by default (vm.max_map_count)."""

ESCAPE = b"\\012"
"""How the kernel writes a newline in a path; a backslash it leaves as it is, so a name may hold this itself."""


def max_vmas(process: ProcessDir) -> int:
    """Return how many VMAs a process may have. How many a live one has is between it and the kernel."""
    return MAX_CAPTURED_VMAS if process.captured else sys.maxsize


def check_captured(vmas: Iterable[Vma], process: ProcessDir, name: str = "maps") -> None:
    """Raise `FormatError` unless these are ranges of pages, one after the other, within 64 bits."""
    before, page_size = 0, process.procfs.page_size
    for vma in vmas:
        is_in_order = before <= vma.start < vma.end <= 1 << 64
        if not is_in_order or (vma.start | vma.end) % page_size:
            raise FormatError(f"{process.path}/{name}", expected="ranges of pages in ascending order")
        if not (0 <= vma.offset < 1 << 64 and 0 <= vma.inode < 1 << 64):
            raise FormatError(f"{process.path}/{name}", expected="offsets and inodes of 64 bits")
        before = vma.end


def exact_name(process: ProcessDir, vma: Vma) -> Vma:
    """Return a VMA with a newline in its path with that path as the link in map_files has it."""
    machine = process.procfs.machine
    if machine is not None:
        saved = machine.get("paths", {})
        return replace(vma, path=saved.get(f"{vma.start:x}", vma.path))
    try:
        path = process.readlink(f"map_files/{vma.start:x}-{vma.end:x}")
    except Error:
        return vma  # not ours to ask
    return replace(vma, path=path, path_cut=False)


def parse_maps(lines: Iterable[bytes], files: Files = NO_DEVICES, most: int = sys.maxsize) -> list[Vma]:
    """Return the VMAs in the lines of a maps file, as examples and tests have them.

    Raises:
        FormatError: with the line that is not as the kernel writes it.
    """
    return VmaParser(files, most).parse_all(lines)


def bounded(line: bytes) -> bytes:
    """Return a line with no more of its path than `VmaParser` looks at."""
    if len(line) <= MAX_PATH:
        return line
    path = (line.split(None, 5)[5:] or [b""])[0]
    return line[: len(line) - len(path)] + path[: MAX_PATH + 1]


class VmaParser:
    """Makes VMAs of the lines of maps, or of the head lines of smaps.

    Without a bound a program could fill our memory with its paths: they can be longer than any that can be opened.
    """

    def __init__(self, files: Files = NO_DEVICES, most: int = sys.maxsize) -> None:
        self.files = files
        self._most = most
        self.nr_vmas = 0
        self.mark = 0
        """Of all lines so far, see `read_mark`."""
        self._room = PATHS_ROOM
        self._max_path = MAX_PATH
        self._perms: dict[bytes, str] = {}
        self._devices: dict[bytes, str] = {}
        """Rights and devices: a few, that come again and again."""
        self._without_file: dict[bytes, tuple[str, int, str, int, str, Kind]] = {}
        """What the lines of memory without a file say after the addresses, which is the same in most of them."""
        self._name = b""
        self._path = ""
        """That name as text: the parts of a file follow each other."""

    def parse_all(self, lines: Iterable[bytes]) -> list[Vma]:
        """Return the VMAs of lines, but for empty ones."""
        parse = self.parse
        return [parse(line) for line in lines if line]

    def parse(self, line: bytes) -> Vma:
        """Return the VMA of a line."""
        span, _, rest = line.partition(b" ")
        self.nr_vmas += 1
        self.mark = hash((self.mark, line[:MAX_PATH]))
        if self.nr_vmas > self._most:
            raise FormatError("maps", expected=f"at most {self._most} VMAs")
        try:
            known = self._without_file.get(rest)
            if known is None:
                return self._parse(line, span, rest)
            start, _, end = span.partition(b"-")
            return Vma(int(start, 16), int(end, 16), *known)
        except (IndexError, ValueError):
            text = os.fsdecode(line[:MAX_PATH])
            raise FormatError("maps", text, f"VMA {self.nr_vmas}", LINE) from None

    def _parse(self, line: bytes, span: bytes, rest: bytes) -> Vma:
        # The path may hold spaces, so split five times and no more. The inode is the one decimal number among
        # hexadecimal ones.
        fields = line.split(None, 5)
        start, _, end = fields[0].partition(b"-")
        name = fields[5] if len(fields) > 5 else b""
        perms = self._perms.get(fields[1]) or known(fields[1], is_perms, self._perms)
        offset = int(fields[2], 16)
        dev = self._devices.get(fields[3]) or known(fields[3], is_device, self._devices)
        inode = int(fields[4])
        if is_cut := len(name) > SHORT_PATH and self._is_long(name):
            name = name[: self._max_path]
        if name != self._name:
            self._name, self._path = name, os.fsdecode(name.replace(ESCAPE, b"\n"))
        path = self._path
        if dev == NO_FILE:
            kind = kind_of_name(path)
            is_usual = span == fields[0] and len(rest) <= SHORT_PATH
            if is_usual and len(self._without_file) < MAX_KNOWN:
                self._without_file[rest] = perms, offset, dev, inode, path, kind
        else:
            kind = self.files.kind(fields[0].decode("ascii"), dev, inode, path)  # type: ignore[assignment]
        if is_cut:
            path += CUT
        # By position, here and above: keywords take 0.9 us more, of the 4 us that a line takes.
        return Vma(int(start, 16), int(end, 16), perms, offset, dev, inode, path, kind, is_cut)

    def _is_long(self, name: bytes) -> bool:
        self._room -= min(len(name), MAX_PATH + 1)
        if self._room < 0:
            self._max_path = SHORT_PATH
        return len(name) > self._max_path


def known(word: bytes, is_one: Callable[[str], bool], words: dict[bytes, str]) -> str:
    """Return rights or a device as text, which is kept among the words that are known.

    Raises:
        ValueError: it is none.
    """
    text = word.decode("ascii")
    if not is_one(text):
        raise ValueError
    return words.setdefault(word, text)


def is_perms(text: str) -> bool:
    """Whether a text says which rights a VMA has.

    >>> is_perms("rw-p"), is_perms("-1"), is_perms("rwxq")
    (True, False, False)
    """
    return len(text) == len(PERMS) and all(map(contains, PERMS, text))


def is_device(text: str) -> bool:
    """Whether a text is a device as the kernel prints it: no more than 12 and 20 bits, in hexadecimal.

    >>> is_device("fd:00"), is_device("103:fffff"), is_device("-1"), is_device("fd:0 0")
    (True, True, False, False)
    """
    major, colon, minor = text.partition(":")
    is_short = 2 <= len(major) <= MAX_MAJOR and 2 <= len(minor) <= MAX_MINOR
    return colon == ":" and is_short and HEXADECIMAL.issuperset(major + minor)


PERMS = ("r-", "w-", "x-", "ps")
"""What may stand in each place of the rights."""
MAX_MAJOR, MAX_MINOR = 3, 5
HEXADECIMAL = frozenset("0123456789abcdef")
LINE = "START-END RIGHTS OFFSET DEVICE INODE PATH"
MAX_KNOWN = 256


def kind_of_name(name: str) -> Kind:
    """Return what memory without a file is, as one of `KINDS`: its name is the kernel's own.

    That of a file is not: `mematlas.kernel.vmfile` finds out what it is.

    >>> kind_of_name("[heap]"), kind_of_name("[anon:given by prctl]"), kind_of_name("[uprobes]")
    ('heap', 'anon', 'special')
    """
    if not name or name.startswith("[anon:"):
        return "anon"
    return SPECIAL_NAMES.get(name) or ("stack" if name.startswith("[stack") else "special")


SPECIAL_NAMES: dict[str, Kind] = {
    "[heap]": "heap",
    "[stack]": "stack",
    "[vdso]": "vdso",
    "[vvar]": "vvar",
    "[vvar_vclock]": "vvar",
    "[vsyscall]": "vsyscall",
}
