"""demo paging: the story with real figures, what it says where something is missing, and the four panes of tmux."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import mematlas.labs.running_workload
from conftest import Outcome
from helpers import Forked
from mematlas.cli import main
from mematlas.doctor.hints import plain_line
from mematlas.errors import NotSupported
from mematlas.kernel import swapfile
from mematlas.kernel.procfs import ProcFS
from mematlas.kernel.status import Faults, parse_faults, read_faults
from mematlas.kernel.swaps import SwapArea, read_swaps
from mematlas.labs import panes
from mematlas.views.format import format_size
from tmux import Tmux
from victim import DEADLINE, process_state, wait_until

Capture = pytest.CaptureFixture[str]

NR_DRAWN, NR_PAGES = 680, 1024
DRAWN = format_size(NR_DRAWN * os.sysconf("SC_PAGESIZE"))
STORY = ["demo", "paging", "--width", "100"]


def program_of(text: str) -> int:
    """Return the PID that the story names first."""
    return int(re.findall(r"PID (\d+)", text)[0])


def is_gone(pid: int) -> bool:
    """Whether a process has ended, be it that nobody has noticed yet."""
    try:
        return process_state(pid) == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


# --- the story


@pytest.mark.root("CAP_SYS_NICE", "CAP_SYS_ADMIN")
def test_story_has_the_figures_of_what_happened(swap: Path, capsys: Capture) -> None:
    assert main(STORY) == 0
    text = capsys.readouterr().out
    assert re.findall(r"\| (\d+)/1,024", text) == ["680", "0", "680"]
    assert re.search(rf"moved +{NR_DRAWN} ", text)
    assert f"swapped: {NR_DRAWN} pages" in text
    assert f"{NR_DRAWN} of {NR_DRAWN} pages came back (100.0%)" in text
    minor, major, freed = (int(re.findall(rf"{name} +(\d+)  ", text)[0]) for name in ("minor", "major", "left RAM"))
    assert minor + major >= NR_DRAWN
    assert major > 0 or not freed
    assert "0 never did" not in text
    assert text.count("A drawing in memory") == text.count("Given back") == 1
    assert is_gone(program_of(text))


@pytest.mark.machine
@pytest.mark.root("CAP_SYS_NICE", "CAP_SYS_ADMIN")
def test_without_swap_it_says_so_and_makes_some_for_its_time(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    class Noted(swapfile.TemporarySwap):
        def __init__(self, size: int) -> None:
            said = " ".join(capsys.readouterr().out.split())
            assert "for the time of this demo there is a swap file" in said, "it says so before"
            super().__init__(size)
            made.append(self.path)

    def ours(procfs: ProcFS) -> list[SwapArea]:
        return [area for area in read_swaps(procfs) if area.path in made]

    monkeypatch.setattr(swapfile, "TemporarySwap", Noted)
    monkeypatch.setattr("mematlas.actions.rooms.read_swaps", ours)
    assert main(STORY) == 0
    text = capsys.readouterr().out
    assert re.search(rf"moved +{NR_DRAWN} ", text)
    assert f"{NR_DRAWN} of {NR_DRAWN} pages came back" in text
    assert len(made) == 1
    assert not ours(ProcFS())
    assert not os.path.exists(os.path.dirname(made[0]))


def tell_forked(swaps: bool) -> int:
    """Tell the story with a workload that is forked: nobody may not be able to run the interpreter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mematlas.labs.running_workload, "start", Forked)
        if not swaps:
            patch.setattr("mematlas.actions.rooms.read_swaps", lambda procfs: [])
        return main(STORY)


def test_without_rights_it_shows_the_plan_and_the_line_to_type(swap: Path, as_nobody: Callable[..., Outcome]) -> None:
    outcome = as_nobody(lambda: tell_forked(swaps=True))
    assert outcome.value == 0, outcome.stderr
    assert f"could page out {DRAWN} of {DRAWN} selected" in outcome.stdout, "the plan"
    assert "needs CAP_SYS_NICE" in outcome.stdout
    assert re.search(r"try: sudo -- .* demo paging$", outcome.stdout, re.MULTILINE)
    assert "moved" not in outcome.stdout.partition("Out of RAM")[2].replace("What moved", "")
    assert "Given back" not in outcome.stdout


def test_one_right_is_enough_where_there_is_swap(swap: Path, as_nobody: Callable[..., Outcome]) -> None:
    outcome = as_nobody(lambda: tell_forked(swaps=True), caps=["CAP_SYS_NICE"])
    assert outcome.value == 0, outcome.stderr
    assert f"{NR_DRAWN} of {NR_DRAWN} pages came back" in outcome.stdout


def test_without_swap_and_rights_it_ends_with_the_line_to_type(as_nobody: Callable[..., Outcome]) -> None:
    outcome = as_nobody(lambda: tell_forked(swaps=False))
    assert outcome.value == 0, outcome.stderr
    assert f"could page out 0 of {DRAWN} selected; {DRAWN} stays: no swap" in outcome.stdout
    assert "This machine has no swap space" in outcome.stdout
    assert re.search(r"^ +sudo -- .* demo paging$", outcome.stdout, re.MULTILINE)
    assert "Out of RAM" not in outcome.stdout


@pytest.mark.machine
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_leaves_nothing_behind(number: signal.Signals) -> None:
    line = [sys.executable, "-m", "mematlas", *STORY, "--pause", "60s"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0) as story:
        assert story.stdout
        text = ""
        while "absent: 344 pages" not in text:
            text += story.stdout.readline()
        os.killpg(story.pid, number)
        _, err = story.communicate(timeout=DEADLINE)
    assert story.returncode == 128 + number
    assert err == ""
    assert not os.path.exists(f"/proc/{program_of(text)}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pagin"], "no demo 'pagin' (did you mean paging?): choose from tour, paging"),
        (["paging", "tour"], "unexpected argument 'tour'"),
        (["--tmux"], "--tmux needs paging"),
        (["paging", "--tmux"], "--tmux needs a terminal"),
    ],
)
def test_wrong_words_are_refused(words: list[str], said: str, capsys: Capture) -> None:
    assert main(["demo", *words]) == 2
    assert said in capsys.readouterr().err


def test_faults_are_the_tenth_and_twelfth_fields_of_stat() -> None:
    assert parse_faults(b"7 (a) b) S 1 1 1 0 -1 64 11 22 33 44 0 0") == Faults(minor=11, major=33)
    with ProcFS().process(os.getpid()) as process:
        before = read_faults(process)
        for _ in range(8):
            bytearray(4 << 20)
        assert read_faults(process).minor > before.minor


# --- another PID namespace


def in_namespace(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a PID namespace of its own, with the /proc of ours."""
    line = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-m", "mematlas", *words]
    done = subprocess.run(line, capture_output=True, text=True, timeout=DEADLINE)
    if "unshare" in done.stderr:
        pytest.skip(f"needs PID namespaces: {done.stderr}")
    return done


@pytest.mark.root("CAP_SYS_ADMIN")
def test_program_is_found_in_a_proc_of_another_namespace() -> None:
    done = in_namespace("demo", "tour")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"| {NR_DRAWN}/{NR_PAGES:,}" in done.stdout
    assert program_of(done.stdout) > 99, "as the outer /proc counts, not as the new namespace does"


@pytest.mark.root("CAP_SYS_ADMIN", "CAP_SYS_NICE")
def test_story_is_about_our_program_in_a_proc_of_another_namespace(swap: Path) -> None:
    done = in_namespace(*STORY)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{NR_DRAWN} of {NR_DRAWN} pages came back" in done.stdout


@pytest.mark.root("CAP_SYS_ADMIN")
def test_proc_that_does_not_show_the_program_is_refused() -> None:
    line = (
        'unshare --pid --fork --mount-proc --kill-child sh -c "echo up; exec sleep 60" & outer=$!; '
        'inner=; while test -z "$inner"; do inner=$(cat /proc/$outer/task/$outer/children); done; sleep 0.5; '
        'nsenter --mount --target $inner "$@"; echo "ended with $?"; kill -KILL $outer'
    )
    words = [sys.executable, "-m", "mematlas", "demo"]
    done = subprocess.run(["sh", "-c", line, "sh", *words], capture_output=True, text=True, timeout=DEADLINE)
    if not done.stderr.startswith("mematlas"):
        pytest.skip(f"needs PID namespaces: {done.stderr}")
    assert "ended with 3" in done.stdout
    assert "of another PID namespace" in done.stderr


# --- the four panes


def test_without_tmux_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(NotSupported, match="sudo apt install tmux"):
        panes.check(True)


def test_command_is_typed_as_it_can_be_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "mematlas"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(program)])
    assert plain_line(["map", "7"]) == f"{program} map 7"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert plain_line(["map", "7"]) == "mematlas map 7"


def test_swap_of_its_own_is_asked_for_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panes, "read_swaps", lambda procfs: [])
    assert panes.pageout_words(7, "0x1000")[-2:] == ["--temporary-swap", "64M"]
    monkeypatch.setattr(
        panes, "read_swaps", lambda procfs: [SwapArea(path="/s", kind="file", size=1 << 30, used=0, priority=0)]
    )
    area = f"0x1000+{NR_PAGES * os.sysconf('SC_PAGESIZE') >> 20}M"
    assert panes.pageout_words(7, "0x1000") == ["pageout", "7", area, "--free", "--watch-refaults", "20s"]


class Terminal(Tmux):
    """A terminal with the four panes in it: those of another tmux."""

    def __init__(self, columns: int, lines: int, directory: Path) -> None:
        super().__init__([sys.executable, "-m", "mematlas", "demo", "paging", "--tmux"], columns, lines, directory)
        self.inner = str(Path(self.path).with_name(f"mematlas-{self.pid}"))

    def panes(self) -> str:
        """Return the text of each pane by itself, its wrapped lines whole: a long path makes long lines."""
        inner = ["tmux", "-S", self.inner]
        listed = subprocess.run([*inner, "list-panes", "-a", "-F", "#{pane_id}"], capture_output=True, text=True)
        shown = [
            subprocess.run([*inner, "capture-pane", "-p", "-J", "-t", pane], capture_output=True, text=True).stdout
            for pane in listed.stdout.split()
        ]
        return "\n".join(shown)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    if not shutil.which("tmux"):
        pytest.skip("needs tmux")
    shown = Terminal(120, 40, tmp_path)
    try:
        shown.wait_for(r"Draw N, Clear or Quit:")
        shown.wait_for(r"\| 0/1,024")
        shown.wait_for(r"absent: 1,024 pages")
        wait_until(lambda: re.search(r"ready> .*pageout", shown.panes()) is not None, "the page-out is typed")
        yield shown
    finally:
        shown.close()
        wait_until(lambda: is_gone(shown.pid), "the demo has ended")
        wait_until(lambda: not os.path.exists(shown.inner), "its server has ended")


@pytest.mark.root("CAP_SYS_NICE", "CAP_SYS_ADMIN")
def test_four_panes_show_the_demonstration(swap: Path, terminal: Terminal) -> None:
    program = program_of(terminal.screen())
    wait_until(lambda: f"pageout {program}" in terminal.panes(), "the page-out is typed")
    terminal.type("Draw 12")
    terminal.wait_for(rf"\| {NR_DRAWN}/{NR_PAGES:,}")
    terminal.wait_for(rf"mapped here alone: {NR_DRAWN} pages")
    terminal.tmux("send-keys", "F2", "Enter")
    terminal.wait_for(rf"\| 0/{NR_PAGES:,}")
    terminal.wait_for(rf"swapped: {NR_DRAWN} pages")
    terminal.tmux("send-keys", "F2")
    terminal.type("Draw 12")
    terminal.wait_for(rf"\| {NR_DRAWN}/{NR_PAGES:,}")
    terminal.type("Quit")
    terminal.wait_for("ended with 0")
    wait_until(lambda: is_gone(program), "the program has ended")
    assert not os.path.exists(terminal.inner)


@pytest.mark.machine
def test_closing_the_terminal_ends_everything(terminal: Terminal) -> None:
    program = program_of(terminal.screen())
    terminal.tmux("kill-server")
    wait_until(lambda: is_gone(program), "the program has ended")
    wait_until(lambda: is_gone(terminal.pid), "the demo has ended")
    wait_until(lambda: not os.path.exists(terminal.inner), "its server has ended")


@pytest.mark.machine
def test_signal_ends_everything(terminal: Terminal) -> None:
    program = program_of(terminal.screen())
    os.kill(terminal.pid, signal.SIGTERM)
    terminal.wait_for(f"ended with {128 + signal.SIGTERM}")
    assert not os.path.exists(terminal.inner)
    wait_until(lambda: is_gone(program), "the program has ended")


def test_small_terminal_is_refused(tmp_path: Path) -> None:
    if not shutil.which("tmux"):
        pytest.skip("needs tmux")
    shown = Terminal(79, 24, tmp_path)
    try:
        shown.wait_for(r"--tmux needs 80 columns and 24 lines; this terminal has 79 and 24")
        shown.wait_for("ended with 2")
    finally:
        shown.close()
