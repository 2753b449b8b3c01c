"""The background of a terminal: asked once, and the terminal is as it was afterwards."""

from __future__ import annotations

import os
import pty
import select
import signal
import sys
import termios
import time

import pytest

from mematlas.cli.background import PATIENCE, QUESTION
from victim import DEADLINE

PROGRAM = """
import sys, termios
from mematlas.cli.background import note_background
from mematlas.views.terminal import paint
before = termios.tcgetattr(0)
note_background(sys.stdout)
assert termios.tcgetattr(0) == before
print("painted", repr(paint("s", "swapped", True)), flush=True)
"""
UNHEARD_CODE = 43
UNHEARD = f"""
import os, sys
from mematlas.cli.background import note_background
note_background(sys.stdout)
os._exit({UNHEARD_CODE})
"""
ATTRIBUTES = b"\x1b[?64;1c"


def painted_after(answer: bytes, **variables: str) -> tuple[bool, str]:
    """Run the program on a terminal that answers so; return whether it asked, and how it paints."""
    pid, fd = pty.fork()
    if pid == 0:
        kept = {name: value for name, value in os.environ.items() if name not in ("COLORFGBG", "COLORTERM")}
        os.execve(sys.executable, [sys.executable, "-c", PROGRAM], kept | {"TERM": "xterm-256color"} | variables)
    shown = b""
    asked = False
    end = time.monotonic() + DEADLINE
    while b"painted" not in shown or b"\n" not in shown.partition(b"painted")[2]:
        assert time.monotonic() < end, shown
        if not select.select([fd], [], [], 0.1)[0]:
            continue
        try:
            shown += os.read(fd, 4096)
        except OSError:
            break
        if QUESTION in shown and not asked:
            asked = True
            os.write(fd, answer)
    status = os.waitpid(pid, 0)[1]  # before the terminal goes, which would end it
    os.close(fd)
    assert status == 0, shown
    return asked, shown.partition(b"painted ")[2].decode().strip()


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"\x1b]11;rgb:ffff/ffff/ffff\x1b\\" + ATTRIBUTES, 166),
        (b"\x1b]11;rgb:fd/f6/e3\x07" + ATTRIBUTES, 166),
        (b"\x1b]11;rgb:0f0f/1414/1b1b\x1b\\" + ATTRIBUTES, 209),
        (ATTRIBUTES, 209),
        (b"\x1b]11;rgb:" + ATTRIBUTES, 209),
        (b"x" * 1000, 209),
        (b"", 209),
    ],
    ids=["white", "solarized", "dark", "does not know", "broken", "much", "silent"],
)
def test_palette_fits_what_the_terminal_answers(answer: bytes, code: int) -> None:
    assert painted_after(answer) == (True, repr(f"\x1b[38;5;{code}ms\x1b[0m"))


def test_nobody_is_asked_where_the_environment_says_it() -> None:
    assert painted_after(b"", COLORFGBG="0;15") == (False, repr("\x1b[38;5;166ms\x1b[0m"))


def test_a_terminal_that_goes_away_is_not_waited_for() -> None:
    pid, fd = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup(1) has it
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        kept = {name: value for name, value in os.environ.items() if name != "COLORFGBG"}
        os.execve(sys.executable, [sys.executable, "-c", UNHEARD], kept)
    shown = b""
    while QUESTION not in shown:
        shown += os.read(fd, 4096)

    os.close(fd)

    assert os.waitstatus_to_exitcode(waited_for(pid)) == UNHEARD_CODE


LATE = """
import os, select, sys, termios
from mematlas.cli import background
flush = termios.tcsetattr
def late(fd, when, settings):
    if when != termios.TCSANOW:
        os.write(1, b"give up")
        select.select([0], [], [])  # the answer is there by now
    flush(fd, when, settings)
termios.tcsetattr = late
background.PATIENCE = 0.05
background.note_background(sys.stdout)
os.write(1, b"left: %d." % len(select.select([0], [], [], 0.2)[0]))
"""


def test_an_answer_that_is_late_is_not_left_for_the_shell() -> None:
    pid, fd = pty.fork()
    if pid == 0:
        kept = {name: value for name, value in os.environ.items() if name != "COLORFGBG"}
        os.execve(sys.executable, [sys.executable, "-c", LATE], kept)
    shown, is_answered = b"", False
    while b"left: " not in shown or not shown.endswith(b"."):
        assert select.select([fd], [], [], DEADLINE)[0], shown
        shown += os.read(fd, 4096)
        if b"give up" in shown and not is_answered:
            is_answered = True
            os.write(fd, b"\x1b]11;rgb:ffff/ffff/ffff\x1b\\" + ATTRIBUTES + b"\n")
    assert os.waitstatus_to_exitcode(waited_for(pid)) == 0
    os.close(fd)
    assert shown.endswith(b"left: 0.")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT, signal.SIGINT])
def test_who_is_ended_while_it_asks_leaves_a_terminal_that_shows_what_is_typed(number: signal.Signals) -> None:
    pid, fd = pty.fork()
    if pid == 0:
        kept = {name: value for name, value in os.environ.items() if name != "COLORFGBG"}
        signal.signal(number, signal.SIG_DFL)  # what a shell starts in the background ignores SIGQUIT and SIGINT
        os.execve(sys.executable, [sys.executable, "-c", UNHEARD], kept)
    shown = b""
    while QUESTION not in shown:
        assert select.select([fd], [], [], DEADLINE)[0], shown
        shown += os.read(fd, 4096)

    os.kill(pid, number)

    code = os.waitstatus_to_exitcode(waited_for(pid))
    left = termios.tcgetattr(fd)
    os.close(fd)
    assert code == -number
    shows = termios.ECHO | termios.ICANON
    assert left[3] & shows == shows


def waited_for(pid: int) -> int:
    """Return the status of a child of ours that ends, which is ended where it does not."""
    end = time.monotonic() + DEADLINE
    while not (found := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    return found[1]


def test_who_is_not_in_the_foreground_asks_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    from mematlas.cli.background import note_background

    note_background(sys.stdout)

    assert capsys.readouterr().out == ""
    assert PATIENCE <= 1
