"""pageout and willneed of files: file:PATH... in the place of a process."""

from __future__ import annotations

from mematlas.actions.files import act_on_files, plan_files
from mematlas.actions.options import Options
from mematlas.cli.arguments import Arguments, attribute_of
from mematlas.cli.command import FILE, path_of
from mematlas.cli.session import allow_many_files
from mematlas.cli.signals import Interrupts
from mematlas.errors import BadInput
from mematlas.views.file_acts import file_plan_table, files_effect_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mematlas.cli.act_options import ActOptions
    from mematlas.cli.arguments import Namespace
    from mematlas.cli.session import Session

OF_FILES = frozenset(("words", "dry_run", "passes", "no_touch", "limit"))
"""What may be said about files, besides how results are written."""


def run_files(
    advice: str, options: ActOptions, args: Namespace, session: Session, declare: Callable[[Arguments], None]
) -> int:
    """Plan, or act and show what it came to; ``declare`` declares the arguments of the command."""
    refuse_others(args, declare)
    words, session.words = [session.text, *session.words], []
    if others := [word for word in words if not word.startswith(FILE)]:
        raise BadInput(f"files or a process, not both: {FILE} before each path, as in {FILE}{others[0]}")
    paths = [path_of(word) for word in words]
    allow_many_files()  # each level of a tree is held open
    if options.dry_run:
        planned = plan_files(paths, advice, session.procfs)
        session.show(lambda: file_plan_table(planned, options.limit), args)
        return 0
    with Interrupts(session.err, between_steps=True) as stop:
        how = Options(passes=options.passes, touch=not options.no_touch, stop=stop)
        effect = act_on_files(paths, advice, how, session.procfs)
        session.show(lambda: files_effect_table(effect, options.limit), args)
    return stop.exit_code


def refuse_others(args: Namespace, declare: Callable[[Arguments], None]) -> None:
    """Refuse options that are about the memory of processes."""
    arguments = Arguments()
    declare(arguments)
    for names, settings in arguments.declared:
        name = attribute_of(names, settings)
        if name not in OF_FILES and names not in arguments.common and getattr(args, name):
            raise BadInput(f"{names[-1]} is about the memory of a process: not with {FILE}")
