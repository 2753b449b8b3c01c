"""/proc/PID/smaps: what the kernel counts in each VMA.

Format: Documentation/filesystems/proc.rst; fs/proc/task_mmu.c, smap_gather_stats(). The kernel walks every page
under the target's mmap lock: a 4 GiB process cannot map or unmap anything for 90 ms meanwhile.
"""

from __future__ import annotations

import sys
from itertools import chain

from mematlas.errors import Error, FormatError
from mematlas.kernel.directory import BATCH_SIZE
from mematlas.kernel.maps import Vma, VmaParser, check_captured, exact_name, max_vmas
from mematlas.kernel.vmfile import NO_DEVICES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mematlas.kernel.maps import Files
    from mematlas.kernel.procfs import ProcessDir

    Entry = tuple[Vma, dict[str, int]]

FIELDS_USED = frozenset(("Rss", "Pss", "Private_Clean", "Private_Dirty", "Anonymous", "Swap"))
"""What every kernel reports of every VMA, and we compute with: an entry without them was cut short."""

HEX_DIGITS = b"0123456789abcdef"

LEFT_OUT = "smaps leaves out huge pages that nobody may access on this kernel (fixed in Linux 6.5)"


def read_smaps(process: ProcessDir, files: Files = NO_DEVICES) -> list[Entry]:
    """Return each VMA with its fields in bytes, keyed as the kernel spells them (``Rss``, ``Private_Dirty``)."""
    return list(chain.from_iterable(SmapsReader(process, files)))


class SmapsReader:
    """Yields the same some thousands at a time. VMAs of which smaps says the same share their fields: change none."""

    def __init__(self, process: ProcessDir, files: Files = NO_DEVICES, before: LastTexts | None = None) -> None:
        """With ``before``, what says the same as when the process was last read is not parsed again."""
        self.process = process
        self._parser = SmapsParser(files, max_vmas(process), process.captured, before)

    @property
    def mark(self) -> int:
        """The mark of the VMAs that were read: that of maps, see `mematlas.kernel.maps.read_mark`."""
        return self._parser.heads.mark

    @property
    def tracked(self) -> set[int]:
        """The starts of those VMAs that were read whose program tracks accesses (`TRACKED`)."""
        return self._parser.tracked

    def __iter__(self) -> Iterator[list[Entry]]:
        last: list[Vma] = []
        self._parser.begin()
        for batch in self.process.parsed_texts("smaps", self._parser.batches):
            if self.process.captured:
                last += (vma for vma, _ in batch)
                check_captured(last, self.process, "smaps")
                del last[:-1]
            if any("\n" in vma.path for vma, _ in batch):
                batch = [(exact_name(self.process, vma) if "\n" in vma.path else vma, fields) for vma, fields in batch]
            yield batch


class LastTexts:
    """What a process's smaps said when it was last read, and what that meant: most of it says the same again."""

    def __init__(self) -> None:
        self._last: dict[tuple[int, int, bytes], tuple[list[Entry], int, int]] = {}
        """The entries of each piece of text, given how many VMAs came before it and their mark; with the same then."""
        self._now: dict[tuple[int, int, bytes], tuple[list[Entry], int, int]] = {}
        self._room = MOST_KEPT

    def begin(self) -> None:
        """Begin to read once more."""
        self._last, self._now = self._now, {}
        self._room = MOST_KEPT

    def entries(self, text: bytes, heads: VmaParser, parse: Callable[[bytes], list[Entry]]) -> list[Entry]:
        """Return the entries of a piece of text, which ``parse`` makes unless they are known: the same list then."""
        key = heads.nr_vmas, heads.mark, text
        known = self._last.get(key)
        if known is None:
            known = parse(text), heads.nr_vmas, heads.mark
        entries, heads.nr_vmas, heads.mark = known
        self._room -= len(text)
        if self._room >= 0:
            self._now[key] = known
        return entries


class SmapsParser:
    """Makes VMAs and their fields of the text of smaps.

    Most VMAs of a process that has many are like others, and so is what smaps says of them: it is parsed once.
    """

    def __init__(self, files: Files, most: int, captured: bool, before: LastTexts | None = None) -> None:
        self.heads = VmaParser(files, most)
        self._before = before
        self._captured = captured
        self._known: dict[bytes, dict[str, int]] = {}
        """Fields by their text."""
        self._names: dict[bytes, str] = {}
        self._form: EntryForm | None = None
        self.tracked: set[int] = set()

    def begin(self) -> None:
        """Begin to read a process, which may have been read before."""
        if self._before:
            self._before.begin()

    def batches(self, texts: Iterable[bytes]) -> Iterator[list[Entry]]:
        """Yield the entries of each piece of the text."""
        rest = b""
        for text in texts:
            text = b"\n".join((rest, text)) if rest else text
            start = last_head(text)
            rest = text[start:]
            if len(rest) > MAX_ENTRY:
                raise FormatError("smaps", place=f"VMA {self.heads.nr_vmas + 1}", expected="a few lines")
            if start:
                yield self._known_or(self._entries, text[: start - 1])
        if rest:
            yield self._known_or(self._of_lines, rest)

    def _known_or(self, parse: Callable[[bytes], list[Entry]], text: bytes) -> list[Entry]:
        """Return the entries of a piece of text, as it was understood before, or else parsed."""
        self._note_tracked(text)
        return self._before.entries(text, self.heads, parse) if self._before else parse(text)

    def _entries(self, text: bytes) -> list[Entry]:
        """Return the entries of a text that begins with one, and ends with one."""
        parts = text.split(ENTRY_END)
        parts[0] = b"\n" + parts[0]
        known, parse = self._known, self.heads.parse
        before = self.heads.nr_vmas, self.heads.mark
        entries: list[Entry] = []
        is_usual = b"\n" not in parts.pop()
        for part in parts if is_usual else ():
            try:
                # What is first are the flags of the entry before.
                _, head, text_of_fields = part.split(b"\n", 2)
                fields = known.get(text_of_fields)
                if fields is None:
                    fields = self._learn(head, text_of_fields)
            except ValueError:
                is_usual = False
                break
            entries.append((parse(head), fields))
        if is_usual:
            return entries
        self.heads.nr_vmas, self.heads.mark = before
        return self._of_lines(text)

    def _note_tracked(self, text: bytes) -> None:
        if TRACKED_WORD in text:  # hardly ever
            flags = parse_vm_flags(text.split(b"\n"))
            self.tracked.update(start for start, its in flags.items() if TRACKED in its)

    def _learn(self, head: bytes, text: bytes) -> dict[str, int]:
        """Return the fields of an entry, and keep them. Raises ValueError if the text is more than one."""
        if not is_head(head):
            raise ValueError
        if self._form is None or (fields := self._form.fields(text)) is None:
            lines = text.split(b"\n")
            if any(map(is_head, lines)):
                raise ValueError
            fields = {}
            for line in lines:
                add_field(fields, line, self._names, self.heads.nr_vmas + 1)
            self._form = EntryForm(text, fields)
        self._check(head.partition(b" ")[0].decode("ascii", "replace"), fields)
        if len(self._known) == MAX_KNOWN:
            self._known.clear()
        if len(text) <= MAX_FIELDS:
            self._known[text] = fields
        return fields

    def _of_lines(self, text: bytes) -> list[Entry]:
        entries = entries_of(text.split(b"\n"), self.heads, self._names)
        for vma, fields in entries:
            self._check(f"{vma.start:x}-{vma.end:x}", fields)
        return entries

    def _check(self, where: str, fields: dict[str, int]) -> None:
        if not fields.keys() >= FIELDS_USED:
            missing = ", ".join(sorted(FIELDS_USED - fields.keys()))
            raise FormatError("smaps", place=where, expected=missing)
        if self._captured and (min(fields.values()) < 0 or max(fields.values()) >> 64):
            raise FormatError("smaps", place=where, expected="amounts of 64 bits")


class EntryForm:
    """How the fields of an entry are written: amounts, then what is none, in the order that all entries have.

    So only the first entry is parsed line by line, which takes four times as long.
    """

    def __init__(self, text: bytes, fields: dict[str, int]) -> None:
        """Take over the form of a text, given its fields; without it, should it be another."""
        self._names = list(fields)
        self._end = 3 * len(fields)
        amounts, units = [f"{name}:".encode() for name in fields], [b"kB"] * len(fields)
        others = text.split()[self._end :: 2]
        self._keys = amounts, units, others
        self._nr_words = self._end + 2 * len(others)
        self._is_known = all(key[:1].isupper() and key.endswith(b":") for key in others)

    def fields(self, text: bytes) -> dict[str, int] | None:
        """Return the fields of a text of this form; None for another. Raises ValueError as `int` does."""
        words = text.split()
        end = self._end
        if not self._is_known or len(words) != self._nr_words:
            return None
        if (words[:end:3], words[2:end:3], words[end::2]) != self._keys:
            return None
        sizes = [int(number) * 1024 for number in words[1:end:3]]
        return dict(zip(self._names, sizes, strict=True))


TRACKED = "ur"
"""The flag of memory whose accesses its program tracks: userfaultfd's read-write protection, since Linux 7.3."""
TRACKED_WORD = f" {TRACKED}".encode()
ENTRY_END = b"\nVmFlags:"
"""How the last line of an entry begins, since Linux 3.8. A path cannot hold it: its newlines are escaped."""
MAX_ENTRY = 2 * BATCH_SIZE
"""Bytes of an entry: its path may be as long as what is read at a time."""
MAX_LINES = 1 << 10
"""Lines of an entry."""
MAX_FIELDS = 1 << 12
"""Bytes of the fields of an entry that are kept, and how many such."""
MAX_KNOWN = 1 << 10
MOST_KEPT = 4 << 20
"""Bytes of text that are kept of a process: some 6,000 VMAs."""


def last_head(text: bytes) -> int:
    """Return where the last entry of a text begins: everything before that is whole."""
    end = len(text)
    for _ in range(MAX_LINES):
        end = text.rfind(b"\n", 0, end)
        if end < 0 or is_head(text[end + 1 : end + 2]):
            return end + 1
    raise FormatError("smaps", expected=f"at most {MAX_LINES} lines for a VMA")


def is_head(line: bytes) -> bool:
    """Whether a line begins an entry: with a lower-case hexadecimal digit, where field lines have a capital."""
    return line[:1] in HEX_DIGITS and line != b""


def parse_smaps(lines: Iterable[bytes], files: Files = NO_DEVICES, most: int = sys.maxsize) -> list[Entry]:
    """Return the VMAs in the lines of an smaps file, each with its fields in bytes."""
    return entries_of(lines, VmaParser(files, most), {})


def entries_of(lines: Iterable[bytes], parser: VmaParser, names: dict[bytes, str]) -> list[Entry]:
    """Return the entries in lines; ``names`` are those of fields that were met, which come once a VMA."""
    entries: list[Entry] = []
    fields: dict[str, int] = {}
    for line in lines:
        if is_head(line):
            fields = {}
            entries.append((parser.parse(line), fields))
        else:
            add_field(fields, line, names, parser.nr_vmas)
    return entries


def add_field(fields: dict[str, int], line: bytes, names: dict[bytes, str], number: int) -> None:
    """Add what a line says, if it is an amount, to the fields of the VMA of a number."""
    if not line.endswith(b" kB"):
        return
    key, _, value = line.partition(b":")
    try:
        fields[names.get(key) or name_of(key, names)] = int(value[:-3]) * 1024
    except ValueError:
        text = line[:MAX_NAME].decode("utf-8", "replace")
        raise FormatError("smaps", text, f"VMA {number}", "NAME: NUMBER kB") from None


MAX_NAMES = 256
MAX_NAME = 64


def name_of(key: bytes, names: dict[bytes, str]) -> str:
    """Return the name of a field, and keep it among those that are known."""
    if len(names) >= MAX_NAMES or len(key) > MAX_NAME:
        raise ValueError
    return names.setdefault(key, key.decode("ascii", "replace"))


def read_vm_flags(process: ProcessDir) -> dict[int, frozenset[str]]:
    """Return the flags of each VMA by its start: ``lo`` means mlocked."""
    return process.parsed_lines("smaps", lambda lines: parse_vm_flags(lines, max_vmas(process)))


def parse_vm_flags(lines: Iterable[bytes], most: int = sys.maxsize) -> dict[int, frozenset[str]]:
    """Return the ``VmFlags`` in the lines of an smaps file, by the start of each VMA."""
    flags: dict[int, frozenset[str]] = {}
    known: dict[bytes, frozenset[str]] = {}
    start = 0
    parser = VmaParser(most=most)
    for line in lines:
        if is_head(line):
            start = parser.parse(line).start
        elif line.startswith(b"VmFlags:"):
            if line not in known:
                known[line] = flags_of(line, f"VMA {parser.nr_vmas}")
            flags[start] = known[line]
    return flags


MAX_FLAGS = 256
"""Bytes of a line of flags: two letters and a blank for each of 64."""


def flags_of(line: bytes, where: str) -> frozenset[str]:
    """Return the flags in a line of them; ``where`` says of which VMA it is, for an error."""
    if len(line) > MAX_FLAGS or not line.isascii():
        text = line[:MAX_NAME].decode("ascii", "replace")
        raise FormatError("smaps", text, where, "VmFlags: two letters each")
    return frozenset(line[8:].decode("ascii").split())


def sum_fields(entries: Iterable[dict[str, int]]) -> dict[str, int]:
    """Return the sum of each field over all VMAs; page sizes, which are no amounts, are left out."""
    total: dict[str, int] = {}
    for fields in entries:
        for name, value in fields.items():
            if not name.endswith("PageSize") and name != "Size":
                total[name] = total.get(name, 0) + value
    return total


def leaves_out_huge_pages() -> bool:
    """Whether smaps has nothing of huge pages that nobody may access (PROT_NONE): asked about one of our own.

    Linux 6.1 does; commit 8b9c1cc0418a (v6.5) mended it. False where we get no huge page.
    """
    import ctypes
    import mmap

    from mematlas.kernel.hugepage import huge_size
    from mematlas.kernel.libc import libc
    from mematlas.kernel.procfs import ProcFS

    size = huge_size()

    def amount(name: str) -> int:
        entries = ProcFS().parsed_lines("self/smaps", parse_smaps)
        return next(fields.get(name, 0) for vma, fields in entries if vma.start <= start < vma.end)

    with mmap.mmap(-1, 2 * size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        # What from_buffer() returns pins the mmap: it must die with this line.
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        start = -(-address // size) * size
        try:
            memory.madvise(mmap.MADV_HUGEPAGE)
            memory[start - address] = 1
            is_huge = amount("AnonHugePages") >= size
            is_hidden = libc().mprotect(ctypes.c_void_p(start), ctypes.c_size_t(size), 0) == 0
            return is_huge and is_hidden and amount("Rss") < size
        except (OSError, Error):
            return False
