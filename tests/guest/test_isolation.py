"""Page-table isolation: the copy of the top table that user space runs with, as `tables --user-pgd` shows it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from inside import Facts
from mematlas.cli import main
from victim import Victim

pytestmark = pytest.mark.guest

READERS = ("bpf", "kcore")
NR_TRIES = 5


@pytest.fixture(params=READERS)
def say(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str], facts: Facts) -> Callable[..., Any]:
    if facts.lockdown == "confidentiality":
        pytest.skip("lockdown=confidentiality: no tables")

    def run(*words: object) -> Any:
        capsys.readouterr()
        assert main(["tables", "--reader", request.param, *map(str, words), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def leaves(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Return the entries that map something, by their address; what the processor sets by itself apart."""
    return {row["address"]: f"{int(row['entry'], 16) | 0x60:#x}" for row in rows if row["leaf"]}


def test_without_isolation_there_is_no_copy(facts: Facts, capsys: pytest.CaptureFixture[str]) -> None:
    if facts.pti:
        pytest.skip("pti=on: there is one")
    if facts.lockdown == "confidentiality":
        pytest.skip("lockdown=confidentiality: no tables")
    assert main(["tables", str(os.getpid()), "--user-pgd"]) == 5
    assert "page-table isolation (pti=on)" in capsys.readouterr().err


def test_the_copy_has_the_user_half(say: Callable[..., Any], facts: Facts, victim: Callable[..., Victim]) -> None:
    if not facts.pti:
        pytest.skip("pti=off: no copy")
    target = victim("anon_full", "thp")
    with target.stopped():
        for _ in range(NR_TRIES):
            whole, copy, again = (say(target.pid, "--list", *more) for more in ((), ("--user-pgd",), ()))
            # Balancing between nodes and khugepaged change what a stopped process has.
            if leaves(whole["rows"]) == leaves(again["rows"]):
                break
    assert len(leaves(whole["rows"])) > 97
    assert leaves(whole["rows"]) == leaves(copy["rows"])
    assert int(copy["target"]["pgd"], 16) == int(whole["target"]["pgd"], 16) + 4096


def test_the_copy_has_nearly_no_kernel_half(
    say: Callable[..., Any], facts: Facts, victim: Callable[..., Victim]
) -> None:
    if not facts.pti:
        pytest.skip("pti=off: no copy")
    target = victim("anon")
    with target.stopped():
        whole, copy = (say(target.pid, "--kernel", "--list", "--level", "pgd", *more) for more in ((), ("--user-pgd",)))
        sizes = [
            {row["region"]: row["mapped"] for row in say(target.pid, "--kernel", *more)["rows"] if row["region"]}
            for more in ((), ("--user-pgd",))
        ]
    # The way into the kernel and out of it: the entry code, the entry area of each processor.
    assert 0 < len(copy["rows"]) < len(whole["rows"])
    assert sizes[0]["direct map"] > 1 << 30
    # One page for 16-bit returns is mapped 65,536 times.
    assert 0 < sum(size for name, size in sizes[1].items() if name != "espfix") < 16 << 20
