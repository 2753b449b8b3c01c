"""A terminal of tmux: a program runs in it, is typed to, and what it shows is read."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from victim import DEADLINE, wait_until

SCRIPT = 'sh -c \'echo $$ >"$0" && exec "$@"\' "$@"; echo "ended with $?"; read more'
"""Tells the PID of the program in a file, and its exit code on the screen."""


class Tmux:
    """A pane of a tmux, on a server of this test alone."""

    def __init__(self, words: Sequence[str], columns: int, lines: int, directory: Path) -> None:
        self.socket = f"mematlas-test-{os.getpid()}"
        gone = ("TMUX", "TMUX_PANE", "COLUMNS", "LINES", "NO_COLOR")
        self.environment = {name: value for name, value in os.environ.items() if name not in gone}
        self.environment |= {"SHELL": "/bin/sh", "PS1": "ready> "}
        told = directory / "pid"
        new = ["new-session", "-d", "-P", "-F", "#{socket_path}", "-x", str(columns), "-y", str(lines)]
        self.path = self.tmux("-f", os.devnull, *new, "sh", "-c", SCRIPT, "sh", str(told), *words).strip()
        wait_until(lambda: told.exists() and bool(told.read_text()), "the program begins")
        self.pid = int(told.read_text())

    def tmux(self, *words: str) -> str:
        line = ["tmux", "-L", self.socket, *words]
        done = subprocess.run(line, env=self.environment, capture_output=True, text=True, timeout=DEADLINE, check=True)
        return done.stdout

    def type(self, line: str) -> None:
        self.tmux("send-keys", "-l", line)
        self.tmux("send-keys", "Enter")

    def press(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)

    def screen(self) -> str:
        return self.tmux("capture-pane", "-p")

    def resize(self, columns: int, lines: int) -> None:
        self.tmux("set", "-g", "window-size", "manual")
        self.tmux("resize-window", "-x", str(columns), "-y", str(lines))

    def wait_for(self, pattern: str) -> None:
        try:
            wait_until(lambda: re.search(pattern, self.screen()) is not None, pattern)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.screen()}") from None

    def close(self) -> None:
        subprocess.run(["tmux", "-L", self.socket, "kill-server"], capture_output=True, check=False)
        Path(self.path).unlink(missing_ok=True)
