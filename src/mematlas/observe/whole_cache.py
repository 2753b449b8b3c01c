"""The whole page cache by file, from struct pages: of files that are open or not, deleted, or on no mount in sight.

What a file is called is a matter of the kernel's own structures (`mematlas.kernel.memory.inodes`). No file is opened,
so nothing here can wait. Where struct pages cannot be read there are the files that processes map or have open.
"""

from __future__ import annotations

import time

from mematlas.analysis.cached import CachedFile, CachedGroup, CacheResult, in_order
from mematlas.analysis.results import Reading
from mematlas.arrays import NDArray, np
from mematlas.errors import BadInput, NotSupported, PermissionDenied
from mematlas.frozen import replace
from mematlas.kernel.abandon import Reports
from mematlas.kernel.maps import MAX_PATH
from mematlas.kernel.memory.inodes import Inodes
from mematlas.kernel.mounts import parse_mountinfo
from mematlas.model.cached_pages import count_cached_pages, sampled_mappings
from mematlas.model.processes import SKIPPED, Processes, opened
from mematlas.model.target import Target
from mematlas.notes import Note, Notes
from mematlas.observe.cache import (
    CHARGED,
    MAPPERS,
    PATH,
    PLACES,
    ROWS,
    file_of,
    find_cached,
    look_at,
    mappers_of,
    names_of,
    with_mappers,
)
from mematlas.observe.file_names import FileNames
from mematlas.observe.frames import open_decoder
from mematlas.observe.overlays import find_seen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from mematlas.kernel.memory.inodes import FileSystem
    from mematlas.kernel.mounts import MountPoint
    from mematlas.kernel.procfs import ProcFS
    from mematlas.model.cached_pages import CachedPages
    from mematlas.observe.cache import Wanted
    from mematlas.observe.frames import DecoderHeld
    from mematlas.observe.overlays import Seen

AMOUNTS = ("size", "resident", "mapped", "dirty", "writeback")
"""What is known of all files."""
KNOWN = (*AMOUNTS, "path")
"""What the whole page cache can be put in order by: what was evicted from it is known of named files alone."""
LOCAL = frozenset(("ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "tmpfs", "ramfs", "vfat", "erofs", "squashfs"))
"""File systems that answer by themselves: no server is asked."""
MOST_PLACES = 100
"""Files of which it is found out where in them they are in RAM."""
PLACES_PATIENCE, PLACES_SECONDS = 0.5, 2.0
"""For which one file is waited for, and all of them."""
SPARE = 8
"""Files beyond those that are wanted: some may go while they are looked at."""
STACKED = frozenset(("overlay", "fuse", "fuseblk"))
"""File systems of which maps has other devices and inodes than those that the pages belong to."""


def find_everything(procfs: ProcFS, wanted: Wanted) -> CacheResult:
    """Return what `mematlas.Machine.cache` does of all files, as far as they can be seen."""
    if not procfs.live:
        raise NotSupported("the page cache of a capture", "a live system")
    if procfs.lender is not None:
        details = ",".join(sorted(wanted.details))
        lent: CacheResult
        lent, _ = procfs.lender.ask("find_everything", wanted.sort, wanted.limit, details, wanted.seconds)
        return lent
    try:
        return find_all_cached(procfs, wanted)
    except (PermissionDenied, NotSupported) as error:
        if CHARGED in wanted.details:
            raise
        text = f"only files that processes map or have open are looked at: {error}"
    targets = [Target(process) for process in opened(Processes(procfs).pids, procfs)]
    try:
        result = find_cached(procfs, (), targets, wanted)
    finally:
        for target in targets:
            target.close()
    notes = (Note("cache-of-processes", text), *result.reading.notes)
    return replace(result, reading=replace(result.reading, notes=notes))


def find_all_cached(procfs: ProcFS, wanted: Wanted) -> CacheResult:
    """Return what the page cache has of all files, from struct pages.

    Raises:
        PermissionDenied, NotSupported: struct pages cannot be read.
    """
    if wanted.sort not in KNOWN:
        raise BadInput(f"{wanted.sort} is known of files that are named alone: sort by {', '.join(KNOWN)}")
    if CHARGED in wanted.details:
        from mematlas.observe.cache_charges import find_charged

        return find_charged(procfs)
    start = time.monotonic()
    with open_decoder(procfs) as held:
        pages = count_cached_pages(held.array, held.decoder)
        found = WholeCache(procfs, Inodes(held.memory), pages, PATH in wanted.details)
        files = found.files(wanted.sort, wanted.limit)
    notes = found.notes()
    others = found.others(files)
    seen: dict[tuple[str, int], list[Seen]] = {}
    if PLACES in wanted.details:
        seen = find_seen(found.mounts, files[:MOST_PLACES])
        files = [replace(file, overlay_path=first_path(seen.get((file.dev, file.inode)))) for file in files]
        files, silent = with_places(procfs, files)
        notes += silent
    if MAPPERS in wanted.details:
        files, unseen = with_all_mappers(procfs, files, seen)
        notes += unseen
    reading = Reading("struct pages", time.monotonic() - start, False, tuple(notes))
    return CacheResult(tuple(files), reading, others)


def largest_files(procfs: ProcFS, held: DecoderHeld, count: int) -> list[CachedFile]:
    """Return the files of which most is in the page cache, as far as a sample of all frames finds them: how much that
    is their own counters say. What of it is dirty is unknown.
    """
    inodes, array = Inodes(held.memory), held.array
    mappings = sampled_mappings(array, held.decoder)
    counts, good = inodes.nr_pages(mappings)
    first = np.argsort(np.where(good, counts, np.uint64(0)))[::-1][: count + SPARE]
    table = inodes.of_mappings(mappings[first])
    counts, good = inodes.nr_pages(table.mappings)
    systems = inodes.file_systems(table.supers[table.good].tolist())
    names = FileNames(procfs, inodes)
    paths, are_deleted = names.of(table, systems)
    good &= table.good & inodes.are_as_before(table) & (counts <= array.nr_frames)
    kinds = kinds_of(systems, names.types)
    files = []
    for row in np.flatnonzero(good).tolist():
        dev, fs = kinds.get(int(table.supers[row]), (None, None))
        if dev is not None:
            files.append(
                CachedFile(
                    path=paths[row],
                    dev=dev,
                    inode=int(table.numbers[row]),
                    fs=fs,
                    size=-(-int(table.sizes[row]) // procfs.page_size) * procfs.page_size,
                    resident=int(counts[row]) * procfs.page_size,
                    dirty=None,
                    writeback=None,
                    is_deleted=are_deleted[row],
                )
            )
    return in_order(files, "resident")[:count]


class WholeCache:
    """What the page cache has of each file, and what that is called."""

    def __init__(self, procfs: ProcFS, inodes: Inodes, pages: CachedPages, with_paths: bool) -> None:
        self._with_paths = with_paths
        self._nr_nameless = 0
        self._names = FileNames(procfs, inodes)
        self._page_size = procfs.page_size
        table = inodes.of_mappings(pages.mappings)
        systems = inodes.file_systems(table.supers[table.good].tolist())
        is_file = table.good & np.isin(table.supers, np.array(list(systems), np.uint64))
        rows = np.flatnonzero(is_file)
        self.nr_lost = int(pages.nr_resident[~is_file].sum())
        """Pages of which nobody knows any more what file they are of: it went while it was read."""
        self._table, self._systems = table.take(rows), systems
        self._amounts = {
            "resident": pages.nr_resident[rows],
            "mapped": pages.nr_mapped[rows],
            "dirty": pages.nr_dirty[rows],
            "writeback": pages.nr_writeback[rows],
            "size": -(-self._table.sizes.astype(np.int64) // procfs.page_size),
        }

    @property
    def mounts(self) -> Sequence[MountPoint]:
        """The mounts that are in sight."""
        return self._names.mounts

    def files(self, sort: str, limit: int) -> list[CachedFile]:
        """Return the first files in that order, with their paths."""
        nr = len(self._table.good)
        if sort == "path":
            return in_order(self._described(np.arange(nr)), sort)[:limit]
        return self._described(np.argsort(-self._amounts[sort], kind="stable")[:limit])

    def _described(self, rows: NDArray[np.intp]) -> list[CachedFile]:
        table = self._table
        paths, are_deleted = self._named(rows) if self._with_paths else ([None] * len(rows), [False] * len(rows))
        columns = [(self._amounts[name][rows] * self._page_size).tolist() for name in AMOUNTS]
        columns += [column[rows].tolist() for column in (table.numbers, table.supers)]
        known = kinds_of(self._systems, self._names.types)
        files = []
        for path, size, resident, mapped, dirty, writeback, number, super_block, is_deleted in zip(
            paths, *columns, are_deleted, strict=True
        ):
            dev, fs = known[super_block]
            files.append(
                CachedFile(
                    path=path,
                    dev=dev,
                    inode=number,
                    fs=fs,
                    size=size,
                    resident=resident,
                    dirty=dirty,
                    writeback=writeback,
                    is_deleted=is_deleted,
                    mapped=mapped,
                )
            )
        return files

    def others(self, files: Sequence[CachedFile]) -> CachedGroup | None:
        """Return all but some files, added up; None where these are all."""
        nr_files = len(self._table.good) - len(files)
        if not nr_files:
            return None
        amounts = {
            name: int(self._amounts[name].sum()) * self._page_size - sum(getattr(file, name) for file in files)
            for name in AMOUNTS
        }
        return CachedGroup(name=None, nr_files=nr_files, **amounts)

    def _named(self, rows: NDArray[np.intp]) -> tuple[list[str | None], list[bool]]:
        """Return the paths of files as they are seen from here, and whether they are deleted."""
        paths, are_deleted = self._names.of(self._table.take(rows), self._systems)
        self._nr_nameless = paths.count(None)
        return paths, are_deleted

    def notes(self) -> Notes:
        """Return what is not known."""
        notes = Notes()
        if self._nr_nameless:
            files = "1 file has" if self._nr_nameless == 1 else f"{self._nr_nameless:,} files have"
            text = f"{files} no path: the kernel keeps none, or it changed while it was read"
            notes.add(Note("files-nameless", text))
        if self.nr_lost:
            text = f"{self.nr_lost:,} pages were of files that went while they were looked at"
            notes.add(Note("files-gone", text))
        return notes


def kinds_of(systems: Mapping[int, FileSystem], types: Mapping[str, str]) -> dict[int, tuple[str, str | None]]:
    """Return the device and the type of file systems, by their address, given the types of those that are mounted."""
    return {
        place: (system.dev, types.get(system.dev) or (system.id if is_diskless(system) else None))
        for place, system in systems.items()
    }


def is_diskless(system: FileSystem) -> bool:
    """Whether a file system has no disk, and is known by its type."""
    return system.dev.startswith("00:")


def with_places(procfs: ProcFS, files: Sequence[CachedFile]) -> tuple[list[CachedFile], list[Note]]:
    """Return files with where in them they are in RAM, and what was evicted: cachestat is asked of the first ones.

    Those are found by their paths, and opened, by a child: files of other file systems than `LOCAL`, deleted ones and
    such without a path are left as they are.
    """
    paths = [file.path for file in files[:MOST_PLACES] if file.path and may_be_opened(file, file.path)]
    if not paths:
        return list(files), []
    reports = Reports(lambda path: look_at(path, procfs), paths, PLACES_PATIENCE, time.monotonic() + PLACES_SECONDS)
    found = {}
    for _, (kind, rows) in reports:
        for row in rows if kind == ROWS else ():
            named = file_of(row, {}, procfs.page_size)
            found[named.dev, named.inode] = named
    # What is at a path now may be another file: then it is not the one that was looked for.
    looked_up = [found.get((file.dev, file.inode)) for file in files]
    pairs = zip(files, looked_up, strict=True)
    notes = []
    if reports.unanswered or reports.unasked:
        text = f"{names_of([*reports.unanswered, *reports.unasked])}: where it is in RAM was not found out in time"
        notes.append(Note("places-unknown", text))
    return [replace(file, **places_of(named)) if named else file for file, named in pairs], notes


def may_be_opened(file: CachedFile, path: str) -> bool:
    """Whether a file can be opened by its path, at a file system that answers by itself."""
    return path.startswith("/") and len(path) < MAX_PATH and not file.is_deleted and file.fs in LOCAL


def places_of(file: CachedFile) -> dict[str, Any]:
    """Return what is known of named files alone."""
    return {name: getattr(file, name) for name in ("cells", "evicted", "recently_evicted", "swap")}


def first_path(places: Sequence[Seen] | None) -> str | None:
    """Return the first of the paths by which an overlay shows a file."""
    return places[0].path if places else None


def with_all_mappers(
    procfs: ProcFS, files: Sequence[CachedFile], seen: Mapping[tuple[str, int], Sequence[Seen]]
) -> tuple[list[CachedFile], list[Note]]:
    """Return files with who maps them, be it through an overlay."""
    names = {
        (file.dev, file.inode): [
            (file.dev, file.inode),
            *(place.name for place in seen.get((file.dev, file.inode), ())),
        ]
        for file in files
    }
    mappers, notes = mappers_of(procfs, (name for some in names.values() for name in some))
    # A file that is mapped through one of these has another device and inode in maps: who does that is not known, but
    # of an overlay in sight.
    are_stacked = any(fs in STACKED for fs in types_of_all(procfs))
    known = []
    for file in files:
        pids = tuple(sorted({pid for name in names[file.dev, file.inode] for pid in mappers[name]}))
        known.append(with_mappers(file, None if are_stacked and not pids else pids, not (notes or are_stacked)))
    return known, notes


def types_of_all(procfs: ProcFS) -> Iterator[str]:
    """Yield the types of file systems that any process has mounted: those of each mount namespace."""
    seen: set[str] = set()
    for process, _ in Processes(procfs, without=()):
        try:
            namespace = process.readlink("ns/mnt")
            if namespace not in seen:
                seen.add(namespace)
                yield from process.parsed_lines("mountinfo", parse_mountinfo).values()
        except SKIPPED:
            continue  # others' are not for us to see
