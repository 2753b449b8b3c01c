"""What the kernel has memory for: the front door of `Machine.kernel_memory` and ``mematlas ram --kernel``.

What cannot be read is left unknown, and said. Drivers answer for the memory of devices themselves, and may never do so:
children ask them.
"""

from __future__ import annotations

import time

from mematlas.analysis.frames import FILES, MEMINFO, STRUCTS
from mematlas.analysis.kernel_memory import (
    KERNEL_USES,
    KernelPart,
    KernelResult,
    TaskCounts,
    dmabuf_part,
    drm_part,
    memmap_part,
    other_of_meminfo,
    other_part,
    reserved_part,
    slab_part,
    table_part,
    vmalloc_parts,
    zswap_part,
)
from mematlas.analysis.ram import account
from mematlas.analysis.results import Reading
from mematlas.errors import Error, FormatError, NotSupported, PermissionDenied
from mematlas.kernel.abandon import Reports
from mematlas.kernel.dmabuf import read_dmabufs
from mematlas.kernel.fdinfo import DmaBuf, DrmClient, DrmRegion, device_files, dmabuf_of, drm_client_of
from mematlas.kernel.loadavg import read_nr_tasks
from mematlas.kernel.meminfo import read_meminfo
from mematlas.kernel.memory.iomem import parse_iomem
from mematlas.kernel.slabinfo import read_aliases, read_slab_caches
from mematlas.kernel.status import line_of, parse_memory_counters, parse_name
from mematlas.kernel.vmallocinfo import read_vmalloc_uses
from mematlas.kernel.vmstat import read_vmstat
from mematlas.kernel.zoneinfo import read_cpu_free
from mematlas.model.holders import is_inside
from mematlas.model.processes import KERNEL_THREAD, REFUSED, Processes, named
from mematlas.model.shared_mm import AddressSpaces
from mematlas.notes import Note, Notes
from mematlas.observe.frames import Frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any, TypeVar

    from mematlas.kernel.procfs import ProcFS

    T = TypeVar("T")

    Piece = tuple[str, Any]
    """What a child tells: of which sort it is, and what."""

UNREAD = (NotSupported, PermissionDenied, FormatError)
PATIENCE = 0.5
"""Seconds that a driver may take for one process."""
ALL_BUFFERS = 0
"""In the place of a PID: the list of all shared buffers."""
IMAGE = ("Kernel code", "Kernel rodata", "Kernel data", "Kernel bss")
MOST_THREADS_DIGITS = 9


class KernelLook:
    """One look at all that the kernel has memory for."""

    def __init__(self, procfs: ProcFS, deadline: float) -> None:
        self.procfs = procfs
        self.deadline = deadline
        self.notes = Notes()
        self.sees_all = True
        """Whether all processes could be looked at."""

    def result(self) -> KernelResult:
        """Return it."""
        start = time.monotonic()
        frames, source = self._frames()
        meminfo = read_meminfo(self.procfs)
        # At once: what we needed to look at frames goes away by and by.
        uses = self._or_note("who asked for vmalloc memory", lambda: read_vmalloc_uses(self.procfs))
        caches = self._or_note("caches of objects", lambda: read_slab_caches(self.procfs))
        vmstat = self._or_note("struct pages and compressed swap", lambda: read_vmstat(self.procfs)) or {}
        tasks = self._tasks()
        size = self.procfs.page_size
        summed = [
            slab_part(meminfo, caches or (), read_aliases(), size),
            *vmalloc_parts(meminfo, uses, tasks, self._or_note("tasks", lambda: read_nr_tasks(self.procfs)), size),
            table_part(meminfo, tasks),
            KernelPart("percpu", meminfo.get("Percpu")),
            memmap_part(vmstat, size),
            zswap_part(frames["zsmalloc"] if frames and source == STRUCTS else None, vmstat, meminfo, size),
            reserved_part(frames["reserved"] if frames else None, vmstat, self._image(), size),
        ]
        if frames:
            total = sum(frames[use] for use in KERNEL_USES)
            summed.append(other_part(total, summed))
        else:
            summed.append(other_of_meminfo(account(meminfo, self._cpu_free()), summed))
            total = sum(part.size or 0 for part in summed if part.is_summed)
        beside = self._devices([task.pid for task in tasks if task.pid])
        reading = Reading(source, time.monotonic() - start, False, tuple(self.notes))
        return KernelResult((*summed, *beside), total, frames is not None, reading)

    def _frames(self) -> tuple[Mapping[str, int] | None, str]:
        """Return the bytes of each use, and where they are from; None where no frame may be looked at."""
        from mematlas.analysis.frames import amounts_of

        with Frames(self.procfs) as frames:
            if frames.refused:
                what = "these are its counters, and the total is without what is reserved"
                text = f"which frames are the kernel's is unknown, {what}: {frames.refused}"
                self.notes.add(Note("no-frames", text))
                return None, MEMINFO
            counts = frames.census().counts()
            self.notes += frames.notes
            amounts = amounts_of(counts.sum(axis=1), self.procfs.page_size)
            if frames.held:
                return amounts, STRUCTS
            # kpageflags has no flag for pages that a CPU keeps free, and so they look like the kernel's.
            amounts["kernel"] -= min(self._cpu_free() or 0, amounts["kernel"])
            return amounts, FILES

    def _or_note(self, what: str, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except UNREAD as error:
            self.notes.add(Note("part-unknown", f"{what}: unknown: {error}"))
            return None

    def _cpu_free(self) -> int | None:
        return self._or_note("what CPUs keep free", lambda: read_cpu_free(self.procfs))

    def _image(self) -> dict[str, int]:
        """Return the parts of the kernel's own image; nothing where addresses are hidden."""
        try:
            data = self.procfs.read("iomem")
        except UNREAD:
            return {}
        sizes = {name: sum(end - start for start, end in parse_iomem(data, (name,))) for name in IMAGE}
        return {name: size for name, size in sizes.items() if size > 1}

    # Processes

    def _tasks(self) -> list[TaskCounts]:
        """Return what the kernel counts of each process, ourselves among them, and of its own threads as one."""
        everybody, spaces = Processes(self.procfs, without=(), deadline=self.deadline), AddressSpaces(self.procfs)
        found = []
        for process, status in everybody.with_status():
            with process:
                try:
                    tables = None if spaces.is_met_again(process) else parse_memory_counters(status).tables
                    threads = line_of(status, b"Threads")
                    is_number = threads.isdigit() and len(threads) <= MOST_THREADS_DIGITS
                    found.append(TaskCounts(process.pid, parse_name(status), tables, int(threads) if is_number else 1))
                except FormatError:
                    continue
        if threads_of_kernel := len(everybody.skipped[KERNEL_THREAD]):
            found.append(TaskCounts(0, "threads of the kernel", None, threads_of_kernel))
        if refused := everybody.skipped[REFUSED]:
            self.notes.add(Note("left-out", f"{named(refused, self.procfs)}: skipped: not ours to look at"))
        self.sees_all = not refused and not everybody.nr_late
        if is_inside(self.procfs):
            self.sees_all = False
            text = "processes outside of this PID namespace are not seen: what is theirs is in the rest, or unknown"
            self.notes.add(Note("namespace", text))
        if everybody.nr_late:
            self.notes.add(Note("unasked", f"time ran out: {everybody.nr_late:,} processes were skipped"))
        return found

    # Devices

    def _devices(self, pids: Sequence[int]) -> tuple[KernelPart, KernelPart]:
        """Return the buffers that drivers share, and the clients of graphics drivers."""
        reports = Reports(self._told, [ALL_BUFFERS, *pids], PATIENCE, self.deadline)
        buffers: list[DmaBuf] | None = None
        held: dict[int, set[int]] = {}
        seen: list[DmaBuf] = []
        clients: list[tuple[int, DrmClient]] = []
        refused: list[int] = []
        for pid, (sort, told) in reports:
            if sort == "listed":
                buffers = buffers or []
                buffers += [DmaBuf(*told)] if told else []
            elif sort == "unlisted":
                self.notes.add(Note("dmabufs-unknown", f"buffers that no process has open are unknown: {told}"))
            elif sort == "refused":
                refused.append(pid)
            elif sort == "buffer":
                seen.append(DmaBuf(*told))
                held.setdefault(seen[-1].inode, set()).add(pid)
            else:
                driver, device, number, regions = told
                found = tuple(DrmRegion(*region) for region in regions)
                clients.append((pid, DrmClient(driver, device, number, found)))
        if refused:
            text = f"{named(refused, self.procfs)}: skipped: their files are not ours to look at"
            self.notes.add(Note("files-refused", f"buffers and graphics clients: {text}"))
        for lost in (reports.unanswered, reports.unasked):
            if ALL_BUFFERS in lost:
                lost.remove(ALL_BUFFERS)
                text = "buffers that no process has open are unknown: a driver does not answer"
                self.notes.add(Note("dmabufs-unknown", text))
                buffers = None
        if reports.unanswered:
            text = f"{named(reports.unanswered, self.procfs)}: memory of devices: a driver does not answer"
            self.notes.add(Note("unanswered", text))
        if reports.unasked:
            text = f"{named(reports.unasked, self.procfs)}: memory of devices: no time left, or no room for a child"
            self.notes.add(Note("unasked", text))
        is_whole = self.sees_all and not (refused or reports.unanswered or reports.unasked)
        return dmabuf_part(buffers, held, seen), drm_part(clients, is_whole)

    def _told(self, pid: int) -> Iterator[Piece]:
        """Yield what one process has of the memory of devices; in a child."""
        if pid == ALL_BUFFERS:
            try:
                listed = read_dmabufs()
            except Error as error:
                yield "unlisted", str(error)
                return
            yield "listed", None
            for buffer in listed:
                yield "listed", plain(buffer)
            return
        pair = Processes(self.procfs, without=()).open(pid)
        if pair is None:
            return
        with pair[0] as process:
            try:
                for fields in device_files(process):
                    if client := drm_client_of(fields):
                        regions = tuple(map(plain, client.regions))
                        yield "client", (client.driver, client.device, client.number, regions)
                    elif shared := dmabuf_of(fields):
                        yield "buffer", plain(shared)
            except PermissionDenied:
                yield "refused", None
            except Error:
                return  # it ended


def plain(item: DmaBuf | DrmRegion) -> tuple[Any, ...]:
    """Return the fields of a record, which marshal takes."""
    return tuple(getattr(item, name) for name in type(item).__match_args__)


def find_kernel_memory(procfs: ProcFS, seconds: float) -> KernelResult:
    """Return what the kernel has memory for; processes that are not reached in so many seconds are left out.

    Raises:
        NotSupported: a capture.
    """
    if not procfs.live:
        raise NotSupported(f"kernel memory of {procfs.root}", "a live system")
    if procfs.lender is not None:
        lent: KernelResult = procfs.lender.ask("find_kernel_memory", seconds)[0]
        return lent
    return KernelLook(procfs, time.monotonic() + seconds).result()
