"""The kernel's sums, looked at again and again: what a process has done is seen at once, what others have in turn."""

from __future__ import annotations

import os
import signal

import pytest

from helpers import PAGE, program
from mematlas import Process
from mematlas.analysis.results import UsageResult
from mematlas.kernel.status import read_stat_whole
from mematlas.observe import sums as module
from mematlas.observe.sums import IN_TURN, MOST_OLD, SUMS
from victim import process_state, wait_until

SHARED, MORE, FEW = 1009, 401, 128
"""Pages that a child has as well, that are touched later, and that may be anybody's."""
FORKING = f"""
import mmap, os, signal, sys
page = {PAGE}
area = mmap.mmap(-1, {SHARED + MORE} * page, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area.madvise(mmap.MADV_NOHUGEPAGE)
for at in range({SHARED}): area[at * page] = 1
child = os.fork()
if child == 0:
    signal.pause()
print(child, flush=True)
sys.stdin.readline()
for at in range({MORE}): area[({SHARED} + at) * page] = 1
print("touched", flush=True)
sys.stdin.read()
"""


def look(process: Process) -> UsageResult:
    return process.sums(stat=process.procfs.ask(read_stat_whole, process.dir))


def is_old(usage: UsageResult) -> bool:
    assert usage.reading.source == SUMS
    return IN_TURN in usage.reading.notes


def test_what_others_do_is_seen_in_turn_and_what_it_does_itself_at_once() -> None:
    with program(FORKING, wait="") as running, Process(running.pid) as process:
        wait_until(lambda: process_state(running.pid) == "S", "it waits")
        first = look(process)
        assert not is_old(first)
        looks = [look(process) for _ in range(MOST_OLD)]
        # What it did before it waited may have been counted only after the first look.
        assert any(map(is_old, looks))
        os.kill(running.told, signal.SIGKILL)
        wait_until(lambda: process_state(running.told) == "Z", "the child ends")

        fresh = []
        for _ in range(2 * MOST_OLD):
            usage = look(process)
            if not is_old(usage):
                fresh.append(usage)
        assert len(fresh) >= 2
        uss = fresh[-1].usage.uss
        assert uss is not None
        assert first.usage.uss is not None
        assert uss >= first.usage.uss + SHARED * PAGE
        # Of the files of Python others may have mapped a few pages meanwhile.
        assert uss == pytest.approx(process.usage(source="smaps").usage.uss, abs=FEW * PAGE)

        assert is_old(look(process)) or is_old(look(process))
        assert running.process.stdin
        assert running.process.stdout
        running.process.stdin.write("\n")
        running.process.stdin.flush()
        running.process.stdout.readline()
        now = look(process)
        assert not is_old(now)
        assert now.usage.uss is not None
        assert now.usage.uss == pytest.approx(uss + MORE * PAGE, abs=FEW * PAGE)


def test_without_its_stat_each_look_is_fresh() -> None:
    with program("import sys; print(0, flush=True); ") as one, Process(one.pid) as process:
        assert not any(is_old(process.sums()) for _ in range(2 * MOST_OLD))


def test_processes_have_their_turns_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_OLD", 4)
    with program("import sys; print(0, flush=True); ") as one, Process(one.pid) as process:
        wait_until(lambda: process_state(one.pid) == "S", "it waits")
        ages = [is_old(look(process)) for _ in range(40)]
    assert ages[-8:].count(False) == 2
