"""doctor's answers, against what each kernel is known to have."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from inside import Facts
from mematlas.cli import main

SCANS = ("WPALLOWED", "WRITTEN", "FILE", "PRESENT", "SWAPPED", "PFNZERO", "HUGE")
SINCE = {
    "6.1": {"process_madvise WILLNEED", "MADV_COLLAPSE"},
    "6.12": {
        *("PAGEMAP_SCAN", "PAGEMAP_SCAN SOFT_DIRTY", "PROCMAP_QUERY", "cachestat", "userfaultfd WP_ASYNC"),
        *(f"PAGEMAP_SCAN {name}" for name in SCANS),
    },
    "7": {
        *("guard regions", "guard bit in pagemap", "PAGEMAP_SCAN GUARD"),
        *("PAGEMAP_SCAN ACCESSED", "userfaultfd RWP", "userfaultfd RWP_ASYNC"),
    },
}
"""What came with which of these kernels, or shortly before."""
NOT_IN_DEBIAN = {"idle page bitmap", "names of anonymous VMAs"}
NOT_ON_ARM64 = {"soft-dirty bits", "PAGEMAP_SCAN SOFT_DIRTY", "mematlas module"}
INSIDE = "/mnt/out"
"""The folder whose content is kept."""
WITHHELD = {"BPF", "/proc/kcore", "lockdown"}
"""Under lockdown to confidentiality."""
SWITCHED_OFF = {"swap areas", "zswap", "KSM", "mematlas module"}
"""There, but not in use as the guest starts."""


pytestmark = pytest.mark.guest


def lacks(facts: Facts) -> set[str]:
    """Return what this kernel is known not to have."""
    lacking = set() if facts.kernel == "own" else set(NOT_IN_DEBIAN)
    for kernel, interfaces in SINCE.items():
        if facts.is_before(kernel):
            lacking |= interfaces
    return lacking | (NOT_ON_ARM64 if facts.architecture == "arm64" else set())


@pytest.fixture
def answers(facts: Facts, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, str]]:
    assert main(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["notes"] == []
    # For the table of docs/kernel-interfaces.md: scripts/kernel_table.py.
    if os.path.isdir(INSIDE):
        Path(INSIDE, "doctor.json").write_text(json.dumps({"named": facts.kernel, **told}))
    return {row["interface"]: row for row in told["rows"]}


def test_missing_is_said_of_what_the_kernel_lacks_and_of_nothing_else(
    answers: dict[str, dict[str, str]], facts: Facts
) -> None:
    withheld = WITHHELD if facts.lockdown == "confidentiality" else set()
    if facts.lockdown != "none":
        withheld = {*withheld, "mematlas module"}
    lacking = {name for name, row in answers.items() if row["status"] == "missing"}
    assert lacking == lacks(facts) | withheld


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
