"""The command line: one module per command, found by its name here.

Each module has a `COMMAND` (`mematlas.cli.command.Command`); the four that act are a table in `mematlas.cli.advise`. It
makes a result and gives it to ``session.show``; text, exit codes and errors are made elsewhere. No command imports
another.
"""

from __future__ import annotations

import sys

from mematlas.cli.command import COMMANDS, FIRST_SCREEN, load
from mematlas.errors import (
    AssertionNotMet,
    BadInput,
    Error,
    LibraryMissing,
    NotConfirmed,
    PermissionDenied,
    ProcessGone,
    TargetAmbiguous,
    did_you_mean,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from mematlas.cli.arguments import Namespace
    from mematlas.cli.command import Command
    from mematlas.cli.watchdog import Watchdog

APART = "--apart"
FIRST_OPTIONS = ("-h", "--help", "-V", "--version")


def main(words: Sequence[str] | None = None, *, watched: bool = False) -> int:
    """Run a command line; return its exit code. The only place that turns errors into messages.

    ``watched``: a `Watchdog` may end this process while it runs a command.
    """
    words = list(sys.argv[1:] if words is None else words)
    open_missing_streams()
    try:
        try:
            return dispatch(words, watched)
        finally:
            sys.stdout.flush()
    except Error as error:
        explain(error, words)
        return error.exit_code
    except BrokenPipeError:
        # Whoever read our output has enough.
        drop_output()
        return 0
    except (OSError, MemoryError, ImportError) as error:
        from mematlas.cli.mistakes import what_is_lacking

        text = what_is_lacking(error)
        if text is None:
            raise  # a mistake of ours
        if isinstance(error, OSError):
            drop_output()
        complain(f"mematlas: {text}")
        return 1
    except KeyboardInterrupt:
        return 130


def open_missing_streams() -> None:
    """Open the standard streams that we were started without on /dev/null.

    Otherwise the next file that is opened would get the number of one of them, and be written to.
    """
    if sys.stdin and sys.stdout and sys.stderr:
        return
    import os

    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_RDWR), fd)
            stream = open(fd, "w" if fd else "r", encoding="utf-8")  # noqa: SIM115 (open to the end)
            setattr(sys, name, stream)


def buffer_output() -> None:
    """Have what is written come out whole where Python was told not to buffer it, as in many containers.

    A signal in the middle of a write to a full pipe lets that write a part; of text without a buffer the rest is lost.
    """
    import io

    if isinstance(getattr(sys.stdout, "buffer", None), io.RawIOBase):
        plain = sys.stdout
        encoding, errors, to_screen = plain.encoding, plain.errors, plain.isatty()
        raw = plain.detach()  # type: ignore[union-attr]
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, line_buffering=to_screen)
        sys.__stdout__ = sys.stdout  # type: ignore[misc]  # what asks for the size of the terminal asks this one


def drop_output() -> None:
    """Let what is not written yet go nowhere: Python would complain once more when it flushes at exit."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def console() -> NoReturn:
    """Run the command line of this process, and end it.

    Python's own ending takes objects apart one by one, 1.4 ms that nobody needs: everything is written and closed.
    """
    import gc
    import os

    gc.set_threshold(50_000)  # the modules and records of a start are no garbage: looking for it costs 0.6 ms
    code = 1
    try:
        buffer_output()
        code = main(watched=True)
    except BaseException:
        # A mistake of ours: show it whole.
        sys.excepthook(*sys.exc_info())
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            pass  # closed or full: nobody is left to tell
    os._exit(code)


def dispatch(words: list[str], watched: bool) -> int:
    """Find the command, parse its arguments, run it."""
    apart = words[:1] == [APART]
    words = words[1:] if apart else words
    if not words or (words[0].startswith("-") and words[0] not in FIRST_OPTIONS):
        words = [FIRST_SCREEN, *words]
    name, rest = words[0], words[1:]
    if name in ("-h", "--help", "help"):
        return show_help(rest[0] if name == "help" and rest else None, short=name == "-h")
    if name in ("-V", "--version"):
        from mematlas.version import __version__

        print(f"mematlas {__version__}")
        return 0
    if name not in COMMANDS and name != FIRST_SCREEN:
        from mematlas.cli.mistakes import unknown_command

        raise BadInput(unknown_command(name))
    if not watched:
        return run_command(name, rest, apart)
    from mematlas.cli.watchdog import Watchdog

    with Watchdog() as watchdog:
        return run_command(name, rest, apart, watchdog)


def show_help(subject: str | None, short: bool = False) -> int:
    """Print the help of a command or a topic, or of mematlas; ``short`` where it has to fit a screen."""
    from mematlas.views.terminal import screen_width

    # Into a pager, help is for the screen that messages go to.
    width = screen_width(sys.stdout) or screen_width(sys.stderr)
    if subject is None or subject in FIRST_OPTIONS:
        from mematlas.cli.help import overview_text, short_overview_text

        text = short_overview_text(width) if short else overview_text(width)
    else:
        from mematlas.cli.command_help import TOPIC_TEXTS, command_text

        if subject not in (*COMMANDS, "overview", *TOPIC_TEXTS):
            names = (*COMMANDS, *TOPIC_TEXTS)
            raise BadInput(f"no help on {subject!r}{did_you_mean(subject, names)}; mematlas --help lists the commands")
        topic = TOPIC_TEXTS.get(subject)
        text = topic(width) if topic else command_text(subject, width, short)
    print(text, end="")
    return 0


def run_command(name: str, words: list[str], apart: bool = False, watchdog: Watchdog | None = None) -> int:
    """Run one command; ``apart`` from the rights that it takes."""
    from mematlas.cli.session import standard_session

    command = load(name)
    program = None
    if command.takes_target and "--" in words:
        index = words.index("--")
        words, program = words[:index], words[index + 1 :]
    if asks_for_help(words):
        return show_help(name, short="--help" not in words)
    session = standard_session(program)
    session.watchdog = watchdog
    try:
        args = parse(name, command, words)
        if command.check:
            command.check(args)
        if program is None:
            one_thread_of_numpy()  # a moment of a recording is unpacked with it
        if command.takes_target:
            default = command.default_target(args) if command.default_target else None
            session.why_now = why_now(name, args)
            session.take_target(args, default)
        one_thread_of_numpy()
        if apart and not command.parts:
            from mematlas.cli.apart import part

            if command.prepare:
                command.prepare(args, session)
            part(name, args, session)
        code = command.run(args, session)
    except Error as error:
        if program is not None and command.own_failure:
            error.exit_code = command.own_failure
        error.args = tuple(session.as_named(arg) if isinstance(arg, str) else arg for arg in error.args)
        raise
    except KeyboardInterrupt:
        if session.ending is None or not session.ending.exit_code:
            raise
        code = session.ending.exit_code
    finally:
        session.close()
        if session.lender:
            session.lender.close()
    if session.launched and session.launched.exit_code:
        launched = session.launched.exit_code
        return launched if launched > 0 else 128 - launched
    return code


def why_now(name: str, args: Namespace) -> str:
    """Return why what a command is given has to run, and is of no recording and no capture; empty where it need not."""
    if name in ("record", "collapse"):
        return f"{name} is for processes that run"
    if COMMANDS.get(name, ("",))[0] == "Act" and not args.dry_run:
        return f"{name} acts on processes that run (--dry-run plans)"
    return ""


def one_thread_of_numpy() -> None:
    """Have numpy, should it be loaded, start no threads: half of its start is for them, and we need none.

    A target that we start is there already, and has the environment that it was given.
    """
    import os

    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def asks_for_help(words: list[str]) -> bool:
    """Whether help is among the options: no option takes one for its value."""
    own = words[: words.index("--")] if "--" in words else words
    return "--help" in own or "-h" in own


def parse(name: str, command: Command, words: list[str]) -> Namespace:
    """Return the arguments of a command."""
    from mematlas.cli.arguments import HELP_OPTIONS, Arguments

    arguments = Arguments()
    command.add_arguments(arguments)
    others = HELP_OPTIONS if name in COMMANDS else FIRST_OPTIONS
    args = arguments.parse(words) or arguments.parse_slowly(words, others)
    if "format" in vars(args):
        from mematlas.cli.options import form_of

        form_of(args)  # what contradicts itself is refused before anything is done
    return args


def explain(error: Error, words: list[str]) -> None:
    """Write an error to standard error: what is wrong, and what to type."""
    text = f"mematlas: {error}"
    if isinstance(error, AssertionNotMet | ProcessGone):
        text = "\n".join(f"mematlas: {line}" for line in str(error).split("\n"))
    if isinstance(error, TargetAmbiguous):
        from mematlas.views.candidates import ambiguity
        from mematlas.views.terminal import screen_width

        text = f"mematlas: {ambiguity(error, screen_width(sys.stderr))}"
        # It takes several, and counts each page once; but each is verified alone.
        before = words[: words[:1] == [APART]]
        rest = words[len(before) :]
        if rest[:1] == ["usage"] and "--verify" not in rest and (everybody := all_of(error)):
            from mematlas.doctor.hints import plain_line

            text += f"\ntry: {plain_line([*before, *with_all(rest, error.target, everybody)])}"
    if isinstance(error, NotConfirmed):
        from mematlas.doctor.hints import plain_line

        text += f"\ntry: {plain_line([*words, '--yes'])}"
    if isinstance(error, LibraryMissing):
        from mematlas.cli.mistakes import how_to_mend

        text += how_to_mend(error)
    if isinstance(error, PermissionDenied):
        from mematlas.doctor.hints import permission_hint

        text += f"\n{permission_hint(error, words)}"
    complain(text)


def all_of(error: TargetAmbiguous) -> list[str]:
    """Return targets that mean all processes of a name: the group of that name, or each of few; else nothing."""
    from mematlas.model.search import CMDLINE
    from mematlas.model.target import is_group

    is_name = not is_group(error.target) and not error.target.startswith(CMDLINE) and "/" not in error.target
    if error.candidates and is_name:
        return [f"name:{error.target}"]
    return [] if error.nr_more else [str(one.pid) for one in error.candidates]


def with_all(words: list[str], target: str, everybody: list[str]) -> list[str]:
    """Return a command line with other targets in the place of one.

    >>> with_all(["usage", "shop", "--json"], "shop", ["12", "13"]), with_all(["usage", "--pid=json"], "json", ["12"])
    (['usage', '12', '13', '--json'], ['usage', '12'])
    """
    if words.count(target) != 1:
        return [words[0], *everybody]  # which of them it is, or where, is not known here
    place = words.index(target)
    return [*words[:place], *everybody, *words[place + 1 :]]


def complain(text: str) -> None:
    """Write a message to standard error. The names in it are others', and may hold whatever moves a terminal."""
    from mematlas.views.format import fold_message, format_message
    from mematlas.views.terminal import screen_width

    try:
        width = screen_width(sys.stderr)
        lines: list[str] = []
        for line in text.split("\n"):
            lines += fold_message(format_message(line), width)
        print("\n".join(lines), file=sys.stderr)
    except OSError:
        return  # there is nowhere left to say it; the exit code does
