"""Limits of a real memory cgroup: the plan of a pageout knows them, and what is done keeps to them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import texts
from inside import Facts
from mematlas.cli import main
from mematlas.views.format import format_size
from test_swap_devices import zram
from victim import Victim

pytestmark = pytest.mark.guest

PAGE = os.sysconf("SC_PAGESIZE")
ROOT = Path("/sys/fs/cgroup")
ALLOWED = 32


@pytest.fixture
def group() -> Iterator[Path]:
    """Return a new group that this process is in; children started now belong to it."""
    (ROOT / "cgroup.subtree_control").write_text("+memory")
    path = ROOT / "mematlas"
    path.mkdir()
    (path / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield path
    finally:
        for pid in (path / "cgroup.procs").read_text().split():
            (ROOT / "cgroup.procs").write_text(pid)
        path.rmdir()


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    def run(command: str, target: Victim, kind: str, *more: str) -> dict[str, Any]:
        area = target[kind]
        capsys.readouterr()
        assert main([command, str(target.pid), f"{area.address:#x}-{area.end:#x}", *more, "--json"]) == 0
        out, err = capsys.readouterr()
        return {"err": err, **json.loads(out)}

    return run


def row_of(told: dict[str, Any]) -> dict[str, Any]:
    (row,) = told["rows"]
    return dict(row)


def test_swap_max_limits_the_plan_and_the_act(
    group: Path, victim: Callable[..., Victim], say: Callable[..., dict[str, Any]]
) -> None:
    with zram():
        target = victim("anon_full")
        (group / "memory.swap.max").write_text(str(ALLOWED * PAGE))
        planned = say("pageout", target, "anon_full", "--dry-run")
        assert row_of(planned)["nr_needs_swap"] == row_of(planned)["nr_movable"] == ALLOWED
        assert f"swap: the memory cgroup allows {format_size(ALLOWED * PAGE)} more" in texts(planned["notes"])
        told = say("pageout", target, "anon_full")
        left = format_size((97 - ALLOWED) * PAGE)
        lacking = f"the memory cgroup of the process allows too little swap: {left} of memory has nowhere to go"
        assert lacking in texts(planned["notes"])
        assert lacking in texts(told["notes"])
        moved = row_of(told)
        assert 0 < moved["nr_moved"] <= ALLOWED
        assert moved["nr_stayed"] == 97 - moved["nr_moved"]
        assert int((group / "memory.swap.current").read_text()) <= ALLOWED * PAGE
        target.close()


def test_without_a_limit_all_of_it_moves(
    group: Path, victim: Callable[..., Victim], say: Callable[..., dict[str, Any]]
) -> None:
    with zram():
        target = victim("anon_full")
        planned = say("pageout", target, "anon_full", "--dry-run")
        assert "cgroup" not in str(planned["notes"])
        assert row_of(say("pageout", target, "anon_full"))["nr_moved"] == 97
        target.close()


def test_memory_max_leaves_what_does_not_fit_in_swap(
    group: Path, victim: Callable[..., Victim], say: Callable[..., dict[str, Any]], facts: Facts
) -> None:
    if facts.is_before("6.1"):
        pytest.skip("process_madvise with MADV_WILLNEED needs Linux 5.15")
    with zram():
        target = victim("anon_full")
        assert row_of(say("pageout", target, "anon_full"))["nr_moved"] == 97
        # Not us: whoever is in a group without room may be ended by the kernel.
        (ROOT / "cgroup.procs").write_text(str(os.getpid()))
        used = int((group / "memory.current").read_text())
        # No room at all: what is used now is the limit.
        (group / "memory.max").write_text(str(max(used - used % PAGE, PAGE)))
        row = row_of(say("willneed", target, "anon_full"))
        assert row["nr_moved"] < 97
        assert row["reasons"] == {"cgroup": 97 - row["nr_moved"]}
        (group / "memory.max").write_text("max")
        row = row_of(say("willneed", target, "anon_full"))
        assert row["nr_stayed"] == 0
        target.close()
