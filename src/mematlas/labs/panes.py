"""The demonstration by hand, in four panes of tmux: a program, its pages in two live views, and the command to run.

The panes belong to a tmux server of our own, so that no other session is touched. It ends with the program, with
the terminal, and with us.
"""

from __future__ import annotations

import os
import re
import sys
import time

from mematlas.errors import BadInput, Error, NotSupported, ProcessGone
from mematlas.kernel.procfs import ProcFS
from mematlas.kernel.status import read_stat
from mematlas.kernel.swaps import free_swap, read_swaps
from mematlas.labs.memory import PAGE_SIZE
from mematlas.labs.story import CELL_PAGES, SEGMENTS, SWAP_SIZE
from mematlas.labs.workload import DRAW_PAGES
from mematlas.views.swap import size_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from typing import TypeVar

    from mematlas.kernel.procfs import ProcessDir

    T = TypeVar("T")

LEAST_SIZE = (80, 24)
"""Columns and lines below which four panes show nothing."""
DEADLINE = 20.0
"""Seconds that each thing may take to begin."""
INTERVAL = 0.2
"""Seconds between two looks at whether the program goes on."""

SESSION = "paging"
PROGRAM = (sys.executable, "-m", "mematlas")
BEGINNING = re.compile(r"pages at (0x[0-9a-f]+) of PID (\d+)")
"""What the workload says first."""
LOOK_EVERY = "500ms"
WATCHED = "20s"
HISTOGRAM_LINES, MAP_LINES = "4", "13"

TITLES = (
    f"1  a program: type Draw {SEGMENTS}",
    "2  press Enter: out of RAM",
    "its pages, live: how many of each column are in RAM",
    f"its pages, live: {CELL_PAGES} in each cell",
)
KEYS = f" F2: to the prompt and back     Draw {SEGMENTS} once more     Quit: ends everything "
OPTIONS = {
    "mouse": "on",
    "pane-border-status": "top",
    "pane-border-format": " #{@title} ",
    "status-left-length": str(len(KEYS)),
    "status-left": KEYS,
    "status-right": "",
    "window-status-format": "",
    "window-status-current-format": "",
}


class Panes:
    """A tmux server with the four panes, shown on our terminal until it ends."""

    def __init__(self, command: Callable[[list[str]], str], stop: Callable[[], bool]) -> None:
        """``command`` turns words into the line that a person types; ``stop`` is asked whether to end."""
        self.command = command
        self.stop = stop
        self.socket = f"mematlas-{os.getpid()}"
        self.path = ""
        # Within tmux, another one is refused unless it does not know.
        self.environment = dict(os.environ)
        for name in ("TMUX", "TMUX_PANE"):
            self.environment.pop(name, None)
        self.client: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        """Show the panes until the program or the terminal ends, or we are asked to stop."""
        import subprocess

        shell = os.environ.get("SHELL") or "/bin/sh"
        words = self.words("-f", os.devnull, "new-session", "-s", SESSION, shell)
        # The session goes when nobody looks at it any more, even if we are killed.
        self.client = subprocess.Popen([*words, ";", "set", "destroy-unattached", "on"], env=self.environment)
        try:
            if self.wait_for(lambda: self.screen(SESSION), "tmux shows no prompt"):
                names = self.tmux("display", "-p", "-t", SESSION, "#{socket_path}\n#{pane_id}")
                self.path, prompt = names.split("\n")
                self.play(prompt)
        finally:
            self.close()

    def play(self, prompt: str) -> None:
        """Start the program, and all that looks at it; return when it has ended."""
        program = self.split(prompt, "-h", "-b", "-l", "50%", *PROGRAM, "workload", "draw")

        def look() -> re.Match[str] | None:
            return BEGINNING.search(self.screen(program))

        beginning = self.wait_for(look, "the program in tmux says nothing")
        if beginning:
            pid = int(beginning[2])
            with ProcFS().process(pid) as process:
                self.build(prompt, program, pid, beginning[1])
                while self.goes_on() and is_running(process):
                    time.sleep(INTERVAL)

    def words(self, *words: str) -> list[str]:
        """Return the command line of tmux, for our server alone."""
        return ["tmux", "-L", self.socket, *words]

    def goes_on(self) -> bool:
        """Whether tmux is there, and nobody has asked us to stop."""
        if self.client is None or self.stop():
            return False
        code = self.client.poll()
        if code:
            raise Error(f"tmux ended with exit code {code}")
        return code is None

    def tmux(self, *words: str) -> str:
        """Have our server do something; return what it says.

        Raises:
            Error: it refused.
        """
        import subprocess

        done = subprocess.run(
            self.words(*words), env=self.environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        if done.returncode:
            raise Error(f"tmux {words[0]}: {done.stderr.strip()}")
        return done.stdout.strip()

    def close(self) -> None:
        """End the server, and what runs in it."""
        import contextlib
        import subprocess

        subprocess.run(self.words("kill-server"), env=self.environment, capture_output=True)
        if self.client:
            self.client.wait()
        with contextlib.suppress(OSError):
            os.unlink(self.path)  # tmux leaves it

    def wait_for(self, what: Callable[[], T], why: str) -> T | None:
        """Return what there is once there is any; None when tmux has ended, or we are asked to stop.

        Raises:
            Error: that takes too long; the message is ``why``.
        """
        deadline = time.monotonic() + DEADLINE
        while self.goes_on():
            if answer := what():
                return answer
            if time.monotonic() > deadline:
                raise Error(f"{why} within {DEADLINE:g} s")
            time.sleep(INTERVAL / 4)
        return None

    def screen(self, pane: str) -> str:
        """Return what a pane shows, in whole lines; nothing before it is there."""
        try:
            return self.tmux("capture-pane", "-p", "-J", "-t", pane)
        except Error:
            return ""

    def build(self, prompt: str, program: str, pid: int, address: str) -> None:
        """Make the two live views below, name all panes, and type the command."""
        area = [str(pid), address, "--interval", LOOK_EVERY]
        map_words = (*PROGRAM, "map", *area, "--cell", str(CELL_PAGES))
        chart = self.split(prompt, "-f", "-v", "-l", MAP_LINES, *map_words)
        line = self.split(chart, "-b", "-v", "-l", HISTOGRAM_LINES, *PROGRAM, "hist", *area)
        for pane, title in zip((program, prompt, line, chart), TITLES, strict=True):
            self.tmux("set", "-p", "-t", pane, "@title", title)
        for name, value in OPTIONS.items():
            self.tmux("set", "-g", name, value)
        to_prompt, to_program = (f"select-pane -t {pane}" for pane in (prompt, program))
        self.tmux("bind", "-n", "F2", "if", "-F", f"#{{==:#{{pane_id}},{program}}}", to_prompt, to_program)
        self.tmux("send-keys", "-t", prompt, "-l", self.command(pageout_words(pid, address)))
        self.tmux("select-pane", "-t", program)

    def split(self, pane: str, *words: str) -> str:
        """Take a part of a pane for another; return its name."""
        return self.tmux("split-window", "-d", "-P", "-F", "#{pane_id}", "-t", pane, *words)


def is_running(process: ProcessDir) -> bool:
    """Whether a process still runs. tmux may forget one that has ended, which stays a zombie then."""
    try:
        return not read_stat(process).is_zombie
    except ProcessGone:
        return False


def pageout_words(pid: int, address: str) -> list[str]:
    """Return the command that pages out; with swap of its own where there is none."""
    area = f"{address}+{DRAW_PAGES * PAGE_SIZE >> 20}M"
    words = ["pageout", str(pid), area, "--free", "--watch-refaults", WATCHED]
    if not free_swap(read_swaps(ProcFS())):
        words += ["--temporary-swap", size_of(SWAP_SIZE >> 20)]
    return words


def check(is_terminal: bool) -> None:
    """Refuse where four panes cannot be shown.

    Raises:
        BadInput: this is no terminal, or too small a one.
        NotSupported: there is no tmux.
    """
    import shutil

    if not is_terminal:
        raise BadInput("--tmux needs a terminal; demo paging without it works anywhere")
    if not shutil.which("tmux"):
        raise NotSupported("--tmux", "the program tmux: sudo apt install tmux")
    columns, lines = os.get_terminal_size()
    if columns < LEAST_SIZE[0] or lines < LEAST_SIZE[1]:
        least = f"{LEAST_SIZE[0]} columns and {LEAST_SIZE[1]} lines"
        raise BadInput(f"--tmux needs {least}; this terminal has {columns} and {lines}")
