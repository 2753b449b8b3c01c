"""Every guest that the tests run in, one after another: `make guests-all`.

Each run is one pytest process: starting Python is what costs most on an emulated processor. Names as arguments choose
runs; without any all are done, those of the own kernel only when it is built.
"""

from __future__ import annotations

import compileall
import os
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import module
from architectures import ARM64, X86_64, Architecture
from cache import CACHE, ROOT, Unavailable, need_programs
from kernels import OWN, Kernel, fetch
from machine import NO_RESULT, Settings, boot, end_orderly

FOLDER = Path(__file__).resolve().parent
TIMEOUT = 900.0
LONG_TIMEOUT = 7200.0
"""For what `make guests-all` does, on a machine that does other things as well."""
# What needs no guest: it runs on the host.
HERE = ("tests/guest", "--ignore=tests/guest/test_machine.py")
# What no kernel changes, and what starts guests.
THE_SAME_EVERYWHERE = (
    *("unit/test_docs.py", "unit/test_errors.py", "unit/test_layers.py", "unit/test_frozen.py", "unit/test_setup.py"),
    *("unit/test_skips.py", "unit/cli/test_arguments.py", "unit/cli/test_completion.py", "unit/labs/test_lesson.py"),
    *("unit/test_names.py", "unit/test_bounds.py", "unit/test_packaging.py", "unit/cli/test_help.py", "unit/timeline"),
    *("unit/analysis", "unit/kernel/test_kconfig.py", "unit/kernel/test_packed.py"),
    *("unit/model/pagetables", "unit/views", "fuzz", "guest/test_guest.py", "guest/test_machine.py"),
)
# Of the truth of every kind of memory, what says most: each VMA by every source.
MOST = ("-k", "not test_truth or test_every_vma_equals")
# A part of everything leaves the stress of the module to the runs that are of it, and so what no kernel changes and
# starts a program for each test.
LEFT_OUT = ("ten_thousand_reads", "unloaded_under_use", "numpy_that_cannot_be_had", "wrong_arguments", "fit_the_screen")
EVERYTHING = ("-k", " and not ".join((f"({MOST[1]})", *LEFT_OUT)))
# Without PAGEMAP_SCAN a sparse terabyte is read entry by entry: minutes for each look, on an emulated processor.
NOT_BEFORE_SCAN = ("live/test_large.py", "live/test_reserved.py", "sparse_tebibyte")
PARTS = {
    "guest": ["guest/test_*.py"],
    **{f"live-{letters}": [f"live/test_[{letters}]*.py"] for letters in ("a-d", "e-j", "k-n", "o", "p-r", "s", "t-z")},
    "unit": ["unit/**/test_*.py"],
}
"""Everything, in parts that can be run one by one, each in a guest that is new."""
LIVE = ("pagetables", "pagetable_source", "structpage_live", "truth")
CORE = (
    *(*HERE, *(f"tests/live/test_{name}.py" for name in LIVE)),
    *MOST,
)
# What is wrong on another kernel is wrong here first: every VMA against smaps, by every source.
TRUTH = "test_every_vma_equals and ({})".format(
    " or ".join(f"[{kind}-" for kind in ("anon", "shared_file", "memfd", "thp", "hugetlb", "swapped", "ksm", "parent"))
)
# What `make guests` has the time for; the full matrix does more of the same, so it leaves these out. All of
# the stress of the module is part of the full matrix.
QUICK = (*HERE, "-k", "not ten_thousand_reads and not unloaded_under_use and not memory_max")
TRUTH_QUICK = (*HERE, "tests/live/test_truth.py", "-k", f"{QUICK[-1]} and (not test_truth or ({TRUTH}))")
UNLOAD_QUICK = (*HERE, "-k", "not ten_thousand_reads and not memory_max")
# Changes the guest for good, so nothing else runs with it.
LOCKED_LATER = ("tests/guest/locked_later.py",)
VERSION_1 = ("tests/guest/cgroup_version_1.py",)
LOCKED_QUICK = ("tests/guest/test_lockdown.py", "tests/guest/test_readers.py")


@dataclass(frozen=True)
class Run:
    """One guest, and the tests in it."""

    name: str
    kernel: str
    settings: Settings = field(default_factory=Settings)
    tests: tuple[str, ...] = CORE
    architecture: Architecture = X86_64
    page_size: str = "4k"
    whole: str = ""
    """The name of the run that this is a part of."""


def paths_of(part: str, left_out: tuple[str, ...]) -> tuple[str, ...]:
    """Return the files of tests that are a part of everything."""
    tests = ROOT / "tests"
    paths = sorted(path for pattern in PARTS[part] for path in tests.glob(pattern))
    outside = [tests / name for name in (*THE_SAME_EVERYWHERE, *left_out) if "/" in name]
    return tuple(
        str(path.relative_to(ROOT)) for path in paths if not any(path.is_relative_to(place) for place in outside)
    )


def without(left_out: tuple[str, ...]) -> tuple[str, ...]:
    """Return what chooses tests of everything by name, without some."""
    names = [name for name in left_out if "/" not in name]
    return (EVERYTHING[0], " and not ".join((EVERYTHING[1], *names)))


def everything(
    name: str,
    kernel: str,
    settings: Settings,
    architecture: Architecture = X86_64,
    page_size: str = "4k",
    left_out: tuple[str, ...] = (),
) -> list[Run]:
    """Return the runs that are all tests together, but those that no kernel changes."""
    return [
        Run(
            f"{name}-{part}",
            kernel,
            settings,
            (*paths_of(part, left_out), *without(left_out)),
            architecture,
            page_size,
            name,
        )
        for part in PARTS
    ]


MATRIX = (
    Run("5.10-quick", "5.10", Settings(levels=4), TRUTH_QUICK),
    Run("6.12-quick", "6.12", Settings(levels=5), QUICK),
    Run("7-quick", "7", Settings(levels=5), TRUTH_QUICK),
    Run("arm64-16k-quick", "6.12", tests=TRUTH_QUICK, architecture=ARM64, page_size="16k"),
    Run("6.12-numa-pti-quick", "6.12", Settings(levels=4, numa=True, pti=True), UNLOAD_QUICK),
    Run("6.12-locked-quick", "6.12", Settings(lockdown="confidentiality"), LOCKED_QUICK),
    Run("6.12-integrity-quick", "6.12", Settings(lockdown="integrity"), LOCKED_QUICK),
    Run("6.12-locked-later-quick", "6.12", Settings(), LOCKED_LATER),
    Run("5.10-cgroup-v1-quick", "5.10", tests=VERSION_1),
    Run("own-quick", OWN, Settings(levels=4, numa=True, pti=True), UNLOAD_QUICK),
    Run("5.10", "5.10", Settings(levels=5)),
    Run("6.1", "6.1", Settings(levels=5)),
    Run("6.12", "6.12", Settings(levels=5)),
    Run("7", "7", Settings(levels=5)),
    Run("arm64-6.1", "6.1", architecture=ARM64),
    Run("arm64-6.12", "6.12", architecture=ARM64),
    Run("arm64-7", "7", architecture=ARM64),
    Run("arm64-16k-6.12", "6.12", architecture=ARM64, page_size="16k"),
    Run("arm64-16k-7", "7", architecture=ARM64, page_size="16k"),
    Run("6.12-numa-pti", "6.12", Settings(levels=4, numa=True, pti=True), HERE),
    Run("6.1-numa-pti", "6.1", Settings(levels=4, numa=True, pti=True), HERE),
    Run("7-numa-pti", "7", Settings(levels=4, numa=True, pti=True), HERE),
    Run("6.12-integrity", "6.12", Settings(lockdown="integrity"), HERE),
    Run("6.12-confidentiality", "6.12", Settings(lockdown="confidentiality"), HERE),
    Run("6.1-confidentiality", "6.1", Settings(lockdown="confidentiality"), HERE),
    Run("6.12-locked-later", "6.12", Settings(), LOCKED_LATER),
    Run("6.1-cgroup-v1", "6.1", tests=VERSION_1),
    *everything("5.10-all", "5.10", Settings(levels=4), left_out=NOT_BEFORE_SCAN),
    *everything("6.1-all", "6.1", Settings(levels=4), left_out=NOT_BEFORE_SCAN),
    *everything("6.12-all", "6.12", Settings(levels=4)),
    *everything("7-all", "7", Settings(levels=4)),
    *everything("arm64-all", "7", Settings(), ARM64),
    *everything("arm64-16k-all", "7", Settings(), ARM64, "16k"),
    *everything("own", OWN, Settings(levels=5, numa=True)),
    Run("own-pti", OWN, Settings(levels=5, pti=True), HERE),
)


def module_variable(kernel: Kernel) -> list[str]:
    """Return what tells the tests where the module for a kernel is; nothing when there can be none."""
    if not kernel.architecture.is_host:
        return []
    try:
        return [f"MEMATLAS_MODULE={module.build(kernel)}"]
    except module.NoCompiler as error:
        print(f"guest: WITHOUT THE MODULE: {error}", file=sys.stderr, flush=True)
        return []


def do(run: Run) -> tuple[int, float]:
    """Run the tests in one guest; return the exit code and the seconds. The results stay in the cache folder."""
    # The guest cannot keep what it compiles, and is slow at it.
    compileall.compile_dir(ROOT / "src", quiet=2)
    kernel = fetch(run.kernel, run.architecture, run.page_size)
    print(f"guest: {kernel.release}, {run.settings.words(kernel)}", flush=True)
    output = CACHE / "results" / run.name
    # The names of tests are relative; the guest starts where we are.
    os.chdir(ROOT)
    shutil.rmtree(output, ignore_errors=True)
    variables = [f"PYTHONPATH={FOLDER}", *module_variable(kernel)]
    if kernel.architecture.is_host:
        # What the host has compiled is there; that of another processor is not.
        variables.append("PYTHONDONTWRITEBYTECODE=1")
    command = [
        *("env", *variables, str(ROOT / ".venv" / "bin" / "python"), "-m", "pytest", "-p", "inside", "-p", "no:xdist"),
        *("-p", "no:cacheprovider", "--color=no", "-v" if run.whole else "-q"),
        *("--junitxml=/mnt/out/junit.xml", "--durations=20", "--durations-min=10"),
        *("--reruns=1", "--max-suite-reruns=4", "--rerun-show-tracebacks", *run.tests),
    ]
    timeout = TIMEOUT if run.name.endswith("-quick") else LONG_TIMEOUT
    result = boot(kernel, run.settings, command, timeout, output)
    if result.code == 0 and not (output / "junit.xml").exists():
        print("guest: pytest left no report", file=sys.stderr)
        return NO_RESULT, result.seconds
    return result.code, result.seconds


def figures(name: str) -> str:
    """Return how the tests of a run ended, as its report says; empty where there is none."""
    report = CACHE / "results" / name / "junit.xml"
    if not report.exists():
        return ""
    suite = ElementTree.parse(report).getroot()[0]
    total, *others = (int(suite.attrib[key]) for key in ("tests", "failures", "errors", "skipped"))
    return f"{total - sum(others)} passed, {others[0] + others[1]} failed, {others[2]} skipped"


def main(names: list[str]) -> int:
    known = {name: None for run in MATRIX for name in (run.whole, run.name) if name}
    if unknown := set(names) - set(known):
        print(f"no run {', '.join(unknown)}: there are {', '.join(known)}", file=sys.stderr)
        return 2
    end_orderly()
    chosen = [run for run in MATRIX if {run.name, run.whole} & set(names) or not (names or run.name.endswith("-quick"))]
    need_programs()
    lines, failed = [], False
    for run in chosen:
        print(f"\n=== guest {run.name}", flush=True)
        began = time.monotonic()
        try:
            code, seconds = do(run)
        except Unavailable as error:
            if run.kernel == OWN and not names:
                lines.append(f"NOT RUN  {run.name}: {error}")
                continue
            print(f"guest: {error}", file=sys.stderr)
            code, seconds = NO_RESULT, time.monotonic() - began
        failed = failed or code != 0
        lines.append(f"{'passed' if code == 0 else 'FAILED'}   {run.name:24} {seconds:6.1f} s  {figures(run.name)}")
    print("\n" + "\n".join(lines))
    return int(failed)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Unavailable as error:
        sys.exit(f"guest: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
