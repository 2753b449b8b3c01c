"""A process saved as a directory, which every command reads as it reads /proc.

::

    DIR/machine.json         what machine, when; which files are memory; what could not be read, and why
    DIR/meminfo, swaps       as the kernel prints them
    DIR/kpagecount.packed    the words of the frames that this process maps, and of no others
    DIR/kpageflags.packed
    DIR/PID/threads          its threads, with where their stacks are (see mematlas.kernel.threads)
    DIR/PID/maps, stat ...   as the kernel prints them, but for paths and command lines longer than we read them
    DIR/PID/smaps.gz         the same, packed with gzip: it is long
    DIR/PID/pagemap.packed   its entries, with our marks in bits 59 and 60, which the kernel leaves zero

`mematlas.kernel.packed` describes a packed file, `mematlas.kernel.pagemap` the marks: they keep what only a running
process can be asked about, such as which entries show the zero page. The contents of memory are never read.
"""

from __future__ import annotations

import os
import time
from itertools import chain

from mematlas.analysis.results import Reading
from mematlas.errors import BadInput, Error, NotSupported, PermissionDenied
from mematlas.frozen import Record, record, replace
from mematlas.kernel.cmdline import MAX_COMMAND
from mematlas.kernel.directory import GZIP, GZIPPED
from mematlas.kernel.hugepage import read_huge_size
from mematlas.kernel.kconfig import counts_are_averages
from mematlas.kernel.kpage import tells_ksm
from mematlas.kernel.machine import MAX_SIZE
from mematlas.kernel.maps import MAX_CAPTURED_VMAS, bounded
from mematlas.kernel.newdir import NewDirectory
from mematlas.kernel.pagemap import ENTRY_SIZE, MARK_B, PM_PFRAME, PM_PRESENT, PRESENT, UNKNOWN, Pacer, has_soft_dirty
from mematlas.kernel.procfs import BY_VMA, MACHINE
from mematlas.kernel.rights import invoking_user
from mematlas.kernel.smaps import HEX_DIGITS
from mematlas.kernel.threads import SAVED, read_threads
from mematlas.kernel.threads import to_save as threads_to_save
from mematlas.kernel.vmfile import LiveFiles
from mematlas.model.pages import HIDDEN_FRAMES, ZERO_UNKNOWN, PageReader
from mematlas.model.stalls import smaps_hold
from mematlas.notes import Note, Notes
from mematlas.observe.owners import find_go
from mematlas.observe.process import Process
from mematlas.observe.sources import MAX_STALL
from mematlas.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from mematlas.kernel.directory import Directory, WordFile
    from mematlas.kernel.maps import Vma
    from mematlas.kernel.newdir import HeldDirectory
    from mematlas.kernel.pagemap import Block
    from mematlas.kernel.threads import Thread
    from mematlas.model.pagetables.followed import FollowedPages

MACHINE_FILES = ("meminfo", "swaps")
PROCESS_FILES = (
    *("stat", "status", "statm", "comm", "cmdline", "cgroup", "maps", "smaps", "smaps_rollup"),
    *("ksm_stat", "ksm_merging_pages"),
)
FRAME_FILES = ("kpagecount", "kpageflags")

CHUNK = 8192
"""Frames of which one string of bits is kept, and which are read together."""
STOPPED = "T"
"""The state of a process that was sent SIGSTOP, all its threads."""
MAX_REASONS = 1000
PATHS_ROOM = 1 << 20
"""Bytes of paths in machine.json."""
GAP = bytes(32)
"""So many empty words end a run: fewer cost less as packed zeros than another extent does."""


@record
class CaptureResult(Record):
    """What was saved."""

    pid: int
    name: str
    path: str
    size: int
    """Bytes of all its files."""
    nr_pages: int | None
    """Pages with an entry or a mark; None when pagemap could not be read."""
    nr_frames: int | None
    """Frames with their map count and flags; None when these could not be read."""
    redacted: bool
    reading: Reading


def capture(process: Process, directory: str, redact: bool = False) -> CaptureResult:
    """Save a process to a directory that is new, or empty and ours, for its owner's eyes only.

    Under sudo the owner is who called it. A directory that is there before keeps its owner and mode. What may not be
    read is left out, with a note. ``redact`` leaves the numbers and takes out every name: paths, the command and its
    arguments, users, cgroups, the host.

    >>> import tempfile
    >>> from mematlas.kernel.procfs import ProcFS
    >>> with tempfile.TemporaryDirectory() as parent, Process(os.getpid()) as process:
    ...     saved = capture(process, f"{parent}/saved")
    ...     with Process(saved.pid, ProcFS(saved.path)) as copy:
    ...         copy.stat == process.stat or copy.stat.start_time == process.stat.start_time
    True

    Raises:
        BadInput: the directory is another's, a link, or holds something already; or the process is a capture itself.
        PermissionDenied: not even its VMAs may be read.
    """
    if not process.procfs.live:
        raise BadInput(f"{process.procfs.root} is no process that runs: every command reads it as it is")
    try:
        space = process.address_space()  # a refusal comes here, before the directory is made or taken
        if len(space.vmas) > MAX_CAPTURED_VMAS:
            nr_vmas = len(space.vmas)
            raise Error(f"{process.pid} has {nr_vmas:,} VMAs: a capture holds {MAX_CAPTURED_VMAS:,}")
        with NewDirectory(directory, invoking_user()) as made:
            return Recorder(process, made, redact).save(made.path)
    except OSError as error:
        raise Error(f"{directory}: {error.strerror}") from None


class Recorder:
    """One capture in the making."""

    def __init__(self, process: Process, directory: HeldDirectory, redact: bool) -> None:
        self.process = process
        self.directory = directory
        self.redactor = Redactor() if redact else None
        self.unreadable: dict[str, str] = {}
        """What could not be read, and why."""
        self.notes = Notes()
        self.paths: dict[str, str] = {}
        """The paths that the text of maps leaves in doubt, by the start of their VMA."""
        self.stopped = False
        """Whether the process was stopped (SIGSTOP) at the beginning and at the end."""
        self.frames = Frames()
        self.nr_pages = 0
        self.huge_known = True
        self.zero_known = True
        self.huge_estimate: Note | None = None
        """Why the exclusive bit of huge pages is an estimate, where it is."""
        self.unknown_backings: dict[str, str] = {}
        """Shared memory whose file could not be asked, as the name of its map_files link, and why."""
        self.hidden: list[str] = []
        """The VMAs of which pagemap shows nothing, whatever is mapped there."""
        self.uncertain: list[Note] = []
        """What is uncertain in what files of shared memory say."""

    def save(self, path: str) -> CaptureResult:
        """Write every file. machine.json, which makes the directory a capture, is the last."""
        before = time.perf_counter()
        process = self.process
        space = process.address_space()
        was_stopped = process.stat.state == STOPPED
        own = self.directory.below(str(process.pid))
        has_pagemap = self._save_pagemap(own, space.vmas)
        nr_frames = self._save_frames() if has_pagemap else None
        for name in self._process_files():
            self._save_text(own, name, process.dir)
        self._save_threads(own)
        self._note_hold()
        for name in MACHINE_FILES:
            self._save_text(self.directory, name, process.procfs)
        torn = process.address_space().vmas != space.vmas
        self.stopped = was_stopped and process.stat.state == STOPPED
        if not self.redactor:
            self._keep_paths(space.vmas)
        facts = self._facts(torn, find_go(process.dir, space.vmas))
        facts["time"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        machine = text_of(facts)
        if len(machine) > MAX_SIZE:
            raise Error(f"{process.pid} has too many odd VMAs for a capture: their paths and notes take too much room")
        with self.directory.file(MACHINE) as file:
            file.write(machine)
        self.notes += [Note("not-saved", f"not saved: {why}") for why in self.unreadable.values()]
        source = "smaps and pagemap" if has_pagemap else "smaps"
        reading = process.sources.reading(source, before, torn, self.notes)
        return CaptureResult(
            pid=process.pid,
            name=process.stat.name,
            path=path,
            size=self.directory.size(),
            nr_pages=self.nr_pages if has_pagemap else None,
            nr_frames=nr_frames,
            redacted=self.redactor is not None,
            reading=reading,
        )

    # Text

    def _process_files(self) -> list[str]:
        if smaps_hold(self.process.dir, MAX_STALL) <= MAX_STALL:
            return list(PROCESS_FILES)
        # The rollup is the sum of smaps, for a second hold of the target's lock.
        return [name for name in PROCESS_FILES if name != "smaps_rollup"]

    def _note_hold(self) -> None:
        hold = self.process.dir.holds.get("smaps")
        if hold and hold.total_s > MAX_STALL:
            text = f"reading smaps held up the target for {hold.total_s * 1e3:.0f} ms"
            self.notes.add(Note("smaps-hold", text))

    def _save_text(self, directory: HeldDirectory, name: str, source: Directory) -> None:
        try:
            if name in BY_VMA:
                self._save_lines(directory, name, source)
                return
            is_command = name == "cmdline"
            data: bytes | None
            data = source.read_start(name, MAX_COMMAND) if is_command else source.read(name)
        except (PermissionDenied, NotSupported) as error:
            self.unreadable[name] = str(error)
            return
        if is_command and len(data or b"") == MAX_COMMAND:
            text = f"only the first {MAX_COMMAND >> 10} KiB of the command line are saved"
            self.notes.add(Note("command-cut", text))
        if self.redactor and data is not None:
            data = self.redactor.redact(name, data)
        if data is not None:
            with directory.file(name) as file:
                file.write(data)

    def _save_lines(self, directory: HeldDirectory, name: str, source: Directory) -> None:
        """Save a text that may be a very long one."""
        import zlib

        batches = source.batches(name)
        first = next(batches, [])  # a refusal comes here, before there is a file
        trim = self.redactor.redact_line if self.redactor else bounded
        packer = zlib.compressobj(6, zlib.DEFLATED, GZIP) if name in GZIPPED else None
        with directory.file(f"{name}.gz" if packer else name) as file:
            for batch in chain([first], batches):
                text = b"".join(trim(line) + b"\n" for line in batch)
                file.write(packer.compress(text) if packer else text)
            if packer:
                file.write(packer.flush())

    def _save_threads(self, directory: HeldDirectory) -> None:
        try:
            threads = read_threads(self.process.dir)
        except (PermissionDenied, NotSupported) as error:
            self.unreadable[SAVED] = str(error)
            return
        if self.redactor:
            threads = replace(threads, threads=tuple(map(self.redactor.redact_thread, threads.threads)))
        with directory.file(SAVED) as file:
            file.write(threads_to_save(threads))

    def _keep_paths(self, vmas: list[Vma]) -> None:
        """Keep the paths that the text of maps leaves in doubt."""
        room = PATHS_ROOM
        for vma in vmas:
            if "\n" not in vma.path and "\\012" not in vma.path:
                continue
            room -= len(vma.path)
            if room < 0:
                text = "some paths that contain a newline are saved as maps shows them"
                self.notes.add(Note("paths-as-in-maps", text))
                break
            self.paths[f"{vma.start:x}"] = vma.path

    def _facts(self, torn: bool, is_go: bool | None) -> dict[str, Any]:
        """Return what is to be known besides the texts: what was found out, and what was not."""
        system = os.uname()
        files = self.process.files
        return {
            "mematlas": __version__,
            "host": None if self.redactor else system.nodename,
            "kernel": system.release,
            "arch": system.machine,
            "page_size": self.process.page_size,
            "huge_size": read_huge_size(),
            "kinds": files.to_save() if isinstance(files, LiveFiles) else {},
            "hidden": self.hidden,
            "paths": self.paths,
            "redacted": self.redactor is not None,
            "torn": torn,
            "stopped": self.stopped,
            "unreadable": self.unreadable,
            "zero_known": self.zero_known,
            "huge_known": self.huge_known,
            "huge_estimate": self.huge_estimate.text if self.huge_estimate else "",
            "unknown_backings": self.unknown_backings,
            "uncertain": [note.text for note in self.uncertain],
            "soft_dirty": has_soft_dirty(self.process.procfs),
            "nodes": self._nodes(),
            "tells_ksm": tells_ksm(self.process.procfs),
            "average_counts": counts_are_averages(self.process.procfs),
            "is_go": is_go,
        }

    def _nodes(self) -> dict[str, object] | None:
        from mematlas.kernel.nodes import read_nodes, to_save

        try:
            return to_save(read_nodes(self.process.procfs))
        except NotSupported:
            return None

    # Words

    def _save_pagemap(self, directory: HeldDirectory, vmas: list[Vma]) -> bool:
        try:
            reader = PageReader(self.process.dir, Pacer())
        except (PermissionDenied, NotSupported) as error:
            self.unreadable["pagemap"] = str(error)
            return False
        with reader:
            self._save_words(directory, "pagemap", self._pagemap_parts(reader, vmas))
            self._note_reader(reader)
        return True

    def _note_reader(self, reader: PageReader) -> None:
        """Note what is not known of pages that were read."""
        self.zero_known = reader.zero_known
        self.huge_estimate = reader.huge_counts.note
        self.uncertain = list(reader.backings.uncertain)
        if not self.zero_known:
            self.notes.add(ZERO_UNKNOWN)
        if self.huge_estimate:
            self.notes.add(self.huge_estimate)
        self._note_unknown()

    def _note_unknown(self) -> None:
        """Note what is not known of shared memory."""
        if self.unknown_backings:
            why = next(iter(self.unknown_backings.values()))
            text = f"the pages of {len(self.unknown_backings)} VMAs of shared memory are unknown: {why}"
            self.notes.add(Note("backing-unknown", text))
        self.notes += self.uncertain

    def _pagemap_parts(self, reader: PageReader, vmas: list[Vma]) -> Iterator[tuple[int, bytes]]:
        """Yield the entries that hold something, by their offset in the file."""
        for vma in vmas:
            for block in reader.blocks(vma):
                yield from self._marked_parts(reader, vma, block)
            self._note_hidden(reader, vma)

    def _marked_parts(self, reader: PageReader, vma: Vma, block: Block) -> Iterator[tuple[int, bytes]]:
        """Yield the entries of a block that hold something, with our marks."""
        # What is unknown is so of a whole VMA, holes and all: machine.json names it.
        states = self._mark_huge(reader, vma, block).translate(WITHOUT_UNKNOWN)
        self.nr_pages += len(states) - states.count(0)
        yield from self._parts_of(block, states)

    def _note_hidden(self, pages: PageReader | FollowedPages, vma: Vma) -> None:
        """Take note of a VMA of which nothing is shown, or of whose pages without an entry nothing is known."""
        if pages.hidden.is_hidden(vma):
            self.hidden.append(f"{vma.start:x}-{vma.end:x}")
        elif vma.kind == "shmem" and pages.hole(vma) == UNKNOWN:
            name = f"{vma.start:x}-{vma.end:x}"
            why = pages.backings.unknown[vma.start]
            # Of tens of thousands of VMAs, the reasons would be megabytes.
            is_room = len(self.unknown_backings) < MAX_REASONS
            self.unknown_backings[name] = why if is_room else "as of others"

    def _parts_of(self, block: Block, states: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield the entries of a block that hold something, given the states of its pages."""
        self.frames.add(block)
        for low, high in runs(states):
            raw = bytearray(block.raw[low * ENTRY_SIZE : high * ENTRY_SIZE])
            raw[7::ENTRY_SIZE] = states[low:high]
            yield (block.address // self.process.page_size + low) * ENTRY_SIZE, bytes(raw)

    def _mark_huge(self, reader: PageReader, vma: Vma, block: Block) -> bytes:
        if not self.huge_known:
            return block.states
        states = bytearray(block.states)
        try:
            for low, high in reader.huge_ranges(vma, block):
                states[low:high] = states[low:high].translate(AS_HUGE)
        except NotSupported as error:
            self.huge_known = False
            self.notes.add(Note("huge-unknown", f"this source does not show huge pages: {error}"))
        return bytes(states)

    def _save_words(self, directory: HeldDirectory, name: str, parts: Iterable[tuple[int, bytes]]) -> None:
        """Save the parts of a file of words that hold something."""
        from mematlas.kernel.packed import write_packed

        with directory.file(f"{name}.packed") as file:
            write_packed(file, parts)

    def _save_frames(self) -> int | None:
        if not self.frames.nr_frames:
            self.notes.add(HIDDEN_FRAMES)
            return None
        nr_saved = 0
        for name in FRAME_FILES:
            try:
                file = self.process.procfs.open(name)
            except (PermissionDenied, NotSupported) as error:
                self.unreadable[name] = str(error)
                continue
            try:
                self._save_words(self.directory, name, self.frames.parts(file))
                nr_saved = self.frames.nr_frames
            finally:
                file.close()
        return nr_saved or None


def text_of(facts: dict[str, Any]) -> bytes:
    """Return facts as the text of machine.json."""
    import json

    return (json.dumps(facts, indent=1) + "\n").encode("ascii")


AS_HUGE = bytes(byte | MARK_B if byte & PRESENT else byte for byte in range(256))
WITHOUT_UNKNOWN = bytes(0 if byte == UNKNOWN else byte for byte in range(256))


class Frames:
    """A set of page frames, one bit each.

    >>> frames = Frames()
    >>> frames.add_entries([PM_PRESENT | 5, PM_PRESENT | 9, 0])
    >>> frames.nr_frames
    2
    """

    def __init__(self) -> None:
        self.chunks: dict[int, bytearray] = {}

    def add(self, block: Block) -> None:
        """Take in the frames of the present pages of a block."""
        self.add_entries(block.entries)

    def add_entries(self, entries: memoryview | list[int]) -> None:
        """Take in the frames of the present pages among entries; hidden ones, which read as 0, are none."""
        chunks = self.chunks
        for entry in entries:
            if entry >= PM_PRESENT and (frame := entry & PM_PFRAME):
                number, index = divmod(frame, CHUNK)
                if number not in chunks:
                    chunks[number] = bytearray(CHUNK // 8)
                chunks[number][index >> 3] |= 1 << (index & 7)

    @property
    def nr_frames(self) -> int:
        """How many there are."""
        return sum(int.from_bytes(bits, "little").bit_count() for bits in self.chunks.values())

    def parts(self, file: WordFile) -> Iterator[tuple[int, bytes]]:
        """Yield the words of these frames, by their offset in the file; those in between are zeros."""
        for number in sorted(self.chunks):
            # A digit per frame, the lowest frame first; "0" becomes a zero byte.
            digits = f"{int.from_bytes(self.chunks[number], 'little'):b}"[::-1].encode("ascii")
            marks = digits.replace(b"0", b"\0")
            for low, high in runs(marks):
                offset = (number * CHUNK + low) * ENTRY_SIZE
                yield offset, read_words(file, offset, marks[low:high])


def runs(marks: bytes) -> Iterator[tuple[int, int]]:
    """Yield where bytes that are not zero stand together, over gaps shorter than `GAP`.

    >>> list(runs(bytes(3) + b"ab" + bytes(9) + b"c" + bytes(40) + b"d"))
    [(3, 15), (55, 56)]
    """
    low = len(marks) - len(marks.lstrip(b"\0"))
    while low < len(marks):
        high = marks.find(GAP, low)
        high = len(marks.rstrip(b"\0")) if high < 0 else high
        yield low, high
        low = len(marks) - len(marks[high:].lstrip(b"\0"))


def read_words(file: WordFile, offset: int, marks: bytes) -> bytes:
    """Return a word for each mark: that of the file, or zero for a zero."""
    data = bytearray(len(marks) * ENTRY_SIZE)
    view = memoryview(data)
    nr_read = file.read_into(view, offset)
    words = view.cast("Q")
    index = -1
    while (index := marks.find(0, index + 1)) >= 0:
        words[index] = 0
    return bytes(view[:nr_read])


class Redactor:
    """Takes the names out of the kernel's texts, and leaves the numbers.

    >>> Redactor().redact("maps", b"1000-2000 r--p 0 fe:01 7   /home/ann/secret.so (deleted)\\n")
    b'1000-2000 r--p 0 fe:01 7   /redacted/1 (deleted)\\n'
    """

    NAME = b"redacted"
    KEPT_STATUS = (b"State:", b"Tgid:", b"Pid:", b"Threads:", b"Vm", b"Rss", b"Hugetlb", b"THP_enabled:")
    KEPT_PATHS = frozenset((b"/dev/zero", b"/anon_hugepage"))
    """Names of the kernel's own that say what kind of memory it is."""

    def __init__(self) -> None:
        self.names: dict[bytes, bytes] = {}

    def redact(self, name: str, data: bytes) -> bytes | None:
        """Return the text of a file without names; None when nothing of it may be kept."""
        if name in ("maps", "smaps", "smaps_rollup"):
            return b"\n".join(map(self.redact_line, data.split(b"\n")))
        if name == "swaps":
            return b"\n".join(map(self._swap, data.split(b"\n")))
        if name == "stat":
            head, opened, _ = data.partition(b"(")
            _, closed, tail = data.rpartition(b")")
            return head + opened + self.NAME + closed + tail if opened and closed else None
        if name == "status":
            kept = [line for line in data.split(b"\n") if line.startswith(self.KEPT_STATUS)]
            return b"Name:\t" + b"\n".join([self.NAME, *kept, b""])
        if name == "comm":
            return self.NAME + b"\n"
        if name == "cmdline":
            return b""
        return data if name in ("statm", "meminfo") else None

    def redact_path(self, path: str) -> str:
        """Return what stands for the path of a VMA: the same for all that have this one."""
        return os.fsdecode(self._path(os.fsencode(path))) if path else path

    def redact_thread(self, thread: Thread) -> Thread:
        """Return a thread with another name, the same for all that have this one."""
        return replace(thread, name=self._stable(b"thread " + os.fsencode(thread.name), b"redacted-").decode("ascii"))

    def redact_line(self, line: bytes) -> bytes:
        """Return a line of maps or smaps without the name in it."""
        fields = line.split(None, 5)
        # Lines of amounts, in smaps, begin with a capital.
        if len(fields) < 6 or line[:1] not in HEX_DIGITS:
            return line
        path = fields[5]
        return line[: len(line) - len(path)] + self._path(path)

    def _swap(self, line: bytes) -> bytes:
        path, blank, rest = line.partition(b" ")
        return self._path(path) + blank + rest if path.startswith(b"/") else line

    def _path(self, path: bytes) -> bytes:
        bare = path.removesuffix(b" (deleted)")
        tail = path[len(bare) :]
        if bare in self.KEPT_PATHS:
            return path
        if bare.startswith(b"["):
            # "[anon:NAME]" and "[anon_shmem:NAME]" are the program's words, the others the kernel's.
            head, colon, _ = bare.partition(b":")
            return head + b":" + self._stable(bare, b"redacted-") + b"]" if colon else path
        return self._stable(bare, b"/redacted/") + tail

    def _stable(self, name: bytes, prefix: bytes) -> bytes:
        return self.names.setdefault(name, prefix + b"%d" % (len(self.names) + 1))
