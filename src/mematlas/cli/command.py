"""The commands by name, and what each is: the `COMMAND` of its module."""

from __future__ import annotations

from mematlas.errors import BadInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session

    Word = str | Mapping[str, str]

COMMANDS = {
    "usage": ("Look", "how much memory a process uses, by kind (--verify checks it)"),
    "ps": ("Look", "all processes or groups with PSS, USS, swap; a total that is true"),
    "maps": ("Look", "a line per VMA: size, permissions, how much is in RAM and swap"),
    "pages": ("Look", "a line per page or run of similar pages: state, frame, flags"),
    "translate": ("Look", "virtual addresses to physical ones"),
    "hist": ("Look", "where the present pages are, in one line"),
    "map": ("Look", "the whole address space, drawn"),
    "tables": ("Look", "raw page-table entries, PGD to PTE, of a process or the kernel"),
    "share": ("Look", "who shares how much with whom, through which files"),
    "ram": ("Look", "all of RAM: what every frame is, in sizes that add up"),
    "owner": ("Look", "what a frame of RAM is, and which processes map it"),
    "cache": ("Look", "what fills the page cache, file by file, and who maps it"),
    "top": ("Time", "a screen that shows memory as it moves, live or recorded"),
    "record": ("Time", "how memory changes, into a file, at a cost that is bounded"),
    "report": ("Time", "what a recording tells: who grew, how fast, in which manner"),
    "diff": ("Time", "what is different between two looks, moments or processes"),
    "check": ("Time", "assertions on memory, now or over time, for scripts and CI"),
    "pageout": ("Act", "move pages out of a process, or files out of the page cache"),
    "cold": ("Act", "make pages the first to go when memory is short"),
    "willneed": ("Act", "bring pages back into RAM, or files into the page cache"),
    "collapse": ("Act", "put small pages together into huge ones"),
    "demo": ("Learn", "a tour of real memory; demo paging: out of RAM and back"),
    "lab": ("Learn", "guided lessons: predict, do, measure, explain"),
    "workload": ("Learn", "programs whose memory is known: something to look at"),
    "doctor": ("Meta", "what works here, what does not, and what to type"),
    "capture": ("Meta", "save a process as a directory that every command reads"),
    "convert": ("Meta", "make a recording of a stream (record -o -)"),
    "completion": ("Meta", "completion for bash, zsh or fish"),
}
"""Each command with its group and what it does, in the order of the help."""

FIRST_SCREEN = "overview"
"""What is run without a command."""
TARGET, DIRECTORY, RECORDING, MORE = "target", "directory", "recording", "..."
"""What a word can be, besides one of a list; and that the last one may come again."""
TARGET_OR_FILE, TARGET_OR_PATH = "target or file:", "target or path"
"""A target, or a file: with `FILE` before its path, or without it too."""
TARGET_KINDS = (TARGET, TARGET_OR_FILE, TARGET_OR_PATH)
TARGETS = """\
TARGET is a PID, self, a command's exact name, cmdline:REGEX, the directory of a capture,
or a group, such as name:NAME or cgroup:PATH. "-- COMMAND ..." starts one, as the invoking user."""
FILE = "file:"
"""What stands before a path, where a word could be a process as well."""
PREFIXES = {
    "cmdline:": "a regular expression over command lines",
    "name:": "all processes of a name",
    "user:": "all processes of a user",
    "tree:": "a process and all below it",
    "cgroup:": "a cgroup's path",
    "container:": "a container, by its ID or name",
    "pod:": "a pod, by its UID",
    "unit:": "a unit of systemd",
    "pid:": "a PID, and no capture",
}
"""What a target can begin with that says what the rest is."""
SHORT_TARGETS = "TARGET: PID, NAME, cmdline:REGEX, cgroup:PATH ... (mematlas help targets)"


class Command:
    """A command: what may follow it, what it is for, and what it does. (No record: help would load what makes them.)"""

    __slots__ = (
        "about",
        "add_arguments",
        "check",
        "default_target",
        "examples",
        "own_failure",
        "parts",
        "prepare",
        "run",
        "usage",
        "words",
    )

    def __init__(
        self,
        usage: str,
        about: str,
        add_arguments: Callable[[Arguments], None],
        run: Callable[[Namespace, Session], int],
        examples: tuple[tuple[str, str], ...] = (),
        words: tuple[Word, ...] = (),
        default_target: Callable[[Namespace], str | None] | None = None,
        check: Callable[[Namespace], None] | None = None,
        own_failure: int | None = None,
        prepare: Callable[[Namespace, Session], None] | None = None,
        parts: bool = False,
    ) -> None:
        self.usage = usage
        self.about = about
        """What its help begins with."""
        self.add_arguments = add_arguments
        self.run = run
        """Makes a result, gives it to `Session.show`, and returns the exit code."""
        self.examples = examples
        """Lines to type, each with what it shows."""
        self.words = words
        """For each word that may follow: one of `TARGET_KINDS`, `DIRECTORY`, `RECORDING`, or what it is one of, with
        what that means. `MORE` at the end says that the last may come again."""
        self.default_target = default_target
        """Gives the target when the words do not; None says that they do."""
        self.check = check
        """Refuses what could not be done, before a program is started to look at."""
        self.own_failure = own_failure
        """The exit code where a program was to be started, whose own is passed on, and we failed."""
        self.parts = parts
        """Whether it gives up rights by itself, whether or not that is asked for."""
        self.prepare = prepare
        """Makes what takes our own rights, before these are given up: see `mematlas.cli.apart`."""

    @property
    def takes_target(self) -> bool:
        """Whether it is given a process: the session has it before `run`, unless it gives up rights by itself."""
        return not self.parts and any(self.words[:1] == (kind,) for kind in TARGET_KINDS)


def load(name: str) -> Command:
    """Return a command, by its name. Those that act are a table in one module."""
    acts = COMMANDS.get(name, ("", ""))[0] == "Act"
    module = __import__(f"mematlas.cli.{'advise' if acts else name}", fromlist=["COMMAND"])
    command: Command = module.COMMANDS[name] if acts else module.COMMAND
    return command


def path_of(word: str) -> str:
    """Return the path in ``file:PATH``.

    Raises:
        BadInput: there is none.
    """
    path = word.removeprefix(FILE)
    if not path:
        raise BadInput(f"{FILE} needs a path, as in {FILE}/usr/bin/env")
    return path
