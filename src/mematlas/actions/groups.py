"""Acts on a group: a plan for each of its processes, then the act on each, one after the other.

>>> from mematlas import ProcessSet
>>> with ProcessSet("name:postgres") as group:                              # doctest: +SKIP
...     planned = plan_group(group, "pageout")
...     effect = act_on_group(group, planned)
>>> planned.nr_movable, effect.nr_moved                                     # doctest: +SKIP
(16384, 16381)
"""

from __future__ import annotations

from mematlas.actions.acts import act
from mematlas.actions.options import DEFAULTS
from mematlas.actions.plans import plan
from mematlas.actions.refusals import check_target
from mematlas.actions.rooms import read_swap_room
from mematlas.analysis.movable import ALL_PAGES, add_counts, in_order
from mematlas.errors import BadInput, Error, NoAddressSpace, PermissionDenied, ProcessGone, TargetRefused
from mematlas.frozen import Record, record
from mematlas.model.address_space import EVERYTHING
from mematlas.model.processes import first_of
from mematlas.model.shared_mm import AddressSpaces
from mematlas.notes import Note, Notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.actions.effects import Effect
    from mematlas.actions.options import Options
    from mematlas.actions.plans import Plan
    from mematlas.actions.rooms import SwapRoom
    from mematlas.analysis.movable import Choice
    from mematlas.kernel.madvise import AdviceName
    from mematlas.model.address_space import Selection
    from mematlas.observe.process import Process
    from mematlas.observe.process_set import ProcessSet


@record
class PlannedProcess(Record):
    """A process of a group, with what an advice can do there."""

    pid: int
    name: str
    plan: Plan


@record
class GroupPlan(Record):
    """What an advice would do to the processes of a group."""

    advice: AdviceName
    processes: tuple[PlannedProcess, ...]
    """Those that it would be given to, by PID."""
    notes: tuple[Note, ...]
    """Who is left out and why, and what is to be said of the plans."""

    @property
    def page_size(self) -> int:
        """Of this machine."""
        return self.processes[0].plan.page_size

    @property
    def room(self) -> SwapRoom:
        """Where memory without a file can go, before anything does."""
        return self.processes[0].plan.room

    @property
    def nr_requested(self) -> int:
        """Pages asked for."""
        return sum(item.plan.nr_requested for item in self.processes)

    @property
    def nr_movable(self) -> int:
        """Pages that can move."""
        return sum(item.plan.nr_movable for item in self.processes)

    @property
    def nr_needs_swap(self) -> int:
        """Pages that go to swap, where there is room for them."""
        return sum(item.plan.nr_needs_swap for item in self.processes)

    @property
    def nr_without_swap(self) -> int:
        """Pages that could move if there were more swap."""
        return sum(item.plan.nr_without_swap for item in self.processes)

    @property
    def reasons(self) -> dict[str, int]:
        """Why the others will stay."""
        total: dict[str, int] = {}
        for item in self.processes:
            add_counts(total, item.plan.reasons)
        return in_order(total)


@record
class ProcessEffect(Record):
    """What an act did to one process of a group."""

    pid: int
    name: str
    effect: Effect


@record
class GroupEffect(Record):
    """What an act did to the processes of a group."""

    advice: AdviceName
    page_size: int
    processes: tuple[ProcessEffect, ...]
    """Those that it was done to, in that order."""
    notes: tuple[Note, ...]
    """Who was not reached and why, and what is to be said of the effects."""

    @property
    def nr_moved(self) -> int:
        """Pages that moved."""
        return sum(item.effect.nr_moved for item in self.processes)


def plan_group(
    group: ProcessSet,
    advice: AdviceName,
    selection: Selection = EVERYTHING,
    *,
    choice: Choice = ALL_PAGES,
    dirty: bool = True,
    force: bool = False,
    more_swap: int = 0,
) -> GroupPlan:
    """Return what an advice would do to each process of a group; see `plan`.

    Init and our ancestors are left out unless ``force`` is true; we are in no group. What one process needs of swap is
    not there for the next. ``more_swap`` is a temporary swap file of so many bytes.

    Raises:
        TargetRefused, PermissionDenied, BadInput, ProcessGone: why nobody of them is left.
    """
    if selection.span is not None:
        raise BadInput("addresses are those of one process: give a kind of VMAs, or part of a path")
    spaces = AddressSpaces(group.procfs)
    planned: list[PlannedProcess] = []
    notes = Notes()
    last: Error | None = None
    nr_slots = 0
    unmatched: list[int] = []
    for process in group:
        try:
            if not force:
                check_target(process)
            if spaces.is_met_again(process.dir):
                continue
            room = read_swap_room(process.dir).with_more(more_swap).with_less(nr_slots * process.page_size)
            its_plan = plan(process, advice, selection, choice=choice, dirty=dirty, room=room)
        except BadInput as error:
            last = error
            unmatched.append(process.pid)
            continue
        except (TargetRefused, PermissionDenied, ProcessGone, NoAddressSpace) as error:
            last = error
            notes.add(left_out(process, error))
            continue
        nr_slots += its_plan.nr_needs_swap
        planned.append(PlannedProcess(process.pid, process.stat.name, its_plan))
        notes += its_plan.notes
    if not planned:
        raise last or ProcessGone(group.processes[0].pid)
    if unmatched:
        notes.add(Note("left-out", f"left out, since no VMA of theirs is selected: PID {first_of(unmatched)}"))
    return GroupPlan(advice=advice, processes=tuple(planned), notes=tuple(notes))


def left_out(process: Process, why: Error) -> Note:
    """Return the note that nothing is done to a process of a group."""
    who = f"{process.stat.name} ({process.pid})"
    if isinstance(why, TargetRefused):
        return Note("left-alone", f"left alone: {why}")
    return Note("left-out", f"left out: {why if str(process.pid) in str(why) else f'{who}: {why}'}")


def act_on_group(group: ProcessSet, planned: GroupPlan, options: Options = DEFAULTS) -> GroupEffect:
    """Do what was planned, to one process after the other; return what that did.

    Raises:
        PermissionDenied, ProcessGone: nothing was done to any of them.
    """
    by_pid = {process.pid: process for process in group}
    effects: list[ProcessEffect] = []
    notes = Notes(planned.notes)
    last: Error | None = None
    for number, item in enumerate(planned.processes):
        if options.stop():
            left = planned.processes[number:]
            notes.add(Note("not-reached", f"interrupted; not reached: PID {first_of([one.pid for one in left])}"))
            break
        try:
            effect = act(by_pid[item.pid], item.plan, options)
        except (PermissionDenied, ProcessGone) as error:
            last = error
            notes.add(left_out(by_pid[item.pid], error))
            continue
        effects.append(ProcessEffect(item.pid, item.name, effect))
        notes += effect.notes
    if last and not effects:
        raise last
    return GroupEffect(advice=planned.advice, page_size=planned.page_size, processes=tuple(effects), notes=tuple(notes))
