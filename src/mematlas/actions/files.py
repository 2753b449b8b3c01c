"""Acts on files: out of the page cache (pageout), or into it (willneed), whoever maps them.

>>> planned = plan_files(["/var/lib/db"], "pageout")                        # doctest: +SKIP
>>> effect = act_on_files(["/var/lib/db"], "pageout")                       # doctest: +SKIP
>>> planned.nr_movable, effect.nr_moved, effect.reasons                     # doctest: +SKIP
(16384, 16381, {'busy': 3})

The kernel is advised by posix_fadvise(2). What moved is measured: cachestat, or mincore, before and after. All of it is
done by a child that can be left behind, since a file system may never answer (`mematlas.observe.cache`).
"""

from __future__ import annotations

import time

from mematlas.actions.fileadvice import FILE_ADVICE, FileRow, act_on, find, look_at
from mematlas.actions.options import DEFAULTS
from mematlas.analysis.movable import add_counts, in_order
from mematlas.errors import BadInput, Error, NotSupported, PermissionDenied, put_together
from mematlas.frozen import Record, record
from mematlas.kernel.abandon import Reports
from mematlas.kernel.procfs import ProcFS
from mematlas.model.processes import first_of
from mematlas.notes import Note, Notes
from mematlas.observe.cache import FAILED, LEFT, ROWS, left_notes
from mematlas.observe.mapped_pages import mapped_pages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from mematlas.actions.options import Options, Stop
    from mematlas.observe.mapped_pages import MappedPages

PATIENCE = 60.0
"""Seconds for which a file system may say nothing: a disk may have much to write."""
SECONDS = 3600.0
"""For a plan or an act as a whole."""


@record
class PlannedFile(Record):
    """A file, with what an advice can do there."""

    path: str
    size: int
    """Bytes in it, in RAM or not."""
    nr_requested: int
    """pageout: pages of it in the page cache. willneed: those that are not."""
    nr_movable: int
    nr_dirty: int | None
    """Those that are to be written to the disk before they can go; None where that is not known."""
    reasons: dict[str, int]
    """Why the others will stay, as in `mematlas.analysis.movable.REASONS`."""
    mappers: tuple[int, ...] = ()
    """The processes that map pages of it, by PID, as far as they can be seen."""


@record
class FilePlan(Record):
    """What an advice would do to files."""

    advice: str
    """``pageout`` or ``willneed``."""
    files: tuple[PlannedFile, ...]
    page_size: int
    notes: tuple[Note, ...]

    @property
    def nr_requested(self) -> int:
        """Pages asked for."""
        return sum(file.nr_requested for file in self.files)

    @property
    def nr_movable(self) -> int:
        """Pages that can move."""
        return sum(file.nr_movable for file in self.files)

    @property
    def reasons(self) -> dict[str, int]:
        """Why the others will stay."""
        return summed(file.reasons for file in self.files)


@record
class FileEffect(Record):
    """What an act did to one file."""

    path: str
    size: int
    nr_requested: int
    nr_advised: int
    nr_moved: int
    """pageout: out of the page cache. willneed: in it."""
    nr_reading: int | None
    """After a willneed: moved pages that the disk was still reading; None where that is not known."""
    reasons: dict[str, int]
    """Why the others stayed."""
    passes: int
    mappers: tuple[int, ...] = ()
    """The processes that map pages that stayed."""

    @property
    def nr_stayed(self) -> int:
        """Pages that did not move."""
        return self.nr_requested - self.nr_moved


@record
class FilesEffect(Record):
    """What an act did to files, as the page cache itself shows it."""

    advice: str
    files: tuple[FileEffect, ...]
    page_size: int
    seconds: float
    stopped: str
    """Why it ended before all was done; empty when it did not."""
    notes: tuple[Note, ...]

    @property
    def nr_requested(self) -> int:
        """Pages asked for."""
        return sum(file.nr_requested for file in self.files)

    @property
    def nr_moved(self) -> int:
        """Pages that moved."""
        return sum(file.nr_moved for file in self.files)

    @property
    def reasons(self) -> dict[str, int]:
        """Why the others stayed."""
        return summed(file.reasons for file in self.files)


def plan_files(paths: Iterable[str], advice: str, procfs: ProcFS | None = None) -> FilePlan:
    """Return what an advice, ``pageout`` or ``willneed``, would do to files, and to all below directories.

    No link is followed, no other file system entered, and nothing read.

    Raises:
        BadInput: there is no such advice for files.
        TargetNotFound: nothing is called so.
        PermissionDenied: the page cache of a file that was named is for its owner and writers to see.
    """
    procfs = procfs or ProcFS()
    look = FileLook(procfs, list(paths), advice)
    rows = list(look.rows(lambda path: look_at(path, advice, procfs.page_size)))
    mapped = look.mapped(rows, [row.nr_requested for row in rows])
    files = [planned_file(row, mapped.get(row.name) if advice == "pageout" else None) for row in rows]
    return FilePlan(advice=advice, files=tuple(files), page_size=procfs.page_size, notes=tuple(look.notes))


def planned_file(row: FileRow, mapped: MappedPages | None) -> PlannedFile:
    """Return what can be done with a file, given who maps it."""
    nr_kept = min(mapped.nr_pages, row.nr_movable) if mapped else 0
    reasons = dict(row.reasons)
    add_counts(reasons, {"mapped": nr_kept})
    return PlannedFile(
        path=row.path,
        size=row.size,
        nr_requested=row.nr_requested,
        nr_movable=row.nr_movable - nr_kept,
        nr_dirty=row.nr_dirty,
        reasons=in_order(reasons),
        mappers=mapped.pids if mapped else (),
    )


def act_on_files(
    paths: Iterable[str], advice: str, options: Options = DEFAULTS, procfs: ProcFS | None = None
) -> FilesEffect:
    """Do that, and return what it did. Pages that are to be written to the disk are written before they go.

    The errors are those of `plan_files`.
    """
    began = time.perf_counter()
    procfs = procfs or ProcFS()
    look = FileLook(procfs, list(paths), advice)
    look.check()
    rows = list(look.rows(lambda path: act_on(path, advice, procfs.page_size, options), options.stop, is_act=True))
    mapped = look.mapped(rows, [row.nr_requested - row.nr_movable for row in rows])
    files = [effect_of(row, mapped.get(row.name)) for row in rows]
    return FilesEffect(
        advice=advice,
        files=tuple(files),
        page_size=procfs.page_size,
        seconds=time.perf_counter() - began,
        stopped=look.stopped,
        notes=tuple(look.notes),
    )


def effect_of(row: FileRow, mapped: MappedPages | None) -> FileEffect:
    """Return what was done to a file, given who maps it now."""
    reasons = dict(row.reasons)
    nr_left = row.nr_requested - row.nr_movable - sum(reasons.values())
    nr_mapped = min(mapped.nr_pages, nr_left) if mapped else 0
    add_counts(reasons, {"mapped": nr_mapped, "busy": nr_left - nr_mapped})
    return FileEffect(
        path=row.path,
        size=row.size,
        nr_requested=row.nr_requested,
        nr_advised=row.nr_advised,
        nr_moved=row.nr_movable,
        nr_reading=row.nr_reading,
        reasons=in_order(reasons),
        passes=row.passes,
        mappers=mapped.pids if mapped and nr_mapped else (),
    )


def summed(reasons: Iterable[dict[str, int]]) -> dict[str, int]:
    """Return reasons of several files together."""
    total: dict[str, int] = {}
    for each in reasons:
        add_counts(total, each)
    return in_order(total)


class FileLook:
    """A look at files, or an act on them, in a child; and what is to be said about it."""

    def __init__(self, procfs: ProcFS, paths: Sequence[str], advice: str) -> None:
        if advice not in FILE_ADVICE:
            raise BadInput(f"no advice {advice!r} for files: choose from {', '.join(FILE_ADVICE)}")
        if not paths:
            raise BadInput("which files? Give one at least")
        self.procfs = procfs
        self.paths = paths
        self.notes = Notes()
        self.stopped = ""

    def check(self) -> None:
        """Raise `TargetNotFound` and the like for a path that is not to be had: then nothing is done to the others."""
        for _, (_, piece) in Reports(find, self.paths, PATIENCE, time.monotonic() + SECONDS):
            raise put_together(*piece)

    def rows(
        self, ask: Callable[[str], Iterator[Any]], stop: Stop = DEFAULTS.stop, is_act: bool = False
    ) -> Iterator[FileRow]:
        """Yield what a child says of each file, each once.

        Ctrl-C ends the child as well, and another one would go on with the next path: it looks whether to stop. Once
        something was done, a path that is not to be had is left out.

        Raises:
            TargetNotFound, BadInput, PermissionDenied: one that was named is not to be had.
        """
        seen: set[tuple[int, int]] = set()
        reports = Reports(
            lambda path: iter(()) if stop() else ask(path), self.paths, PATIENCE, time.monotonic() + SECONDS
        )
        for _, (kind, piece) in reports:
            if kind == FAILED:
                error = put_together(*piece)
                if not (is_act and seen):
                    raise error
                self.notes.add(Note("left-out", f"left out: {error}"))  # what was done is to be known
            if kind == LEFT:
                self.notes += left_notes(piece)
            elif kind == ROWS:
                for row in [FileRow(*values) for values in piece]:
                    if (row.device, row.number) not in seen:
                        seen.add((row.device, row.number))
                        yield row
            if stop():
                reports.stop()
        if stop():
            self.stopped = "interrupted"
            self.notes.add(Note("interrupted", "interrupted: what was done to the file after those shown is unknown"))
            return
        if reports.unanswered:
            text = f"{first_of(reports.unanswered)}: not all of it: its file system does not answer"
            self.notes.add(Note("unanswered", text))
        if reports.unasked:
            self.notes.add(Note("unasked", f"{first_of(reports.unasked)}: not all of it: no time left"))
        if not seen and reports.unanswered:
            raise Error(f"{first_of(reports.unanswered)}: its file system does not answer")

    def mapped(self, rows: Sequence[FileRow], nr_left: Sequence[int]) -> dict[tuple[str, int], MappedPages]:
        """Return how many pages of files processes map, of those of which any is left, and which do."""
        wanted = {row.name for row, number in zip(rows, nr_left, strict=True) if number}
        if not wanted:
            return {}
        try:
            mapped, notes = mapped_pages(self.procfs, wanted)
        except (PermissionDenied, NotSupported) as error:
            self.notes.add(Note("mapped-unknown", f"which pages processes map, and so stay, is unknown: {error}"))
            return {}
        self.notes += notes
        return mapped
