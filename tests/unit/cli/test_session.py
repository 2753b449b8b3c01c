"""What all commands share: values of options, widths, messages, streams."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import resource
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from helpers import mematlas
from mematlas import cli
from mematlas.cli.arguments import Namespace
from mematlas.cli.launch import user_to_become
from mematlas.cli.options import MOST_WIDTH, parse_count, parse_seconds, width_of
from mematlas.cli.session import Session
from mematlas.cli.watchdog import Watchdog
from mematlas.errors import AssertionNotMet, BadInput, Error, TargetNotFound
from mematlas.kernel.memory.x86 import is_x86_64
from mematlas.kernel.procfs import ProcFS
from mematlas.kernel.rights import CALLERS, invoking_user
from mematlas.views.table import Column, Table
from victim import wait_until

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Outcome


@pytest.mark.parametrize("text", ["1e300", "1e10", "inf", "nan", "-1", "1e300m"])
def test_time_that_no_clock_waits_for_is_bad_input(text: str) -> None:
    with pytest.raises(BadInput, match="bad time"):
        parse_seconds(text)


@pytest.mark.parametrize("text", ["9" * 5000, "0", "²", ""])
def test_number_that_is_none_is_bad_input(text: str) -> None:
    with pytest.raises(BadInput, match="bad number"):
        parse_count(text)


@pytest.mark.parametrize(("asked", "there", "width"), [(None, 20, 40), (None, 100, 100), (7, 100, 40), (10**9, 100, 0)])
def test_width_is_clamped(asked: int | None, there: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mematlas.cli.options.screen_size", lambda _: (there, 24))
    assert width_of(Namespace(width=asked), io.StringIO()) == (width or MOST_WIDTH)


def test_names_in_messages_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    cli.explain(Error("no VMA of \x1b[31mEVIL\udcff\nsecond line"), [])

    assert capsys.readouterr().err == "mematlas: no VMA of \\x1b[31mEVIL\\xff\nsecond line\n"


@pytest.mark.parametrize(
    "words",
    [
        ["usage", "\udcff"],
        ["usage", "~\udcff"],
        ["maps", "./\udcff"],
        ["\udcff"],
        ["usage", "self", "\udcff"],
        ["map", "self", "--width", "\udcff"],
        ["usage", "self", "--source", "\udcff"],
        ["tables", "self", "\udcff"],
        ["workload", "\udcff"],
        ["lab", "\udcff"],
    ],
)
def test_bytes_that_are_no_text_are_quoted_as_they_are_everywhere(words: list[str]) -> None:
    run = mematlas(*words)

    assert run.returncode in (2, 3)
    assert "\\xff" in run.stderr
    assert "udc" not in run.stderr


def test_csv_that_repeats_has_one_head_and_a_time_in_each_row() -> None:
    run = mematlas("usage", os.getpid(), "--format", "csv", "-i", "50ms", "-n", "3")
    head, *rows = csv.reader(io.StringIO(run.stdout))

    assert head[:2] == ["time", "pid"]
    assert [row[1] for row in rows] == [str(os.getpid())] * 3
    times = [datetime.fromisoformat(row[0]) for row in rows]
    assert times == sorted(set(times))


def test_rows_of_json_lines_have_their_time_when_they_repeat_and_none_else() -> None:
    words = ("maps", os.getpid(), "stack", "--format", "jsonl")
    rows = [json.loads(line) for line in mematlas(*words, "-i", "50ms", "-n", "2").stdout.splitlines()]

    assert len({row["time"] for row in rows if "start" in row}) == 2
    assert '"time":' not in mematlas(*words).stdout


def test_address_past_64_bits_is_beyond_the_address_space() -> None:
    run = mematlas("translate", os.getpid(), "10000000000000000")

    assert (run.returncode, run.stdout) == (2, "")
    assert "beyond the address space" in run.stderr


NOBODY = 65534


@pytest.fixture
def called_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that says nothing of who became root."""
    for name in (*CALLERS, "SUDO_GID"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.root
@pytest.mark.usefixtures("called_by_nobody")
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        *(
            (variable, value)
            for variable in ("SUDO_UID", "PKEXEC_UID")
            for value in ("4294967290", "x", "²", "１０００", "4294967295", "4294967296", "9" * 20, "-1", " 1", "1_0")
        ),
        ("DOAS_USER", "nobody-is-called-so"),
        ("DOAS_USER", "65534"),
        ("DOAS_USER", "a\udcff"),
    ],
)
def test_nothing_is_started_as_root_for_a_user_who_is_none(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    monkeypatch.setenv("SUDO_GID", "0")

    with pytest.raises(BadInput, match="not starting a command as root"):
        user_to_become()


@pytest.mark.root
@pytest.mark.usefixtures("called_by_nobody")
@pytest.mark.parametrize("value", ["²", "4294967295", "4294967296", "9" * 20, "x"])
def test_number_that_no_user_has_is_not_believed(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_GID", "1")
    monkeypatch.setenv("SUDO_UID", value)

    assert invoking_user() is None


@pytest.mark.root
@pytest.mark.usefixtures("called_by_nobody")
@pytest.mark.parametrize(("variable", "value"), [("SUDO_UID", NOBODY), ("PKEXEC_UID", NOBODY), ("DOAS_USER", "nobody")])
def test_command_is_the_user_s_whoever_made_us_root(
    variable: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pwd

    account = pwd.getpwuid(NOBODY)
    monkeypatch.setenv(variable, str(value))
    show = "id -u; id -g; echo $HOME $USER $LOGNAME; ls /proc/self/fd | wc -l; grep CapEff /proc/self/status; sleep 1"
    run = shell(f"exec 9</etc/passwd; $M usage --after 200ms -- sh -c '{show}'")

    assert run.returncode == 0, run.stderr
    name = account.pw_name
    told = run.stderr.split()
    # Of ls itself: the three streams, and the directory that it lists.
    assert told[:8] == [str(NOBODY), str(account.pw_gid), account.pw_dir, name, name, "4", "CapEff:", "0" * 16]


def test_descriptors_go_along_to_a_command_of_our_own() -> None:
    run = shell("exec 9</etc/passwd; $M usage --after 200ms -- sh -c 'read line <&9; echo $line; sleep 1'")

    assert run.stderr.startswith(Path("/etc/passwd").read_text().split("\n")[0])


@pytest.mark.root
def test_group_that_sudo_does_not_tell_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    account = pwd.getpwall()[-1]
    monkeypatch.setenv("SUDO_UID", str(account.pw_uid))
    monkeypatch.delenv("SUDO_GID", raising=False)
    found = user_to_become()

    assert found is not None
    assert (found.uid, found.gid) == (account.pw_uid, pwd.getpwuid(account.pw_uid).pw_gid)


@pytest.mark.root
def test_command_for_a_user_inherits_no_descriptor_above_todays_bound_either() -> None:
    look = "sh -c 'readlink /proc/self/fd/9 || echo closed; sleep 1'"
    run = shell(f"exec 9</dev/zero; ulimit -n 9; SUDO_UID=65534 SUDO_GID=65534 $M usage --after 200ms -- {look}")

    # Some kernels take more files to look at than there may be.
    assert run.returncode == 0 or "Too many open files" in run.stderr, run.stderr
    assert "closed\n" in run.stderr
    assert "/dev/zero" not in run.stderr


# --- many


@pytest.mark.parametrize("more", ["", "--each"])
def test_processes_of_a_group_may_be_more_than_files_may_be_open(more: str) -> None:
    sleepers = 'for i in $(seq 29); do sleep 1000 & pids="$pids $!"; done'
    look = f"$M usage --json name:sleep {more} >&3; code=$?; kill $pids; exit $code"
    run = shell(f"ulimit -S -n 23; exec 3>&1 >/dev/null; {sleepers}; {look}")

    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["target"]["nr_processes"] > 23
    assert "Too many open files" not in run.stderr


def test_looking_at_ourselves_is_of_one_moment() -> None:
    assert {shell("$M usage self").stderr for _ in range(5)} == {""}


# --- user namespaces


READS_TABLES = pytest.mark.skipif(not is_x86_64(), reason="needs x86-64")


@pytest.mark.parametrize("command", [pytest.param("tables self", marks=READS_TABLES), "usage 1"])
def test_root_of_a_user_namespace_is_told_where_rights_count(command: str) -> None:
    run = shell(f"unshare --user --map-root-user $M {command}")
    if "unshare" in run.stderr:
        pytest.skip(f"needs user namespaces: {run.stderr}")

    assert run.returncode == 4
    assert "This is a user namespace" in run.stderr
    assert "sudo" not in run.stderr


def test_first_screen_promises_root_of_a_user_namespace_no_more_than_there_is() -> None:
    run = shell("unshare --user --map-root-user $M")
    if "unshare" in run.stderr:
        pytest.skip(f"needs user namespaces: {run.stderr}")

    assert run.returncode == 0
    assert "You are root in a user namespace" in run.stdout
    assert "sudo" not in run.stdout


# --- streams


def test_input_that_is_no_text_is_a_bad_address() -> None:
    run = shell(r"printf '\377\376\n' | PYTHONIOENCODING=utf-8:strict $M translate $$ -")

    assert run.returncode == 2
    assert run.stderr.startswith(r"mematlas: bad address '\xff\xfe'")


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """Run a line of sh in which $M is the command line."""
    return subprocess.run(
        ["sh", "-c", line],
        env={**os.environ, "M": f"{sys.executable} -m mematlas"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("$M usage $$ >&-", 0),
        ("$M --help >&-", 0),
        ("$M usage $$ 2>&-", 0),
        ("$M usage $$ <&- >&- 2>&-", 0),
        ("$M translate $$ <&-", 2),
        ("$M workload prober <&-", 0),
        ("$M usage $$ >/dev/full", 1),
        ("$M maps $$ --json >/dev/full", 1),
        ("$M --help >/dev/full", 1),
        ("$M usage nobody-is-called-so 2>/dev/full", 3),
    ],
)
def test_closed_and_full_streams_end_in_no_traceback(line: str, code: int) -> None:
    run = shell(line)

    assert (run.returncode, "Traceback" in run.stderr) == (code, False)
    if "/dev/full" in line and code == 1:
        assert run.stderr == "mematlas: cannot write: No space left on device\n"


# --- programs of our own


def test_program_is_started_with_the_signals_of_a_shell() -> None:
    run = shell("$M usage --after 100ms -- sh -c 'grep SigIgn /proc/self/status; sleep 3'")

    (ignored,) = (int(line.split()[1], 16) for line in run.stderr.splitlines() if "SigIgn" in line)
    assert not ignored & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1)


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("target", ["self", "--after 100ms -- sleep 3"])
def test_proc_of_another_namespace_is_no_reason_to_look_at_a_stranger(target: str) -> None:
    run = shell(f"unshare --pid --fork sh -c '$M usage {target}'")
    if "unshare" in run.stderr:
        pytest.skip(f"needs PID namespaces: {run.stderr}")

    assert run.returncode == 0, run.stderr
    assert run.stdout.split(",")[0] in (Path(sys.executable).name, "mematlas", "python", "python3", "sleep")


@pytest.mark.root("CAP_SYS_ADMIN")
def test_proc_that_does_not_show_us_is_refused() -> None:
    # The shell's /proc is of a namespace below ours: nsenter(1) brings the mount, and not the namespace.
    run = shell(
        "unshare --pid --fork --mount-proc --kill-child sleep 60 >/dev/null 2>&1 & outer=$!; sleep 0.5; "
        "inner=$(cat /proc/$outer/task/$outer/children); "
        "nsenter --mount --target $inner $M usage self; echo $?; "
        "nsenter --mount --target $inner $M usage -- sleep 0.1; echo $?; kill -KILL $outer"
    )
    if not run.stderr.startswith("mematlas"):
        pytest.skip(f"needs PID namespaces: {run.stderr}")

    assert run.stdout.split() == ["3", "3"]
    assert run.stderr.count("of another PID namespace") == 2


def test_own_pid_is_refused_where_there_is_no_self(tmp_path: Path) -> None:
    from mematlas.model.target import own_pid

    with pytest.raises(TargetNotFound, match="does not show this process"):
        own_pid(ProcFS(str(tmp_path)))


# --- limits of our own


def with_no_more_processes(words: list[str]) -> int:
    """Run a command line of a user who has as many processes as are allowed."""
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    with Watchdog():
        return cli.main(words)


def test_who_watches_rests_and_goes_on() -> None:
    def nr_threads() -> int:
        return len(os.listdir("/proc/self/task"))

    before = nr_threads()
    with Watchdog() as watchdog:
        for _ in range(3):
            watchdog.leave()
            wait_until(lambda: nr_threads() == before, "the thread has ended")
            watchdog.begin()
            assert nr_threads() == before + 1
    wait_until(lambda: nr_threads() == before, "the thread has ended")


def test_a_rest_that_is_interrupted_ends_as_it_should() -> None:
    watchdog = Watchdog()

    def interrupted() -> None:
        with watchdog:
            try:
                watchdog._let_go()
                raise KeyboardInterrupt  # as by a signal that comes before the thread has ended
            finally:
                watchdog.begin()

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    watchdog.leave()


@pytest.mark.parametrize("words", [["usage", "self"], ["maps", "self"], ["--help"]])
def test_who_may_start_no_thread_is_told_all_the_same(words: list[str], as_nobody: Callable[..., Outcome]) -> None:
    assert as_nobody(lambda: with_no_more_processes(words)).value == 0


def test_who_may_start_no_process_is_told_which_limit_that_is(as_nobody: Callable[..., Outcome]) -> None:
    run = as_nobody(lambda: with_no_more_processes(["usage", "~nothing-is-called-so"]))

    assert (run.value, run.stderr) == (
        1,
        "mematlas: out of system resources: Resource temporarily unavailable (ulimit -u, pids.max)\n",
    )


@pytest.mark.parametrize(
    "error", [OSError(errno.EMFILE, "no"), OSError(errno.ENFILE, "no"), OSError(errno.ENOMEM, "no", "a"), MemoryError()]
)
def test_what_the_system_does_not_give_is_a_message(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def dispatch(*_: object) -> int:
        raise error

    monkeypatch.setattr("mematlas.cli.dispatch", dispatch)

    assert cli.main([]) == 1
    assert capsys.readouterr().err.startswith("mematlas: ")


def arguments(form: str, count: int | None = None) -> Namespace:
    settings: dict[str, object] = {"json": False, "format": form, "bytes": False, "wide": False, "color": "never"}
    return Namespace(**settings, interval=0.05 if count else None, count=count)


def checked(failures: list[str]) -> Table:
    """Return a table of one row that fails in something."""
    return Table("test/1", [Column("rss", "RSS", "count", value=int)], ["7477"], failures=failures)


@pytest.mark.parametrize(
    ("form", "count"), [("table", None), ("json", None), ("jsonl", None), ("csv", None), ("table", 2)]
)
def test_result_that_fails_a_check_is_written_first(form: str, count: int | None) -> None:
    out = io.StringIO()
    session = Session(ProcFS(), out, io.StringIO(), None)

    with pytest.raises(AssertionNotMet, match="rss differs\npss differs"):
        session.show(lambda: checked(["rss differs", "pss differs"]), arguments(form, count))
    assert out.getvalue().count("7477") == (count or 1)


def test_of_results_that_repeat_the_last_one_counts() -> None:
    session = Session(ProcFS(), io.StringIO(), io.StringIO(), None)
    failures: list[list[str]] = [["rss differs"], []]

    session.show(lambda: checked(failures.pop(0)), arguments("csv", 2))
    assert not failures


@pytest.mark.parametrize("command", ["usage", "ps", "share"])
def test_what_was_found_is_let_go_of_when_another_target_is_not_there(command: str) -> None:
    before = set(os.listdir("/proc/self/fd"))

    assert cli.main([command, "self", "<<"]) == TargetNotFound.exit_code
    assert set(os.listdir("/proc/self/fd")) == before
