"""Threads of a process, of a directory as /proc has one and of captures."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Outcome
from helpers import make_process
from mematlas.errors import FormatError, NotHeld, NotSupported, PermissionDenied, ProcessGone
from mematlas.kernel import threads
from mematlas.kernel.procfs import ProcFS
from mematlas.kernel.threads import (
    MOST_THREADS,
    Thread,
    Threads,
    get_robust_list,
    parse_syscall,
    parse_threads,
    read_threads,
    to_save,
)

WAITS = "202 0x7f01 0x80 0x0 0x0 0x0 0x0 0x7f0010 0x7f0020\n"


def make_thread(process: Path, tid: int, name: str = "main", syscall: str | None = WAITS) -> None:
    directory = process / "task" / str(tid)
    directory.mkdir(parents=True)
    (directory / "comm").write_text(f"{name}\n")
    if syscall is not None:
        (directory / "syscall").write_text(syscall)


def read(root: Path) -> Threads:
    with ProcFS(str(root)).process(7) as process:
        return read_threads(process)


def test_of_each_thread_there_is_its_name_and_its_stack_pointer(tmp_path: Path) -> None:
    process = make_process(tmp_path)
    make_thread(process, 7)
    make_thread(process, 8, "a\nb ", "-1 0x7f0050 0x7f0060\n")
    make_thread(process, 9, "runs", "running\n")

    assert sorted(read(tmp_path).threads, key=lambda thread: thread.tid) == [
        Thread(7, "main", 0x7F0010, None),
        Thread(8, "a\nb ", 0x7F0050, None),
        Thread(9, "runs", None, None),
    ]


def test_a_kernel_that_does_not_tell_stack_pointers_tells_names(tmp_path: Path) -> None:
    make_thread(make_process(tmp_path), 7, syscall=None)

    assert read(tmp_path) == Threads((Thread(7, "main", None, None),))


def test_a_thread_that_ends_meanwhile_is_left_out(tmp_path: Path) -> None:
    process = make_process(tmp_path)
    make_thread(process, 7)
    (process / "task" / "8").mkdir()

    assert [thread.tid for thread in read(tmp_path).threads] == [7]


def test_threads_beyond_the_bound_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "MOST_THREADS", 3)
    process = make_process(tmp_path)
    for tid in range(7, 12):
        make_thread(process, tid)

    found = read(tmp_path)
    assert (len(found.threads), found.nr_more) == (3, 2)


@pytest.mark.root
def test_stack_pointers_that_are_refused_are_asked_for_once(as_nobody: Callable[..., Outcome]) -> None:
    with tempfile.TemporaryDirectory(prefix="mematlas-") as name:  # what is above tmp_path is closed to others
        place = Path(name)
        place.chmod(0o755)
        process = make_process(place)
        for tid in (7, 8):
            make_thread(process, tid)
            (process / "task" / str(tid) / "syscall").chmod(0o400)

        found = as_nobody(lambda: read(place)).value

    assert [thread.stack_pointer for thread in found.threads] == [None, None]
    assert found.refused.endswith("/syscall: permission denied (needs CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH)")


def test_a_thread_that_runs_now_is_known_by_its_list_of_mutexes() -> None:
    runs, ends = threading.Event(), threading.Event()
    tids: list[int] = []

    def work() -> None:
        tids.append(threading.get_native_id())
        runs.set()
        ends.wait()

    thread = threading.Thread(target=work)
    thread.start()
    runs.wait()
    with ProcFS().process(os.getpid()) as process:
        found = {each.tid: each for each in read_threads(process).threads}
    ends.set()
    thread.join()
    if get_robust_list(os.getpid()) is None:
        pytest.skip("needs a C library that has a list of robust mutexes from the start: glibc")
    assert {os.getpid(), *tids} <= set(found)
    assert found[tids[0]].robust_list != found[os.getpid()].robust_list


def test_a_list_is_asked_for_of_threads_that_are_there_and_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProcessGone):
        get_robust_list(2**22 + 1)  # above the largest there can be
    monkeypatch.setattr(threads, "SYS_GET_ROBUST_LIST", {os.uname().machine: 9999})
    with pytest.raises(NotSupported):
        get_robust_list(os.getpid())
    monkeypatch.setattr(threads, "SYS_GET_ROBUST_LIST", {})
    with pytest.raises(NotSupported, match="a machine whose number"):
        get_robust_list(os.getpid())


@pytest.mark.root
def test_the_list_of_another_user_is_refused(as_nobody: Callable[..., Outcome]) -> None:
    def ask() -> str:
        try:
            return str(get_robust_list(pid))
        except PermissionDenied as error:
            return str(error)

    pid = os.getpid()
    assert as_nobody(ask).value == "get_robust_list: permission denied (needs CAP_SYS_PTRACE)"


@pytest.mark.parametrize("text", [b"", b"7", b"202 zz 0x1", b"-1 0x1ffffffffffffffff 0x0", b"-1 -0x1 0x0", b"x" * 9000])
def test_other_texts_of_syscall_are_an_error(text: bytes) -> None:
    with pytest.raises(FormatError, match="syscall"):
        parse_syscall(text)


def test_a_thread_that_has_ended_has_no_stack() -> None:
    assert parse_syscall(b"-1 0x0 0x0\n") == 0


# --- captures


def test_threads_are_saved_and_read_as_they_are() -> None:
    found = Threads((Thread(7, "a\udcff\n\\", None, 0x7F01), Thread(8, "", 1 << 63, None)), "refused", 5)

    assert parse_threads(to_save(found)) == found


@pytest.mark.parametrize(
    "rows",
    [
        7,
        [7],
        [[]],
        [[7, "x", 1]],
        [[7, "x", 1, 2, 3]],
        [["7", "x", 1, 2]],
        [[7, None, 1, 2]],
        [[7, "x" * 65, 1, 2]],
        [[7, "x", -1, 2]],
        [[7, "x", 1 << 64, 2]],
        [[7, "x", 1.0, 2]],
        [[True, "x", 1, 2]],
        [[7, "x", None, None]] * (MOST_THREADS + 1),
    ],
    ids=lambda rows: str(rows)[:30],
)
def test_saved_threads_that_cannot_be_are_an_error(rows: object) -> None:
    with pytest.raises(FormatError, match="threads"):
        parse_threads(json.dumps({"threads": rows, "refused": "", "nr_more": 0}).encode())


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{", b"[" * 9000, b'{"threads": []}', b'{"threads": [], "refused": 5, "nr_more": 0}']
)
def test_other_texts_of_saved_threads_are_an_error(text: bytes) -> None:
    with pytest.raises(FormatError, match="threads"):
        parse_threads(text)


def test_a_capture_without_threads_says_so(tmp_path: Path) -> None:
    make_process(tmp_path)
    (tmp_path / "machine.json").write_text('{"page_size": 4096}')

    with pytest.raises(NotHeld, match=r"does not hold .*/threads"):
        read(tmp_path)
