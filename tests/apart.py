"""pytest plugin: tests with all that takes a right asked of a broker, as ``mematlas --apart`` has it.

    PYTHONPATH=tests .venv/bin/python -m pytest -p apart tests/live

What the library opens of processes and of the machine comes from a broker, though the tests could open it themselves;
programs that tests start are started with ``--apart``.
"""

from __future__ import annotations

import functools
import importlib
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

import helpers
from mematlas.cli.apart import AS_IT_IS
from mematlas.cli.command import COMMANDS, FILE
from mematlas.kernel import messages, procfs
from mematlas.kernel.brokered import BrokeredFS, Lender, start
from mematlas.kernel.procfs import PAGE_FILES, ProcessDir
from mematlas.kernel.queries import MACHINE_FILES

if TYPE_CHECKING:
    from mematlas.kernel.directory import Directory

OPENED_IN = ("observe.process", "observe.machine", "observe.process_set", "observe.cgroup", "cli.session")
"""Where /proc is opened if nobody says what to take instead."""


OF_PROCESSES = ("maps", "smaps", "smaps_rollup", "numa_maps", "pagemap", "fd")
"""Files of processes that take a right."""


class AskingFS(BrokeredFS):
    """/proc, asked of a broker even where we have the rights ourselves."""

    def open_of(self, directory: Directory, name: str, flags: int) -> int:
        if isinstance(directory, ProcessDir) and name in OF_PROCESSES:
            return self.lender.ask("open_file", *directory.identity, name, flags)[1]
        if name in PAGE_FILES or name in MACHINE_FILES:
            return self.lender.ask("open_page_file" if name in PAGE_FILES else "open_machine_file", name)[1]
        return super().open_of(directory, name, flags)


@functools.cache
def lender_of(pid: int) -> Lender:
    """Return what this process asks: a broker of its own."""
    broker_pid, control, _ = start(messages.Grant(pid, has_kernel=True), "queries_for_all:EVERY")
    return Lender(control, broker_pid)


def asking(root: str = "/proc", page_size: int | None = None) -> procfs.ProcFS:
    """Return what processes are read from: captures as they are."""
    if root != "/proc" or os.geteuid():
        return procfs.ProcFS(root, page_size)
    return AskingFS(lender_of(os.getpid()))


def run_apart(*words: object, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line as `helpers.mematlas` does, but apart where that is possible."""
    name, *rest = (*map(str, words), "")
    is_refused = name not in COMMANDS or name in AS_IT_IS or "--temporary-swap" in rest or "--" in rest
    # Captures that the tests make are root's.
    is_refused = is_refused or any(word.startswith((FILE, "/")) for word in rest)
    before = () if is_refused else ("--apart",)
    return helpers.directly(*before, *words, **more)  # type: ignore[attr-defined, no-any-return]


def pytest_configure(config: pytest.Config) -> None:
    # A thread leaves its connection behind when it ends, which is closed then.
    config.addinivalue_line("filterwarnings", "ignore:unclosed <socket object:ResourceWarning")
    for name in OPENED_IN:
        importlib.import_module(f"mematlas.{name}").ProcFS = asking  # type: ignore[attr-defined]
    helpers.directly = helpers.mematlas  # type: ignore[attr-defined]
    helpers.mematlas = run_apart
