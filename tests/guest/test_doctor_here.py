"""doctor's answers, against what each kernel is known to have."""

from __future__ import annotations

import json
import re

import pytest

from inside import Facts
from mematlas.cli import main

SINCE_6_12 = {"guard regions", "guard bit in pagemap", "PAGEMAP_SCAN GUARD"}
"""What came after the newest of these kernels."""
SCANS = ("WPALLOWED", "WRITTEN", "FILE", "PRESENT", "SWAPPED", "PFNZERO", "HUGE", "SOFT_DIRTY")
SINCE_6_1 = {
    "PAGEMAP_SCAN",
    *(f"PAGEMAP_SCAN {name}" for name in SCANS),
    "PROCMAP_QUERY",
    "cachestat",
    "userfaultfd WP_ASYNC",
}
NOT_IN_DEBIAN = {"idle page bitmap", "names of anonymous VMAs"}
LACKS = {"6.1": SINCE_6_12 | SINCE_6_1 | NOT_IN_DEBIAN, "6.12": SINCE_6_12 | NOT_IN_DEBIAN, "own": SINCE_6_12}
WITHHELD = {"BPF", "/proc/kcore", "lockdown"}
"""Under lockdown to confidentiality."""
SWITCHED_OFF = {"swap areas", "zswap", "KSM", "mematlas module"}
"""There, but not in use as the guest starts."""


pytestmark = pytest.mark.guest


@pytest.fixture
def answers(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, str]]:
    assert main(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["notes"] == []
    return {row["interface"]: row for row in told["rows"]}


def test_missing_is_said_of_what_the_kernel_lacks_and_of_nothing_else(
    answers: dict[str, dict[str, str]], facts: Facts
) -> None:
    withheld = WITHHELD if facts.lockdown == "confidentiality" else set()
    if facts.lockdown != "none":
        withheld = {*withheld, "mematlas module"}
    lacking = {name for name, row in answers.items() if row["status"] == "missing"}
    assert lacking == LACKS[facts.kernel] | withheld


def test_everything_else_works_or_can_be_switched_on(answers: dict[str, dict[str, str]]) -> None:
    needing = {name: row["detail"] for name, row in answers.items() if row["status"] == "needs"}
    assert needing.keys() <= SWITCHED_OFF
    assert all("sudo " in detail for detail in needing.values())


def test_the_machine_is_described_as_it_is(answers: dict[str, dict[str, str]], facts: Facts) -> None:
    details = {name: row["detail"] for name, row in answers.items()}
    assert details["/proc/PID/numa_maps"] == ("2 nodes" if facts.numa else "1 node")
    assert details["hugetlb pools"] == "1 of 1048576kB"
    if facts.lockdown != "confidentiality":
        assert details["lockdown"] == f"not in the way ({facts.lockdown})"
    for name in WITHHELD if facts.lockdown == "confidentiality" else ():
        assert re.search("lockdown=|locked down", details[name] or "")
