"""The processes that a name may mean, a line each, so that one can be picked."""

from __future__ import annotations

from mematlas.views.format import beginning, format_path, format_size, padded, widest, width_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mematlas.errors import NamedProcess, TargetAmbiguous

HEADINGS = ("PID", "USER", "RSS", "COMMAND")
ANY_WIDTH = 120
"""Columns, where the output is no terminal."""
LEAST_COMMAND = 10
CUT = "..."


def ambiguity(error: TargetAmbiguous, width: int) -> str:
    """Return what is to be said of a name that is several processes': no line is wider than the screen."""
    if not error.candidates:
        return str(error)
    number = len(error.candidates) + error.nr_more
    lines = [f"{error.target!r} names {number:,} processes; give one PID:"]
    lines += candidate_lines(error.candidates, width or ANY_WIDTH)
    if error.nr_more:
        lines.append(f"... and {error.nr_more:,} more")
    return "\n".join(lines)


def candidate_lines(candidates: Sequence[NamedProcess], width: int) -> Iterator[str]:
    """Yield the heading and a line for each process, the command line cut to the width.

    >>> from mematlas.model.search import Candidate
    >>> print(*candidate_lines([Candidate(4771, "root", 83886080, "python3 /srv/shop.py --port 80")], 42), sep="\\n")
        PID  USER     RSS  COMMAND
       4771  root  80 MiB  python3 /srv/sho...
    """
    rows = [HEADINGS, *map(cells_of, candidates)]
    pids, users, sizes, commands = zip(*rows, strict=True)
    columns = (
        padded(pids, max(widest(pids), 7), right=True),
        padded(users, widest(users), right=False),
        padded(sizes, widest(sizes), right=True),
    )
    for *cells, command in zip(*columns, commands, strict=True):
        head = "".join(f"{cell}  " for cell in cells)
        room = max(width - width_of(head), LEAST_COMMAND)
        yield head + (command if width_of(command) <= room else beginning(command, room - len(CUT)) + CUT)


def cells_of(one: NamedProcess) -> tuple[str, str, str, str]:
    """Return the cells of a process."""
    user = format_path(one.user) or "-"
    rss = "-" if one.rss is None else format_size(one.rss)
    command = "(does not answer)" if one.command is None else format_path(one.command)
    return str(one.pid), user, rss, command
