"""doctor tells what works, by trying it: as root, as nobody, with single rights; and it leaves nothing behind."""

from __future__ import annotations

import errno
import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import Outcome, missing_right
from helpers import children, texts
from mematlas.cli import main
from mematlas.cli.doctor import REFUSED, detail_of
from mematlas.doctor.bench import LACKS, NEEDED, UNKNOWN, WORKS, Bench, Missing, chosen
from mematlas.doctor.features import PROBES, Feature, Probe, find_features, run
from mematlas.errors import NotSupported, PermissionDenied
from mematlas.kernel.pagemap import Scanner

Rows = dict[str, dict[str, Any]]
SETTINGS = (
    "/proc/swaps",
    "/proc/sys/vm/nr_hugepages",
    "/sys/kernel/mm/ksm/run",
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/module/zswap/parameters/enabled",
)
KEYS = (
    (["CAP_SYS_ADMIN"], "frame numbers"),
    (["CAP_DAC_READ_SEARCH"], "kpagecount"),
    (["CAP_DAC_READ_SEARCH"], "kpageflags"),
    (["CAP_SYS_NICE"], "process_madvise COLD"),
    (["CAP_CHECKPOINT_RESTORE"], "/proc/PID/map_files"),
    (["CAP_PERFMON"], "perf page faults, all"),
    (["CAP_BPF", "CAP_PERFMON"], "BPF"),
)
"""Which right opens what."""


def by_interface(text: str) -> Rows:
    """Return the rows of the JSON form, by interface."""
    result = json.loads(text)
    assert result["schema"] == "mematlas.doctor/1"
    return {row["interface"]: row for row in result["rows"]}


@pytest.fixture
def rows(capsys: pytest.CaptureFixture[str]) -> Rows:
    """Return what doctor says to us."""
    assert main(["doctor", "--json"]) == 0
    return by_interface(capsys.readouterr().out)


def test_every_interface_has_one_row_with_a_state(rows: Rows) -> None:
    assert list(rows) == [probe.interface for probe in PROBES]
    assert {row["status"] for row in rows.values()} <= {WORKS, NEEDED, LACKS, UNKNOWN}
    assert all(list(row) == ["interface", "status", "gives", "detail"] for row in rows.values())


def test_what_does_not_work_says_what_is_missing(rows: Rows) -> None:
    assert [row for row in rows.values() if row["status"] != WORKS and not row["detail"]] == []


def test_one_s_own_files_work(rows: Rows) -> None:
    for name in ("maps", "smaps", "pagemap", "status VmPTE"):
        assert rows[f"/proc/PID/{name}"]["status"] == WORKS


def test_options_that_the_kernel_lacks_are_not_in_its_configuration(rows: Rows) -> None:
    path = Path("/proc/config.gz")
    if not path.exists():
        pytest.skip("needs CONFIG_IKCONFIG_PROC")
    lines = gzip.decompress(path.read_bytes()).decode().split("\n")
    built = {line.partition("=")[0] for line in lines if line.startswith("CONFIG_")}
    for row in rows.values():
        options = {word.strip(",") for word in (row["detail"] or "").split() if word.startswith("CONFIG_")}
        if row["status"] == LACKS and options:
            assert not options <= built, row


# Categories of PAGEMAP_SCAN


def probe_of(interface: str) -> Probe:
    return next(probe for probe in PROBES if probe.interface == interface)


CATEGORIES = [probe.interface for probe in PROBES if probe.interface.startswith("PAGEMAP_SCAN ")]


@pytest.mark.parametrize("interface", CATEGORIES)
def test_a_category_that_finds_nothing_does_not_just_work(interface: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scanner, "first", lambda *_: None)
    with Bench() as bench:
        status, detail = run(probe_of(interface), bench)
    assert status == LACKS or (detail or "").startswith("accepted, not seen: ")


def test_soft_dirty_is_a_category_only_where_there_are_such_bits(rows: Rows) -> None:
    if rows["soft-dirty bits"]["status"] != WORKS:
        assert rows["PAGEMAP_SCAN SOFT_DIRTY"]["status"] == LACKS


def test_zero_and_guard_pages_of_our_own_are_found(rows: Rows) -> None:
    for name in ("PRESENT", "FILE", "PFNZERO", "GUARD"):
        row = rows[f"PAGEMAP_SCAN {name}"]
        assert row["status"] == LACKS or row["detail"] is None


def test_a_swapped_page_is_seen_where_there_is_swap(swap: Path, rows: Rows) -> None:
    row = rows["PAGEMAP_SCAN SWAPPED"]
    assert row["status"] == LACKS or row["detail"] is None


# Rights


def test_memory_of_one_s_own_is_really_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mematlas.doctor.probes.read_memory_from_child", lambda bench: errno.EPERM)
    with Bench() as bench:
        status, detail = run(probe_of("ptrace of one's own"), bench)
    assert (status == WORKS, bool(detail)) == (False, True)


def test_what_is_refused_in_spite_of_the_right_is_said_so() -> None:
    feature = Feature("PID 1", NEEDED, "", "CAP_SYS_PTRACE for maps")
    missing: set[str] = set()
    assert detail_of(feature, frozenset(["CAP_SYS_PTRACE"]), missing) == REFUSED
    assert (detail_of(feature, frozenset(), missing), missing) == (feature.detail, {"CAP_SYS_PTRACE"})


@pytest.mark.root("CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH", "CAP_SYS_NICE")
def test_root_sees_frames_and_advises_others(rows: Rows) -> None:
    for name in ("frame numbers", "kpagecount", "kpageflags", "process_madvise COLD"):
        assert rows[name]["status"] == WORKS


def test_nobody_is_told_each_right_and_once_how_to_get_it(as_nobody: Callable[..., Outcome]) -> None:
    outcome = as_nobody(["doctor", "--json"])
    assert (outcome.code, outcome.stderr) == (0, "")
    rows = by_interface(outcome.stdout)
    for rights, interface in KEYS:
        row = rows[interface]
        if row["status"] == LACKS:
            continue
        assert row["status"] == NEEDED
        assert row["detail"].partition(", or: ")[0] == (rights_on_debian(interface) or " and ".join(rights))
    notes = texts(json.loads(outcome.stdout)["notes"])
    assert ["sudo -- " in note and note.endswith(" COMMAND") for note in notes].count(True) == 1
    assert sum("setpriv" in note and "+sys_ptrace" in note for note in notes) == 1
    assert rows["/proc/PID/pagemap"]["status"] == WORKS


@pytest.mark.parametrize(("rights", "interface"), KEYS, ids=[interface for _, interface in KEYS])
def test_a_right_opens_its_interface(rights: list[str], interface: str, as_nobody: Callable[..., Outcome]) -> None:
    if why := missing_right(*rights):
        pytest.skip(why)
    row = by_interface(as_nobody(["doctor", "--json"], caps=rights).stdout)[interface]
    if row["status"] == LACKS:
        pytest.skip(f"needs {row['detail']}")
    if more := rights_on_debian(interface):
        assert (row["status"], row["detail"].partition(",")[0]) == (NEEDED, more)
        row = by_interface(as_nobody(["doctor", "--json"], caps=[more]).stdout)[interface]
    assert row["status"] == WORKS


def rights_on_debian(interface: str) -> str | None:
    """Return the right that is asked for instead, by kernels that know stricter settings than upstream."""
    stricter = int(Path("/proc/sys/kernel/perf_event_paranoid").read_text()) > 2
    return "CAP_SYS_ADMIN" if stricter and interface.startswith("perf") else None


@pytest.mark.parametrize(
    ("interface", "paranoid", "detail"),
    [
        ("perf page faults", 3, "CAP_SYS_ADMIN, or: sudo sysctl kernel.perf_event_paranoid=2"),
        ("perf page faults, all", 3, "CAP_SYS_ADMIN, or: sudo sysctl kernel.perf_event_paranoid=0"),
        ("perf page faults, all", 2, "CAP_PERFMON"),
        ("perf page faults, all", None, "CAP_PERFMON"),
    ],
)
def test_perf_says_which_setting_would_be_enough(
    interface: str, paranoid: int | None, detail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "perf_event_open")

    def setting(path: str) -> int:
        if paranoid is None:
            raise PermissionError(errno.EACCES, path)
        return paranoid

    monkeypatch.setattr(Bench, "system_call", refuse)
    monkeypatch.setattr("mematlas.doctor.probes.read_number", setting)
    with Bench() as bench:
        assert run(probe_of(interface), bench) == (NEEDED, detail)


def test_a_lockdown_that_may_not_be_read_is_not_none(
    tmp_path: Path, as_nobody: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    monkeypatch.setattr("mematlas.doctor.probes.LOCKDOWN_PATH", f"{tmp_path}/closed/lockdown")

    def look() -> tuple[str, str | None]:
        with Bench() as bench:
            return run(probe_of("no lockdown"), bench)

    assert as_nobody(look).value[0] == NEEDED


def test_nobody_may_not_read_the_processes_of_others(as_nobody: Callable[..., Outcome]) -> None:
    row = by_interface(as_nobody(["doctor", "--json"]).stdout)["other users' processes"]
    assert row["status"] == NEEDED
    assert row["detail"].startswith("CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH for maps, smaps, pagemap")


def test_a_right_for_some_files_names_the_others(as_nobody: Callable[..., Outcome]) -> None:
    if why := missing_right("CAP_SYS_PTRACE"):
        pytest.skip(why)
    row = by_interface(as_nobody(["doctor", "--json"], caps=["CAP_SYS_PTRACE"]).stdout)["other users' processes"]
    assert row["status"] == NEEDED
    assert "for pagemap, though not maps and smaps" in row["detail"]


def test_nothing_is_left_behind(capsys: pytest.CaptureFixture[str]) -> None:
    def state() -> tuple[object, ...]:
        with open("/proc/self/maps") as file:
            memfds = sum("memfd:mematlas" in line or "map_files" in line for line in file)
        settings = [Path(path).read_text() for path in SETTINGS[1:] if Path(path).exists()]
        return len(os.listdir("/proc/self/fd")), memfds, settings

    # Other tests have children of their own, and those of a module live on.
    before, born = state(), children()
    assert main(["doctor"]) == 0
    assert state() == before
    assert children() <= born


def test_it_is_quick_and_does_without_numpy() -> None:
    code = "import sys; from mematlas.cli import main; main(['doctor']); sys.exit('numpy' in sys.modules)"
    before = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0
    assert all(line.startswith(b"note: ") for line in done.stderr.splitlines())  # what would give the rights we lack
    assert time.perf_counter() - before < 5  # 0.06 s when nothing else runs


# What an error means


def outcome(error: Exception) -> tuple[str, str | None]:
    def fail(bench: Bench) -> str | None:
        raise error

    with Bench() as bench:
        return run(Probe("made up", "nothing", "CAP_X", "CONFIG_X", fail), bench)


@pytest.mark.parametrize("code", [errno.EPERM, errno.EACCES])
def test_a_refusal_is_a_missing_right(code: int) -> None:
    assert outcome(OSError(code, "")) == (NEEDED, "CAP_X")


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.ENOENT, errno.ENOTTY])
def test_any_other_error_is_a_kernel_without_it(code: int) -> None:
    assert outcome(OSError(code, "")) == (LACKS, "CONFIG_X")


def test_errors_of_ours_mean_the_same() -> None:
    assert outcome(PermissionDenied("/proc/x")) == (NEEDED, "CAP_X")
    assert outcome(NotSupported("x")) == (LACKS, "CONFIG_X")


def test_a_probe_may_know_better() -> None:
    assert outcome(Missing(NEEDED, "echo 1 | sudo tee x")) == (NEEDED, "echo 1 | sudo tee x")


def test_features_are_found_without_the_command_line() -> None:
    features = list(find_features())
    assert features[0].interface == "/proc/PID/maps"
    assert features[0].status == WORKS


def test_the_choice_of_a_setting_stands_in_brackets() -> None:
    assert chosen("none [integrity] confidentiality") == "integrity"
