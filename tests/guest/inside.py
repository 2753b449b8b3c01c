"""pytest plugin for runs inside a guest: there a feature that the kernel is known to have may not be skipped.

``-p inside``, with this folder on PYTHONPATH. `tests/guest/run` sets the variable that says we are inside.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mematlas.doctor.bench import Bench, Missing
from mematlas.doctor.probes.faults import open_perf
from mematlas.errors import NotSupported

VARIABLE = "MEMATLAS_GUEST"

NOT_IN_DEBIAN = (
    *("CONFIG_ANON_VMA_NAME", "PR_SET_VMA", "CONFIG_IDLE_PAGE_TRACKING", "CONFIG_IKCONFIG_PROC"),
    *("CONFIG_PTDUMP_DEBUGFS", "vsyscall=xonly"),
)
OF_MODULE = re.compile(r"guest/(test_module|locked_later)\.py")
NO_MODULE = "no module: a kernel of a newer release needs a newer compiler than the host's"
OF_THE_DISK = ("large folios of ext4", "files of 8 TiB")
"""What the file system of a guest's disk has not, on any kernel."""
SINCE_6_12 = ("MADV_GUARD_INSTALL", "guard", "userfaultfd RWP")
SINCE_6_1 = (
    *("PAGEMAP_SCAN", r"userfaultfd.*Linux 6\.4", "vmcoreinfo", "cachestat"),
    "types of frames",
    *("MAP_DROPPABLE", "folios of several sizes", "counting page tables with BPF"),
)
SINCE_5_10 = (
    "MADV_COLLAPSE",
    "needs Linux 6.1 and CONFIG_TRANSPARENT_HUGEPAGE",
    *("WILLNEED", "ksm_merging_pages"),
    "multi-gen LRU needs Linux 6.1",
    r"shmem_thp.*v6\.0\?",
    "CAP_SYS_RESOURCE before Linux 5.11",
)
EXPECTED_SKIPS = {
    "5.10": (*SINCE_6_12, *SINCE_6_1, *SINCE_5_10, *NOT_IN_DEBIAN, *OF_THE_DISK),
    "6.1": (*SINCE_6_12, *SINCE_6_1, *NOT_IN_DEBIAN, *OF_THE_DISK),
    "6.12": (*SINCE_6_12, *NOT_IN_DEBIAN, *OF_THE_DISK),
    "7": (*NOT_IN_DEBIAN, *OF_THE_DISK, NO_MODULE, "a kernel that counts those of root"),
    "own": (*SINCE_6_12, *OF_THE_DISK, "vsyscall=xonly", "CONFIG_IKCONFIG_PROC"),
}
"""What each kernel really has not: the reason of a skip must name one of these."""
NOT_ON_ARM64 = (
    *(
        "page tables on arm64",
        "page tables of aarch64",
        "page tables cannot be read",
        "needs x86-64",
        "CONFIG_MEM_SOFT_DIRTY",
        r"vsyscall=.*x86",
    ),
    *("needs gcc", "memory that can be switched off"),
)
"""What no kernel has there; page tables, which are read on x86-64 alone; and what the root there is without."""
OF_X86_64 = (
    (re.compile(r"guest/test_(dump|isolation|module|readers)\.py|leaves_of_their_level"), "page tables on arm64"),
    (re.compile(r"guest/test_lockdown\.py::test_(tables|as_a_program)"), "page tables on arm64"),
    (
        re.compile(r"live/test_(structpage_live|pagetables|pagetable_counts|pagetable_source)\.py"),
        "page tables on arm64",
    ),
    (re.compile(r"test_pagetables_cli\.py::test_nobody_is_told_what_is_missing"), "page tables on arm64"),
    (re.compile(r"test_ps\.py::test_(tables_that_cannot_be_read|sample_shows_its)"), "page tables on arm64"),
    (re.compile(r"test_page_table_that_two_share"), "needs x86-64: what a table maps is as large as a GiB there alone"),
    (re.compile(r"guest/test_soft_dirty\.py"), "needs CONFIG_MEM_SOFT_DIRTY, which arm64 has not"),
)
"""Tests that make no sense on arm64, and why."""
BEFORE_WILLNEED = (
    (
        re.compile(
            r"test_demo_paging\.py::test_(story_(has_the_figures|is_about_our)|without_(swap_it_says|rights_it_shows)"
            r"|one_right_is_enough|four_panes)"
            r"|test_library_examples\.py::test_program_of_a_document_runs\[acting"
        ),
        "bringing pages back needs MADV_WILLNEED for others, Linux 5.15",
    ),
    (
        re.compile(r"test_lessons\.py::test_theory_holds.*\[fragments\]"),
        "MADV_COLLAPSE is of Linux 6.1: before it khugepaged makes huge pages, in its own time",
    ),
    (re.compile(r"test_madvise\.py::test_.*willneed"), "process_madvise(MADV_WILLNEED) is of Linux 5.15"),
    (re.compile(r"test_amounts\.py::test_merged_pages_are_reported"), "ksm_merging_pages needs Linux 5.19"),
    (re.compile(r"test_share\.py::test_equal_pages_that_were_merged"), "ksm_merging_pages needs Linux 5.19"),
    (
        re.compile(
            r"test_pagetables\.py::test_(hidden_frames_are_said|four_capabilities_are|one_capability_of_two)"
            r"|test_pagetable_source\.py::test_hidden_frames_are_why"
        ),
        "bpf(2) needs CAP_SYS_RESOURCE before Linux 5.11, to lock memory",
    ),
)
"""What 5.10 does not have of what others have, and why."""
BEFORE_COUNTING = (
    (
        re.compile(r"test_pagetable_source\.py::test_(auto_takes_tables_where|addresses_that_no_scan_passes)"),
        "counting page tables with BPF needs Linux 6.3: before, pagemap is read",
    ),
)
"""What 5.10 and 6.1 do not have, and why."""
TOO_SLOW = "an emulated processor is slower than its deadline"
IN_TIME = re.compile(
    r"test_screen\.py::test_(large_process_is_measured_with_pauses|screen_goes_on_without_who_does_not_answer)"
    r"|test_screen_scenes\.py::test_slot_of_swap_that_forks|test_stuck\.py::test_search_"
    r"|test_share\.py::test_(of_61_processes|groups_are_one|json_has_pairs|one_that_does_not|parts_of_a_process|who_comes_after|all_processes_are)"
    r"|test_apart\.py::test_a_program_is_started_as_without_it|test_charge\.py::test_whom_the_oom_killer_takes"
    r"|test_record\.py::test_(members_of_a_group_join|it_begins_when_a_condition)"
    r"|test_targets\.py::test_it_is_found_by_every_way|test_together\.py::test_every_target_that_is_named"
)
"""Tests of what is answered within two seconds: one fork takes 50 ms there."""


Gap = tuple[str, str, type[Exception], bool]
BEFORE_SCAN: tuple[Gap, ...] = (
    (
        r"test_hugetlb_shared\.py::.*\[pagemap\]",
        "bit 56 of pagemap knows nothing of page tables that are shared",
        AssertionError,
        True,
    ),
    # How much is in the swap cache is a matter of time.
    (
        r"test_actions\.py::test_(what_a_process_has_alone|undo_brings_back)\w*\[(shared_anon|tmpfs|memfd)\]",
        "without cachestat, the swap cache counts as RAM",
        AssertionError,
        False,
    ),
    (
        r"test_screen_scenes\.py::test_shared_memory_that_is_in_swap.*\[pages\]",
        "without cachestat, the swap cache counts as RAM",
        AssertionError,
        False,
    ),
    (
        r"test_actions\.py::test_(small_pages_collapse|collapse_is_asked|less_than_a_huge|where_huge_pages_are_not|plan_changes_nothing)",
        "what collapse does is measured by PAGEMAP_SCAN",
        NotSupported,
        True,
    ),
    (
        r"test_(cli_actions\.py::test_result_has_the_promised_keys|group_acts\.py::test_without_yes.*\[collapse\])",
        "collapse needs PAGEMAP_SCAN",
        AssertionError,
        True,
    ),
    (
        r"test_ps\.py::test_process_that_stands_still.*\[source-thp\]",
        "huge pages unknown to pagemap before PAGEMAP_SCAN",
        AssertionError,
        True,
    ),
    (
        r"test_capture\.py::test_huge_pages_that_could_not",
        "huge pages unknown to pagemap before PAGEMAP_SCAN",
        AssertionError,
        True,
    ),
    (
        r"test_layoutcache\.py::.*put_right\[folio\._entire_mapcount",
        "it is a member of struct page there",
        NotSupported,
        True,
    ),
)
KNOWN_GAPS: dict[str, tuple[Gap, ...]] = {
    "5.10": BEFORE_SCAN,
    "6.1": (
        *BEFORE_SCAN,
        (
            r"test_(structpage_live\.py::test_usage_is|truth\.py::test_every_vma_equals_smaps)"
            r".*thp_prot_none(-pagemap|-tables)?\]",
            "smaps before 6.5 leaves out huge pages that nobody may access",
            AssertionError,
            True,
        ),
    ),
}
"""Tests that demand more than mematlas can tell on an older kernel (docs/kernel-interfaces.md, "Limits"): they fail
there, and are shown as such. Why, with which exception, and whether always."""


VERSIONS = ("5.10", "6.1", "6.12", "7")


@dataclass(frozen=True)
class Facts:
    """The guest that we are in."""

    kernel: str
    architecture: str
    page_size: int
    levels: int
    numa: bool
    pti: bool
    lockdown: str

    @property
    def has_tables(self) -> bool:
        """Whether page tables can be read here."""
        return self.architecture == "x86-64" and self.lockdown != "confidentiality"

    def is_before(self, kernel: str) -> bool:
        """Whether this kernel is older than another of ours."""
        own = "6.12" if self.kernel == "own" else self.kernel
        return VERSIONS.index(own) < VERSIONS.index(kernel)


def parse_facts(text: str) -> Facts:
    """Return the settings of a guest.

    >>> parse_facts("kernel=6.1 arch=x86-64 pages=4k levels=4 numa=0 pti=1 lockdown=none")
    Facts(kernel='6.1', architecture='x86-64', page_size=4096, levels=4, numa=False, pti=True, lockdown='none')
    """
    words = dict(word.split("=", 1) for word in text.split())
    return Facts(
        kernel=words["kernel"],
        architecture=words["arch"],
        page_size=int(words["pages"].removesuffix("k")) << 10,
        levels=int(words["levels"]),
        numa=words["numa"] == "1",
        pti=words["pti"] == "1",
        lockdown=words["lockdown"],
    )


def read_facts() -> Facts | None:
    """Return the guest that we are in; None on a host."""
    text = os.environ.get(VARIABLE)
    return parse_facts(text) if text else None


def may_skip(facts: Facts, reason: str) -> bool:
    """Whether a skip for this reason is right in this guest."""
    # The guest has the other version, and a test of its own for it.
    words = [*EXPECTED_SKIPS[facts.kernel], "memory controller of cgroup version 1"]
    # Memory is in pieces after many tests.
    words += [TOO_SLOW, "the JVM takes minutes", "needs java", "no huge page was to be had"]
    words.append("this kernel has filled in all struct pages")
    # The word of a tail's head has two names, of which each kernel has one; 5.10 has no folios.
    words.append(r"this kernel has no (page\.compound_(head|info)|folio\.)")
    # What is tested of one setting has its run with that setting.
    words += [f"lockdown={facts.lockdown}", "pti=on" if facts.pti else "pti=off"]
    if facts.lockdown != "none":
        words.append("unsigned module")
    if not facts.numa:
        words.append("two nodes")
    if facts.architecture == "arm64":
        words += NOT_ON_ARM64
    return any(re.search(word, reason) for word in words)


@pytest.fixture(scope="session")
def facts() -> Facts:
    """Return the guest that we are in."""
    found = read_facts()
    assert found
    return found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    found = read_facts()
    if not found:
        return
    for item in items:
        for pattern, reason, error, always in KNOWN_GAPS.get(found.kernel, ()):
            if re.search(pattern, item.nodeid):
                item.add_marker(pytest.mark.xfail(reason=reason, raises=error, strict=always))
        lacking = [(IN_TIME, TOO_SLOW)]
        lacking += OF_X86_64 if found.architecture == "arm64" else ()
        lacking += BEFORE_WILLNEED if found.kernel == "5.10" else ()
        lacking += BEFORE_COUNTING if found.kernel in ("5.10", "6.1") else ()
        for tests, why in lacking:
            if tests.search(item.nodeid):
                item.add_marker(pytest.mark.skip(reason=why))
        if OF_MODULE.search(item.nodeid) and "MEMATLAS_MODULE" not in os.environ:
            item.add_marker(pytest.mark.skip(reason=NO_MODULE))


def pytest_sessionstart() -> None:
    """Have the kernel patch its scheduler for perf once, and not with each test that counts faults.

    An emulated processor may be in the middle of what is patched: see `machine.is_torn`. On arm64 7.3.4 fell over a
    counter that was open (perf_ctx_sched_task_cb(), once).
    """
    found = read_facts()
    if found and found.architecture != "arm64":
        held = Bench()
        HELD.append(held)
        with contextlib.suppress(OSError, Missing):
            open_perf(held, 0, -1)


HELD: list[Bench] = []
"""What is open until the last test has ended."""


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run in which our kernel gave up watching its locks: it does after the first complaint, of whomever."""
    found = read_facts()
    if found and found.kernel == "own" and not watches_locks():
        print("\nthe kernel does not watch its locks any more", file=sys.stderr)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def watches_locks(path: str = "/proc/lockdep_stats") -> bool:
    """Whether a kernel with CONFIG_PROVE_LOCKING still does what that is for."""
    return re.search(r"^\s*debug_locks:\s+1$", Path(path).read_text(), re.MULTILINE) is not None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    facts = read_facts()
    if facts and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not may_skip(facts, reason):
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid}\nno skip in a guest that has it: {reason}"
    if facts and report.failed and item.config.option.verbose > 0:
        # The end of a run of an hour is not waited for.
        reporter = item.config.pluginmanager.get_plugin("terminalreporter")
        assert reporter
        reporter.write_line(f"\n{report.longreprtext}")
    return report
