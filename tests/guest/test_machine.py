"""What the runner of guests makes of a console, a host and a path; needs no guest."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import archive
import cache as cache_module
import foreign
import kernels
import machine
import module
from architectures import ARM64, X86_64, Architecture
from archive import Archive
from cache import Unavailable
from inside import watches_locks
from kernels import Kernel, Offer
from machine import complaints_in
from matrix import MATRIX, THE_SAME_EVERYWHERE

COMPLAINTS = (
    "WARNING: CPU: 1 PID: 99 at mm/memory.c:123 copy+0x1/0x2",
    "WARNING: mm/memory.c:123 at copy+0x1/0x2, CPU#0: python/99",
    "WARNING: possible circular locking dependency detected",
    "WARNING: suspicious RCU usage",
    "WARNING: lock held when returning to user space!",
    "WARNING: bad unlock balance detected!",
    "WARNING: inconsistent lock state",
    "WARNING: held lock freed!",
    "WARNING: python/99 still has locks held!",
    "WARNING: SOFTIRQ-safe -> SOFTIRQ-unsafe lock order detected",
    "refcount_t: underflow; use-after-free.",
    "INFO: trying to register non-static key.",
    "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
    "rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 1-... } 99 jiffies s: 9 root: 0x2/.",
    "rcu: INFO: rcu_preempt self-detected stall on CPU",
    "INFO: task python:99 blocked for more than 120 seconds.",
    "list_del corruption. prev->next should be 0, but was 1",
    "BUG: kernel NULL pointer dereference, address: 0000000000000008",
    "kernel BUG at mm/memory.c:123!",
    "Oops: 0000 [#1] PREEMPT SMP PTI",
    "Kernel panic - not syncing: Fatal exception",
    "python[99]: segfault at 8 ip 0000000000401000 sp 00007ffc00000000 error 4 in python[400000+1000]",
)
HARMLESS = (
    "Linux version 6.12.1 (gcc 12) #1 SMP PREEMPT_DYNAMIC",
    "Spectre V2 : WARNING: Unprivileged eBPF is enabled with eIBRS on, data leaks possible via Spectre v2 BHB attacks!",
    "RETBleed: WARNING: Spectre v2 mitigation leaves CPU vulnerable to RETBleed attacks, data leaks possible!",
    "mematlas: loading out-of-tree module taints kernel.",
    "Memory failure: 0x12345: recovery action for dirty LRU page: Recovered",
)


@pytest.mark.parametrize("line", COMPLAINTS)
def test_a_line_that_says_what_went_wrong_is_a_complaint(line: str) -> None:
    assert complaints_in(f"[    1.000000] {line}\n") == [f"[    1.000000] {line}"]


@pytest.mark.parametrize("line", HARMLESS)
def test_a_line_that_says_nothing_of_the_kind_is_none(line: str) -> None:
    assert complaints_in(f"[    1.000000] {line}\n") == []


KERNEL = Kernel("6.12", "6.12.1-test", Path("image"), Path("config"), None, None)


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for place in (cache_module, archive, kernels, machine):
        monkeypatch.setattr(place, "CACHE", tmp_path)
    return tmp_path


class FakeArchive(Archive):
    """An archive whose lists name some kernels, of which it has some; new lists name others."""

    def __init__(self, listed: str, there: str, updated: str) -> None:
        super().__init__("amd64", ("bookworm-security",))
        self.listed, self.there, self.updated = listed, there, updated
        self.nr_updates = 0
        self.folder.mkdir(parents=True)
        (self.folder / "updated").touch()

    def lines(self) -> list[str]:
        return ["deb file:/mirror bookworm-security main"]

    def unpack(
        self,
        packages: list[str],
        folder: Path,
        finish: Callable[[Path], None] | None = None,
        with_needed: bool = False,
    ) -> None:
        if packages != [f"linux-image-{self.there}"]:
            raise Unavailable("404 Not Found")
        folder.mkdir(parents=True)

    def _apt(self, program: str, *words: str, cwd: Path | None = None) -> str:
        if words[0] == "search":
            return f"linux-image-{self.listed} - Linux\n" if self.listed else ""
        if words[0] == "update":
            self.nr_updates += 1
            self.listed = self.updated
        return ""


@pytest.fixture
def make_archive(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeArchive]:
    """Return a function that makes the archive of Linux 6.12."""

    def make(listed: str, there: str, updated: str) -> FakeArchive:
        made = FakeArchive(listed, there, updated)
        monkeypatch.setattr(kernels, "archive_of", lambda *_: made)
        return made

    return make


OLD, NEW = "6.12.9+deb12-amd64", "6.12.10+deb12-amd64"


def test_a_point_release_that_left_the_archive_is_looked_up_anew(make_archive: Callable[..., FakeArchive]) -> None:
    archive = make_archive(listed=OLD, there=NEW, updated=NEW)
    assert kernels.fetch("6.12").release == NEW
    assert archive.nr_updates == 1


@pytest.mark.parametrize("listed", ["", NEW])
def test_without_an_archive_the_newest_of_the_cache_is_taken_loudly(
    listed: str, cache: Path, make_archive: Callable[..., FakeArchive], capsys: pytest.CaptureFixture[str]
) -> None:
    archive = make_archive(listed=listed, there="", updated=listed)
    with pytest.raises(Unavailable):
        kernels.fetch("6.12")
    for release in (OLD, "6.12.8+deb12-amd64", "6.1.0-50-amd64"):
        (cache / release / "image").mkdir(parents=True)
    assert kernels.fetch("6.12").release == OLD
    assert f"NOT THE NEWEST 6.12, BUT {OLD} FROM THE CACHE" in capsys.readouterr().err
    assert archive.nr_updates == 1


def test_lists_of_packages_are_fetched_when_they_are_old(cache: Path, make_archive: Callable[..., FakeArchive]) -> None:
    archive = make_archive(listed=OLD, there=NEW, updated=NEW)
    os.utime(archive.folder / "updated", (1, 1))
    assert kernels.fetch("6.12").release == NEW
    assert archive.nr_updates == 1
    assert (archive.folder / "updated").stat().st_mtime > 1


def test_older_point_releases_leave_the_cache(cache: Path, make_archive: Callable[..., FakeArchive]) -> None:
    others = ("6.1.0-50-amd64", "6.12.9+deb12-arm64", "6.12.9+deb12-arm64-16k")
    for release in (OLD, *others):
        (cache / release / "image").mkdir(parents=True)
    make_archive(listed=NEW, there=NEW, updated=NEW)
    assert kernels.fetch("6.12").release == NEW
    assert {path.parent.name for path in cache.glob("*/image")} == {NEW, *others}


@pytest.mark.parametrize(
    ("key", "architecture", "page_size", "names", "newest"),
    [
        ("7", X86_64, "4k", ("7.2.13+deb14-amd64", "7.3.4+deb13-amd64", "7.3.4-amd64"), "7.3.4+deb13-amd64"),
        ("7", X86_64, "4k", ("7.9.1+deb13-amd64", "7.10.1-amd64", "7.10.1-cloud-amd64"), "7.10.1-amd64"),
        ("7", ARM64, "16k", ("7.3.4+deb13-arm64", "7.2.6+deb13-arm64-16k"), "7.2.6+deb13-arm64-16k"),
        ("6.12", ARM64, "4k", ("6.12.100+deb12-arm64-unsigned", "6.12.99+deb12-arm64"), "6.12.99+deb12-arm64"),
        ("5.10", X86_64, "4k", ("5.10.0-9-amd64", "5.10.0-10-amd64", "5.10.0-11-rt-amd64"), "5.10.0-10-amd64"),
    ],
)
def test_the_newest_of_a_kind_is_chosen(
    key: str, architecture: Architecture, page_size: str, names: tuple[str, ...], newest: str
) -> None:
    assert Offer(key, architecture, page_size).newest([f"linux-image-{name}" for name in names]) == newest


@pytest.mark.parametrize("place", ["boot", "usr/lib/modules"])
def test_a_kernel_is_found_where_its_release_of_debian_puts_it(place: str, cache: Path) -> None:
    folder = cache / NEW / "image" / place
    names = [f"{name}-{NEW}" for name in ("vmlinuz", "config")]
    if place != "boot":
        folder, names = folder / NEW, ["vmlinuz", "config"]
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).touch()
    kernel = Offer("6.12").unpacked(NEW)
    assert [kernel.image, kernel.config] == [folder / name for name in names]


@pytest.mark.parametrize("is_known", [True, False])
def test_mirrors_are_those_of_the_machine(is_known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image may come with the lists of some of its sources alone."""
    told = ["Debian http://m/debian/ sid\nOther http://o/ sid\n"]

    def answer(*words: str) -> str:
        if words[:2] == ("apt-get", "update"):
            told[0] += "Debian http://m/security/ trixie-security\n"
        return told[0]

    if is_known:
        answer("apt-get", "update")
    monkeypatch.setattr(archive, "run", answer)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(archive, "KEYS", Path("/none"))
    lines = Archive("arm64", ("bookworm", "bookworm-security")).lines()
    assert lines == ["deb http://m/debian/ bookworm main", "deb http://m/security/ bookworm-security main"]


@pytest.mark.parametrize(("levels", "flags", "works"), [(5, {"fpu"}, False), (4, {"fpu"}, True), (5, {"la57"}, True)])
def test_kvm_is_used_for_the_levels_that_the_host_has(
    levels: int, flags: set[str], works: bool, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    (cache / f"kvm-{KERNEL.release}").write_text(f"{boot} yes\n")
    monkeypatch.setattr(machine, "kvm_is_there", lambda: True)
    monkeypatch.setattr(machine, "processor_flags", lambda: flags)
    assert machine.kvm_works(KERNEL, levels) == works


@pytest.mark.parametrize("text", ["", "x", "x yes", "yes", "a b c"])
def test_half_an_answer_about_kvm_is_none(text: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache / f"kvm-{KERNEL.release}").write_text(text)
    monkeypatch.setattr(machine, "qemu_words", lambda *_: ["true"])
    assert not machine.kvm_boots(KERNEL)
    assert (cache / f"kvm-{KERNEL.release}").read_text().endswith(" no\n")
    assert sorted(path.name for path in cache.iterdir()) == [f"kvm-{KERNEL.release}", "lock"]


@pytest.mark.parametrize("folder", ["/dev", "/proc/self", "/sys/kernel"])
def test_a_folder_that_the_guest_has_not_is_named(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(Unavailable, match="sees nothing of the host's"):
        machine.visible_folder()


def test_a_guest_with_another_processor_sees_the_checkout_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/usr")
    assert machine.visible_folder() == Path("/usr")
    with pytest.raises(Unavailable, match="another processor sees"):
        machine.visible_folder(native=False)


@pytest.mark.parametrize(
    ("architecture", "page_size", "is_there"), [(ARM64, "16k", True), (X86_64, "16k", False), (ARM64, "64k", False)]
)
def test_what_debian_does_not_build_is_said(
    architecture: Architecture, page_size: str, is_there: bool, make_archive: Callable[..., FakeArchive]
) -> None:
    release = "6.12.9+deb12-arm64-16k"
    make_archive(listed=release, there=release, updated=release)
    if is_there:
        assert kernels.fetch("6.12", architecture, page_size).page_size == "16k"
    else:
        with pytest.raises(Unavailable, match=f"no kernel 6.12 of {architecture.name} with pages of {page_size}"):
            kernels.fetch("6.12", architecture, page_size)


def test_what_is_compiled_for_the_host_is_no_package_of_another_processor(tmp_path: Path) -> None:
    for name, pure in (("words", "true"), ("numbers", "false")):
        info = tmp_path / f"{name}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (info / "WHEEL").write_text(f"Wheel-Version: 1.0\nRoot-Is-Purelib: {pure}\n")
        files = (f"{name}/__init__.py", f"../../../bin/{name}", f"{info.name}/WHEEL")
        (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    assert foreign.pure_names(tmp_path) == {"words", "words-1.dist-info"}


def test_an_interrupted_unpacking_leaves_no_folder(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(part: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(archive, "run", lambda *_, **__: "")
    with pytest.raises(KeyboardInterrupt):
        Archive("amd64", ("sid",)).unpack(["linux-headers"], cache / "headers", interrupt)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("name", ["a b", "a:b"])
def test_a_path_that_kbuild_refuses_is_named(name: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CACHE", cache / name)
    with pytest.raises(Unavailable, match="no path with a space or a colon"):
        module.build(KERNEL)


def test_headers_of_another_place_are_other_headers(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = kernels.headers_folder("6.12.1")
    monkeypatch.setattr(kernels, "CACHE", cache / "moved")
    assert kernels.headers_folder("6.12.1").name != here.name


def test_headers_name_the_folder_where_they_will_be(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("include /usr/src/linux-headers-common/Makefile\n")
    (tmp_path / "scripts").symlink_to("/usr/lib/linux-kbuild/scripts")
    kernels.relocate(Path("/there"), tmp_path)
    assert (tmp_path / "Makefile").read_text() == "include /there/usr/src/linux-headers-common/Makefile\n"
    assert os.readlink(tmp_path / "scripts") == "/there/usr/lib/linux-kbuild/scripts"


def test_runs_name_tests_that_are_there() -> None:
    named = {word for run in MATRIX for word in (*run.tests, *THE_SAME_EVERYWHERE) if "/" in word}
    paths = {word.removeprefix("--ignore=").removeprefix("tests/") for word in named}
    assert [path for path in sorted(paths) if not (cache_module.ROOT / "tests" / path).exists()] == []


@pytest.mark.parametrize(("line", "watches"), [(" debug_locks:                             1\n", True), ("", False)])
def test_a_kernel_that_stopped_watching_its_locks_is_known(line: str, watches: bool, tmp_path: Path) -> None:
    (tmp_path / "off").write_text(" lock-classes: 2000\n debug_locks:                             0\n")
    (tmp_path / "stats").write_text(" lock-classes: 2000\n" + line + " max locking depth: 15\n")
    assert watches_locks(str(tmp_path / "stats")) == watches
    assert not watches_locks(str(tmp_path / "off"))


TORN = "guest: up\n[   29.441268] Code: 0f 1f 44 00 00 0f <1f> 44 00 00 49 8d\nKernel panic - not syncing"


@pytest.mark.parametrize(
    ("console", "accelerated", "nr_runs"),
    [(TORN, False, 2), (TORN, True, 1), (TORN.replace("<1f>", "1f"), False, 1), ("", False, 2)],
)
def test_what_the_emulator_broke_is_run_once_more_and_nothing_else(
    console: str, accelerated: bool, nr_runs: int, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = machine.Guest(KERNEL, machine.Settings())
    runs: list[list[str]] = []

    def run(command: list[str], timeout: float) -> machine.Result:
        runs.append(command)
        return machine.Result(machine.NO_RESULT, 0, "no result")

    monkeypatch.setattr(machine, "kvm_works", lambda kernel, levels: accelerated)
    monkeypatch.setattr(guest, "_run", run)
    monkeypatch.setattr(guest, "_console", lambda: console)
    assert guest.run(["true"], 1).code == machine.NO_RESULT
    assert len(runs) == nr_runs
    guest.close()
