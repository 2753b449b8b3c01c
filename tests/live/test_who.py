"""Who is watched: what a look says of a process besides its amounts, and of those that may not be looked at."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import Outcome
from mematlas.kernel.procfs import ProcFS
from mematlas.model.who import NOT_KNOWN
from mematlas.observe.captures import Redactor
from mematlas.observe.machine import Machine
from mematlas.timeline.watch import Look, Seen, Watch
from victim import wait_until


@pytest.fixture
def shell() -> Iterator[subprocess.Popen[bytes]]:
    """Yield a shell that becomes another program at a line."""
    with subprocess.Popen(["sh", "-c", "read line; exec sleep 1000"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def seen_of(look: Look, pid: int) -> Seen:
    return next(one for one in look.seen if one.pid == pid)


def test_who_is_watched_is_known_as_the_list_knows_it(shell: subprocess.Popen[bytes]) -> None:
    with Watch([], ProcFS(), what=["usage"], everybody=True) as watch:
        who = seen_of(watch.look(), shell.pid).who
    (listed,) = Machine().processes([shell.pid])
    assert (who.parent, who.uid, who.user) == (os.getpid(), os.getuid(), pwd.getpwuid(os.getuid()).pw_name)
    names = ("parent", "uid", "user", "cgroup", "container", "pod", "unit")
    assert [getattr(who, name) for name in names] == [getattr(listed, name) for name in names]


def test_another_program_has_its_own_name(shell: subprocess.Popen[bytes]) -> None:
    with Watch([], ProcFS(), what=["usage"], everybody=True) as watch:
        assert seen_of(watch.look(), shell.pid).name == "sh"
        assert shell.stdin
        shell.stdin.write(b"\n")
        shell.stdin.flush()
        wait_until(lambda: Path(f"/proc/{shell.pid}/comm").read_text() == "sleep\n", "it has another name")
        assert seen_of(watch.look(), shell.pid).name == "sleep"


def test_redacted_ones_are_nobody(shell: subprocess.Popen[bytes]) -> None:
    with Watch([str(shell.pid)], ProcFS(), what=["usage"], redactor=Redactor()) as watch:
        assert watch.look().seen[0].who == NOT_KNOWN


def nr_refused() -> tuple[int, int, int]:
    with Watch([], ProcFS(), what=["usage"], everybody=True) as watch:
        look, again = watch.look(), watch.look()
    assert look.unseen
    assert again.unseen
    return look.unseen["refused"], again.unseen["refused"], len(look.seen)


def test_those_that_may_not_be_looked_at_are_counted(as_nobody: Callable[..., Outcome]) -> None:
    first, again, nr_seen = as_nobody(nr_refused).value
    assert first > 0
    assert again > 0
    assert nr_seen < len(ProcFS().pids())


def test_of_those_that_were_named_nobody_is_counted(shell: subprocess.Popen[bytes]) -> None:
    with Watch([str(shell.pid)], ProcFS(), what=["usage"]) as watch:
        assert watch.look().unseen is None
