"""doctor tells what works, by trying it: as root, as nobody, with single rights; and it leaves nothing behind."""

from __future__ import annotations

import errno
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import Outcome, missing_right
from helpers import children, texts
from mematlas.cli import main
from mematlas.doctor import features as doctor_features
from mematlas.doctor.bench import MISSING, NEEDED, UNTRIED, WORKS, Bench, Missing, Reason, chosen, read_number
from mematlas.doctor.features import PROBES, Feature, Probe, find_features, run
from mematlas.doctor.probes import memory
from mematlas.errors import FormatError, NotSupported, PermissionDenied
from mematlas.kernel.pagemap import Scanner
from mematlas.views.doctor import TO_TYPE, detail_of

Rows = dict[str, dict[str, Any]]
SETTINGS = (
    "/proc/swaps",
    "/proc/sys/vm/nr_hugepages",
    "/sys/kernel/mm/ksm/run",
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/module/zswap/parameters/enabled",
)
KEYS = (
    (["CAP_SYS_ADMIN"], "frame-numbers"),
    (["CAP_DAC_READ_SEARCH"], "kpagecount"),
    (["CAP_DAC_READ_SEARCH"], "kpageflags"),
    (["CAP_SYS_NICE"], "madvise-cold"),
    (["CAP_CHECKPOINT_RESTORE"], "map-files"),
    (["CAP_PERFMON"], "perf-faults-all"),
    (["CAP_BPF", "CAP_PERFMON"], "bpf"),
)
"""Which right opens what."""


def by_code(text: str) -> Rows:
    """Return the rows of the JSON form, by code."""
    result = json.loads(text)
    assert result["schema"] == "mematlas.doctor/2"
    return {row["code"]: row for row in result["rows"]}


@pytest.fixture
def rows(capsys: pytest.CaptureFixture[str]) -> Rows:
    """Return what doctor says to us."""
    assert main(["doctor", "--json"]) == 0
    return by_code(capsys.readouterr().out)


def test_every_interface_has_one_row_with_a_state(rows: Rows) -> None:
    assert sorted(rows) == sorted(probe.code for probe in PROBES)
    assert {row["status"] for row in rows.values()} <= {WORKS, NEEDED, MISSING, UNTRIED}
    assert all(list(row) == ["code", "interface", "status", "gives", "needs", "detail"] for row in rows.values())


def test_what_does_not_work_says_what_is_missing(rows: Rows) -> None:
    assert [row for row in rows.values() if row["status"] != WORKS and not row["detail"]] == []


def test_one_s_own_files_work(rows: Rows) -> None:
    for code in ("maps", "smaps", "pagemap", "status-vmpte"):
        assert rows[code]["status"] == WORKS


def test_options_that_the_kernel_lacks_are_not_in_its_configuration(rows: Rows) -> None:
    path = Path("/proc/config.gz")
    if not path.exists():
        pytest.skip("needs CONFIG_IKCONFIG_PROC")
    lines = gzip.decompress(path.read_bytes()).decode().split("\n")
    built = {line.partition("=")[0] for line in lines if line.startswith("CONFIG_")}
    for row in rows.values():
        options = {word.strip(",") for word in (row["detail"] or "").split() if word.startswith("CONFIG_")}
        if row["status"] == MISSING and options:
            assert not options <= built, row


def test_where_no_page_tables_are_read_what_reads_memory_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "is_x86_64", lambda: False)
    module, bpf = state_of("module"), state_of("bpf")

    assert (module.status, detail_of(module)) == (MISSING, "x86-64")
    assert bpf.status != WORKS or "page tables of" in (detail_of(bpf) or "")


# Categories of PAGEMAP_SCAN


def state_of(code: str) -> Feature:
    """Try one interface."""
    with Bench() as bench:
        return run(next(probe for probe in PROBES if probe.code == code), bench)


CATEGORIES = [probe.code for probe in PROBES if probe.code.startswith("scan-")]


@pytest.mark.parametrize("code", CATEGORIES)
def test_a_category_that_finds_nothing_does_not_just_work(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scanner, "first", lambda *_: None)
    feature = state_of(code)
    assert feature.status == MISSING or (detail_of(feature) or "").startswith("accepted, not seen: ")


def test_soft_dirty_is_a_category_only_where_there_are_such_bits(rows: Rows) -> None:
    if rows["soft-dirty"]["status"] != WORKS:
        assert rows["scan-soft-dirty"]["status"] == MISSING


def test_zero_and_guard_pages_of_our_own_are_found(rows: Rows) -> None:
    for name in ("present", "file", "pfnzero", "guard"):
        row = rows[f"scan-{name}"]
        assert row["status"] == MISSING or row["detail"] is None


def test_a_swapped_page_is_seen_where_there_is_swap(swap: Path, rows: Rows) -> None:
    row = rows["scan-swapped"]
    assert row["status"] == MISSING or row["detail"] is None


def test_accesses_are_tracked_and_seen_or_neither(rows: Rows) -> None:
    tracked = {rows[code]["status"] for code in ("access-faults", "access-tracking", "scan-accessed")}
    assert tracked in ({WORKS}, {MISSING}) or rows["userfaultfd"]["status"] != WORKS


# What is newer than mematlas


@pytest.mark.parametrize(
    ("known", "detail"),
    [
        ((1 << 10) - 1, None),
        (1 << 12 | (1 << 9) - 1, "and a category that mematlas does not know: bit 12"),
        (1 << 63 | 1 << 10 | (1 << 9) - 1, "and 2 categories that mematlas does not know: bits 10, 63"),
    ],
)
def test_a_category_without_a_name_is_said_to_exist(
    known: int, detail: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first(self: Scanner, start: int, end: int, any_of: int) -> int:
        if any_of & ~known:
            raise NotSupported("PAGEMAP_SCAN")
        return start

    monkeypatch.setattr(Scanner, "first", first)
    feature = state_of("scan")
    assert (feature.status, detail_of(feature)) == (WORKS, detail)


def test_a_flag_without_a_name_is_said_to_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = [0x400005868] * 5000 + [1 << 43, 1 << 60 | 1 << 5]
    path = tmp_path / "kpageflags"
    path.write_bytes(b"".join(word.to_bytes(8, sys.byteorder) for word in words))
    monkeypatch.setattr(Bench, "open", lambda bench, name: bench.keep(os.open(path, os.O_RDONLY)))
    monkeypatch.setattr(os, "sysconf", lambda name: len(words))
    assert detail_of(state_of("kpageflags")) == "and 2 flags that mematlas does not know: bits 43, 60"


# Rights


def test_memory_of_one_s_own_is_really_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mematlas.doctor.probes.processes.read_memory_from_child", lambda bench: errno.EPERM)
    feature = state_of("ptrace")
    assert feature.status != WORKS
    assert detail_of(feature)


@pytest.mark.parametrize(("held", "reason"), [({"CAP_SYS_PTRACE"}, Reason("held")), (set(), None)])
def test_what_is_refused_in_spite_of_the_right_is_said_so(
    held: set[str], reason: Reason | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_features, "effective_capabilities", lambda: frozenset(held))
    assert outcome(OSError(errno.EPERM, ""), "CAP_SYS_PTRACE") == Feature("x", NEEDED, ("CAP_SYS_PTRACE",), reason)


@pytest.mark.root("CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH", "CAP_SYS_NICE")
def test_root_sees_frames_and_advises_others(rows: Rows) -> None:
    for code in ("frame-numbers", "kpagecount", "kpageflags", "madvise-cold"):
        assert rows[code]["status"] == WORKS


def test_nobody_is_told_each_right_and_once_how_to_get_it(as_nobody: Callable[..., Outcome]) -> None:
    outcome = as_nobody(["doctor", "--json"])
    assert (outcome.code, outcome.stderr) == (0, "")
    rows = by_code(outcome.stdout)
    for rights, code in KEYS:
        row = rows[code]
        if row["status"] == MISSING:
            continue
        assert row["status"] == NEEDED
        assert row["detail"].partition(", or: ")[0] == (rights_on_debian(code) or " and ".join(rights))
    notes = texts(json.loads(outcome.stdout)["notes"])
    assert ["sudo -- " in note and note.endswith(" COMMAND") for note in notes].count(True) == 1
    assert sum("setpriv" in note and "+sys_ptrace" in note for note in notes) == 1
    assert rows["pagemap"]["status"] == WORKS


@pytest.mark.parametrize(("rights", "code"), KEYS, ids=[code for _, code in KEYS])
def test_a_right_opens_its_interface(rights: list[str], code: str, as_nobody: Callable[..., Outcome]) -> None:
    if why := missing_right(*rights):
        pytest.skip(why)
    row = by_code(as_nobody(["doctor", "--json"], caps=rights).stdout)[code]
    if row["status"] == MISSING:
        pytest.skip(f"needs {row['detail']}")
    if more := rights_on_debian(code):
        assert (row["status"], row["detail"].partition(",")[0]) == (NEEDED, more)
        row = by_code(as_nobody(["doctor", "--json"], caps=[more]).stdout)[code]
    assert row["status"] == WORKS


def rights_on_debian(code: str) -> str | None:
    """Return the right that is asked for instead, by kernels that know stricter settings than upstream."""
    stricter = int(Path("/proc/sys/kernel/perf_event_paranoid").read_text()) > 2
    return "CAP_SYS_ADMIN" if stricter and code.startswith("perf") else None


@pytest.mark.parametrize(
    ("code", "paranoid", "detail"),
    [
        ("perf-faults", 3, "CAP_SYS_ADMIN, or: sudo sysctl kernel.perf_event_paranoid=2"),
        ("perf-faults-all", 3, "CAP_SYS_ADMIN, or: sudo sysctl kernel.perf_event_paranoid=0"),
        ("perf-faults-all", 2, "CAP_PERFMON"),
        ("perf-faults-all", None, "CAP_PERFMON"),
    ],
)
def test_perf_says_which_setting_would_be_enough(
    code: str, paranoid: int | None, detail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "perf_event_open")

    def setting(path: str) -> int:
        if paranoid is None:
            raise PermissionError(errno.EACCES, path)
        return paranoid

    monkeypatch.setattr(Bench, "system_call", refuse)
    monkeypatch.setattr("mematlas.doctor.probes.faults.read_number", setting)
    monkeypatch.setattr(doctor_features, "effective_capabilities", frozenset)
    feature = state_of(code)
    assert (feature.status, detail_of(feature)) == (NEEDED, detail)


def test_a_lockdown_that_may_not_be_read_is_not_none(
    tmp_path: Path, as_nobody: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    monkeypatch.setattr("mematlas.doctor.probes.memory.LOCKDOWN_PATH", f"{tmp_path}/closed/lockdown")

    def look() -> str:
        return state_of("lockdown").status

    assert as_nobody(look).value == NEEDED


def test_nobody_may_not_read_the_processes_of_others(as_nobody: Callable[..., Outcome]) -> None:
    row = by_code(as_nobody(["doctor", "--json"]).stdout)["other-users"]
    assert row["status"] == NEEDED
    assert row["detail"].startswith("CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH for maps, smaps, pagemap")


def test_a_right_for_some_files_names_the_others(as_nobody: Callable[..., Outcome]) -> None:
    if why := missing_right("CAP_SYS_PTRACE"):
        pytest.skip(why)
    row = by_code(as_nobody(["doctor", "--json"], caps=["CAP_SYS_PTRACE"]).stdout)["other-users"]
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


def test_it_does_without_numpy() -> None:
    code = "import sys; from mematlas.cli import main; main(['doctor']); sys.exit('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


# What an error means


def outcome(error: Exception, *needs: str, setting: str = "") -> Feature:
    """Return the state of an interface whose probe raises an error."""

    def fail(bench: Bench) -> Reason | None:
        raise error

    with Bench() as bench:
        return run(Probe("x", needs, ("CONFIG_X",), fail, setting), bench)


REFUSALS = (OSError(errno.EPERM, ""), OSError(errno.EACCES, ""), PermissionDenied("/proc/x"))
LACKING = Feature("x", MISSING, (), Reason("kernel", ("CONFIG_X",)))


@pytest.mark.parametrize("error", REFUSALS, ids=repr)
def test_a_refusal_is_a_missing_right_or_a_setting(error: Exception) -> None:
    assert outcome(error, "CAP_X") == Feature("x", NEEDED, ("CAP_X",), None)
    assert outcome(error, setting="perf") == Feature("x", NEEDED, (), Reason("type", ("perf",)))
    assert outcome(error) == Feature("x", NEEDED, (), Reason("root"))


def test_a_refusal_that_names_its_right_is_believed() -> None:
    assert outcome(PermissionDenied("/proc/x", "CAP_B", "CAP_A")).needs == ("CAP_A", "CAP_B")


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.ENOENT, errno.ENOTTY])
def test_any_other_error_is_a_kernel_without_it(code: int) -> None:
    assert outcome(OSError(code, "")) == outcome(NotSupported("x")) == LACKING


def test_a_probe_may_know_better() -> None:
    assert outcome(Missing(NEEDED, Reason("root"))) == Feature("x", NEEDED, (), Reason("root"))


@pytest.mark.parametrize("text", [b"", b"many\n", b"--1\n", b"1\n" + bytes(4000), "²".encode(), b"9" * 100_000])
def test_a_setting_that_is_no_number_is_named_without_a_traceback(text: bytes, tmp_path: Path) -> None:
    setting = tmp_path / "setting"
    setting.write_bytes(text)

    with pytest.raises(FormatError) as raised:
        read_number(str(setting))
    setting.write_bytes(b"-1\n")
    assert read_number(str(setting)) == -1
    feature = outcome(raised.value)
    assert (feature.status, str(setting) in (detail_of(feature) or "")) == (UNTRIED, True)


@pytest.mark.root("CAP_SYS_ADMIN")
def test_files_of_an_image_are_no_sysfs(tmp_path: Path) -> None:
    line = 'umount -l /sys && mount -t tmpfs none /sys && mkdir -p /sys/kernel/mm/transparent_hugepage && \
echo 2097152 > /sys/kernel/mm/transparent_hugepage/hpage_pmd_size && mkdir -p /sys/kernel/btf && \
echo > /sys/kernel/btf/vmlinux && exec "$0" -m mematlas doctor --json'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", line, sys.executable], capture_output=True, text=True, check=False
    )
    if any(f"{program}:" in done.stderr for program in ("unshare", "umount", "mount")):
        pytest.skip(f"needs mount namespaces: {done.stderr}")
    shown = by_code(done.stdout)
    assert shown["thp"]["detail"] == shown["btf"]["detail"] == TO_TYPE["sysfs"]


def test_a_file_of_a_sys_that_is_not_mounted_is_not_blamed_on_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    error = FileNotFoundError(errno.ENOENT, "", "/sys/kernel/btf/vmlinux")
    assert outcome(error) == LACKING
    monkeypatch.setattr(doctor_features, "has_sysfs", lambda: False)
    assert outcome(error) == Feature("x", UNTRIED, (), Reason("type", ("sysfs",)))
    assert outcome(FileNotFoundError(errno.ENOENT, "", "/proc/kcore")) == LACKING


@pytest.mark.root("CAP_SYS_ADMIN")
def test_without_sys_no_option_of_the_kernel_is_blamed_for_it(rows: Rows) -> None:
    words = ["unshare", "--mount", "sh", "-c", 'umount -l /sys && exec "$0" -m mematlas doctor --json', sys.executable]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if "unshare:" in done.stderr or "umount:" in done.stderr:
        pytest.skip(f"needs mount namespaces: {done.stderr}")
    without = by_code(done.stdout)

    assert without["btf"]["detail"] == "/sys is not mounted: sudo mount -t sysfs sysfs /sys"
    blamed = {code for code, row in without.items() if row["status"] == MISSING and rows[code]["status"] != MISSING}
    assert blamed == set()


def test_features_are_found_without_the_command_line() -> None:
    features = list(find_features())
    assert features[0] == Feature("maps", WORKS)


def test_the_choice_of_a_setting_stands_in_brackets() -> None:
    assert chosen("none [integrity] confidentiality") == "integrity"
