"""Make a file that report shows of a stream that mematlas record -o - wrote; - reads it from standard input. Where it
was cut short, the moments before that are kept.
"""

from __future__ import annotations

import sys

from mematlas.cli.command import Command
from mematlas.errors import BadInput, Error, FormatError, TargetNotFound
from mematlas.kernel.confine import leave_rights
from mematlas.kernel.rights import has_rights
from mematlas.views.format import format_path, format_size, number_of
from mematlas.views.record import next_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session
    from mematlas.timeline.encoding import Rows

STDIN = "-"


def add_arguments(arguments: Arguments) -> None:
    arguments.add_argument("words", nargs="*", metavar="STREAM", help="what mematlas record -o - has written")
    arguments.add_argument("--force", action="store_true", help="overwrite a file of that name")


def run(args: Namespace, session: Session) -> int:
    if len(args.words) != 2:
        raise BadInput("from where, and where to? Give a stream, or - for standard input, and a file")
    source, path = args.words
    if source == STDIN and sys.stdin.isatty():
        raise BadInput("a terminal is no stream: pipe one in, or give a file")
    with sys.stdin.buffer if source == STDIN else open_stream(source) as stream:
        nr_moments, size, error = convert(stream, source, path, args.force, session)
    if nr_moments:
        moments = number_of(nr_moments, "moment")
        session.write_lines([f"{format_path(path)}: {moments}, {format_size(size)}; {next_line(path)}"])
    if error:
        raise error
    return 0


def open_stream(path: str) -> BinaryIO:
    """Open a file to read a stream from."""
    try:
        return open(path, "rb")
    except FileNotFoundError:
        raise TargetNotFound(f"no file {path}") from None
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from None


def convert(stream: BinaryIO, name: str, path: str, force: bool, session: Session) -> tuple[int, int, Error | None]:
    """Make a recording of a stream, which may be anybody's.

    Return how many moments it has, how large it is, and what was wrong with the stream after these.
    """
    from mematlas.timeline.writing import RecordingWriter

    nr_moments = 0
    wrong: Error | None = None
    with RecordingWriter(path, None, force) as writer:
        if has_rights():
            session.procfs.close()
            leave_rights({stream.fileno(), *writer.fds})
        try:
            for number, rows in enumerate(read_frames(stream, name)):
                if (number == 0) != ("recording" in rows):
                    raise FormatError(name, expected="what a recording says of itself, first of all")
                writer.add(rows)
                nr_moments += "moment" in rows
        except (FormatError, BadInput) as error:
            wrong = error
    if not nr_moments and not wrong:
        wrong = FormatError(name, expected="one moment at the least: it was cut short")
    return nr_moments, writer.size, wrong


def read_frames(stream: BinaryIO, name: str) -> Iterator[Rows]:
    """Yield the moments of a stream, as `mematlas.timeline.stream.frames` does.

    Raises:
        BadInput: it cannot be read.
    """
    from mematlas.timeline.stream import frames

    try:
        yield from frames(stream, name)
    except OSError as error:
        raise BadInput(f"{name}: {error.strerror}") from None


COMMAND = Command(
    "STREAM FILE",
    __doc__,
    add_arguments,
    run,
    examples=(
        ("mematlas convert redis.stream redis.mematlas", "a file that report shows"),
        ("mematlas record redis-server -d 60s -o - | mematlas convert - redis.mematlas", "as it comes"),
    ),
)
