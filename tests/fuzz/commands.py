"""Command lines, made up from what each command declares, and run in this very process with all that they write held.

What is run changes nothing but a program of our own: advice to any other process is a dry run, and no line waits long.
"""

from __future__ import annotations

import base64
import ctypes
import gc
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any, TextIO

from engine import Overrun
from mematlas import cli
from mematlas.cli.arguments import Arguments
from mematlas.cli.command import COMMANDS, load
from mutation import TEXT, mutate

CODES = frozenset((0, 1, 2, 3, 4, 5, 6, 10))
"""docs/cli.md: what a command may end with, if nobody interrupts it and it starts no program."""
ACTS = frozenset(("pageout", "cold", "willneed", "collapse"))
WALL = 60
"""Seconds of the clock after which a command hangs."""
PR_SET_PDEATHSIG = 1
# All that moves a terminal: C0 without the newline, DEL, C1, and what turns the direction of writing.
CONTROL = re.compile("[\0-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
COLOUR = re.compile("\x1b\\[[0-9;]*m")

TIMES = ("0", "1ms", "0.002", "5us", "-1", "nan", "inf", "1e999", "s", "", "1h", "٣s", "1_0ms", "9" * 400)
COUNTS = ("1", "2", "0", "-1", "1e3", "", "٣", "x", "9" * 18, "9" * 30, "1_0")
SIZES = ("0", "-1", "x", "", "1Q", "0x", "9" * 5000, "0x" + "f" * 5000, "K")
AREAS = (
    *("[heap]", "[stack]", "heap", "anon", "0x0", "0-1", "ffffffffffffffff", "0xffffffffffffffff+1", "1000-0"),
    *(
        "0x1000+99999999999999999999T",
        "0x" + "0" * 300 + "1",
        "7f0000000000+1G",
        "lib",
        "",
        "-",
        "~",
        "\u202e",
        "\udcff",
    ),
)
WORDS = (
    "",
    "-",
    "--",
    "---",
    "-9",
    "--=",
    "--json=1",
    "self",
    "help",
    "x" * 5000,
    "\x1b[2J",
    "\udcff\udcfe",
    "%s{}",
    "²",
)


@dataclass(frozen=True)
class Line:
    """A command line, and what surrounds it."""

    words: list[str]
    stdin: bytes = b""
    environment: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {
            "words": [os.fsencode(word).hex() if not word.isascii() else f"={word}" for word in self.words],
            "stdin": base64.b64encode(self.stdin).decode(),
            "environment": self.environment,
        }

    @classmethod
    def of_json(cls, value: Any) -> Line:
        words = [word[1:] if word[:1] == "=" else os.fsdecode(bytes.fromhex(word)) for word in value["words"]]
        return cls(words, base64.b64decode(value["stdin"]), value["environment"])


@dataclass(frozen=True)
class Ran:
    """What a command line came to."""

    code: int
    out: bytes
    err: str


# --- running


def goes_on(child: str) -> bool:
    """Whether a child does not end. One that was killed may need a while, and is nobody's to wait for then."""
    end = time.monotonic() + WALL
    while time.monotonic() < end:
        with suppress(ChildProcessError):
            if os.waitpid(int(child), os.WNOHANG) == (0, 0):
                time.sleep(0.01)
                continue
        return False
    return True


def open_stream(fd: int) -> TextIO:
    """Open a standard stream as the interpreter does in a UTF-8 locale."""
    errors = "backslashreplace" if fd == 2 else "strict"
    return open(fd, "w" if fd else "r", encoding="utf-8", errors=errors, closefd=False)


@contextmanager
def held_streams(stdin: bytes) -> Iterator[tuple[int, int]]:
    """Have the standard streams be files of our own; yield those of the output and of the errors."""
    with ExitStack() as stack:
        made = [os.memfd_create(name, os.MFD_CLOEXEC) for name in ("in", "out", "err")]
        kept = [os.dup(fd) for fd in range(3)]
        before = sys.stdin, sys.stdout, sys.stderr
        for fd in (*made, *kept):
            stack.callback(os.close, fd)
        os.write(made[0], stdin)
        os.lseek(made[0], 0, os.SEEK_SET)
        for fd in range(3):
            os.dup2(made[fd], fd)
        streams = [open_stream(fd) for fd in range(3)]
        sys.stdin, sys.stdout, sys.stderr = streams
        try:
            yield made[1], made[2]
        finally:
            for stream in streams:
                with suppress(OSError, ValueError):
                    stream.close()
            sys.stdin, sys.stdout, sys.stderr = before
            for fd in range(3):
                os.dup2(kept[fd], fd)


def open_descriptors() -> set[str]:
    """Return the numbers of our open files, without that which tells them."""
    fd = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return set(os.listdir(fd)) - {str(fd)}
    finally:
        os.close(fd)


def children() -> set[str]:
    """Return the PIDs of our children, zombies too; none on a kernel without CONFIG_PROC_CHILDREN."""
    try:
        return set(Path("/proc/thread-self/children").read_text().split())
    except OSError:
        return set()


def contents(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    return os.pread(fd, size, 0) if size else b""


@contextmanager
def clock(seconds: float) -> Iterator[None]:
    """End what waits for something that never comes."""

    def overrun(number: int, frame: FrameType | None) -> None:
        raise Overrun(f"waited for more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, overrun)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_line(line: Line) -> Ran:
    """Run a command line in this process; raise what it raises, and `AssertionError` for what it leaves behind."""
    open_before, children_before = open_descriptors(), children()
    environment = dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    os.environ.update(line.environment)
    try:
        with held_streams(line.stdin) as (out, err):
            with clock(WALL):
                code = cli.main(line.words)
            with suppress(OSError):
                sys.stderr.flush()
            ran = Ran(code, contents(out), contents(err).decode("utf-8", "surrogateescape"))
    finally:
        os.environ.clear()
        os.environ.update(environment)
    if open_descriptors() - open_before:
        gc.collect()  # an error that was reported may hold what it came by
        left = []
        for fd in open_descriptors() - open_before:
            with suppress(FileNotFoundError):  # it was let go of meanwhile
                left.append(os.readlink(f"/proc/self/fd/{fd}"))
        assert not left, f"descriptors left open\n{left}"
    assert {number: signal.getsignal(number) for number in handlers} == handlers, "signal handlers changed"
    assert not any(map(goes_on, children() - children_before)), f"a child left behind\n{line.words}"
    return ran


def check(line: Line, ran: Ran, codes: frozenset[int] = CODES) -> None:
    """Hold what a command line came to against what is promised."""
    told = f"\n{line.words}: {ran.err[-1000:]!r}"
    assert ran.code in codes, f"exit code {ran.code}{told}"
    assert "Traceback" not in ran.err, f"traceback{told}"
    assert not CONTROL.search(ran.err), f"control characters on standard error{told}"
    assert ran.code == 0 or ran.err or ran.out, f"fails without a word{told}"
    if "--binary" in line.words or "completion" in line.words[:1]:
        return
    text = ran.out.decode("utf-8", "surrogateescape")
    if any(word.startswith("--c") or word == "always" for word in line.words):
        text = COLOUR.sub("", text)
    assert not CONTROL.search(text.replace("\r\n", "\n")), "control characters in the output"


# --- making


def declared(name: str) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    arguments = Arguments()
    load(name).add_arguments(arguments)
    return arguments.declared


def value_of(random: Random, names: Sequence[str], settings: dict[str, Any]) -> str:
    """Return a value for an option, one that it takes or one that it does not."""
    if random.random() < 0.06:
        return random.choice(WORDS)
    if choices := settings.get("choices"):
        return random.choice([*choices, "nosuch"]) if random.random() < 0.9 else random.choice(WORDS)
    kind = getattr(settings.get("type"), "__name__", "")
    known = {
        "parse_seconds": TIMES,
        "parse_count": COUNTS,
        "parse_bytes": SIZES,
        "parse_amount": ("10%", "1M", "3 pages", "100%", "101%", "0", *SIZES),
        "parse_perms": ("r", "rw", "r--p", "rwxs", "---p", "q"),
        "parse_kinds": ("heap", "anon,file", "heap,,", "nosuch"),
        "parse_states": ("present", "present,swapped", "nosuch,"),
    }
    return random.choice(known.get(kind, (*AREAS, "lib", "w,!nx", "present", "x,!x", "!!w")))


def options(random: Random, name: str, without: frozenset[str]) -> list[str]:
    """Return some options of a command with values."""
    words: list[str] = []
    every = [(names, settings) for names, settings in declared(name) if names[0].startswith("-")]
    for names, settings in random.sample(every, min(len(every), random.choice((0, 1, 1, 2, 2, 3, 5)))):
        option = random.choice(names)
        if not without.isdisjoint(names):
            continue
        if settings.get("action") == "store_true":
            words.append(option if random.random() < 0.97 else f"{option}=x")
        elif random.random() < 0.5:
            words.append(f"{option}={value_of(random, names, settings)}")
        else:
            words += [option, value_of(random, names, settings)]
    if any(word.split("=")[0] in ("-i", "--interval", "--inter") for word in words):
        words += ["-n", "2"]  # else it goes on for ever; the last one counts
    elif any(word.split("=")[0] in ("-n", "--count") for word in words):
        words += ["-i", "50ms", "-n", "2"]
    return words


WORKLOADS = ("singlemap", "multimap", "prober", "draw")
STDIN = (b"7f0000000000\n0x1000\n", b"\n\n\n", b"draw 3\nclear\ndraw 12\nquit\n")
PROGRAMS: tuple[list[str], ...] = (["true"], ["false"], ["/nonexistent"], [], [""], ["sleep", "0.01"], ["/"])
NEVER = frozenset(("--temporary-swap", "--tmux", "--reset", "--after", "--pause", "--watch-refaults", "-p", "--pid"))
"""Options that are tried with values of their own, or not at all: they change the machine, or wait."""


def look_line(random: Random, names: Sequence[str], targets: Sequence[str]) -> list[str]:
    """Return a command line that looks at one of some targets."""
    name = random.choice(names)
    words = options(random, name, NEVER)
    place = random.randint(0, len(words))
    while place and words[place - 1].startswith("-") and "=" not in words[place - 1]:
        place -= 1  # not between an option and its value
    target = random.choice(targets)
    words[place:place] = ["-p", target] if random.random() < 0.1 else [target]
    if name in ("pages", "translate", "tables", "pageout", "cold", "willneed", "collapse", "hist", "map"):
        words += random.choices(AREAS, k=random.choice((0, 0, 1, 1, 2)))
    if name in ACTS and target != "VICTIM" and "--dry-run" not in words:
        words.insert(0, "--dry-run")
    if random.random() < 0.03:
        words.insert(random.randint(0, len(words)), random.choice(WORDS))
    return [name, *words]


LOOKS = ("usage", "maps", "pages", "translate", "hist", "map", "tables", "share")
WITH_TARGET = (*LOOKS, *sorted(ACTS), "capture", "cache")
USERS = ("0", "1000", "65534", "4294967295", "4294967296", "-1", "²", "１０００", "x", "", "9" * 30, "root", "1000 ")


def environment(random: Random) -> dict[str, str]:
    """Return variables that a caller might have set."""
    made: dict[str, str] = {}
    for names in (("SUDO_UID", "SUDO_GID"), ("PKEXEC_UID",), ("DOAS_USER",)):
        if random.random() < 0.07:
            made |= {name: random.choice(USERS) for name in names}
    for name, values in (
        ("COLUMNS", ("0", "-1", "x", "9" * 30)),
        ("NO_COLOR", ("1", "")),
        ("TERM", ("dumb", "", "\x1b")),
        ("XDG_CACHE_HOME", ("relative", "/dev/null/x", "/dev/null")),
        ("XDG_STATE_HOME", ("relative", "/dev/null")),
    ):
        if random.random() < 0.03:
            made[name] = random.choice(values)
    return made


class CommandLines:
    """Command lines over everything that is declared, against a program of our own and targets that are none."""

    name = "command-lines"
    seconds = 20.0
    allowed: tuple[type[BaseException], ...] = ()

    def __init__(self) -> None:
        self._victim = 0
        self._directory = ""

    def make(self, random: Random) -> bytes:
        names = [*COMMANDS, "overview"]
        # VICTIM and DIRECTORY are filled in where it is run.
        targets = ["VICTIM"] * 6 + ["self", "1x", "0", "999999999", "~nosuch[", "~nosuch", "cgroup:/nosuch", "nosuch"]
        targets += ["name:nosuch", "tree:VICTIM", "container:0", "unit:", "user:nosuch"]
        targets += ["file:DIRECTORY", "file:/dev/null", "file:/nosuch", "file:"]
        targets += ["DIRECTORY", "/dev/null", "9" * 30, "²", *WORDS]
        pick = random.random()
        if pick < 0.75:
            words = look_line(random, WITH_TARGET, targets)
            if words[0] == "capture":
                words.append(random.choice(("DIRECTORY/new", "DIRECTORY", "/dev/null", "/dev/null/x", "")))
            elif pick < 0.03:
                words += ["--after", "1ms", "--", *random.choice(PROGRAMS)]
        elif pick < 0.9:
            # Commands without a target: lessons and the tour are only refused here, they take seconds.
            name = random.choice(names)
            words = [name, *options(random, name, NEVER)]
            if name == "workload" and random.random() < 0.8:
                words += [random.choice(WORKLOADS), *random.choices(COUNTS, k=random.choice((0, 1)))]
            elif name in ("demo", "lab", "workload", "help") and not {"-h", "--help"} & set(words):
                words.append(random.choice(("nosuch", *WORDS[5:])))
            elif name == "overview" and random.random() < 0.8:
                words.append("nosuch")
        else:
            text = mutate(random, [b"usage self --json", b"maps -p VICTIM --kind heap", b"help pages"], TEXT)
            words = [word for word in re.split("[ \0]", os.fsdecode(text)) if len(word) < 20_000]
            if words[:1] == [] or words[0].startswith("-"):
                words[:0] = ["nosuch"]
        often = 0.9 if words[0] == "workload" else 0.2
        stdin = mutate(random, STDIN, TEXT) if random.random() < often else b""
        words = [word.replace("\0", "") for word in words]
        return json.dumps(Line(words, stdin[:5000], environment(random)).as_json()).encode()

    def run(self, data: bytes) -> None:
        if not self._victim:
            self._prepare()
        line = Line.of_json(json.loads(data))
        places = {"VICTIM": str(self._victim), "DIRECTORY": self._directory}
        words = [re.sub("VICTIM|DIRECTORY", lambda found: places[found[0]], word) for word in line.words]
        filled = Line(words, line.stdin, line.environment)
        try:
            ran = run_line(filled)
        finally:
            clear(Path(self._directory))
        check(filled, ran, CODES | {127} if "--" in words else CODES)

    def _prepare(self) -> None:
        self._victim = start_victim()
        self._directory = tempfile.mkdtemp(prefix="mematlas-fuzz-lines-")


SLEEPER = "a = bytes(3 << 20); import time; time.sleep(1e6)"


def start_victim(program: str = SLEEPER) -> int:
    """Start a program to look at that ends with this process."""
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.closerange(3, 256)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            os.execvp(sys.executable, [sys.executable, "-I", "-S", "-c", program])
        os._exit(1)
    return pid


def clear(directory: Path) -> None:
    """Empty a directory."""
    for entry in os.scandir(directory):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
