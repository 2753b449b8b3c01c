"""Every error that mematlas raises, and the exit code that each becomes.

::

    Error                      1
    ├── BadInput               2   an argument that cannot be understood
    ├── TargetNotFound         3   no such process
    ├── TargetAmbiguous        3   several processes; `candidates` names them
    ├── NoAddressSpace         3   a kernel thread, or a zombie: there is nothing to look at
    ├── TargetRefused          1   a process that we leave alone unless we are forced: `pid`
    ├── NotConfirmed           1   an act on a group of processes, which was planned and not confirmed
    ├── PermissionDenied       4   `path`, and in `needs` the capabilities that would open it
    ├── NotSupported           5   this kernel lacks it; `needs` names the option or version
    │   ├── NotHeld            5   a capture was made without this file
    │   └── LibraryMissing     5   a package of Python is not installed, or cannot be loaded: `package`
    ├── ProcessGone            6   the target ended, or its PID was given to another, during the work
    ├── CgroupGone             6   the cgroup was removed during the work
    ├── FormatError            1   a file that does not look as the kernel writes it
    ├── TooLarge               1   a file with more in it than we are ready to take
    └── AssertionNotMet       10   a check that was asked for did not hold
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, Protocol

    class NamedProcess(Protocol):
        """A process that was found: `mematlas.model.search.Candidate`."""

        @property
        def pid(self) -> int: ...
        @property
        def user(self) -> str: ...
        @property
        def rss(self) -> int | None: ...
        @property
        def command(self) -> str | None: ...


class Error(Exception):
    """The root of the tree. ``str(error)`` is one line for a person, without a traceback."""

    exit_code = 1


class BadInput(Error):
    """An argument that cannot be understood."""

    exit_code = 2


class TargetNotFound(Error):
    """No process answers to this target."""

    exit_code = 3


class TargetAmbiguous(Error):
    """Several processes answer to this target. ``candidates`` has the first of them."""

    exit_code = 3

    def __init__(
        self, target: str, candidates: Sequence[NamedProcess], nr_more: int = 0, text: str | None = None
    ) -> None:
        self.target = target
        self.candidates = candidates
        self.nr_more = nr_more
        """Those beyond the candidates."""
        pids = ", ".join(str(each.pid) for each in candidates) + (f" and {nr_more:,} more" if nr_more else "")
        super().__init__(text or f"{target!r} names {len(candidates) + nr_more:,} processes; give one PID: {pids}")


class NoAddressSpace(Error):
    """A kernel thread, which borrows the address space of whatever ran before it; or a zombie, whose is freed."""

    exit_code = 3

    def __init__(
        self, pid: int, name: str, why: str = "is a kernel thread: it has no address space of its own"
    ) -> None:
        self.pid = pid
        super().__init__(f"{pid} ({name}) {why}")


class TargetRefused(Error):
    """We leave this process alone, unless we are forced: to act on it could hurt whoever asks for it."""

    def __init__(self, pid: int, name: str, who: str) -> None:
        self.pid = pid
        super().__init__(f"{pid} ({name}) is {who}; use --force to act on it anyway")


class NotConfirmed(Error):
    """An act on a group of processes, of which the plan was shown and nobody has said yes to."""


class PermissionDenied(Error):
    """The kernel refused."""

    exit_code = 4

    def __init__(self, path: str, *needs: str, text: str = "") -> None:
        self.path = path
        self.needs = frozenset(needs)
        """The capabilities that would do, all together; empty where none is known to."""
        self.text = text or " and ".join(needs)
        """The same for a person, who may be told of another way: ``root, or being the owner of the file``."""
        super().__init__(f"{path}: permission denied" + (f" (needs {self.text})" if self.text else ""))


class NotSupported(Error):
    """This kernel does not offer it. ``needs`` names the option or the version that would."""

    exit_code = 5

    def __init__(self, what: str, needs: str | None = None) -> None:
        self.what = what
        self.needs = needs
        super().__init__(f"{what}: not supported here" + (f" (needs {needs})" if needs else ""))


class NotHeld(NotSupported):
    """A capture was made without this file, or a recording without what it holds."""

    def __init__(self, path: str, text: str = "") -> None:
        self.what = path
        self.needs = None
        self.text = text
        Error.__init__(self, text or f"the capture does not hold {path}")


class LibraryMissing(NotSupported):
    """A package of Python that this needs is not installed, or is there and cannot be loaded."""

    def __init__(self, package: str, error: BaseException, extra: str = "", missed: str = "") -> None:
        self.what = self.needs = self.package = package
        self.extra = extra
        """The extra of ours that brings it; nothing of what we always depend on."""
        # numpy puts a page of its own before what the dynamic loader said.
        cause = error.__cause__ if isinstance(error.__cause__, ImportError | OSError) else error
        self.is_installed = not (isinstance(cause, ModuleNotFoundError) and cause.name == package)
        """Whether it is there, and something in it is not."""
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()] or [type(cause).__name__]
        why = f"cannot be loaded: {lines[0]}" if self.is_installed else "is not installed"
        Error.__init__(self, f"{missed}: {package} {why}" if missed else f"{package} {why}")


class ProcessGone(Error):
    """The target ended during the work, or its PID now belongs to another process."""

    exit_code = 6

    def __init__(self, pid: int, why: str = "ended") -> None:
        self.pid = pid
        super().__init__(f"process {pid} {why}")


class CgroupGone(Error):
    """The cgroup was removed during the work."""

    exit_code = 6

    def __init__(self, cgroup: str) -> None:
        self.cgroup = cgroup
        super().__init__(f"the cgroup {cgroup} was removed")


class FormatError(Error):
    """A file that does not look as the kernel writes it, or as we do.

    The message shows the offending text, but of a capture: what a stranger put there may be another's file.
    """

    def __init__(self, path: str, text: str = "", place: str = "", expected: str = "") -> None:
        self.path = path
        self.text = text
        self.place = place
        """Where in the file: ``line 5``."""
        self.expected = expected
        """What should stand there."""
        where = f"{path}, {place}" if place else path
        if text:
            message = f"cannot understand {text[:120]!r}" + (f" (expected {expected})" if expected else "")
        else:
            message = f"expected {expected}" if expected else "not as the kernel writes it"
        super().__init__(f"{where}: {message}")


class TooLarge(Error):
    """A file with more in it than we are ready to take."""

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(f"{path}: larger than any such file should be")


class AssertionNotMet(Error):
    """A check that was asked for did not hold."""

    exit_code = 10


PLAIN = (str, int, bytes, frozenset, type(None))


def taken_apart(error: Error) -> tuple[str, str, dict[str, Any]]:
    """Return what an error is made again of elsewhere, as `marshal` has it: its class, its text, what else is in it.

    >>> taken_apart(NotSupported("cachestat", "Linux 6.5"))[2]
    {'what': 'cachestat', 'needs': 'Linux 6.5'}
    """
    parts = {name: value for name, value in vars(error).items() if isinstance(value, PLAIN)}
    return type(error).__name__, str(error), parts


def put_together(name: str, text: str, parts: dict[str, Any]) -> Error:
    """Return the error that `taken_apart` has taken apart; a plain one of a class that is not known here.

    >>> raise put_together("NotSupported", "cachestat: not supported here", {"what": "cachestat", "needs": None})
    Traceback (most recent call last):
    mematlas.errors.NotSupported: cachestat: not supported here
    """
    kind = globals().get(name)
    made = kind if isinstance(kind, type) and issubclass(kind, Error) else Error
    error = made.__new__(made)
    Exception.__init__(error, text)
    vars(error).update(parts)
    return error


LIKENESS = 0.65
"""Of two names, from 0 to 1, of which one may have been meant for the other: mpa and map, but not state and after."""


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Return a hint at the name that a word is most like; nothing where none is like it.

    >>> did_you_mean("--formt", ["--json", "--format"])
    ' (did you mean --format?)'
    >>> did_you_mean("RSS", ["uss", "rss"]), did_you_mean("libsll", ["libSSL"]), did_you_mean("heap", ["heap"])
    (' (did you mean rss?)', ' (did you mean libSSL?)', '')
    >>> did_you_mean("--undo", ["--kind"])  # dashes make no two options alike
    ''
    """
    from difflib import get_close_matches

    known = {name.lstrip("-").lower(): name for name in names if name != word}
    close = get_close_matches(word.lstrip("-").lower(), known, 1, LIKENESS)
    return f" (did you mean {known[close[0]]}?)" if close else ""
