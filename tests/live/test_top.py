"""The screen on a real terminal, of real processes: it starts, moves, freezes, acts, and ends; whatever else does."""

from __future__ import annotations

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from mematlas.kernel.procfs import ProcFS
from tmux import Tmux
from victim import DEADLINE, Victim, wait_until

NR_PAGES = 1009


@pytest.fixture
def victim() -> Iterator[Victim]:
    with Victim("anon_full") as made:
        yield made


@pytest.fixture
def top(tmp_path: Path) -> Iterator[Callable[..., Tmux]]:
    """Return what starts a screen of 120 columns and 40 lines."""
    if not shutil.which("tmux"):
        pytest.skip("needs tmux")
    started: list[Tmux] = []

    def start(*words: object) -> Tmux:
        line = [sys.executable, "-m", "mematlas", "top", *map(str, words)]
        started.append(Tmux(line, 120, 40, tmp_path))
        return started[0]

    yield start
    for one in started:
        family = family_of(one.pid)
        one.close()
        wait_until(partial(nobody_of, family), "the screen and those that work for it have ended")


def family_of(pid: int) -> set[int]:
    """Return a process, and all below it."""
    found = {pid}
    with ProcFS() as procfs:
        parents: dict[int, int] = {}
        for each in procfs.pids():
            try:
                parents[each] = int(procfs.read(f"{each}/stat").rpartition(b")")[2].split()[1])
            except Exception:
                continue
    for _ in range(4):
        found |= {each for each, parent in parents.items() if parent in found}
    return found


def is_there(pid: int) -> bool:
    """Whether a process runs: not one that has ended and is not waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def nobody_of(family: set[int]) -> bool:
    """Whether all of them have ended."""
    return not any(map(is_there, family))


def test_all_processes_are_shown_and_it_ends(top: Callable[..., Tmux], victim: Victim) -> None:
    screen = top()
    screen.wait_for(r"1 Processes .* live")
    screen.press("\\", *str(victim.pid), "Enter")  # there may be more than a screen has room for
    screen.wait_for(rf"(?m)^ +{victim.pid} ")
    screen.press("q")
    screen.wait_for("ended with 0")


def test_a_process_begins_with_its_map_and_every_page_is_there(top: Callable[..., Tmux], victim: Victim) -> None:
    screen = top(victim.pid)
    for number, name in enumerate(("Processes", "Map", "VMAs", "Time", "Tables", "RAM"), 1):
        screen.press(str(number))
        screen.wait_for(rf"{number} {name} ")
        assert "Traceback" not in screen.screen()
    screen.press("2", "+", "+", "-", "Down", "Right", "c", "c")
    screen.press("z")
    screen.wait_for("frozen")
    screen.press("z")
    screen.wait_for("live")
    screen.press("?")
    screen.wait_for("Keys everywhere")
    screen.press("Escape")  # with a key right behind it, it would be Alt and that
    screen.wait_for("2 Map .* live")
    wait_until(lambda: "Keys everywhere" not in screen.screen(), "help is gone")
    screen.press("q")
    screen.wait_for("ended with 0")


@pytest.mark.root("CAP_SYS_NICE")
def test_what_is_confirmed_is_done_and_nothing_else(top: Callable[..., Tmux], victim: Victim) -> None:
    screen = top(victim.pid)
    screen.press("3")
    screen.wait_for("3 VMAs .* live")
    screen.wait_for("heap|stack")
    screen.press("a")
    screen.wait_for("First the plan is shown")
    screen.press("c")
    screen.wait_for("Esc does nothing|Nothing would come")
    screen.press("Escape")
    screen.wait_for("3 VMAs .* live")
    screen.press("a", "c")
    screen.wait_for("Esc does nothing|Nothing would come")
    screen.press("y")
    screen.wait_for(r"cold of .*, PID \d+")
    screen.press("Escape")
    wait_until(lambda: "cold of" not in screen.screen(), "the page is seen again")
    screen.press("q")
    screen.wait_for("ended with 0")


def test_without_leave_nothing_is_done(top: Callable[..., Tmux], victim: Victim) -> None:
    screen = top("--read-only", victim.pid)
    screen.wait_for("no act")
    screen.press("a")
    screen.wait_for("--read-only")


def test_a_capture_is_shown_though_its_process_is_there(
    top: Callable[..., Tmux], victim: Victim, tmp_path: Path
) -> None:
    saved = tmp_path / "saved"
    line = [sys.executable, "-m", "mematlas", "capture", str(victim.pid), str(saved)]
    subprocess.run(line, check=True, capture_output=True, timeout=DEADLINE)
    screen = top(saved)
    screen.wait_for("2 Map .* as captured")
    screen.press("a")
    screen.wait_for("a capture: nothing can be done")
    screen.press("y")
    screen.wait_for(f"copied: mematlas map {re.escape(str(saved)[:40])}")
    screen.press("6")
    screen.wait_for("not in a capture")
    screen.press("q")
    screen.wait_for("ended with 0")


def test_a_target_that_ends_is_said_to_have_and_the_screen_stays(top: Callable[..., Tmux], victim: Victim) -> None:
    screen = top(victim.pid)
    screen.press("3")
    screen.wait_for("3 VMAs .* live")
    screen.wait_for("heap|stack")
    victim.close()
    screen.wait_for("has ended")
    screen.press("1")
    screen.wait_for("1 Processes")
    screen.press("q")
    screen.wait_for("ended with 0")


def test_a_terminal_that_shrinks_and_grows_is_drawn_on(top: Callable[..., Tmux], victim: Victim) -> None:
    screen = top(victim.pid)
    screen.wait_for("live")
    for number in "123456":
        screen.press(number)
        for size in ((20, 10), (40, 3), (200, 60)):
            screen.resize(*size)
            wait_until(lambda: bool(screen.screen().strip()), "something is shown")
        screen.wait_for(rf" {number} \w+ .*live")
    screen.press("q")
    screen.wait_for("ended with 0")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT, signal.SIGKILL])
def test_a_screen_that_is_killed_leaves_nobody(number: int, top: Callable[..., Tmux], victim: Victim) -> None:
    screen = top(victim.pid)
    screen.wait_for("live")
    family = family_of(screen.pid)
    os.kill(screen.pid, number)
    wait_until(partial(nobody_of, family), "all have ended")


def test_it_says_what_it_costs(top: Callable[..., Tmux], victim: Victim) -> None:
    screen = top(victim.pid)
    screen.wait_for(r"\d+\.\d % of a core")
    found = re.search(r"(\d+\.\d) % of a core", screen.screen())
    assert found
    assert float(found[1]) >= 0


def test_a_screen_whose_terminal_is_gone_ends_though_nobody_says_so(victim: Victim) -> None:
    outer, inner = pty.openpty()
    line = [sys.executable, "-m", "mematlas", "top", str(victim.pid)]
    process = subprocess.Popen(line, stdin=inner, stdout=inner, stderr=inner, start_new_session=True)
    os.close(inner)
    try:
        assert os.read(outer, 1 << 16)
        family = family_of(process.pid)
        os.close(outer)
        process.wait(DEADLINE)
        wait_until(partial(nobody_of, family), "all have ended")
    finally:
        process.kill()
