"""A process at a moment of a recording, as the files of a capture: every command reads these as it reads /proc.

What was recorded as rows becomes the kernel's texts again, with the amounts as they were counted beside them; of what
was not recorded, machine.json says so.
"""

from __future__ import annotations

import io
import json

from mematlas.analysis.usage import Usage, total
from mematlas.errors import FormatError, NotSupported
from mematlas.frozen import fields_of
from mematlas.kernel.machine import FILE_KINDS
from mematlas.kernel.packed import QUICKLY, write_packed
from mematlas.kernel.procfs import MACHINE
from mematlas.kernel.threads import SAVED
from mematlas.observe.captures import FRAME_FILES
from mematlas.observe.moments import TEXTS, WORDS
from mematlas.observe.recorded import NAME as AMOUNTS
from mematlas.observe.recorded import to_save
from mematlas.observe.recorded_cache import NAME as CACHE
from mematlas.observe.recorded_ram import NAME as RAM
from mematlas.timeline.watch import TABLES
from mematlas.timeline.words import changed, empty, parts_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from mematlas.analysis.results import VmaUsage
    from mematlas.timeline.recorded_rows import RecordedProcess, RecordedUsage
    from mematlas.timeline.recording import Recording
    from mematlas.timeline.words import Sparse

PACKED = ".packed"
OF_PROCESS = frozenset(
    (
        *("stat", "status", "comm", "maps", "smaps", "smaps_rollup", "ksm_merging_pages"),
        *(AMOUNTS, TABLES, *TEXTS, SAVED, f"pagemap{PACKED}"),
    )
)
"""What there may be of a process, in a directory that is called as its PID."""
OF_ALL = frozenset((MACHINE, RAM, CACHE, *(f"{name}{PACKED}" for name in FRAME_FILES)))
FACTS: dict[str, Any] = {
    "kinds": {},
    "hidden": [],
    "redacted": False,
    "torn": False,
    "stopped": False,
    "zero_known": True,
    "huge_known": True,
    "huge_estimate": "",
    "unknown_backings": {},
    "uncertain": [],
    "soft_dirty": None,
    "average_counts": False,
    "is_go": None,
}
"""What machine.json says, unless something else is known."""
UNLESS_ALL = frozenset(("zero_known", "huge_known", "stopped"))
"""What is so of several processes only where it is so of each."""
PAGES = "single pages are not recorded (record --what pages)"
ONLY_AMOUNTS = "only amounts are recorded (record --what pages)"
LACKS = {
    "pagemap": PAGES,
    **dict.fromkeys(FRAME_FILES, "frames are not recorded (record --what frames)"),
    **dict.fromkeys(("cmdline", "cgroup", SAVED, "ksm_stat"), ONLY_AMOUNTS),
    TABLES: "page tables are not recorded (record --what tables)",
    RAM: "what RAM was used for is not recorded (record --what ram)",
    CACHE: "files of the page cache are not recorded (record --what files)",
    **dict.fromkeys(("statm", "numa_maps", "meminfo", "swaps"), "it is not recorded"),
}
NR_STAT_FIELDS = 49
"""Numbers behind the state of a process, in its stat."""
START_TIME = 18
"""The place of that among them."""
STATUS = {"VmPeak": "peak_size", "VmSize": "size", "VmLck": "locked", "VmPin": "pinned", "VmHWM": "peak_rss"}
OF_USAGE = {"VmRSS": "rss", "RssAnon": "anon", "RssFile": "file", "RssShmem": "shmem", "HugetlbPages": "hugetlb"}


def files_at(recording: Recording, processes: Sequence[RecordedProcess], moment: int) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a capture of processes, as they were at a moment, with their names.

    Raises:
        NotSupported: VMAs were not recorded.
    """
    facts = Facts()
    for process in processes:
        for name, data in files_of(recording, process, moment, facts).items():
            yield f"{process.pid}/{name}", data
    for name in (RAM, CACHE):
        if (text := recording.text_at(None, name, moment)) is not None:
            facts.have.add(name)
            yield name, text
    for name, words in facts.words.items():
        yield f"{name}{PACKED}", packed(words)
    yield MACHINE, machine_text(recording, facts)


class Facts:
    """What is to be known of all processes of a moment."""

    def __init__(self) -> None:
        self.kinds: dict[str, str] = {}
        self.paths: dict[str, str] = {}
        self.has_smaps = True
        self.has_vmas = True
        self.torn = False
        self.found: dict[str, Any] = {}
        """What captures say of processes of which single pages were recorded."""
        self.have: set[str] = set()
        """The names of files that there are."""
        self.words: dict[str, Sparse] = {}
        """What is known of frames, of all processes together."""

    def add(self, vmas: Iterable[VmaUsage]) -> None:
        """Take in the VMAs of a process."""
        for item in vmas:
            vma = item.vma
            if "\n" in vma.path or "\\012" in vma.path:
                self.paths[f"{vma.start:x}"] = vma.path
            if vma.inode and vma.kind in FILE_KINDS and vma.kind != "file":
                self.kinds[f"{vma.dev} {vma.inode}"] = vma.kind

    def add_found(self, text: bytes) -> None:
        """Take in what a capture of a process says of it. Of several processes, what is uncertain of one is of all."""
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            raise FormatError(MACHINE, expected="JSON") from None
        if not isinstance(found, dict):
            raise FormatError(MACHINE, expected="an object")
        for key, value in found.items():
            before = self.found.get(key)
            if isinstance(value, dict) and isinstance(before, dict):
                self.found[key] = before | value
            elif isinstance(value, list) and isinstance(before, list):
                self.found[key] = [*before, *value]
            elif key in UNLESS_ALL and before is False:
                continue
            elif not before or value:
                self.found[key] = value


def files_of(recording: Recording, process: RecordedProcess, moment: int, facts: Facts) -> dict[str, bytes]:
    """Return the files of a process, by their names."""
    vmas = recording.vmas_at(process, moment)
    found = recording.usage_at(process, moment)
    if found is None:
        raise NotSupported(f"process {process.pid} at that moment", "a look at it")
    if not vmas:
        files = files_of_sums(process, found, facts, page_size_of(recording))
        return files | recorded_files(recording, process, moment, facts)
    usage = total(item.usage for item in vmas)
    files = {
        "stat": stat_text(process),
        "status": status_text(process, usage, found.amounts),
        "comm": process.name.encode() + b"\n",
        "maps": b"".join(map(line_of, vmas)),
        AMOUNTS: to_save(found.source, found.torn, found.notes, vmas),
    }
    if (ksm := found.amounts.get("ksm")) is not None:
        files["ksm_merging_pages"] = b"%d\n" % (ksm // page_size_of(recording))
    if all(is_whole(item.usage) for item in vmas):
        size = page_size_of(recording)
        files["smaps"] = b"".join(line_of(item) + smaps_text(item, size) for item in vmas)
    facts.add(vmas)
    facts.has_smaps &= "smaps" in files
    facts.torn |= found.torn
    return files | recorded_files(recording, process, moment, facts)


def files_of_sums(process: RecordedProcess, found: RecordedUsage, facts: Facts, page_size: int) -> dict[str, bytes]:
    """Return the files of a process of which sums alone were recorded."""
    usage = Usage(**{name: found.amounts[name] for name in fields_of(Usage)})  # type: ignore[arg-type]
    facts.has_vmas = False
    facts.torn |= found.torn
    return {
        "stat": stat_text(process),
        "status": status_text(process, usage, found.amounts),
        "comm": process.name.encode() + b"\n",
        "smaps_rollup": rollup_text(usage, page_size),
        AMOUNTS: to_save(found.source, found.torn, found.notes, [], found.amounts),
    }


def recorded_files(recording: Recording, process: RecordedProcess, moment: int, facts: Facts) -> dict[str, bytes]:
    """Return the files of a process that were recorded as they were."""
    files = {}
    names = recording.names_at(process, moment)
    for name in names:
        if name in WORDS:
            words = recording.words_at(process, name, moment)
            if words is None:
                continue
            if name in FRAME_FILES:
                facts.words[name] = changed(facts.words.get(name, empty()), words)
            else:
                files[f"{name}{PACKED}"] = packed(words)
        elif (text := recording.text_at(process, name, moment)) is not None:
            if name == MACHINE:
                facts.add_found(text)
            else:
                files[name] = text
    facts.have.update(names)
    return files


def packed(words: Sparse) -> bytes:
    """Return a file of words as a capture has it."""
    file = io.BytesIO()
    write_packed(file, parts_of(words), QUICKLY)
    return file.getvalue()


def page_size_of(recording: Recording) -> int:
    """Return the bytes of a page of the machine that it is of."""
    size = recording.machine["page_size"]
    if type(size) is not int or size < 1:
        raise FormatError(recording.path, expected="a page_size")
    return size


def machine_text(recording: Recording, facts: Facts) -> bytes:
    """Return what is to be known of all of them: on what machine, and what was not recorded."""
    lacks = LACKS if facts.has_smaps else LACKS | {"smaps": "some amounts were not known when this was recorded"}
    if not facts.has_vmas:
        lacks = LACKS | dict.fromkeys(("maps", "smaps"), "VMAs are not recorded (record --what vmas)")
    value = FACTS | facts.found | recording.machine
    if not isinstance(value["kinds"], dict):
        raise FormatError(MACHINE, expected="kinds by file")
    value["kinds"] = facts.kinds | value["kinds"]
    value["paths"] = facts.paths
    value["lacks"] = {name: why for name, why in lacks.items() if name not in facts.have}
    value["torn"] = facts.torn or value["torn"]
    return json.dumps(value).encode("ascii") + b"\n"


def stat_text(process: RecordedProcess) -> bytes:
    """Return who it was. Which state it was in nobody knows."""
    numbers = [0] * NR_STAT_FIELDS
    numbers[START_TIME] = process.start_time
    return b"%d (%b) R %b\n" % (process.pid, process.name.encode(), b" ".join(b"%d" % number for number in numbers))


def status_text(process: RecordedProcess, usage: Usage, amounts: Mapping[str, int | None]) -> bytes:
    """Return the counters of a process, those that were recorded."""
    name = process.name.replace("\\", "\\\\").replace("\n", "\\n")
    lines = [f"Name:\t{name}", f"Tgid:\t{process.pid}", f"Pid:\t{process.pid}"]
    known = {line: amounts.get(key) for line, key in STATUS.items()}
    known |= {line: getattr(usage, key) for line, key in OF_USAGE.items()}
    known["VmPTE"] = amounts.get("tables")
    known["VmSwap"] = swap_of_process(usage)
    lines += [f"{line}:\t{size >> 10} kB" for line, size in known.items() if size is not None]
    return ("\n".join(lines) + "\n").encode()


def swap_of_process(usage: Usage) -> int | None:
    """Return what VmSwap counts: all but shared memory, which nobody can tell from the rest where there is some."""
    return usage.swap if not usage.swap or usage.swap == usage.swap_pss else None


def line_of(item: VmaUsage) -> bytes:
    """Return the line of maps of a VMA."""
    vma = item.vma
    path = vma.path.replace("\n", "\\012")
    head = f"{vma.start:08x}-{vma.end:08x} {vma.perms} {vma.offset:08x} {vma.dev} {vma.inode}"
    return (f"{head:<72} {path}" if path else f"{head} ").encode() + b"\n"


def is_whole(usage: Usage) -> bool:
    """Whether all is known that smaps has of every VMA."""
    needed = (usage.rss, usage.pss, usage.uss, usage.anon, usage.swap, usage.hugetlb, usage.thp, usage.nr_exclusive)
    return None not in needed


def smaps_text(item: VmaUsage, page_size: int) -> bytes:
    """Return what smaps says of a VMA besides its line, as far as it was recorded; in its unit, rounded down."""
    return fields_text({"Size": item.vma.size} | smaps_fields(item.usage, page_size))


def rollup_text(usage: Usage, page_size: int) -> bytes:
    """Return what smaps_rollup says of a process, as far as it was recorded."""
    return b"0-0 ---p 00000000 00:00 0 [rollup]\n" + fields_text(smaps_fields(usage, page_size))


def fields_text(fields: Mapping[str, int | None]) -> bytes:
    """Return the lines of those fields that are known."""
    known = ((name, size) for name, size in fields.items() if size is not None)
    return b"".join(b"%b: %d kB\n" % (name.encode(), size >> 10) for name, size in known)


def smaps_fields(usage: Usage, page_size: int) -> dict[str, int | None]:
    """Return the fields of smaps in bytes."""
    hugetlb, own_hugetlb = usage.hugetlb, None
    if usage.nr_exclusive is not None and usage.uss is not None and hugetlb is not None:
        own_hugetlb = max(min(usage.nr_exclusive * page_size - usage.uss, hugetlb), 0)
    return {
        "Rss": usage.rss,
        "Pss": usage.pss,
        "Private_Clean": 0,
        "Private_Dirty": usage.uss,
        "Anonymous": usage.anon,
        "LazyFree": usage.lazyfree,
        "AnonHugePages": usage.thp,
        "Shared_Hugetlb": None if own_hugetlb is None or hugetlb is None else hugetlb - own_hugetlb,
        "Private_Hugetlb": own_hugetlb,
        "Swap": usage.swap,
        "SwapPss": usage.swap_pss,
    }
