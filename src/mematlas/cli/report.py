"""What a recording tells: of each process how much it had, the most and when, how much that grew, how fast, and in
which manner: a leak, a sawtooth, filling, steady (mematlas help measures; - with fewer than five looks). PEAK RSS was
reached AFTER so long, and the process had ENDED by then. The file may be anybody's: nothing in it is run.

KIND is summary (default); curves, amounts over time; growth, which VMAs grow and how fast; churn, what came and went,
to swap and back; heatmap, VMAs over time, shaded by how much of them is there; or machine, what was free, swapped,
reclaimed and waited for meanwhile on the whole machine.
"""

from __future__ import annotations

import os

from mematlas.cli.command import RECORDING, Command
from mematlas.cli.options import add_output, parse_count
from mematlas.cli.signals import Interrupts
from mematlas.errors import BadInput, did_you_mean
from mematlas.kernel.confine import leave_rights
from mematlas.kernel.rights import effective_capabilities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session
    from mematlas.timeline.recording import Recording
    from mematlas.views.table import Table

KINDS = {
    "summary": "who grew, and how",
    "curves": "amounts over time",
    "heatmap": "VMAs over time",
    "growth": "which VMAs grow, and how fast",
    "churn": "what came and went",
    "machine": "what became of RAM, swap and reclaim",
}
OF = ("present", "change", "accessed")


def add_arguments(arguments: Arguments) -> None:
    arguments.add_argument("words", nargs="*", metavar="FILE", help="what mematlas record has made")
    arguments.add_argument("--of", choices=OF, help="heatmap: shade by present (default), change or accessed pages")
    arguments.add_argument("--limit", type=parse_count, metavar="N", help="the first N rows")
    add_output(arguments)


def run(args: Namespace, session: Session) -> int:
    from mematlas.timeline.recording import Recording
    from mematlas.timeline.recording_files import RecordingFiles

    path, kind = named(args.words)
    if args.of and kind != "heatmap":
        raise BadInput("--of is for the heatmap: report FILE heatmap --of change")
    files = RecordingFiles(path)
    has_rights = os.geteuid() == 0 or bool(effective_capabilities())
    if has_rights:
        session.procfs.close()
        files.connect_now()
        leave_rights(files.fds)

    def make() -> Table:
        with Recording(files, is_private=has_rights) as recording:
            session.recorded = recording.machine
            return table_of(recording, kind, args, session)

    with Interrupts(session.err) as ending:  # a copy may have to be taken away
        session.show(make, args)
    return ending.exit_code


def named(words: list[str]) -> tuple[str, str]:
    """Return the file and the kind of report that were named."""
    if not words:
        raise BadInput("which recording? Give a FILE that mematlas record has made")
    path, *more = words
    kind = more[0] if more else "summary"
    if len(more) > 1:
        raise BadInput(f"unexpected argument {more[1]!r}")
    if kind not in KINDS:
        raise BadInput(f"no report {kind!r}{did_you_mean(kind, KINDS)}; there are {', '.join(KINDS)}")
    return path, kind


def table_of(recording: Recording, kind: str, args: Namespace, session: Session) -> Table:
    """Return a report of a kind."""
    from mematlas.timeline.summary import summary_of
    from mematlas.timeline.tracks import curves_of, tracks_of
    from mematlas.views.picture import can_draw
    from mematlas.views.report import summary_table
    from mematlas.views.tracks import churn_table, curves_table, growth_table, heatmap_table

    ascii_only = not can_draw(session.out.encoding)
    summary = summary_of(recording)
    if kind == "summary":
        return summary_table(summary, args.limit)
    if kind == "machine":
        from mematlas.timeline.counters import counters_of
        from mematlas.views.counters import machine_table

        return machine_table(summary, counters_of(recording), args.limit)
    if kind == "curves":
        return curves_table(summary, curves_of(recording), args.limit, ascii_only)
    tracks = list(tracks_of(recording))
    if kind == "heatmap":
        return heatmap_table(summary, tracks, args.of or OF[0], args.limit, ascii_only)
    return (growth_table if kind == "growth" else churn_table)(summary, tracks, args.limit)


COMMAND = Command(
    "[options] FILE [KIND]",
    __doc__,
    add_arguments,
    run,
    examples=(
        ("mematlas report redis.mematlas", "what grew, and how"),
        ("mematlas report redis.mematlas curves", "amounts over time"),
        ("mematlas report redis.mematlas growth --limit 10 --json", "ten VMAs, for programs"),
    ),
    words=(RECORDING, KINDS),
)
