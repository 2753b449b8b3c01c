"""A terminal that mematlas writes to: what it shows at every size, and what it gets back at every end."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from helpers import Program, mematlas, sparse
from mematlas.views.live import CLEAR_BELOW, CURSOR_OFF, CURSOR_ON, MORE, WRAP_ON
from victim import DEADLINE


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, words: tuple[object, ...], columns: int, lines: int, controls: bool = False) -> None:
        self.fd, inner = pty.openpty()
        self.resize(columns, lines)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mematlas", *map(str, words)],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            start_new_session=True,
            preexec_fn=take_terminal if controls else None,
            env={**os.environ, "TERM": "xterm", "NO_COLOR": "1"},
        )
        os.close(inner)
        self.text = ""
        self.decode = codecs.getincrementaldecoder("utf-8")().decode

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def read_until(self, words: str) -> str:
        """Return what is written up to these words, or to the end."""
        end = time.monotonic() + DEADLINE
        while words not in self.text:
            assert time.monotonic() < end, f"never says {words!r}: {self.text[-500:]!r}"
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    self.text += self.decode(os.read(self.fd, 1 << 16))
                except OSError:  # the program has ended, and the terminal with it
                    break
        before, found, self.text = self.text.partition(words)
        return before + found

    def rest(self) -> str:
        """Return what is written up to the end of the program."""
        text = self.read_until("\0 never written")
        self.process.wait(DEADLINE)
        return text


def take_terminal() -> None:
    """Have the terminal send us its signals, and let us read what is typed."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def typed_at(*words: object) -> AbstractContextManager[Terminal]:
    """Run a program on a terminal that it may read from."""
    return terminal(*words, controls=True)


@contextmanager
def terminal(*words: object, columns: int = 80, lines: int = 24, controls: bool = False) -> Iterator[Terminal]:
    running = Terminal(words, columns, lines, controls)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()
        os.close(running.fd)


def lines_of(text: str) -> list[str]:
    return text.replace("\x1b[K", "").replace("\r", "").splitlines()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_cursor_comes_back_at_every_end(number: int) -> None:
    with terminal("usage", os.getpid(), "-i", "50ms") as running:
        running.read_until(CLEAR_BELOW)
        running.process.send_signal(number)
        rest = running.rest()

    assert WRAP_ON + CURSOR_ON in rest
    assert running.process.returncode == (130 if number == signal.SIGINT else -number)
    if number == signal.SIGINT:
        assert rest.endswith(f"{CURSOR_ON}\r\n")


@pytest.mark.parametrize("keys", [b"q", b"xyzq", b"\x04"], ids=["q", "after others", "Ctrl-D"])
def test_keys_end_a_view_and_are_not_shown(keys: bytes) -> None:
    with typed_at("usage", os.getpid(), "-i", "30s") as running:
        running.read_until("q quits")
        running.read_until(CLEAR_BELOW)
        os.write(running.fd, keys)
        rest = running.rest()

    assert running.process.returncode == 0
    ends = rest.partition("note: ")[0]  # notes say what is missing without rights
    assert ends == WRAP_ON + CURSOR_ON


def test_interrupt_of_a_view_shows_no_key_and_gives_the_terminal_back() -> None:
    with typed_at("usage", os.getpid(), "-i", "30s") as running:
        before = termios.tcgetattr(running.fd)[3] & (termios.ECHO | termios.ICANON)
        running.read_until(CLEAR_BELOW)
        os.write(running.fd, b"\x03")
        rest = running.rest()
        after = termios.tcgetattr(running.fd)[3] & (termios.ECHO | termios.ICANON)

    assert running.process.returncode == 130
    assert rest == WRAP_ON + CURSOR_ON
    assert before in (0, after)
    assert after == termios.ECHO | termios.ICANON


def test_looks_without_a_rest_are_refused() -> None:
    for text in ("0", "1ms", "49ms"):
        done = mematlas("usage", os.getpid(), "-i", text)
        assert (done.returncode, "50ms or more" in done.stderr) == (2, True)


def test_stopped_view_gives_the_cursor_back_and_takes_it_again() -> None:
    with terminal("usage", os.getpid(), "-i", "50ms") as running:
        running.read_until(CLEAR_BELOW)
        os.kill(running.process.pid, signal.SIGTSTP)
        running.read_until(WRAP_ON + CURSOR_ON)
        running.process.send_signal(signal.SIGCONT)
        running.read_until(CURSOR_OFF)
        running.read_until(CLEAR_BELOW)


def test_terminal_without_a_size_has_24_lines_of_80() -> None:
    with terminal("pages", os.getpid(), "-n", "1", columns=0, lines=0) as running:
        shown = lines_of(running.rest())

    assert shown.index(MORE) == 22  # and one more line for the cursor
    assert max(map(len, shown[1:22])) <= 80


@pytest.mark.parametrize("command", ["hist", "map"])
@pytest.mark.parametrize("columns", [1, 20, 45])
def test_narrow_terminals_are_drawn_on(command: str, columns: int) -> None:
    with terminal(command, os.getpid(), columns=columns) as running:
        shown = lines_of(running.rest())

    assert running.process.returncode == 0
    assert max(len(line) for line in shown if not line.startswith("note: ")) <= max(columns, 40)


def test_map_follows_the_size_of_the_terminal() -> None:
    with terminal("map", os.getpid(), "-i", "50ms", columns=100, lines=40) as running:
        first = running.read_until(CLEAR_BELOW)
        running.resize(60, 20)
        running.read_until(CLEAR_BELOW)
        second = running.read_until(CLEAR_BELOW)

    assert (first.count("\n") <= 39, second.count("\n") <= 19) == (True, True)
    assert "a cell is" in first
    assert "a cell is" in second
    assert max(map(len, lines_of(second))) <= 60 + len("\x1b[19A")


def test_interrupted_lesson_leaves_the_prompt_a_line_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with terminal("lab", "reserve") as shown:
        shown.read_until("  > ")
        shown.process.send_signal(signal.SIGINT)
        assert shown.rest() == "\r\n"
        assert shown.process.wait(DEADLINE) == 128 + signal.SIGINT


READING = (
    *("", "usage T", "usage T --distinct", "usage T --if-ended", "usage T --folios", "usage T --numa", "usage self"),
    *("usage T --verify", "usage self --verify", "maps T", "maps T --numa", "maps T --source tables", "maps T --gaps"),
    *("pages T stack", "pages T --runs", "hist T", "map T", "tables T", "tables T --verify", "translate T 0"),
    *(
        "pageout T --dry-run",
        "cold T --dry-run",
        "collapse T --dry-run",
        "willneed T --dry-run",
        "doctor",
        "lab --list",
    ),
    *("demo --pause 0", "--help", "usage --help", "pageout --help", "tables --help"),
    *(
        "usage 1",
        "tables 1",
        "usage nosuch",
        "usagee",
        "usage T --format x",
        "pages T nosuch",
        "usage ~.",
        "lab nosuch",
    ),
)


@pytest.fixture(scope="module")
def target() -> Iterator[Program]:
    """Return a program to look at."""
    with sparse(1 << 30, range(0, 9_973, 3)) as running:
        yield running


@pytest.mark.parametrize("command", READING)
def test_no_line_is_wider_than_the_screen(command: str, target: Program) -> None:
    with terminal(*command.replace("T", str(target.pid)).split()) as one:
        lines = lines_of(one.rest())

    assert lines
    assert [line for line in lines if len(line) > 80 and not is_whole(line)] == []


def is_whole(line: str) -> bool:
    """Whether a line may not be folded: one word, such as a path, or what a person is to copy."""
    return len(line.split()) == 1 or line.strip().startswith(
        ("try: ", "sudo ", "docker ", "fallocate ", "AmbientCapabilities=")
    )


def test_a_screen_that_is_too_narrow_shows_rows_that_matter_and_wide_shows_all(target: Program, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    assert mematlas("capture", target.pid, saved).returncode == 0
    with terminal("maps", saved) as one:
        shown = lines_of(one.rest().partition("note:")[0])
    with terminal("maps", saved, "--wide") as one:
        wide = one.rest().partition("note:")[0]
    piped = mematlas("maps", saved).stdout

    assert shown[0].split() == ["START", "SIZE", "PERM", "RSS", "USS", "PATH"]
    assert [line.split()[0] for line in shown[:-1]] == [line.split()[0] for line in piped.splitlines()]
    assert shown[-1].startswith("not shown: PRESENT, PAGES,")
    assert wide.split() == piped.split()
    assert max(map(len, piped.splitlines())) > 80
