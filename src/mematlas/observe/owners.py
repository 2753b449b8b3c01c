"""Who made the memory of a process: what is found out for that, and what is said where it cannot be."""

from __future__ import annotations

from mematlas.analysis.owners import Clues, find_owners, may_be_go
from mematlas.errors import NotSupported, PermissionDenied
from mematlas.frozen import replace
from mematlas.kernel.elf import is_of_go
from mematlas.kernel.status import ask_stat, parse_data_end
from mematlas.kernel.threads import Threads, read_threads
from mematlas.model.address_space import EVERYTHING
from mematlas.notes import Note, Notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mematlas.analysis.owners import Owner
    from mematlas.analysis.results import VmaUsage
    from mematlas.kernel.maps import Vma
    from mematlas.kernel.procfs import ProcessDir
    from mematlas.model.address_space import Selection
    from mematlas.observe.sources import Sources


def with_owners(
    sources: Sources, vmas: Sequence[VmaUsage], selection: Selection = EVERYTHING
) -> tuple[list[VmaUsage], Notes]:
    """Return the VMAs of a process that were selected with their owners, and what is to be said about these."""
    # A VMA may be known by its neighbours, which were not asked for.
    every = [item.vma for item in vmas] if selection is EVERYTHING else sources.address_space().vmas
    notes = Notes()
    threads = Threads(())
    try:
        threads = read_threads(sources.dir)
    except (PermissionDenied, NotSupported) as error:
        notes.add(Note("threads-unknown", f"stacks are known by their shape alone: {error}"))
    clues = Clues(
        page_size=sources.page_size,
        pid=sources.dir.pid,
        threads=threads.threads,
        data_end=parse_data_end(ask_stat(sources.dir)),
        is_go=find_go(sources.dir, every),
    )
    owners = find_owners(every, clues)
    notes += about_stacks(threads, owners, clues.pid)
    known = {(vma.start, vma.end): owner for vma, owner in zip(every, owners, strict=True)}

    def owner_of(vma: Vma) -> Owner:
        # One that has changed since is known by what it is alone.
        return known.get((vma.start, vma.end)) or find_owners([vma], clues)[0]

    return [replace(item, owner=owner_of(item.vma)) for item in vmas], notes


def find_go(process: ProcessDir, vmas: Iterable[Vma]) -> bool | None:
    """Whether the program is one of Go; None where that cannot be found out, and where it does not matter."""
    if not may_be_go(vmas):
        return None
    machine = process.procfs.machine
    return is_of_go(process) if machine is None else machine.get("is_go")


def about_stacks(threads: Threads, owners: Iterable[Owner], pid: int) -> Iterable[Note]:
    """Yield what is to be said about threads of whose stack nothing is known."""
    if threads.nr_more:
        text = (
            f"{threads.nr_more:,} threads were not looked at: there are too many; their stacks are known by their shape"
        )
        yield Note("threads-left-out", text)
    found = {tid for owner in owners for tid in owner.tids}
    others = [thread for thread in threads.threads if thread.tid != pid]
    nr_lost = sum(
        thread.robust_list is None and thread.stack_pointer is None and thread.tid not in found for thread in others
    )
    if nr_lost:
        why = threads.refused or "they run now, and nothing else shows it"
        yield Note(
            "stacks-unknown", f"where {nr_lost:,} of {len(others):,} threads have their stacks is unknown: {why}"
        )
