"""What every frame of RAM is: free, of processes, of files, of the kernel. --by order shows how free memory is cut up.

--verify compares the sums with /proc/meminfo, and every frame with /proc/kpageflags; --sample estimates.

--list has frames one by one, --runs in runs of like ones, --by flags how many there are with which flags. --flags
chooses frames: names of flags of kpageflags, bit_N, and kinds (free, file, shmem, hugetlb, table, zero, kernel), each
with ! or ~ for "not".

--kernel has the kernel's own memory in parts that add up, and what each is made of.

FILE@TIME is a moment of a recording (record --what ram). Needs root, for frames; without, it shows the sums of
/proc/meminfo.
"""

from __future__ import annotations

from mematlas.cli.command import Command
from mematlas.cli.options import add_output, add_repeat, add_sample, form_of, parse_count
from mematlas.errors import BadInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session
    from mematlas.views.table import Table

BY = {
    "kind": "what frames are (default)",
    "zone": "zones of each node",
    "node": "NUMA nodes",
    "order": "sizes of folios and free blocks",
    "mapped": "how often they are mapped",
    "cgroup": "memory cgroups that are charged",
    "flags": "flags of kpageflags",
}
SOURCES = {
    "auto": "whichever is fast, and can be read",
    "structs": "struct pages",
    "files": "kpageflags and kpagecount",
}


LARGEST = 5
"""Lines of each part of the kernel's memory that text has by default."""


def add_arguments(arguments: Arguments) -> None:
    arguments.add_argument("words", nargs="*", metavar="FILE@TIME", help="at a moment of a recording")
    arguments.add_argument("--by", choices=BY, help="rows: kind (default), zone, node, order, mapped, cgroup or flags")
    arguments.add_argument("--kernel", action="store_true", help="what the kernel has memory for, in parts")
    arguments.add_argument("--flags", metavar="FLAG,...", help="only frames with these: anon,!dirty,bit_27")
    arguments.add_argument("--verify", action="store_true", help="compare with meminfo, kpageflags; exit 10 if wrong")
    add_sample(arguments)
    arguments.add_more("--list", action="store_true", help="every frame, a line for each")
    arguments.add_more("--runs", action="store_true", help="a line per run of frames with the same flags")
    arguments.add_more("--range", metavar="FRAMES", help="with --flags, --list, --runs: only pfn:N-N or phys:0xN+LEN")
    arguments.add_more("--limit", type=parse_count, metavar="N", help="stop after N lines")
    arguments.add_more("--source", choices=SOURCES, default="auto", help="auto (default), structs or files")
    add_repeat(arguments)
    add_output(arguments)


def run(args: Namespace, session: Session) -> int:
    is_list = lists(args)
    if args.words:
        return at_moment(args, session)
    if is_list:
        session.show(frames_of(args, session), args)
        return 0
    if args.range is not None:
        raise BadInput("--range needs --flags, --list, --runs or --by flags")
    if args.verify and args.limit is not None:
        raise BadInput("--verify shows all that it compared: not with --limit")
    if args.verify and args.sample is not None:
        raise BadInput("--verify compares every frame: not with --sample")
    from mematlas.doctor.hints import line_with_rights

    line = line_with_rights(["ram", *["--kernel"] * args.kernel])
    if args.kernel:
        session.show(lambda: kernel(args, session, line), args)
        return 0
    from mematlas.observe.frames import Frames
    from mematlas.views.ram import check_table, ram_table

    with Frames(session.procfs, args.source) as frames:

        def make() -> Table:
            if args.verify:
                return check_table(frames.check())
            only_seen = form_of(args) == "table" and not args.wide
            return ram_table(frames.look(args.by or "kind", args.sample), line, args.limit, only_seen=only_seen)

        session.show(make, args)
    return 0


def at_moment(args: Namespace, session: Session) -> int:
    """Show what frames were used for at a moment of a recording."""
    from mematlas.observe.recorded_ram import read_ram
    from mematlas.views.ram import ram_table

    asked = [f"--{name}" for name in ("list", "runs", "kernel", "verify") if getattr(args, name)]
    asked += [f"--{name}" for name in ("flags", "sample") if getattr(args, name) is not None]
    if asked or (args.by or "kind") != "kind":
        what = asked[0] if asked else f"--by {args.by}"
        raise BadInput(f"{what}: a recording has what frames were used for, by kind")
    text, *more = args.words
    if more:
        raise BadInput(f"unexpected argument {more[0]!r}")
    result = read_ram(session.machine_at(text))
    session.show(lambda: ram_table(result, "", args.limit), args)
    return 0


def lists(args: Namespace) -> bool:
    """Whether frames are looked at by their flags. Refuses options that say nothing together."""
    asked = [f"--{name}" for name in ("list", "runs", "verify", "kernel") if getattr(args, name)]
    asked += [f"--by {args.by}"] if args.by else []
    if len(asked) > 1:
        raise BadInput(f"{asked[0]} and {asked[1]}: one at a time")
    is_list = args.list or args.runs or args.by == "flags"
    if args.flags is not None and asked and not is_list:
        raise BadInput(f"--flags chooses frames for --list, --runs and --by flags: not with {asked[0]}")
    if (is_list or args.flags is not None) and args.source == "structs":
        raise BadInput("flags are read from kpageflags: not with --source structs")
    if (is_list or args.flags is not None or args.kernel) and args.sample is not None:
        raise BadInput("--sample estimates what all of RAM is: not with --list, --runs, flags and --kernel")
    if args.kernel and args.source != "auto":
        raise BadInput("--kernel takes frames from whatever can be read: not with --source")
    return is_list or args.flags is not None


def kernel(args: Namespace, session: Session, line: str) -> Table:
    """Return what the kernel has memory for; text has the largest of each part."""
    from mematlas.observe.machine import Machine
    from mematlas.views.kernel_memory import kernel_table

    limit = args.limit or (LARGEST if form_of(args) == "table" else None)
    return kernel_table(Machine(session.procfs).kernel_memory(), limit, line)


def frames_of(args: Namespace, session: Session) -> Callable[[], Table]:
    """Return what makes the list, the runs, or the counts that were asked for."""
    from mematlas.analysis.frame_list import EVERY_FRAME, parse_frame_flags
    from mematlas.cli.frame_words import parse_frames
    from mematlas.observe.frame_list import FrameList
    from mematlas.views.frame_list import flags_table, frames_table

    wanted = EVERY_FRAME if args.flags is None else parse_frame_flags(args.flags)
    spans = None if args.range is None else [parse_frames(args.range, session.procfs.page_size)]

    def make() -> Table:
        if args.list or args.runs:
            return frames_table(FrameList(session.procfs, wanted, spans, args.limit), in_runs=args.runs)
        return flags_table(FrameList(session.procfs, wanted, spans).count(), args.limit)

    return make


COMMAND = Command(
    "[options] [FILE@TIME]",
    __doc__,
    add_arguments,
    run,
    examples=(
        ("mematlas ram", "all of RAM, by what it is"),
        ("mematlas ram --kernel", "what the kernel has memory for"),
        ("mematlas ram --list --flags file,dirty --limit 20", "frames of files that are to be written"),
    ),
)
