"""pageout, cold, willneed and collapse of a group: a plan that names every process, and --yes to do it."""

from __future__ import annotations

from mematlas.actions.groups import act_on_group, plan_group
from mematlas.actions.options import Options
from mematlas.cli.signals import Interrupts
from mematlas.cli.swap import temporary_swap
from mematlas.errors import BadInput, NotConfirmed
from mematlas.views.effects import group_effect_table
from mematlas.views.plans import group_plan_table
from mematlas.views.progress import Bar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mematlas.cli.act_options import ActOptions
    from mematlas.cli.arguments import Namespace
    from mematlas.cli.session import Session
    from mematlas.kernel.madvise import AdviceName
    from mematlas.model.address_space import Selection
    from mematlas.observe.process_set import ProcessSet

OF_ONE = {"coldest": "--coldest", "free": "--free", "watch_refaults": "--watch-refaults", "undo": "--undo"}
"""What is asked of one process alone."""


def run_group(advice: AdviceName, selection: Selection, options: ActOptions, args: Namespace, session: Session) -> int:
    """Plan for each process of a group, and show that; with --yes act on each, and show what it came to."""
    for name, option in OF_ONE.items():
        if getattr(options, name):
            raise BadInput(f"{option} takes one process: give its PID")
    (group,) = session.find_sets()
    session.write_notes(group.notes)
    is_plan = options.dry_run or not options.yes
    if options.limit is not None and not is_plan:
        raise BadInput("--limit is for the plan: not with --yes")
    with Interrupts(session.err, between_steps=not is_plan) as stop:
        planned = plan_group(
            group,
            advice,
            selection,
            choice=options.choice,
            dirty=is_plan,
            force=options.force,
            more_swap=options.temporary_swap or 0,
        )
        target = target_of_group(group)
        if is_plan:
            session.show(lambda: group_plan_table(planned, target, options.limit), args)
            if options.dry_run:
                return 0
            raise NotConfirmed(f"{advice} acts on every process above: say so with --yes")
        with temporary_swap(options.temporary_swap), Bar(session.err, advice) as bar:
            how = Options(passes=options.passes, touch=not options.no_touch, progress=bar, stop=stop)
            effect = act_on_group(group, planned, how)
        session.show(lambda: group_effect_table(effect, target), args)
    return stop.exit_code


def target_of_group(group: ProcessSet) -> dict[str, Any]:
    """Return the ``target`` of a result: which processes."""
    return {
        "group": group.name,
        "cgroup": group.level.path if group.level else None,
        "nr_processes": len(group),
        "pids": [process.pid for process in group],
    }
