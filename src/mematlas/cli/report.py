"""What a recording tells: of each process how much it had, the most and when, how much that grew, how fast, and in
which manner: a leak, a sawtooth, filling, steady (mematlas help measures; - with fewer than five looks).

PEAK RSS was reached AFTER so long; the process had ENDED by then. Nothing in the file is run.

KIND is summary (default); curves, amounts over time; growth, which VMAs grow and how fast; churn, what came and went,
to swap and back; heatmap, VMAs over time, shaded by how much of them is there; or machine, what was free, swapped,
reclaimed and waited for meanwhile on the whole machine. There are pictures of heatmap and curves, and tables of all
(-o FILE; .jsonl or .ndjson as well).
"""

from __future__ import annotations

import os
import shlex

from mematlas.cli.command import RECORDING, Command
from mematlas.cli.moments import SUFFIX, parse_moment
from mematlas.cli.opening import open_recording
from mematlas.cli.options import add_output, parse_count, parse_interval, parse_seconds
from mematlas.cli.output import (
    PICTURES,
    add_file,
    file_form,
    new_file,
    plotter_of,
    told_of,
    write_picture,
    write_table,
)
from mematlas.cli.signals import Interrupts
from mematlas.errors import BadInput, LibraryMissing, NotHeld, TargetNotFound, did_you_mean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session
    from mematlas.kernel.newfile import NewFile
    from mematlas.timeline.recording import Recording
    from mematlas.timeline.recording_files import RecordingFiles
    from mematlas.views.figures.curves import Plotter
    from mematlas.views.table import Table

    Loaded = tuple[Plotter, set[int]]
    """What draws curves, and what it has open."""

KINDS = {
    "summary": "who grew, and how",
    "curves": "amounts over time",
    "heatmap": "VMAs over time",
    "growth": "which VMAs grow, and how fast",
    "churn": "what came and went",
    "machine": "what became of RAM, swap and reclaim",
}
DRAWN = ("heatmap", "curves")
"""What there are pictures of."""
OF = ("present", "change", "accessed")


def add_arguments(arguments: Arguments) -> None:
    arguments.add_argument("words", nargs="*", metavar="FILE", help="what mematlas record has made; or TARGET, with -d")
    arguments.add_argument(
        "-d", "--duration", type=parse_seconds, metavar="TIME", help="record a TARGET for so long first"
    )
    arguments.add_more(
        "-i",
        "--interval",
        dest="every",
        type=parse_interval,
        metavar="TIME",
        help="between its looks",
    )
    arguments.add_argument("--of", choices=OF, help="heatmap: shade by present (default), change or accessed pages")
    arguments.add_argument("--limit", type=parse_count, metavar="N", help="the first N rows")
    add_file(arguments)
    add_output(arguments)


def run(args: Namespace, session: Session) -> int:
    from mematlas.cli.recording_now import record_now

    path, kind = named(args.words, starts=args.duration is not None)
    if args.every and not args.duration:
        raise BadInput("-i is for a target that is recorded first: add -d, such as -d 30s")
    if args.of and kind != "heatmap":
        raise BadInput("--of is for the heatmap: report FILE heatmap --of change")
    form = file_form(args)
    if form in PICTURES and kind not in DRAWN:
        raise BadInput(f"no picture of {kind}: report FILE heatmap -o {args.output}, or curves")
    if args.duration and args.output and os.path.lexists(args.output) and not args.force:
        raise BadInput(f"{args.output} exists: give another name, or --force")  # before a minute is spent
    if args.duration:
        refuse_recording(path)
    loaded = None
    if kind == "curves" and form in PICTURES and args.duration:
        loaded = plotter_of(form, args.output)  # what is missing is said before a minute is spent
    files = record_now(path, args, session) if args.duration else recorded(path)
    with Interrupts(session.err) as ending:  # what was made, a copy or a file, may have to be taken away
        if form is None:
            show(files, kind, args, session)
        else:
            if kind == "curves" and form in PICTURES and not loaded:
                loaded = plotter_for(files, form, args, session)
            write_file(files, kind, form, args, session, loaded)
    return ending.exit_code


def recorded(path: str) -> RecordingFiles:
    """Return the files of a recording.

    Raises:
        TargetNotFound: there is none of that name; of what could be a process it is said how to look at that.
        BadInput: it is a directory.
    """
    from mematlas.timeline.recording_files import RecordingFiles

    if os.path.isdir(path):
        raise BadInput(
            f"{path} is a directory: report takes a FILE of mematlas record; of a capture, mematlas usage {path}"
        )
    try:
        return RecordingFiles(path)
    except TargetNotFound as error:
        if moment := parse_moment(path):
            text = f"report is of all moments: mematlas report {moment.path}; one moment: mematlas usage {path}"
            raise TargetNotFound(text) from None
        if "/" in path or "." in path:
            raise
        raise TargetNotFound(f"{error}; of a process that runs: mematlas report {path} -d 30s") from None


def refuse_recording(text: str) -> None:
    """Refuse a recording where a target is wanted.

    Raises:
        BadInput: it is one, or a moment of one.
    """
    moment = None if os.path.isfile(text) else parse_moment(text)
    if moment or (text.endswith(SUFFIX) and os.path.isfile(text)):
        path = moment.path if moment else text
        raise BadInput(f"{path} is a recording already: mematlas report {path}, without -d")


def show(files: RecordingFiles, kind: str, args: Namespace, session: Session) -> None:
    """Write a report to standard output."""
    with open_recording(files, set(), session) as recording:
        session.show(lambda: table_of(recording, kind, args, session), args)


def plotter_for(files: RecordingFiles, form: str, args: Namespace, session: Session) -> Loaded:
    """Return what draws curves.

    Raises:
        LibraryMissing: it is not there; the terminal's curves have been shown.
    """
    try:
        return plotter_of(form, args.output)
    except LibraryMissing:
        show(files, "curves", args, session)
        raise


def write_file(
    files: RecordingFiles, kind: str, form: str, args: Namespace, session: Session, loaded: Loaded | None
) -> None:
    """Write a report into a file.

    Raises:
        BadInput: the file cannot be made.
    """
    plotter, fonts = loaded or (None, set())
    with new_file(args, files.fd) as file:
        with open_recording(files, fonts | file.fds, session) as recording:
            if form in PICTURES:
                draw(recording, form, plotter, file, args)
            else:
                write_table(table_of(recording, kind, args, session), form, file, session)
        told_of(file, session)


def draw(recording: Recording, form: str, plotter: Plotter | None, file: NewFile, args: Namespace) -> None:
    """Write a picture into a file: curves where there is a plotter, else a heatmap.

    Raises:
        NotHeld: there is nothing to draw.
    """
    from mematlas.timeline.summary import summary_of
    from mematlas.timeline.tracks import curves_of, tracks_of

    summary = summary_of(recording)
    if plotter:
        if not (curves := curves_of(recording)):
            raise NotHeld(file.path, f"{recording.path}: no amount is recorded")
        file.write(plotter.picture(summary, curves, args.limit))
        return
    from mematlas.views.figures.heatmap import heatmap_picture, what_is_missing

    tracks, of = list(tracks_of(recording, is_fine=True)), args.of or OF[0]
    if why := what_is_missing(tracks, of):
        raise NotHeld(file.path, f"{recording.path}: {why}")
    write_picture(heatmap_picture(summary, tracks, of, args.limit, ascii_only=form == "png"), form, file)


def named(words: list[str], starts: bool = False) -> tuple[str, str]:
    """Return the file and the kind of report that were named; with ``starts``, a target that is recorded first."""
    if not words:
        raise BadInput("which recording? Give a FILE that mematlas record has made")
    path, *more = words
    kind = more[0] if more else "summary"
    if kind not in KINDS:
        meant = did_you_mean(kind, KINDS)
        program = f"; a program is recorded by mematlas record -- {shlex.join(words)}" if starts and not meant else ""
        raise BadInput(f"no report {kind!r}{meant}; there are {', '.join(KINDS)}{program}")
    if len(more) > 1:
        raise BadInput(f"unexpected argument {more[1]!r}")
    return path, kind


def table_of(recording: Recording, kind: str, args: Namespace, session: Session) -> Table:
    """Return a report of a kind."""
    from mematlas.timeline.summary import summary_of
    from mematlas.timeline.tracks import curves_of, tracks_of
    from mematlas.views.picture import can_draw
    from mematlas.views.report import summary_table
    from mematlas.views.tracks import (
        NOT_ACCESSED,
        churn_table,
        curves_table,
        growth_table,
        heatmap_table,
        use_is_missing,
    )

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
        if args.of == "accessed" and use_is_missing(tracks):
            raise NotHeld(recording.path, f"{recording.path}: {NOT_ACCESSED}")
        return heatmap_table(summary, tracks, args.of or OF[0], args.limit, ascii_only)
    return (growth_table if kind == "growth" else churn_table)(summary, tracks, args.limit)


COMMAND = Command(
    "[options] FILE [KIND] | TARGET -d TIME [KIND]",
    __doc__,
    add_arguments,
    run,
    examples=(
        ("mematlas report redis.mematlas", "what grew, and how"),
        ("mematlas report redis.mematlas heatmap -o redis.svg", "VMAs over time, as a picture"),
        ("mematlas report redis-server growth -d 60s", "which VMAs grow, of a process as it runs"),
    ),
    words=(RECORDING, KINDS),
)
