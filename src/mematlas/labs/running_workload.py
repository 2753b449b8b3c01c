"""A workload running beside us, driven by lines and reporting what is true as JSON."""

from __future__ import annotations

import os
import sys

from mematlas.errors import ProcessGone
from mematlas.kernel.procfs import ProcFS
from mematlas.model.target import own_pid

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence
    from typing import Any, Self


class RunningWorkload:
    """A workload started as a process of its own. It ends when its input does: at the latest, with us.

    >>> with RunningWorkload("prober") as prober:
    ...     prober.truth["nr_touched"]
    1
    """

    def __init__(self, *words: str) -> None:
        """Start a workload.

        Raises:
            TargetNotFound: this /proc is of a PID namespace that we are not in, so it would not show the workload.
        """
        own_pid(ProcFS())
        self.program = start(words)
        self.truth: dict[str, Any] = {}
        """What it said last."""
        self.pid = self.program.pid
        """Its PID as /proc counts. Where that is of another PID namespace than ours, fork returned another one."""
        try:
            self.pid = self.hear()["pid"]
        except BaseException:
            self.program.communicate()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()

    def end(self) -> None:
        """End it, and wait for that."""
        self.program.communicate()

    @property
    def address(self) -> int:
        """Where its memory starts."""
        return int(self.truth["address"], 16)

    def send(self, line: str) -> dict[str, Any]:
        """Send a line; return what it then says is true."""
        assert self.program.stdin
        self.program.stdin.write(line + "\n")
        self.program.stdin.flush()
        return self.hear()

    def hear(self) -> dict[str, Any]:
        """Wait for what it says next."""
        import json

        assert self.program.stdout
        line = self.program.stdout.readline()
        if not line:
            raise ProcessGone(self.pid, "(the workload) ended early")
        self.truth = json.loads(line)
        return self.truth


def start(words: Sequence[str]) -> subprocess.Popen[str]:
    """Start a workload by its words, with pipes to it."""
    import subprocess

    return subprocess.Popen(
        [sys.executable, "-m", "mematlas", "workload", *words, "--json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,  # Ctrl-C is for us; the program ends with its input
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
