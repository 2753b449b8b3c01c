"""The command line: one module per command, found by its name here.

Each module has a `COMMAND` (`mematlas.cli.command.Command`). It makes a result and gives it to ``session.show``; text,
exit codes and errors are made elsewhere. No command imports another.
"""

from __future__ import annotations

import sys

from mematlas.errors import BadInput, Error, PermissionDenied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from mematlas.cli.arguments import Namespace
    from mematlas.cli.command import Command

COMMANDS = {
    "usage": ("Look", "how much memory a process uses, by kind; --verify checks it against a second source"),
    "maps": ("Look", "a line per VMA: size, rights, what of it is present, swapped, its own"),
    "pages": ("Look", "a line per page, or per run of like pages: state, frame, flags, map count"),
    "translate": ("Look", "virtual addresses to physical ones"),
    "hist": ("Look", "where the present pages are, in one line"),
    "map": ("Look", "the whole address space, drawn"),
    "tables": ("Look", "raw page-table entries, decoded: PGD to PTE, of a process or the kernel"),
    "pageout": ("Act", "move pages out of a process, measured; --watch-refaults shows which come back"),
    "cold": ("Act", "make pages the first to go when memory is short"),
    "willneed": ("Act", "bring pages back into RAM"),
    "collapse": ("Act", "put small pages together into huge ones"),
    "demo": ("Learn", "a tour of real memory, in half a minute; demo paging: out of RAM and back"),
    "lab": ("Learn", "guided lessons: predict, do, measure, explain"),
    "workload": ("Learn", "programs whose memory is known: singlemap, multimap, prober, draw"),
    "doctor": ("Meta", "what works here, what does not, and what to type"),
    "capture": ("Meta", "save a process as a directory that every command reads"),
    "completion": ("Meta", "completion for bash, zsh or fish"),
}
"""Each command with its group and what it does, in the order of the help."""


TARGET_AND_EXIT = """\
TARGET is a PID, self, a command's exact name, ~REGEX over command lines, cgroup:PATH,
or the directory of a capture; -- COMMAND ... starts one.

Exit codes: 0 ok, 1 error, 2 usage, 3 target not found or ambiguous, 4 permission,
5 not supported by this kernel, 6 target ended, 10 a check did not hold."""

FIRST_OPTIONS = ("-h", "--help", "-V", "--version")


def main(words: Sequence[str] | None = None) -> int:
    """Run a command line; return its exit code. The only place that turns errors into messages."""
    words = list(sys.argv[1:] if words is None else words)
    open_missing_streams()
    try:
        try:
            return dispatch(words)
        finally:
            sys.stdout.flush()
    except Error as error:
        report(error, words)
        return error.exit_code
    except BrokenPipeError:
        # Whoever read our output has enough.
        drop_output()
        return 0
    except OSError as error:
        import errno

        # What the kernel says about a target is translated where it is read: this is our output's, or our own limits'.
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM):
            complain(f"mematlas: the system gives us no more: {error.strerror}{limit_hint(error)}")
            return 1
        if error.filename or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF):
            raise
        drop_output()
        complain(f"mematlas: cannot write: {error.strerror}")
        return 1
    except MemoryError:
        complain("mematlas: not enough memory (ulimit -v, memory.max)")
        return 1
    except ModuleNotFoundError as error:
        # Run from a copy of the source: whoever installs mematlas has it.
        if error.name != "numpy":
            raise
        complain(f"mematlas: numpy is not installed: {sys.executable} -m pip install numpy")
        return 1
    except ImportError as error:
        # What the dynamic loader said has no errno; numpy puts a page of its own before it.
        said = error.__cause__ if isinstance(error.__cause__, ImportError) else error
        if not said.path or not said.path.endswith(".so"):
            raise
        hint = " (ulimit -v)" if "failed to map" in said.msg or "allocate" in said.msg else ""
        complain(f"mematlas: cannot load a library: {said.msg}{hint}")
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
            setattr(sys, name, open(fd, "w" if fd else "r", encoding="utf-8"))  # noqa: SIM115 (open to the end)


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

    from mematlas.cli.watchdog import Watchdog

    gc.set_threshold(50_000)  # the modules and records of a start are no garbage: looking for it costs 0.6 ms
    code = 1
    try:
        with Watchdog():
            code = main()
    except SystemExit as stop:  # argparse, after help or a mistake
        code = stop.code if isinstance(stop.code, int) else 0
    except BaseException:
        # A mistake of ours: show it whole.
        sys.excepthook(*sys.exc_info())
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            pass  # closed or full: nobody is left to tell
    os._exit(code)


def dispatch(words: list[str]) -> int:
    """Find the command, parse its arguments, run it."""
    if not words or (words[0].startswith("-") and words[0] not in FIRST_OPTIONS):
        words = ["overview", *words]
    name, rest = words[0], words[1:]
    if name == "help" and rest:
        name, rest = rest[0], ["--help"]
    if name in ("-h", "--help", "help"):
        from mematlas.views.terminal import screen_width

        print(help_text(screen_width(sys.stdout)), end="")
        return 0
    if name in ("-V", "--version"):
        from mematlas.version import __version__

        print(f"mematlas {__version__}")
        return 0
    if name not in COMMANDS and name != "overview":
        raise BadInput(f"no command {name!r}{suggestion(name)}; mematlas --help lists them")
    return run_command(name, rest)


def run_command(name: str, words: list[str]) -> int:
    """Run one command."""
    from mematlas.cli.session import standard_session

    command = load(name)
    program = None
    if command.takes_target and "--" in words:
        index = words.index("--")
        words, program = words[:index], words[index + 1 :]
    args = parse(name, command, words)
    session = standard_session(program)
    try:
        if command.takes_target:
            session.take_target(args, command.default_target(args) if command.default_target else None)
            one_thread_of_numpy()
        code = command.run(args, session)
    finally:
        session.close()
    if session.launched and session.launched.exit_code:
        launched = session.launched.exit_code
        return launched if launched > 0 else 128 - launched
    return code


def one_thread_of_numpy() -> None:
    """Have numpy, should it be loaded, start no threads: half of its start is for them, and we need none.

    A target that we start is there already, and has the environment that it was given.
    """
    import os

    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def load(name: str) -> Command:
    """Return a command, by its name."""
    command: Command = __import__(f"mematlas.cli.{name}", fromlist=["COMMAND"]).COMMAND
    return command


def parse(name: str, command: Command, words: list[str]) -> Namespace:
    """Return the arguments of a command."""
    from mematlas.cli.arguments import Arguments

    arguments = Arguments()
    command.add_arguments(arguments)
    args = arguments.parse(words)
    return args or arguments.parse_slowly(words, f"mematlas {name}", command.usage, describe(name, command))


def describe(name: str, command: Command) -> str:
    """Return the text that the help of a command begins with."""
    from mematlas.cli.command import TARGETS

    what = COMMANDS[name][1] if name in COMMANDS else ""
    return f"{what}\n\n{command.about.strip()}" + (f"\n{TARGETS}" if command.takes_target else "")


def help_text(width: int = 0) -> str:
    """Return the overview of all commands, by group, for a screen of this width; 0 for any."""
    from mematlas.version import __version__
    from mematlas.views.format import fold_text, fold_words

    head = f"mematlas {__version__}: observe, measure and influence the virtual memory of running processes"
    lines = [
        fold_text(head, width),
        "",
        "usage: mematlas COMMAND TARGET [options]    mematlas COMMAND --help",
        "       mematlas                             this machine, who uses the most",
    ]
    group = ""
    for name, (its_group, text) in COMMANDS.items():
        if its_group != group:
            group = its_group
            lines += ["", group]
        first, *others = fold_words(text, width - 14) if width else [text]
        lines += [f"  {name:<11} {first}", *(" " * 14 + line for line in others)]
    lines += [
        "",
        fold_text(TARGET_AND_EXIT, width),
    ]
    return "\n".join(lines) + "\n"


def suggestion(name: str) -> str:
    """Return a hint at the command that was probably meant."""
    if name.isdecimal():
        return f" (did you mean 'mematlas usage {name}'?)"
    from difflib import get_close_matches

    close = get_close_matches(name, COMMANDS, 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def limit_hint(error: OSError) -> str:
    """Return which limit it may be that we have reached."""
    import errno

    limit = {errno.EMFILE: "ulimit -n", errno.EAGAIN: "ulimit -u, pids.max"}.get(error.errno or 0)
    return f" ({limit})" if limit else ""


def report(error: Error, words: list[str]) -> None:
    """Write an error to standard error: what is wrong, and what to type."""
    text = f"mematlas: {error}"
    if isinstance(error, PermissionDenied):
        from mematlas.doctor.hints import permission_hint

        text += f"\n{permission_hint(error, words)}"
    complain(text)


def complain(text: str) -> None:
    """Write a message to standard error. The names in it are others', and may hold whatever moves a terminal."""
    from mematlas.views.format import fold_message, format_message
    from mematlas.views.terminal import screen_width

    try:
        width = screen_width(sys.stderr)
        lines = [part for line in text.split("\n") for part in fold_message(format_message(line), width)]
        print("\n".join(lines), file=sys.stderr)
    except OSError:
        return  # there is nowhere left to say it; the exit code does
