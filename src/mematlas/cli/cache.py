"""The files in the page cache, the largest first (as root). PATH is a file, or a directory with all below it, of which
it also shows which parts are there: no link is followed, no other file system entered, no file read. TARGET stands for
the files that it maps or has open.

EVICTED was taken out of RAM and is remembered by the kernel, RECENTLY so soon that RAM was too small for it. Both, and
DIRTY, are unknown before Linux 6.5. A file with several names counts once. To drop files: pageout file:PATH.
"""

from __future__ import annotations

import os
import sys

from mematlas.analysis.cached import BY, SORTS
from mematlas.cli.command import FILE, MORE, TARGET_OR_PATH, Command, path_of
from mematlas.cli.options import add_output, add_repeat, add_target, parse_count
from mematlas.cli.session import allow_many_files
from mematlas.doctor.hints import line_with_rights
from mematlas.errors import BadInput, TargetAmbiguous, TargetNotFound
from mematlas.model.processes import Processes
from mematlas.model.search import CMDLINE
from mematlas.model.target import PID, Target, by_number, is_group
from mematlas.observe.machine import FILES, Machine
from mematlas.views.cache import cache_groups_table, cache_table
from mematlas.views.picture import can_draw

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session
    from mematlas.kernel.procfs import ProcFS
    from mematlas.views.table import Table

NOBODY = ""
"""The target where no process is given as an option, nor started."""

DETAILS = {None: ("path", "mappers", "places"), "directory": ("path",), "fs": (), "cgroup": ("cgroup",)}
"""What is to be found out of files, for a row each and for groups of them."""


def add_arguments(arguments: Arguments) -> None:
    add_target(arguments)
    arguments.add_argument(
        "--by", choices=BY, help="one row for all files of a directory or file system (fs), or for a cgroup"
    )
    arguments.add_argument("--sort", choices=SORTS, default="resident", help="largest first (default: resident)")
    arguments.add_argument("--limit", type=parse_count, default=FILES, metavar="N", help=f"show N rows ({FILES})")
    add_repeat(arguments)
    add_output(arguments)


def run(args: Namespace, session: Session) -> int:
    words, session.words = session.words, []
    ascii_only = not can_draw(session.out.encoding)
    if len(words) == 1 and session.is_moment(words[0]):
        return at_moment(words[0], args, session, ascii_only)
    paths, names = sorted_out(words, session.procfs)
    names = [*([session.text] if session.text != NOBODY else []), *names]
    allow_many_files()  # each level of a tree is held open
    session.text, session.more = (names[0], names[1:]) if names else (NOBODY, [])
    line = line_with_rights(["cache", *words])

    def make() -> Table:
        targets = [Target(process.dir) for process in session.processes] if names else []
        limit = sys.maxsize if args.by else args.limit
        machine = Machine(session.procfs)
        result = machine.cache(paths, targets, sort=args.sort, limit=limit, details=DETAILS[args.by])
        if args.by:
            return cache_groups_table(result, args.by, args.sort, args.limit, line)
        return cache_table(result, args.sort, args.limit, ascii_only, line)

    session.show(make, args)
    return 0


def at_moment(text: str, args: Namespace, session: Session, ascii_only: bool) -> int:
    """Show what the page cache had at a moment of a recording."""
    from mematlas.observe.recorded_cache import read_cache

    if args.by == "cgroup":
        raise BadInput("--by cgroup: a recording has the files of the page cache, not who is charged")
    if args.sort != "resident":
        raise BadInput(f"--sort {args.sort}: a recording has the largest in RAM")
    result = read_cache(session.machine_at(text))
    if args.by:
        session.show(lambda: cache_groups_table(result, args.by, args.sort, args.limit), args)
    else:
        session.show(lambda: cache_table(result, args.sort, args.limit, ascii_only), args)
    return 0


def sorted_out(words: Iterable[str], procfs: ProcFS) -> tuple[list[str], list[str]]:
    """Return which words are paths, and which name processes.

    Raises:
        TargetAmbiguous: one is both.
        TargetNotFound: one is neither.
    """
    paths, names = [], []
    known: set[str] | None = None
    for word in words:
        if word.startswith(FILE):
            paths.append(path_of(word))
        elif word == "self" or is_group(word) or word.startswith((PID, *CMDLINE)):
            names.append(word)
        elif "/" in word:
            paths.append(word)
        else:
            known = names_of_processes(procfs) if known is None else known
            is_process, is_file = word in known or is_pid(word, procfs), os.path.lexists(word)
            if is_process and is_file:
                prefix = PID if word.isdigit() else "name:"
                text = f"{word!r} is both a file here and a process: use ./{word} or {prefix}{word}"
                raise TargetAmbiguous(word, (), text=text)
            if not is_process and not is_file:
                raise TargetNotFound(f"no file or process {word!r}")
            (paths if is_file else names).append(word)
    return paths, names


def names_of_processes(procfs: ProcFS) -> set[str]:
    """Return the names of all processes."""
    return {stat.name for _, stat in Processes(procfs)}


def is_pid(word: str, procfs: ProcFS) -> bool:
    """Whether a word is the number of a process that there is."""
    if not word.isdigit() or (target := by_number(PID + word, procfs)) is None:
        return False
    target.close()
    return True


COMMAND = Command(
    "[options] [PATH|TARGET...] | -- COMMAND ...",
    __doc__,
    add_arguments,
    run,
    examples=(
        ("mematlas cache --limit 10", "what fills the page cache"),
        ("mematlas cache redis-server", "of the files that a process maps or has open"),
        ("mematlas cache /usr/bin --by directory --sort evicted", "one row per directory, the most evicted first"),
    ),
    words=(TARGET_OR_PATH, MORE),
    default_target=lambda args: NOBODY,
)
