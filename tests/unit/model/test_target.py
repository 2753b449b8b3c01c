"""Which process a text names: one, none, or several that are listed."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import NOBODY
from helpers import Program, make_process, program
from mematlas.errors import BadInput, TargetAmbiguous, TargetNotFound
from mematlas.kernel.procfs import ProcFS
from mematlas.model import search
from mematlas.model.groups import near_names
from mematlas.model.processes import ancestors
from mematlas.model.search import candidates_of, resolve, resolve_all
from mematlas.model.target import parse_pid

NAMED = """
import ctypes, json, sys
ctypes.CDLL(None).prctl(15, sys.argv[1].strip('"').encode(), 0, 0, 0)
print(json.dumps(sys.argv[1]), flush=True)
"""
NAME = f"ma {os.getpid()} ("


@pytest.fixture(scope="module")
def two() -> Iterator[list[Program]]:
    """Two programs with the same odd name."""
    with program(NAMED, NAME) as one, program(NAMED, NAME) as other:
        yield [one, other]


@pytest.fixture(autouse=True)
def time_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """An emulated processor takes longer for the command lines than anybody should wait."""
    monkeypatch.setattr(search, "SEARCH_SECONDS", 60.0)


def pids(text: str) -> list[int]:
    return [target.pid for target in resolve_all(text, ProcFS())]


def test_pid_and_self_are_taken_as_they_are() -> None:
    assert pids(str(os.getpid())) == pids("self") == [os.getpid()]
    assert pids("0001") == [1]


def test_pid_of_too_many_digits_is_bad_input_and_other_digits_are_a_name() -> None:
    assert (parse_pid("4194304"), parse_pid("²"), parse_pid("١٢"), parse_pid("")) == (4194304, None, None, None)
    with pytest.raises(BadInput, match="at most 10 digits"):
        pids("9" * 5000)
    with pytest.raises(TargetNotFound):
        pids("١٢")


def test_thread_is_not_taken_for_its_process() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        with pytest.raises(TargetNotFound, match=f"{thread.native_id} is a thread of {os.getpid()}"):
            pids(str(thread.native_id))
    finally:
        done.set()
        thread.join()


def test_name_must_be_exact_and_names_all_that_bear_it(two: list[Program]) -> None:
    assert pids(NAME) == sorted(one.pid for one in two)
    with pytest.raises(TargetNotFound, match="no process is called"):
        pids(NAME[:-1])


@pytest.mark.parametrize(
    "near",
    [NAME[:-1], NAME[:4], NAME.upper(), NAME + "x", "x" + NAME[1:], "am" + NAME[2:]],
    ids=["cut", "begun", "upper", "longer", "other", "swapped"],  # the name differs between workers
)
def test_near_name_is_suggested_and_never_acted_on(two: list[Program], near: str) -> None:
    with pytest.raises(TargetNotFound) as caught:
        pids(near)

    assert str(caught.value) == f"no process is called {near!r} (did you mean {NAME!r}?)"


@pytest.mark.parametrize("far", ["xy" + NAME[2:], NAME[2:], "x"], ids=["other", "end", "short"])
def test_name_that_is_far_from_all_is_not_guessed_at(two: list[Program], far: str) -> None:
    with pytest.raises(TargetNotFound) as caught:
        pids(far)

    assert repr(NAME) not in str(caught.value)


def test_few_near_names_are_suggested_the_nearest_first() -> None:
    names = [f"near {os.getpid()} {letter}" for letter in "edcba"]
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(program(NAMED, name))
        assert near_names(f"near {os.getpid()}", ProcFS()) == sorted(names)[:3]
        assert near_names(names[0].upper(), ProcFS())[0] == names[0]


def test_ambiguous_name_lists_candidates_and_picks_none(two: list[Program]) -> None:
    with pytest.raises(TargetAmbiguous) as caught:
        resolve(NAME, ProcFS())

    assert [each.pid for each in caught.value.candidates] == sorted(one.pid for one in two)


@pytest.mark.parametrize("prefix", ["cmdline:", "~"])
def test_regular_expression_is_of_the_whole_command_line(two: list[Program], prefix: str) -> None:
    marked = NAME.replace("(", r"\(").replace(" ", "[ ]")

    assert pids(prefix + marked) == sorted(one.pid for one in two)
    with pytest.raises(TargetNotFound):
        pids(f"{prefix}no such words, surely, anywhere[ ]$")
    with pytest.raises(BadInput, match="bad regular expression"):
        pids(f"{prefix}(")


@pytest.mark.parametrize(
    "expression", ["a{99999999999}", "(?u)(?a)x", "(" * 5000 + ")" * 5000], ids=["repeats", "flags", "parentheses"]
)
def test_an_expression_that_python_cannot_take_is_refused(expression: str) -> None:
    with pytest.raises(BadInput, match="bad regular expression"):
        pids(f"cmdline:{expression}")


def test_nothing_is_written_about_what_another_python_may_read_otherwise(recwarn: pytest.WarningsRecorder) -> None:
    with pytest.raises(TargetNotFound):
        pids("cmdline:[[]no such words, surely[ ]$")
    assert not recwarn.list


def test_home_that_a_shell_made_of_a_tilde_is_answered_with_what_needs_no_quotes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = pwd.struct_passwd(("shopkeeper", "x", os.getuid(), os.getgid(), "", str(tmp_path / "home"), "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: own)
    for name in ("home", "other"):
        (tmp_path / name).mkdir()
        with pytest.raises(TargetNotFound) as caught:
            pids(str(tmp_path / name))
        hint = "; if your shell made this of ~shopkeeper: cmdline:shopkeeper"
        assert str(caught.value).endswith(hint) is (name == "home")


def test_regular_expression_never_finds_us_or_who_started_us() -> None:
    line = Path("/proc/self/cmdline").read_bytes().split(b"\0")[0].decode()
    ours = set(ancestors(os.getpid(), ProcFS()))

    assert {os.getpid(), os.getppid()} <= ours
    with program(NAMED, NAME):
        assert not ours & set(pids(f"~{os.path.basename(line)}|python"))


LATE = "import sys; print(1, flush=True); sys.stdin.read()"
LONG_NAME = "a-name-of-more-than-fifteen-bytes"


def test_long_name_is_completed_from_the_command_line() -> None:
    rename = f"import ctypes; ctypes.CDLL(None).prctl(15, {LONG_NAME.encode()!r}, 0, 0, 0); {LATE}"
    words = [f"/x/{LONG_NAME}", "-I", "-S", "-c", rename]
    with program(f"import os, sys; os.execv(sys.executable, {words!r})", wait="") as target:
        assert pids(LONG_NAME) == [target.pid]
        with pytest.raises(TargetNotFound):
            pids(LONG_NAME[:20])


def test_cgroup_holds_us() -> None:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except FileNotFoundError:
        pytest.skip("needs CONFIG_CGROUPS")
    path = lines[0].split(":", 2)[2]

    with program(LATE, wait="") as target:
        assert target.pid in pids(f"cgroup:{path}")
    with pytest.raises(TargetNotFound, match="no process in cgroup /no/such"):
        pids("cgroup:no/such/")


def test_cgroup_may_be_given_by_its_directory() -> None:
    path = next(
        (line.split(":", 2)[2] for line in Path("/proc/self/cgroup").read_text().split("\n") if ":memory:" in line),
        None,
    )
    directory = f"/sys/fs/cgroup/memory{path}"
    if path is None:
        path = Path("/proc/self/cgroup").read_text().splitlines()[-1].split(":", 2)[2]
        directory = f"/sys/fs/cgroup{path}"
    if not os.path.isdir(directory):
        pytest.skip("needs the cgroup file system on /sys/fs/cgroup")

    with program(LATE, wait="") as target:
        listed = set(map(int, Path(directory, "cgroup.procs").read_text().split()))
        assert target.pid in pids(f"cgroup:{directory}/")
        assert target.pid in listed


def test_kernel_threads_have_no_name_to_be_found_by() -> None:
    with pytest.raises(TargetNotFound):
        pids("kthreadd")


@pytest.mark.parametrize("text", ["", "no/such/path", "/no/such", "a name that nobody has"])
def test_what_is_nothing_is_not_found(text: str) -> None:
    with pytest.raises(TargetNotFound):
        pids(text)


def test_capture_is_a_directory_or_one_process_in_it(tmp_path: Path) -> None:
    make_process(tmp_path, pid=12)
    with pytest.raises(TargetNotFound, match="not a capture"):
        pids(str(tmp_path))
    (tmp_path / "machine.json").write_text(json.dumps({"page_size": 4096}))

    assert pids(str(tmp_path)) == pids(str(tmp_path / "12")) == [12]
    make_process(tmp_path, pid=13)
    with pytest.raises(TargetAmbiguous):
        resolve(str(tmp_path), ProcFS())


def test_number_that_is_a_process_and_a_capture_here_is_refused_with_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = str(os.getpid())
    make_process(tmp_path / own, pid=12)
    monkeypatch.chdir(tmp_path)
    assert pids(own) == [os.getpid()]  # a directory of that name is no capture

    (tmp_path / own / "machine.json").write_text(json.dumps({"page_size": 4096}))
    with pytest.raises(TargetAmbiguous, match=rf"'{own}' is both a PID and a capture here: use pid:{own} or \./{own}"):
        pids(own)
    assert (pids(f"pid:{own}"), pids(f"./{own}")) == ([os.getpid()], [12])


def test_number_of_a_process_inside_a_capture_is_refused_there_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = str(os.getpid())
    make_process(tmp_path, pid=os.getpid())
    (tmp_path / "machine.json").write_text(json.dumps({"page_size": 4096}))
    monkeypatch.chdir(tmp_path)

    with pytest.raises(TargetAmbiguous):
        pids(own)
    (target,) = resolve_all(f"./{own}", ProcFS())
    assert not target.procfs.live


@pytest.mark.root
def test_capture_of_another_user_does_not_stand_in_the_way_of_a_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = tmp_path / str(os.getpid())
    make_process(planted, pid=12)
    (planted / "machine.json").write_text(json.dumps({"page_size": 4096}))
    os.chown(planted, NOBODY, NOBODY)
    monkeypatch.chdir(tmp_path)

    assert pids(str(os.getpid())) == [os.getpid()]


def test_directory_called_as_a_process_does_not_hide_it(
    tmp_path: Path, two: list[Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir()

    assert pids(NAME) == sorted(one.pid for one in two)


def test_candidate_is_told_from_others_by_its_user_its_size_and_its_command_line(two: list[Program]) -> None:
    (target,) = resolve_all(str(two[0].pid), ProcFS())
    (one,) = candidates_of([target.dir])
    resident = int(Path(f"/proc/{one.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    assert (one.pid, one.user) == (two[0].pid, pwd.getpwuid(os.geteuid()).pw_name)
    assert one.rss is not None
    assert one.command is not None
    assert abs(one.rss - resident) < 1 << 20  # the kernel sums over CPUs in the one, and not in the other
    assert "-I -S -c" in one.command


def test_list_of_candidates_is_bounded(two: list[Program], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mematlas.model.search.LISTED", 1)
    with pytest.raises(TargetAmbiguous, match=r"names 2 processes; give one PID: \d+ and 1 more$") as caught:
        resolve(NAME, ProcFS())

    assert len(caught.value.candidates) == 1


def test_search_holds_what_it_found(two: list[Program]) -> None:
    found = resolve_all(NAME, ProcFS())
    try:
        assert [os.fstat(target.dir.fd).st_ino for target in found] == [
            os.stat(f"/proc/{target.pid}").st_ino for target in found
        ]
    finally:
        for target in found:
            target.close()


@pytest.mark.root
def test_capture_of_another_user_does_not_pass_for_a_process(
    tmp_path: Path, two: list[Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    for called in (NAME, "no-process"):
        planted = tmp_path / called
        planted.mkdir()
        (planted / "machine.json").write_text(json.dumps({"page_size": 4096}))
        make_process(planted, pid=12)
        os.chown(planted, NOBODY, NOBODY)
    monkeypatch.chdir(tmp_path)

    assert pids(NAME) == sorted(one.pid for one in two)
    assert pids(f"./{NAME}") == [12]
    with pytest.raises(TargetNotFound, match=r"another user's: to read it, \./no-process"):
        pids("no-process")
    monkeypatch.setenv("SUDO_UID", str(NOBODY))
    monkeypatch.setenv("SUDO_GID", str(NOBODY))
    assert pids("no-process") == [12]
