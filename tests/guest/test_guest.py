"""The guests that `make guests` starts: the oldest and the newest of the stock kernels; 6.12 as it is, on arm64, with
two nodes and page-table isolation, and locked down; our own if it is built. `make guests-all` runs all.

Where no guest can be had the tests are skipped on a developer's machine; with CI set, that is a failure.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import TO_SAY
from victim import wait_until

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache" / "guest"
NO_GUEST = 124

pytestmark = pytest.mark.skipif("MEMATLAS_GUEST" in os.environ, reason="this is a guest already")


def run(*words: str, timeout: float = 1200) -> subprocess.CompletedProcess[str]:
    """Run one of the programs that start guests; it ends its guest when it is told to end, and when we do."""
    line = [sys.executable, *words]
    environment = {**os.environ, "MEMATLAS_END_WITH_PARENT": "1"}
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    try:
        out, _ = process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            process.terminate()
            process.communicate()
    return subprocess.CompletedProcess(line, process.returncode, out)


@pytest.fixture(scope="module", autouse=True)
def guest() -> None:
    """Start a guest that does nothing, so that what is missing is said once."""
    done = run(str(HERE / "run"), "--", "true")
    if done.returncode == NO_GUEST and not os.environ.get("CI"):
        pytest.skip(f"no guest can be had here: {done.stdout.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stdout


# Two run at a time: what takes longest comes first.
STOCK = (
    *("5.10-quick", "6.12-quick", "7-quick", "arm64-16k-quick", "6.12-numa-pti-quick"),
    *("6.12-integrity-quick", "6.12-locked-quick", "6.12-locked-later-quick", "5.10-cgroup-v1-quick"),
)


@pytest.mark.parametrize("name", STOCK)
def test_stock_kernel(name: str, record_property: Callable[[str, object], None]) -> None:
    done = run(str(HERE / "matrix.py"), name)
    for line in done.stdout.splitlines():
        if "NOT THE NEWEST" in line:
            record_property(TO_SAY, line)
    assert done.returncode == 0, done.stdout


def test_own_kernel() -> None:
    done = run(str(HERE / "matrix.py"), "own-quick")
    if "the own kernel is not built" in done.stdout:
        pytest.skip("NOTHING RAN ON THE OWN KERNEL, WHICH IS NOT BUILT: make guest-kernel (10 to 20 minutes)")
    assert done.returncode == 0, done.stdout


HEADERS = """
import sys
sys.path.insert(0, sys.argv[1])
from kernels import fetch, fetch_headers
print(fetch_headers(fetch("6.12")).build)
"""


def test_dkms_builds_the_module(tmp_path: Path) -> None:
    done = run("-c", HEADERS, str(HERE))
    assert done.returncode == 0, done.stdout
    source = HERE.parents[1] / "native" / "kmod"
    # As dkms does: a copy in its tree, the settings read by a shell, and their commands run.
    version = "1"
    folder = tmp_path / "mematlas" / version / "build"
    shutil.copytree(source, folder)
    script = '. ./dkms.conf && eval "${MAKE[0]}" >&2 && echo "$PACKAGE_NAME $PACKAGE_VERSION ${BUILT_MODULE_NAME[0]}"'
    settings = {"kernel_source_dir": done.stdout.split()[-1], "dkms_tree": str(tmp_path), "KERNELRELEASE": "6.12"}
    built = subprocess.run(
        ["bash", "-c", script], cwd=folder, env={**os.environ, **settings}, capture_output=True, text=True, check=False
    )
    assert built.stdout == f"mematlas {version} mematlas\n", built.stderr
    assert f"\0version={version}\0".encode() in (folder / "mematlas.ko").read_bytes()


def test_exit_code_and_output_come_back() -> None:
    done = run(
        str(HERE / "run"), "--kernel", "6.1", "--levels", "4", "--", "sh", "-c", "echo out; echo err >&2; exit 7"
    )
    assert done.returncode == 7
    assert {"out", "err"} <= set(done.stdout.splitlines())


def test_a_complaint_of_the_kernel_fails_the_run() -> None:
    done = run(str(HERE / "run"), "--", "sh", "-c", "echo '<4>BUG: made up' >/dev/kmsg")
    assert done.returncode == 125
    assert "BUG: made up" in done.stdout


def test_a_run_that_leaves_no_result_fails() -> None:
    done = run(str(HERE / "run"), "--", "sh", "-c", "echo b >/proc/sysrq-trigger; sleep 60")
    assert done.returncode == 125
    assert "no result; the console ends with" in done.stdout


def test_a_run_that_takes_too_long_is_ended() -> None:
    done = run(str(HERE / "run"), "--timeout", "20", "--", "sleep", "600")
    assert done.returncode == 125
    assert "killed" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_leaves_no_machine(number: signal.Signals) -> None:
    line = [sys.executable, str(HERE / "run"), "--", "sh", "-c", "echo ready; sleep 600"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        machines = children(process.pid)
        assert len(machines) == 1
        folder = folder_of(machines[0])
        process.send_signal(number)
        process.wait(60)
        wait_until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in machines), "the machine ends")
    finally:
        process.kill()
        process.communicate()
    if number == signal.SIGKILL:
        # What could not be removed then is removed by the next run.
        assert run(str(HERE / "run"), "--", "true").returncode == 0
    assert not folder.exists()


def folder_of(machine: int) -> Path:
    """Return the folder of the run that a machine is of: its console is a file there."""
    words = Path(f"/proc/{machine}/cmdline").read_text().split("\0")
    folder = Path(next(word.removeprefix("file:") for word in words if word.startswith("file:"))).parent
    assert folder.parent == CACHE
    assert folder.is_dir()
    return folder


def children(parent: int) -> list[int]:
    """Return the processes that a process has started."""
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [pid for pid in pids if parent_of(pid) == parent]


def parent_of(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(") ")[2].split()[1])
    except OSError:
        return None
