"""A capture made by hand, of a machine with pages of any size: what is in it is known by construction.

What smaps says is added up here from the parts of each VMA, as the kernel would: it is no product of what is tested.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mematlas.kernel.packed import write_packed

PID = 4711
MADE_UP = {"host": "oak", "kernel": "6.12.95", "arch": "aarch64"}
ZERO_FRAME, FIRST_FRAME = 0x3FFFF, 0x40000
SWAP_TYPE, FIRST_SLOT = 1, 0x700

PRESENT, SWAP, FILE, EXCLUSIVE = 1 << 63, 1 << 62, 1 << 61, 1 << 56
MARK_A, MARK_B = 1 << 59, 1 << 60  # ours; see docs/kernel-interfaces.md
REFERENCED, UPTODATE, LRU, MMAP, ANON, SWAPBACKED = (1 << bit for bit in (2, 3, 5, 11, 12, 14))
HEAD, TAIL, HUGETLB, THP, ZERO_PAGE = (1 << bit for bit in (15, 16, 17, 22, 24))
USUAL = UPTODATE | LRU | MMAP


@dataclass(frozen=True)
class Part:
    """Consecutive pages that are alike."""

    what: str
    """``anon``, ``file``, ``thp``, ``hugetlb``, ``zero``, ``swapped``, ``cached`` or ``absent``."""
    nr_pages: int
    count: int = 1
    """How often each is mapped."""

    @property
    def is_resident(self) -> bool:
        return self.what in ("anon", "file", "thp")

    @property
    def has_frame(self) -> bool:
        """Whether each page has a frame, that is no other's."""
        return self.is_resident or self.what == "hugetlb"

    @property
    def alignment(self) -> int:
        """The number of frames of which its first is a multiple."""
        return self.nr_pages if self.what in ("thp", "hugetlb") else 1

    def entry(self, frame: int, slot: int, is_shmem: bool) -> int:
        """Return the word of a capture for one of the pages."""
        exclusive = EXCLUSIVE * (self.count == 1)
        return {
            "anon": PRESENT | exclusive | frame,
            "file": PRESENT | FILE | exclusive | frame,
            "thp": PRESENT | MARK_B | exclusive | frame,
            "hugetlb": PRESENT | MARK_B | exclusive | frame,
            "zero": PRESENT | MARK_A | frame,
            "swapped": MARK_A if is_shmem else SWAP | slot << 5 | SWAP_TYPE,
            "cached": MARK_B,
            "absent": 0,
        }[self.what]

    def flags(self, is_head: bool) -> int:
        """Return the word of kpageflags for one of the pages."""
        compound = HEAD if is_head else TAIL
        return {
            "anon": USUAL | ANON | SWAPBACKED,
            "file": USUAL | REFERENCED,
            "thp": USUAL | ANON | SWAPBACKED | THP | compound,
            "hugetlb": UPTODATE | MMAP | HUGETLB | compound,
            "zero": ZERO_PAGE,
        }[self.what]


@dataclass(frozen=True)
class Area:
    """One VMA."""

    start: int
    perms: str
    path: str
    parts: tuple[Part, ...]
    inode: int = 0
    vm_flags: str = "rd mr mw me"

    @property
    def nr_pages(self) -> int:
        return sum(part.nr_pages for part in self.parts)

    @property
    def nr_frames(self) -> int:
        return sum(part.nr_pages for part in self.parts if part.has_frame)

    def line(self, page_size: int) -> str:
        """Return its line of maps."""
        end = self.start + self.nr_pages * page_size
        device = "fe:00" if self.path.startswith("/usr") else "00:0f" if self.inode else "00:00"
        return f"{self.start:08x}-{end:08x} {self.perms} 00000000 {device} {self.inode:<10} {self.path}".rstrip() + "\n"

    def fields(self, page_size: int) -> Counter[str]:
        """Return what smaps says of it, in bytes."""
        found: Counter[str] = Counter(Size=self.nr_pages * page_size)
        for part in self.parts:
            size = part.nr_pages * page_size
            if part.is_resident:
                found["Rss"] += size
                found["Pss"] += size // part.count
                found["Private_Dirty" if part.count == 1 else "Shared_Clean"] += size
                found["Anonymous"] += size * (part.what != "file")
                found["AnonHugePages"] += size * (part.what == "thp")
            elif part.what == "hugetlb":
                found["Private_Hugetlb"] += size
            elif part.what == "swapped":
                found["Swap"] += size
                found["SwapPss"] += size * (self.inode == 0)
        return found


def areas(page_size: int) -> list[Area]:
    """Return the VMAs of the process: a few of each sort, with prime numbers of pages."""
    huge = page_size // 8  # pages of a huge one: as many as a table has entries
    return [
        Area(0xAAAAC0000000, "r-xp", "/usr/bin/server", (Part("file", 5, 3), Part("absent", 2)), 31),
        Area(0xAAAAC1000000, "rw-p", "/usr/bin/server", (Part("anon", 2), Part("file", 1, 3)), 31),
        Area(
            0xAAAAE0000000,
            "rw-p",
            "[heap]",
            (Part("anon", 23), Part("swapped", 5), Part("zero", 2), Part("absent", 71)),
        ),
        Area(0xFFFF40000000, "rw-p", "", (Part("thp", huge), Part("anon", 13), Part("absent", huge - 13))),
        Area(0xFFFF80000000, "rw-s", "/dev/shm/x", (Part("file", 11, 2), Part("swapped", 3), Part("cached", 3)), 57),
        Area(0xFFFFA0000000, "rw-p", "/anon_hugepage (deleted)", (Part("hugetlb", huge),), 58, "rd wr mr mw me ht"),
        Area(0xFFFFF0000000, "rw-p", "[stack]", (Part("absent", 8), Part("anon", 3)), vm_flags="rd wr gd"),
    ]


FIELDS = (
    *("Rss", "Pss", "Shared_Clean", "Shared_Dirty", "Private_Clean", "Private_Dirty", "Anonymous", "LazyFree"),
    *("AnonHugePages", "ShmemPmdMapped", "FilePmdMapped", "Shared_Hugetlb", "Private_Hugetlb"),
    *("Swap", "SwapPss", "Locked"),
)


def field_lines(fields: Counter[str]) -> str:
    """Return fields as smaps has them."""
    return "".join(f"{name + ':':<15} {fields[name] >> 10:>8} kB\n" for name in FIELDS)


def smaps(vmas: list[Area], page_size: int) -> str:
    """Return the text of smaps."""
    texts = []
    for area in vmas:
        fields = area.fields(page_size)
        page = page_size if area.parts[0].what != "hugetlb" else page_size**2 // 8
        sizes = {"Size": fields["Size"], "KernelPageSize": page, "MMUPageSize": page}
        texts.append(area.line(page_size))
        texts += [f"{name + ':':<15} {size >> 10:>8} kB\n" for name, size in sizes.items()]
        texts += [field_lines(fields), "THPeligible:           0\n", f"VmFlags: {area.vm_flags}\n"]
    return "".join(texts)


def words(vmas: list[Area], page_size: int) -> Iterator[tuple[int, int, int | None, Part, bool]]:
    """Yield the page number, entry, frame, part of each page that is anything, and whether its part begins there."""
    frame, slot = FIRST_FRAME, FIRST_SLOT
    for area in vmas:
        vpn = area.start // page_size
        for part in area.parts:
            if part.has_frame:
                frame += -frame % part.alignment
            for number in range(part.nr_pages):
                at = ZERO_FRAME if part.what == "zero" else frame if part.has_frame else None
                if entry := part.entry(at or 0, slot, area.path.startswith("/dev/shm")):
                    yield vpn, entry, at, part, number == 0
                vpn += 1
                frame += part.has_frame
                slot += part.what == "swapped"


def make_capture(directory: Path, page_size: int) -> Path:
    """Make the directory of a capture, and return it."""
    vmas = areas(page_size)
    own = directory / str(PID)
    own.mkdir(parents=True)
    sums: Counter[str] = sum((area.fields(page_size) for area in vmas), Counter())
    kib = {name: sums[name] >> 10 for name in ("Rss", "Swap", "Anonymous", "Private_Hugetlb")}
    tables = 9 * page_size >> 10
    texts = {
        f"{PID}/stat": f"{PID} (server) S 1 1 1 0 -1 4194304 0 0 0 0 0 0 0 0 20 0 1 0 1234 0 0\n",
        f"{PID}/status": f"Name:\tserver\nVmHWM:\t{kib['Rss']:>8} kB\nVmRSS:\t{kib['Rss']:>8} kB\n"
        f"VmPTE:\t{tables:>8} kB\nVmSwap:\t{kib['Swap']:>8} kB\nHugetlbPages:\t{kib['Private_Hugetlb']:>8} kB\n",
        f"{PID}/maps": "".join(area.line(page_size) for area in vmas),
        f"{PID}/smaps_rollup": f"{vmas[0].start:08x}-{vmas[-1].start:08x} ---p 00000000 00:00 0    [rollup]\n"
        + field_lines(sums),
        "meminfo": "MemTotal:        4194304 kB\nMemFree:         2097152 kB\n",
        "swaps": "Filename\tType\tSize\tUsed\tPriority\n/dev/zram0 partition 1048576 0 100\n",
        "machine.json": json.dumps(
            MADE_UP
            | {"page_size": page_size, "huge_size": page_size**2 // 8}
            | {"kinds": {"00:0f 57": "shmem", "00:0f 58": "hugetlb"}, "hidden": []}
            | {"paths": {}, "nodes": None, "soft_dirty": False, "tells_ksm": True}
            | {"zero_known": True, "huge_known": True}
        ),
    }
    for name, text in texts.items():
        (directory / name).write_text(text)
    (own / "smaps.gz").write_bytes(gzip.compress(smaps(vmas, page_size).encode()))
    write_pages(directory, own, list(words(vmas, page_size)))
    return directory


def write_pages(directory: Path, own: Path, pages: list[tuple[int, int, int | None, Part, bool]]) -> None:
    """Write pagemap and the words of frames."""
    of_pages = [(vpn, entry) for vpn, entry, *_ in pages]
    of_frames = [(frame, part, is_first) for _, _, frame, part, is_first in pages if frame is not None]
    files = {
        own / "pagemap.packed": of_pages,
        directory / "kpagecount.packed": [(frame, part.count) for frame, part, _ in of_frames],
        directory / "kpageflags.packed": [(frame, part.flags(is_first)) for frame, part, is_first in of_frames],
    }
    for path, content in files.items():
        with open(path, "wb") as file:
            write_packed(file, ((place * 8, word.to_bytes(8, "little")) for place, word in sorted(set(content))))
