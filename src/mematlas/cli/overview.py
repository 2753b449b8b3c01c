"""mematlas alone: one screen with this machine, who uses the most, what we may do, and what to try."""

from __future__ import annotations

import os
import time

from mematlas.analysis.overview import WORTH_A_ROW, Facts, Measured, grouped, is_decided, largest, told, total
from mematlas.cli.command import Command
from mematlas.doctor.hints import own_command, sudo_line
from mematlas.errors import NotSupported, PermissionDenied
from mematlas.kernel.abandon import Inquiry
from mematlas.kernel.meminfo import read_meminfo
from mematlas.kernel.rights import CAPABILITIES, effective_capabilities, in_user_namespace
from mematlas.kernel.smaps import HOLD_PER_BYTE, read_rollup
from mematlas.kernel.status import read_status, status_bytes
from mematlas.model.search import SKIPPED, left_out, open_process, opened, ourselves
from mematlas.model.shared_mm import AddressSpaces
from mematlas.notes import Note, Notes
from mematlas.observe.process import Process
from mematlas.observe.sources import MAX_STALL
from mematlas.views.overview import overview_view
from mematlas.views.usage import sharing_notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from mematlas.analysis.overview import Group
    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session
    from mematlas.kernel.procfs import ProcessDir, ProcFS
    from mematlas.views.table import Table

TOP = 5
LOOK_RIGHTS = ("CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH", "CAP_SYS_ADMIN")

FIND_SECONDS, MEASURE_SECONDS, COUNT_SECONDS = 0.9, 1.4, 1.6
"""After the start: when no more processes are looked for, none is measured, and nothing waited for."""
MOST_ALIKE = 32
"""Processes of the same counters of which it is asked whether their memory is the same: each costs an open directory
and some calls, and thousands of forks, which are alike too, must not take the time of all others. Of more, the rest is
measured one by one, and memory that they share (CLONE_VM) counts once for each."""
SILENCE = 0.1
"""Seconds after which the next process is measured beside one that takes its time."""
OPENING = 0.0005
"""Seconds that measuring any process takes."""
PER_SHARED_BYTE, PER_OWN_BYTE = 0.45 / (1 << 30), 0.01 / (1 << 30)
"""Seconds for counting pages by pagemap: those that others map are looked up in kpagecount, one by one."""


def add_arguments(arguments: Arguments) -> None:
    from mematlas.cli.options import add_output

    add_output(arguments)


def run(args: Namespace, session: Session) -> int:
    def make() -> Table:
        start = time.monotonic()
        notes = Notes()
        found = list(find(session.procfs, start + FIND_SECONDS, notes))
        earlier = in_shared_memory(found, session.procfs, start + FIND_SECONDS)
        groups = grouped(each for each in found if each.pid not in earlier)
        notes += sharing_notes(earlier)
        is_refused = measure_groups(groups, session.procfs, start + MEASURE_SECONDS, notes)
        held = effective_capabilities()
        missing = [name for name in CAPABILITIES if name in LOOK_RIGHTS and name not in held]
        return overview_view(
            session.machine(),
            meminfo_of(session.procfs),
            largest(groups, TOP),
            count_refused(session.procfs, start + COUNT_SECONDS) if missing or is_refused else 0,
            os.geteuid(),
            missing,
            own_command().rsplit("/", 1)[-1],
            None if in_user_namespace() else sudo_line(()),
            notes,
        )

    session.show(make, args)
    return 0


def meminfo_of(procfs: ProcFS) -> dict[str, int]:
    """Return the sums of the machine; nothing where this /proc has none of them (subset=pid)."""
    try:
        return read_meminfo(procfs)
    except (NotSupported, PermissionDenied):
        return {}


# Who there is


def find(procfs: ProcFS, deadline: float, notes: Notes) -> Iterator[Facts]:
    """Yield the counters of every process that has memory, ourselves left out. They wait for nobody."""
    own = ourselves(procfs)
    pids = procfs.pids()
    for place, pid in enumerate(pids):
        if time.monotonic() > deadline:
            text = f"{len(pids) - place:,} of {len(pids):,} processes not looked at, for want of time"
            notes.add(Note("unasked", text))
            break
        try:
            process, stat = open_process(pid, procfs)
            with process:
                facts = None if pid in own or stat.is_kernel_thread else facts_of(process, stat.name)
        except SKIPPED:
            continue
        if facts:
            yield facts


def facts_of(process: ProcessDir, name: str) -> Facts | None:
    """Return the counters of a process; None when it has no memory."""
    status = read_status(process)
    rss = status_bytes(status, "VmRSS")
    if rss is None:
        return None
    try:
        cgroup = process.read("cgroup").decode("utf-8", "surrogateescape")
    except NotSupported:
        cgroup = ""
    names = ("RssAnon", "RssFile", "RssShmem", "VmSwap", "HugetlbPages")
    sizes = [status_bytes(status, each) for each in names]
    return Facts(process.pid, name, f"{status.get('Uid', '').split()[:1]} {cgroup}", rss, *sizes)


def in_shared_memory(facts: list[Facts], procfs: ProcFS, deadline: float) -> dict[int, int]:
    """Return who runs in the address space of another one (CLONE_VM, vfork), and of which: it exists once.

    Whose counters differ does not; of many whose counters are the same, as a program's idle children, some are asked.
    """
    by_counters: dict[tuple[int | None, ...], list[int]] = {}
    for each in facts:
        if each.most >= WORTH_A_ROW:
            by_counters.setdefault((each.rss, each.anon, each.shmem, each.swap, each.hugetlb), []).append(each.pid)
    alike = [pids[:MOST_ALIKE] for pids in by_counters.values() if len(pids) > 1]

    def ask(pids: list[int]) -> tuple[dict[int, int], int]:
        spaces = AddressSpaces(procfs)
        for process in opened(pids, procfs):
            with process:
                spaces.is_met_again(process)
        return spaces.earlier, -1

    if not alike:
        return {}
    return {pid: first for _, found, _ in Inquiry(ask, alike, deadline=deadline) for pid, first in found.items()}


# How much they use


def measure_groups(groups: list[Group], procfs: ProcFS, deadline: float, notes: Notes) -> bool:
    """Measure the groups that may be among the largest, as far as there is time; return whether we were refused."""
    place_of: dict[int, int] = {}
    facts: dict[int, Facts] = {}
    waiting: dict[int, int] = {}
    for place, group in enumerate(groups):
        members = group.sample([cost_of(each) for each in group.members])
        waiting[place] = len(members)
        for each in members:
            place_of[each.pid], facts[each.pid] = place, each
    inquiry = Inquiry(lambda pid: (measure(facts[pid], procfs), -1), list(facts), deadline=deadline, silence=SILENCE)
    is_refused = False
    for pid, answer, _ in inquiry:
        place = place_of[pid]
        if isinstance(answer, tuple):
            groups[place].measured[pid] = Measured(*answer)
        elif answer == ENDED:
            groups[place].forget(pid)
        is_refused = is_refused or answer == REFUSED
        waiting[place] -= 1
        if not waiting[place]:
            del waiting[place]
            if is_decided(groups, waiting, TOP):
                break
    notes += left_out(inquiry, procfs)
    return is_refused


def cost_of(facts: Facts) -> float:
    """Return the seconds that measuring a process will take."""
    if facts.rss * HOLD_PER_BYTE <= MAX_STALL:
        return OPENING + facts.rss * HOLD_PER_BYTE
    anon = told(facts.anon)
    return OPENING + anon * PER_OWN_BYTE + (facts.rss - anon) * PER_SHARED_BYTE


REFUSED, ENDED = "refused", "ended"


def measure(facts: Facts, procfs: ProcFS) -> tuple[int | None, ...] | str:
    """Return the fields of `Measured` for a process, or why there are none. It may wait for ever."""
    try:
        process = open_process(facts.pid, procfs)[0]
        if facts.rss * HOLD_PER_BYTE <= MAX_STALL:
            with process:
                return of_rollup(read_rollup(process))
        with Process(process) as whole:
            usage = whole.usage(max_stall=MAX_STALL).usage
            return usage.pss, usage.uss, usage.swap, None, None, None
    except PermissionDenied:
        return REFUSED
    except SKIPPED:
        return ENDED


def count_refused(procfs: ProcFS, deadline: float) -> int | None:
    """Return how many processes we may not look at; None where that takes too long."""

    def ask(pids: list[int]) -> tuple[int, int]:
        return sum(is_hidden(pid, procfs) for pid in pids), -1

    inquiry = Inquiry(ask, [procfs.pids()], deadline=deadline)
    return next((number for _, number, _ in inquiry), None)


def is_hidden(pid: int, procfs: ProcFS) -> bool:
    """Whether the kernel does not let us see the VMAs of a process."""
    try:
        with open_process(pid, procfs)[0] as process:
            os.close(process.open_fd("maps"))
    except PermissionDenied:
        return True
    except SKIPPED:
        return False  # it has ended meanwhile
    return False


def of_rollup(sums: dict[str, int]) -> tuple[int | None, ...]:
    """Return the fields of `Measured` from the kernel's own sums."""
    uss = total((sums.get("Private_Clean"), sums.get("Private_Dirty")))
    names = ("Swap", "SwapPss", "Private_Hugetlb", "Shared_Hugetlb")
    return sums.get("Pss"), uss, *(sums.get(name) for name in names)


COMMAND = Command(
    "[options]",
    __doc__,
    add_arguments,
    run,
    examples=(
        ("mematlas", "this machine, and who uses the most of it"),
        ("mematlas --json", "the same, for a program"),
    ),
)
