"""Every process of a /proc: the one loop over them, and the one rule for who is passed over.

What reads more of them than counters may wait for ever, and asks from children: `inquire`.
"""

from __future__ import annotations

import time

from mematlas.errors import (
    FormatError,
    NoAddressSpace,
    NotSupported,
    PermissionDenied,
    ProcessGone,
    TargetNotFound,
)
from mematlas.kernel.procfs import MOUNTED_PROC, ProcessDir
from mematlas.kernel.status import has_memory, is_kernel_thread, read_stat
from mematlas.model.target import open_process, own_pid
from mematlas.notes import Note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from mematlas.kernel.abandon import Ask, Inquiry
    from mematlas.kernel.procfs import ProcFS
    from mematlas.kernel.status import Stat

SKIPPED = (TargetNotFound, ProcessGone, NoAddressSpace, PermissionDenied, NotSupported, FormatError)
"""What a look at all processes passes over: it has ended, or is not ours to look at. All else is our trouble."""
ENDED, KERNEL_THREAD, REFUSED, UNREADABLE = "ended", "kernel thread", "refused", "unreadable"
"""Why a process is passed over."""
NAMED = 5
"""Processes that a note names."""


class Processes:
    """The processes that have memory of their own, one after the other, each held open until the next.

    Passed over are threads of the kernel, processes that ended, and those that may not be read; ``skipped`` has them,
    by the reason. We ourselves are not among them, nor is whoever is in ``without``.

    >>> import os
    >>> from mematlas.kernel.procfs import ProcFS
    >>> everybody = Processes(ProcFS(), without=())
    >>> os.getpid() in [process.pid for process, _ in everybody]
    True
    >>> os.getpid() in Processes(ProcFS()).pids
    False

    Raises:
        NotSupported: this is no /proc, but the directory that one belongs on.
    """

    def __init__(
        self,
        procfs: ProcFS,
        pids: Iterable[int] | None = None,
        without: Collection[int] | None = None,
        deadline: float = float("inf"),
        held: Mapping[int, int] | None = None,
    ) -> None:
        """Look at all processes, or at those with some PIDs; at none after a time of `time.monotonic`.

        ``held`` has, by PID, descriptors of the directories of those that were found already.
        """
        left_out = ourselves(procfs) if without is None else without
        self.procfs = procfs
        looked_at = procfs.pids() if pids is None else pids
        self.pids = [pid for pid in looked_at if pid not in left_out]
        self.deadline = deadline
        self.late: list[int] = []
        """Those that there was no time for."""
        self._held = held or {}
        self.skipped: dict[str, list[int]] = {ENDED: [], KERNEL_THREAD: [], REFUSED: [], UNREADABLE: []}
        if not self.pids and pids is None and procfs.live and not procfs.is_mounted:
            raise NotSupported(procfs.root, MOUNTED_PROC)

    def __iter__(self) -> Iterator[tuple[ProcessDir, Stat]]:
        for process, stat in self.held_open():
            with process:
                yield process, stat

    def held_open(self) -> Iterator[tuple[ProcessDir, Stat]]:
        """Yield the same, each to be closed by the caller."""
        for pid in self._in_time():
            if pair := self.open(pid):
                yield pair

    def with_status(self) -> Iterator[tuple[ProcessDir, bytes]]:
        """Yield the same processes with their status, which says who they are as well: one file less to read for each.

        The caller closes them.
        """
        for pid in self._in_time():
            try:
                process = ProcessDir(self.procfs, pid, self._held.get(pid, -1))
            except SKIPPED as error:
                self.skipped[reason(error)].append(pid)
                continue
            status = status_of(process)
            if not has_memory(status):
                process.close()
                if is_kernel_thread(status):
                    self.skipped[KERNEL_THREAD].append(pid)
                    continue
                if not (pair := self.open(pid)):
                    continue
                process, _ = pair  # its first thread has ended alone
                status = status_of(process)
                if not has_memory(status):
                    process.close()
                    self.skipped[ENDED].append(pid)
                    continue
            yield process, status

    def _in_time(self) -> Iterator[int]:
        for index, pid in enumerate(self.pids):
            if time.monotonic() > self.deadline:
                self.late = self.pids[index:]
                return
            yield pid

    @property
    def nr_late(self) -> int:
        """How many there was no time for."""
        return len(self.late)

    def open(self, pid: int) -> tuple[ProcessDir, Stat] | None:
        """Return one of them, held open, and who it is; None when it is passed over."""
        try:
            process, stat = open_process(pid, self.procfs, self._held.get(pid, -1))
        except SKIPPED as error:
            self.skipped[reason(error)].append(pid)
            return None
        if stat.is_kernel_thread:
            process.close()
            self.skipped[KERNEL_THREAD].append(pid)
            return None
        return process, stat


def status_of(process: ProcessDir) -> bytes:
    """Return the status of a process; nothing where it cannot be read."""
    try:
        return process.read_short("status")
    except SKIPPED:
        return b""


def reason(error: Exception) -> str:
    """Return why a process is passed over, given one of the errors in `SKIPPED`."""
    if isinstance(error, PermissionDenied):
        return REFUSED
    return ENDED if isinstance(error, TargetNotFound | ProcessGone | NoAddressSpace) else UNREADABLE


def ourselves(procfs: ProcFS) -> set[int]:
    """Return our PID, as this /proc counts, with those of who works for us; nothing where it does not show us."""
    try:
        return {own_pid(procfs), *procfs.helpers}
    except TargetNotFound:
        return set()


def opened(pids: Iterable[int], procfs: ProcFS) -> list[ProcessDir]:
    """Return the processes with these PIDs, held open, but for those that are passed over."""
    processes = Processes(procfs, pids, without=())
    return [pair[0] for pid in processes.pids if (pair := processes.open(pid))]


def ancestors(pid: int, procfs: ProcFS) -> Iterator[int]:
    """Yield a process, its parent, and so on up."""
    while pid > 0:
        yield pid
        try:
            with procfs.process(pid) as process:
                pid = read_stat(process).parent
        except (TargetNotFound, ProcessGone):
            return


# From children


def inquire(ask: Ask, things: Sequence[Any], deadline: float = float("inf")) -> Inquiry:
    """Return an `Inquiry`. What that needs is imported here: who names a PID searches for nothing."""
    from mematlas.kernel.abandon import Inquiry

    return Inquiry(ask, things, deadline=deadline)


def left_out(inquiry: Inquiry, procfs: ProcFS) -> Iterator[Note]:
    """Yield notes on the processes that an inquiry could not find out about."""
    if inquiry.unanswered:
        who = named(inquiry.unanswered, procfs)
        yield Note("unanswered", f"{who}: skipped: reading their memory or command line blocks")
    if inquiry.unasked:
        yield Note("unasked", f"{named(inquiry.unasked, procfs)}: skipped: no time left, or no room for a child")


def named(pids: Iterable[int], procfs: ProcFS) -> str:
    """Return the first of some processes by PID and name, and how many more there are."""
    pids = sorted(pids)
    return first_of([*(f"{pid} ({name_of(pid, procfs)})" for pid in pids[:NAMED]), *pids[NAMED:]])


def first_of(names: Sequence[object], most: int = NAMED) -> str:
    """Return the first of some PIDs or names, and how many more there are.

    >>> first_of([7, 8]), first_of("abcd", 3)
    ('7, 8', 'a, b, c and 1 more')
    """
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def name_of(pid: int, procfs: ProcFS) -> str:
    """Return the name of the process that has a PID now."""
    try:
        with procfs.process(pid) as process:
            return read_stat(process).name
    except SKIPPED:
        return "ended"
