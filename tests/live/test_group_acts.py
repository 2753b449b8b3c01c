"""Acts on a group: a plan that names every process, nothing without --yes, and each act measured."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from helpers import PAGE, mematlas
from mematlas import ProcessSet
from mematlas.actions.groups import act_on_group, plan_group
from mematlas.actions.options import Options
from mematlas.errors import BadInput, NotConfirmed, TargetRefused
from mematlas.kernel.madvise import MADV_WILLNEED, takes
from mematlas.model.address_space import Selection
from victim import Victim

pytestmark = pytest.mark.root("CAP_SYS_ADMIN")

HEAP = Selection(kinds=frozenset(("anon",)))


@pytest.fixture
def two() -> Iterator[list[Victim]]:
    """Two processes of one name that nobody else has, with memory of their own."""
    with ExitStack() as stack:
        victims = [stack.enter_context(Victim("anon_full")) for _ in range(2)]
        for victim in victims:
            victim.tell("rename", name=f"two{os.getpid()}")
        yield victims


def group_name() -> str:
    return f"name:two{os.getpid()}"


def parsed(*words: object) -> dict[str, Any]:
    run = mematlas(*words, "--json")
    assert run.returncode == 0, run.stderr
    result: dict[str, Any] = json.loads(run.stdout)
    return result


def swapped(victim: Victim) -> int:
    lines = Path(f"/proc/{victim.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmSwap")) * 1024


@pytest.mark.parametrize("act", ["pageout", "cold", "willneed", "collapse"])
def test_without_yes_the_plan_is_shown_and_nothing_done(act: str, two: list[Victim]) -> None:
    run = mematlas(act, group_name(), "--kind", "anon")

    assert run.returncode == NotConfirmed.exit_code
    assert [line.split()[0] for line in run.stdout.splitlines()[2:4]] == [str(victim.pid) for victim in two]
    assert f"mematlas: {act} acts on every process above: say so with --yes\ntry: " in run.stderr
    line = run.stderr.rstrip().replace(" --apart", "")  # which is told how it was told itself
    assert line.endswith(f"mematlas {act} {group_name()} --kind anon --yes")
    assert [swapped(victim) for victim in two] == [0, 0]


def test_plan_of_a_group_is_those_of_its_processes(two: list[Victim]) -> None:
    result = parsed("cold", group_name(), "--kind", "anon", "--dry-run")
    each = [parsed("cold", victim.pid, "--kind", "anon", "--dry-run")["rows"] for victim in two]

    assert [row["nr_movable"] for row in result["rows"]] == [sum(row["nr_movable"] for row in rows) for rows in each]
    assert result["target"]["pids"] == [victim.pid for victim in two]
    assert result["total"]["nr_requested"] == sum(row["nr_requested"] for row in result["rows"])


def test_with_yes_each_is_paged_out_and_measured(two: list[Victim], swap: Path) -> None:
    if not takes(MADV_WILLNEED):
        pytest.skip("needs MADV_WILLNEED for others, Linux 5.15")
    result = parsed("pageout", group_name(), "--kind", "anon", "--yes")
    back = parsed("willneed", group_name(), "--kind", "anon", "--yes")

    for row, victim in zip(result["rows"], two, strict=True):
        assert row["pid"] == victim.pid
        assert row["nr_moved"] >= victim["anon_full"].nr_pages
        assert row["nr_requested"] == row["nr_moved"] + row["nr_stayed"]
    assert sum(row["nr_moved"] for row in back["rows"]) >= sum(victim["anon_full"].nr_pages for victim in two)


def test_what_one_needs_of_swap_is_not_there_for_the_next(two: list[Victim], monkeypatch: pytest.MonkeyPatch) -> None:
    from mematlas.actions import groups
    from mematlas.actions.rooms import SwapRoom
    from mematlas.kernel.swaps import SwapArea

    nr_pages = two[0]["anon_full"].nr_pages
    area = SwapArea("/swap", "file", (nr_pages + 5) * PAGE, 0, -2)
    monkeypatch.setattr(groups, "read_swap_room", lambda process: SwapRoom((area,), {}, None))
    only = Selection(span=None, kinds=frozenset(("anon",)))
    with ProcessSet(group_name()) as group:
        planned = plan_group(group, "pageout", only)

    assert planned.nr_needs_swap <= nr_pages + 5
    assert planned.nr_without_swap >= nr_pages - 5


def test_our_ancestors_are_left_alone_and_we_are_in_no_group(two: list[Victim]) -> None:
    run = mematlas("cold", f"tree:{os.getpid()}", "--dry-run", "--json")
    result = json.loads(run.stdout)
    pids = {row["pid"] for row in result["rows"]}

    assert pids >= {victim.pid for victim in two}
    assert os.getpid() not in pids
    assert len(result["target"]["pids"]) == len(pids) + 1
    assert any(f"left alone: {os.getpid()} (" in note["text"] for note in result["notes"])


def test_group_of_nobody_but_those_left_alone_is_refused() -> None:
    with ProcessSet([os.getppid()]) as group, pytest.raises(TargetRefused):
        plan_group(group, "cold")


@pytest.mark.parametrize("option", ["--coldest=4", "--undo", "--watch-refaults=1s", "--free"])
def test_what_is_asked_of_one_process_is_refused(option: str) -> None:
    run = mematlas("pageout", "tree:1", option)

    assert run.returncode == BadInput.exit_code
    assert f"{option.partition('=')[0]} takes one process: give its PID" in run.stderr


def test_addresses_are_refused(two: list[Victim]) -> None:
    run = mematlas("cold", group_name(), "0x1000+4096", "--yes")

    assert run.returncode == BadInput.exit_code
    assert "addresses are those of one process" in run.stderr


def test_stop_between_two_processes_names_those_not_reached(two: list[Victim]) -> None:
    calls: list[None] = []

    def stop() -> bool:
        calls.append(None)
        return len(calls) > 1

    with ProcessSet(group_name()) as group:
        planned = plan_group(group, "cold", HEAP)
        effect = act_on_group(group, planned, Options(stop=stop))

    assert [item.pid for item in effect.processes] == [two[0].pid]
    assert any(note.text == f"interrupted; not reached: PID {two[1].pid}" for note in effect.notes)


def test_one_that_ended_after_the_plan_is_left_out(two: list[Victim]) -> None:
    with ProcessSet(group_name()) as group:
        planned = plan_group(group, "cold", HEAP)
        two[0].exit()
        effect = act_on_group(group, planned)

    assert [item.pid for item in effect.processes] == [two[1].pid]
    assert any(note.code == "left-out" and str(two[0].pid) in note.text for note in effect.notes)
