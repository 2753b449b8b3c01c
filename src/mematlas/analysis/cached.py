"""Files in the page cache: what it has of each, in order of that, and added up by what they have in common."""

from __future__ import annotations

from mematlas.analysis.listing import sum_known
from mematlas.errors import BadInput
from mematlas.frozen import Record, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mematlas.analysis.results import Reading

AMOUNTS = ("resident", "mapped", "dirty", "writeback", "evicted", "recently_evicted", "swap", "size")
SORTS = (*AMOUNTS, "path")
"""What files can be put in order by: amounts the largest first."""
BY = ("directory", "fs", "cgroup")
"""What they can be added up by."""


@record
class CachedFile(Record):
    """What the page cache has of a file. Amounts are bytes of whole pages; None is what is not known."""

    path: str | None
    """None where it is not known; so it is of most of the whole page cache, unless asked for."""
    dev: str
    """``major:minor`` of its file system, in hexadecimal, as maps has it."""
    inode: int
    fs: str | None
    """The type of its file system, such as ``ext4``."""
    size: int
    """Bytes in it, in RAM or not."""
    resident: int
    """In RAM."""
    dirty: int | None
    """Of that, still to be written to the disk."""
    writeback: int | None
    """Of that, being written."""
    evicted: int | None = None
    """Taken out of RAM, and remembered as such by the kernel. Nothing of memory without a disk: see ``swap``."""
    recently_evicted: int | None = None
    """Of that, so recently that RAM would have been too small for it: it comes back as part of the working set."""
    swap: int | None = None
    """In swap: of shared memory and tmpfs alone."""
    cells: tuple[float, ...] = ()
    """Which share of each sixteenth of it is in RAM, from 0 to 1; of each page of a file that has fewer."""
    mappers: tuple[int, ...] | None = None
    """The processes that map it, by PID, as far as they can be seen; None where it was not asked for."""
    is_deleted: bool = False
    """Whether it has no name any more: it goes with whoever has it."""
    mapped: int | None = None
    """Of what is in RAM, what some process maps."""
    all_seen: bool | None = None
    """Whether nobody else maps it than ``mappers``; False where one may that could not be looked at."""
    overlay_path: str | None = None
    """Where it is seen through an overlay, the first of several; None where it is not, or that was not asked for."""


@record
class CachedGroup(Record):
    """The same of all files of a directory, or of a file system; or of the pages that a cgroup is charged for."""

    name: str | None
    """None of those of which it is not known."""
    nr_files: int
    size: int | None
    """None of a cgroup: pages are charged, not files."""
    resident: int
    dirty: int | None
    writeback: int | None
    evicted: int | None = None
    recently_evicted: int | None = None
    swap: int | None = None
    mapped: int | None = None
    inode: int | None = None
    """Of the directory of a cgroup; 0 of what nobody is charged for."""


@record
class CacheResult(Record):
    """What the page cache has of some files, and how that was found out."""

    files: tuple[CachedFile, ...]
    """Each once, whatever it is called: a file with several names has the first that was found."""
    reading: Reading
    others: CachedGroup | None = None
    """The other files, added up; None where all are listed."""
    charged: tuple[CachedGroup, ...] | None = None
    """All of it by the cgroup that is charged; None where it was not asked for."""

    @property
    def resident(self) -> int:
        """Bytes of all of them in RAM."""
        return sum(file.resident for file in self.files) + (self.others.resident if self.others else 0)

    @property
    def nr_files(self) -> int:
        """How many they are."""
        return len(self.files) + (self.others.nr_files if self.others else 0)

    def grouped(self, by: str) -> list[CachedGroup]:
        """Return the files that are listed by their ``directory``, or by the type of their file system (``fs``); or
        all pages by the ``cgroup`` that is charged.
        """
        if by not in BY:
            raise BadInput(f"no groups of files by {by!r}: choose from {', '.join(BY)}")
        if by == "cgroup":
            return list(self.charged or ())
        groups: dict[str | None, list[CachedFile]] = {}
        for file in self.files:
            name = directory_of(file) if by == "directory" else file.fs
            groups.setdefault(name, []).append(file)
        return [group_of(name, files) for name, files in groups.items()]


def directory_of(file: CachedFile) -> str | None:
    """Return the directory that a file is in; of what is in none, itself; None where its path is not known."""
    if file.path is None:
        return None
    directory, slash, _ = file.path.rpartition("/")
    return directory or slash or "."


def group_of(name: str | None, files: Sequence[CachedFile]) -> CachedGroup:
    """Return files added up."""
    return CachedGroup(
        name=name,
        nr_files=len(files),
        size=sum(file.size for file in files),
        resident=sum(file.resident for file in files),
        dirty=sum_known(file.dirty for file in files),
        writeback=sum_known(file.writeback for file in files),
        evicted=sum_known(file.evicted for file in files),
        recently_evicted=sum_known(file.recently_evicted for file in files),
        swap=sum_known(file.swap for file in files),
        mapped=sum_known(file.mapped for file in files),
    )


def in_order(files: Iterable[CachedFile], sort: str) -> list[CachedFile]:
    """Return files by an amount, the largest first and what is not known last, or by path."""
    if sort not in SORTS:
        raise BadInput(f"cannot sort files by {sort!r}: choose from {', '.join(SORTS)}")
    if sort == "path":
        return sorted(files, key=lambda file: (file.path is None, file.path or ""))

    def key(file: CachedFile) -> tuple[bool, int]:
        amount = getattr(file, sort)
        return amount is None, -(amount or 0)

    return sorted(files, key=key)
