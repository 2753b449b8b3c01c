"""The one opener of /proc: identities, refusals, and directories in its place."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from helpers import make_process, program
from mematlas.errors import (
    Error,
    FormatError,
    NotSupported,
    PermissionDenied,
    ProcessGone,
    TargetNotFound,
)
from mematlas.kernel.directory import NEEDS, translate_error
from mematlas.kernel.packed import PackedFile, write_packed
from mematlas.kernel.procfs import ProcFS
from mematlas.kernel.rights import CAPABILITIES
from mematlas.kernel.status import read_stat
from mematlas.kernel.vmfile import find_files

QUIET = "import sys; print(1, flush=True)"


def make_capture(root: Path, **more: object) -> ProcFS:
    make_process(root)
    (root / "machine.json").write_text(json.dumps({"page_size": 65536, **more}))
    return ProcFS(str(root))


def test_live_proc_lists_us() -> None:
    procfs = ProcFS()

    assert procfs.live
    assert procfs.page_size == os.sysconf("SC_PAGESIZE")
    assert os.getpid() in procfs.pids()
    assert repr(procfs) == f"ProcFS('/proc', page_size={procfs.page_size})"


def test_capture_says_its_page_size_and_reads_packed_files(tmp_path: Path) -> None:
    procfs = make_capture(tmp_path)
    with open(tmp_path / "7" / "pagemap.packed", "wb") as file:
        write_packed(file, [(8, b"12345678")])

    assert (procfs.live, procfs.page_size, procfs.pids()) == (False, 65536, [7])
    with procfs.process(7) as process:
        assert isinstance(process.open("pagemap"), PackedFile)
        with pytest.raises(NotSupported):
            process.open("other")


def test_machine_file_that_is_no_json_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "machine.json").write_text("{")

    with pytest.raises(FormatError, match=r"machine\.json"):
        ProcFS(str(tmp_path))


@pytest.mark.parametrize(
    "text",
    [
        *("{}", "[]", "5", "null", '"x"', "[" * 100_000),
        *(f'{{"page_size": {size}}}' for size in ('"x"', "0", "-4096", "256", "4095", "4096.0", "true", str(1 << 80))),
        *(f'{{"page_size": 4096, "devices": {value}}}' for value in ("5", "{}", '{"shmem": [1], "hugetlb": []}')),
        *(f'{{"page_size": 4096, "huge_size": {size}}}' for size in ('"x"', "0", "5", "true", str(1 << 80))),
        *(f'{{"page_size": 4096, "kinds": {value}}}' for value in ("5", '{"00:01 7": "heap"}', '{"00:01 7": 5}')),
        '{"page_size": 4096, "hidden": [5]}',
        '{"page_size": 4096, "paths": []}',
        '{"page_size": 4096, "unknown_backings": {"1000-2000": 5}}',
    ],
    ids=lambda text: text[:40],
)
def test_machine_file_of_a_stranger_is_checked(text: str, tmp_path: Path) -> None:
    (tmp_path / "machine.json").write_text(text)

    with pytest.raises(FormatError, match=r"machine\.json"):
        ProcFS(str(tmp_path))


def test_machine_file_without_devices_is_an_error_once_they_are_asked_for(tmp_path: Path) -> None:
    with make_capture(tmp_path).process(7) as process, pytest.raises(FormatError, match=r"machine\.json.*devices"):
        find_files(process)


@pytest.mark.parametrize("name", ["stat", "smaps", "pagemap"])
def test_file_that_a_capture_lacks_is_said_to_be_missing_in_it(name: str, tmp_path: Path) -> None:
    procfs = make_capture(tmp_path)
    (tmp_path / "7" / name).unlink(missing_ok=True)

    with procfs.process(7) as process, pytest.raises(NotSupported, match=f"the capture does not hold .*/7/{name}$"):
        process.open(name) if name == "pagemap" else process.read(name)
    with pytest.raises(NotSupported, match=r"the capture does not hold .*/swaps$"):
        procfs.read("swaps")


def test_page_size_can_be_given(tmp_path: Path) -> None:
    assert ProcFS(str(tmp_path), 16384).page_size == 16384


def test_process_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotSupported, match="needs proc mounted there"):
        ProcFS(str(tmp_path)).process(7)
    (tmp_path / "self").mkdir()
    with pytest.raises(TargetNotFound, match="no process 7"):
        ProcFS(str(tmp_path)).process(7)
    with pytest.raises(TargetNotFound):
        ProcFS(str(tmp_path / "none")).pids()
    (tmp_path / "8").write_text("a file")
    with pytest.raises(TargetNotFound):
        ProcFS(str(tmp_path)).process(8)


def test_process_that_ended_answers_gone_for_every_file() -> None:
    with program(QUIET) as target, ProcFS().process(target.pid) as process:
        word_file = process.open("pagemap")
        assert read_stat(process).pid == target.pid
        target.kill()
        for name in ("maps", "smaps", "stat", "status", "pagemap", "no such file"):
            with pytest.raises(ProcessGone):
                process.read(name)
        with pytest.raises(ProcessGone):
            process.readlink("exe")
        assert word_file.read_into(memoryview(bytearray(8)), 0) == 0
        word_file.close()


def test_missing_file_of_a_living_process_is_a_kernel_without_it() -> None:
    with ProcFS().process(os.getpid()) as process, pytest.raises(NotSupported):
        process.read("no such file")


def test_reading_beyond_the_end_is_nothing() -> None:
    with ProcFS().process(os.getpid()) as process:
        pagemap = process.open("pagemap")
        assert pagemap.read_into(memoryview(bytearray(8)), 1 << 60) == 0
        pagemap.close()
        pagemap.close()


@pytest.mark.parametrize(
    ("code", "pid", "error"),
    [
        (errno.EACCES, 7, PermissionDenied),
        (errno.EPERM, None, PermissionDenied),
        (errno.ESRCH, 7, ProcessGone),
        (errno.ENOENT, None, NotSupported),
        (errno.EIO, 7, Error),
    ],
)
def test_each_error_of_the_kernel_becomes_one_of_ours(code: int, pid: int | None, error: type[Error]) -> None:
    made = translate_error(OSError(code, os.strerror(code)), "/proc/7/pagemap", pid)

    assert type(made) is error


@pytest.mark.parametrize("name", NEEDS)
def test_refusal_says_what_would_open_it(name: str) -> None:
    made = translate_error(OSError(errno.EACCES, ""), f"/proc/7/{name}", 7)

    assert isinstance(made, PermissionDenied)
    assert made.needs == set(NEEDS[name]) <= set(CAPABILITIES)
    assert all(right in str(made) for right in NEEDS[name])


def test_descriptors_are_closed() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with ProcFS().process(os.getpid()) as process:
            process.read("maps")
            process.open("pagemap").close()
    del process  # and with it the place that it is in
    with pytest.raises(TargetNotFound):
        ProcFS().process(0)
    assert len(os.listdir("/proc/self/fd")) == before


def test_who_has_more_processes_than_files_may_be_open_is_told_the_limit() -> None:
    error = translate_error(OSError(errno.EMFILE, ""), "/proc/4211/stat", 4211)
    assert (type(error), "ulimit -Hn" in str(error)) == (Error, True)
