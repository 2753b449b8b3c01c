"""Processes that have one address space: vfork(2) in flight, posix_spawn(3), clone(2) with CLONE_VM.

They are processes to all of /proc, with a PID, a name and an RSS each, but their memory exists once. kcmp(2) knows; to
ask it about few, candidates are picked by where their program, stack and arguments lie: one address space has these
once, and a fork has the same.
"""

from __future__ import annotations

import os

from mematlas.errors import Error, NotSupported
from mematlas.kernel.status import ask_stat, counts_as_we_do, parse_layout, parse_stat, read_stat
from mematlas.model.target import open_process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mematlas.kernel.procfs import ProcessDir, ProcFS

MOST_THREADS = 64
MOST_CHILDREN = 64
"""Threads of a process, and children of each, that are looked at where not every process is."""


def sharing_memory(
    process: ProcessDir, everywhere: bool = False, apart: dict[int, tuple[bytes, ...]] | None = None
) -> list[int] | None:
    """Return the other processes that run in the address space of this one; None where that is not known.

    Its parent and its children are looked at, or with ``everywhere`` all processes. Who asks again and again gives
    ``apart``, in which a parent is noted that has another address space: a process gets that of its parent when it is
    born, or never.
    """
    procfs = process.procfs
    if not procfs.live or not counts_as_we_do(procfs):
        return None
    stat = ask_stat(process)
    own = layout_in(stat)
    if own is None:
        return None
    parent = parse_stat(stat).parent
    known = {parent} if apart and apart.get(parent) == own else set()
    pids = []
    for other in all_others(process) if everywhere else relatives(process, {parent} - known):
        try:
            layout = layout_of(other)
            if other.pid in procfs.helpers:
                continue  # those who work for us are forks of ours
            if layout != own or not has_same_memory(process, other):
                if apart is not None and other.pid == parent and layout is not None:
                    apart.clear()
                    apart[parent] = own
                continue
            read_stat(other)  # the PID is still the one that was compared
            pids.append(other.pid)
        except NotSupported:
            return None
        except Error:
            continue  # ended meanwhile, or not ours to look at
    return pids


def has_same_memory(process: ProcessDir, other: ProcessDir) -> bool:
    """Whether two processes run in one address space, of which all parts lie in the same places."""
    from mematlas.kernel.kcmp import SAME, compare_memory  # hardly anybody comes so far

    return process.procfs.ask(compare_memory, process, other.tid) == SAME


class AddressSpaces:
    """The address spaces of processes that are met one after the other.

    >>> from mematlas.kernel.procfs import ProcFS
    >>> procfs = ProcFS()
    >>> with procfs.process(os.getpid()) as process:
    ...     AddressSpaces(procfs).is_met_again(process)
    False
    """

    def __init__(self, procfs: ProcFS) -> None:
        self._can_tell = procfs.live and counts_as_we_do(procfs)
        self._by_layout: dict[tuple[bytes, ...], list[tuple[int, int]]] = {}
        """PID and thread of one process of each, in the kernel's order: a server may have thousands of forks."""
        self.earlier: dict[int, int] = {}
        """The processes that run in the address space of one met before, and of which."""

    def is_met_again(self, process: ProcessDir) -> bool:
        """Whether a process runs in the address space of one met before."""
        if not self._can_tell:
            return False
        from mematlas.kernel.kcmp import GREATER, SAME, compare_memory

        try:
            if (layout := layout_of(process)) is None:
                return False
            alike = self._by_layout.setdefault(layout, [])
            low, high = 0, len(alike)
            while low < high:
                middle = (low + high) // 2
                pid, tid = alike[middle]
                order = process.procfs.ask(compare_memory, process, tid)
                if order == SAME:
                    self.earlier[process.pid] = pid
                    return True
                low, high = (middle + 1, high) if order == GREATER else (low, middle)
            alike.insert(low, (process.pid, process.tid))
        except NotSupported:
            self._can_tell = False
        except Error:
            pass  # one of them has ended
        return False


def find_alike(alike: Sequence[Sequence[int]], procfs: ProcFS, deadline: float) -> dict[int, int]:
    """Return which processes run in the address space of another, and of which: of each some that may, by their PIDs.

    Children ask: see `mematlas.model.processes.inquire`.
    """
    from mematlas.model.processes import inquire, opened

    def ask(pids: Sequence[int]) -> tuple[dict[int, int], int]:
        spaces = AddressSpaces(procfs)
        for process in opened(pids, procfs):
            with process:
                spaces.is_met_again(process)
        return spaces.earlier, -1

    sharing: dict[int, int] = {}
    if alike:
        for _, earlier, _ in inquire(ask, alike, deadline):
            sharing |= earlier
    return sharing


def all_others(process: ProcessDir) -> Iterator[ProcessDir]:
    """Yield all other processes, each held open until the next."""
    from mematlas.model.processes import Processes

    return (other for other, _ in Processes(process.procfs, without={process.pid}))


def relatives(process: ProcessDir, parents: Iterable[int]) -> Iterator[ProcessDir]:
    """Yield parents, and the children of a process, each held open until the next."""
    for pid in (*parents, *children(process)):
        try:
            other, _ = open_process(pid, process.procfs)
        except Error:
            continue  # ended meanwhile, or of another PID namespace
        with other:
            yield other


def children(process: ProcessDir) -> list[int]:
    """Return the children of a process, as far as one file lists them: not those of many threads."""
    pids: list[int] = []
    try:
        fd = process.open_fd("task")
    except Error:
        return pids
    try:
        threads = os.listdir(fd)
    finally:
        os.close(fd)
    for thread in threads[:MOST_THREADS]:
        try:
            pids += map(int, process.read(f"task/{thread}/children").split()[:MOST_CHILDREN])
        except (Error, ValueError):
            continue  # needs CONFIG_PROC_CHILDREN
    return pids


def layout_of(process: ProcessDir) -> tuple[bytes, ...] | None:
    """Return where the parts of the program lie; None where we may not know, or there is no memory."""
    return layout_in(ask_stat(process))


def layout_in(stat: bytes) -> tuple[bytes, ...] | None:
    """Return the same out of a stat file."""
    layout = parse_layout(stat)
    return layout if layout[-1] != b"0" else None
