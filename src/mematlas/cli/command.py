"""What a command is: each module of one has it as its `COMMAND`."""

from __future__ import annotations

from mematlas.frozen import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session

    Word = str | Mapping[str, str]

TARGET, DIRECTORY = "target", "directory"
"""What a word can be, besides one of a list."""
TARGETS = """\
TARGET is a PID, self, a command's exact name, ~REGEX over command lines, cgroup:PATH,
or the directory of a capture. "-- COMMAND ..." starts one, as the invoking user."""


@record
class Command:
    """A command: what may follow it, what it is for, and what it does."""

    usage: str
    about: str
    """What its help begins with."""
    add_arguments: Callable[[Arguments], None]
    run: Callable[[Namespace, Session], int]
    """Makes a result, gives it to `Session.show`, and returns the exit code."""
    words: tuple[Word, ...] = ()
    """For each word that may follow: `TARGET`, `DIRECTORY`, or what it is one of, with what that means."""
    default_target: Callable[[Namespace], str | None] | None = None
    """Gives the target when the words do not; None says that they do."""

    @property
    def takes_target(self) -> bool:
        """Whether it is given a process: the session has it before `run`."""
        return self.words[:1] == (TARGET,)
