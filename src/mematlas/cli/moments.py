"""Targets at a moment of a recording: ``FILE@TIME``, ``FILE@TIME:PID``."""

from __future__ import annotations

import os
import re
import time

from mematlas.cli.options import parse_seconds
from mematlas.errors import BadInput, TargetAmbiguous, TargetNotFound
from mematlas.frozen import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from mematlas.timeline.unpacking import Unpacked

FORM = re.compile(r"(?P<path>.+)@(?P<time>[0-9][0-9.]*[a-z]*|end)(:(?P<pid>[0-9]{1,10}))?", re.DOTALL)
SUFFIX = ".mematlas"
LISTED = 20


@record
class Moment:
    """A moment of a recording, and perhaps a process of it."""

    text: str
    path: str
    seconds: float
    pid: int | None


def parse_moment(text: str) -> Moment | None:
    """Return the moment that a text names; None where it names something else.

    >>> parse_moment("shop.mematlas@1.5s:4211").seconds, parse_moment("kworker@8")
    (1.5, None)

    Raises:
        BadInput: the time is none.
    """
    match = FORM.fullmatch(text)
    if match is None:
        refuse_nearly(text)
        return None
    path = match["path"]
    if not path.endswith(SUFFIX) and not os.path.isfile(path):
        return None
    if match["time"] == "end":
        return Moment(text, path, float("inf"), int(match["pid"]) if match["pid"] else None)
    try:
        seconds = parse_seconds(match["time"])
    except BadInput as error:
        raise BadInput(f"{text}: {error}") from None
    return Moment(text, path, seconds, int(match["pid"]) if match["pid"] else None)


def refuse_nearly(text: str) -> None:
    """Refuse a recording without a moment, and one with what is none.

    Raises:
        TargetNotFound: it is a recording, and no process.
        BadInput: what follows it is no moment.
    """
    path, _, rest = text.rpartition("@")
    if text.endswith(SUFFIX) and os.path.isfile(text):
        raise TargetNotFound(
            f"{text} is a recording: name a moment, {text}@5s or {text}@end; or mematlas report {text}"
        )
    if path.endswith(SUFFIX) and os.path.isfile(path):
        raise BadInput(f"{rest!r} is no moment: try {path}@5s, {path}@end or, of one process, {path}@5s:PID")


def about(moment: Moment, unpacked: Unpacked) -> str:
    """Return which moment is shown."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unpacked.time))
    return f"{moment.path} after {unpacked.elapsed:.1f} s: {when}"


def unpack_moment(moment: Moment, of_machine: bool = False) -> Unpacked:
    """Unpack the processes of a moment, or what there is of the machine."""
    from mematlas.timeline.unpacking import unpack

    return unpack(moment.path, moment.seconds, moment.pid, of_machine)


def refuse_several(text: str, captures: dict[int, str]) -> NoReturn:
    """Say that a moment has several processes, where one is wanted."""
    pids = ", ".join(map(str, list(captures)[:LISTED])) + (", ..." if len(captures) > LISTED else "")
    why = f"{text} has {len(captures):,} processes: {pids}; name one: {text}:{next(iter(captures))}"
    raise TargetAmbiguous(text, (), text=why)
