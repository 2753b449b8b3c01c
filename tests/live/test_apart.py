"""`mematlas --apart`: the same answers, from a front end that has no right, and a broker that is asked for the rest."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import Outcome
from helpers import Program, mematlas, skip_without_tables, steadily
from mematlas.cli.apart import QUERIES, found_now
from mematlas.cli.session import Session
from mematlas.errors import NotSupported
from mematlas.frozen import replace
from mematlas.kernel import broker
from mematlas.kernel.broker import MOST_WORKERS
from mematlas.kernel.brokered import BrokeredFS, BrokerGone, Lender, start
from mematlas.kernel.confine import USERS, confine
from mematlas.kernel.madvise import MADV_COLD, MADV_PAGEOUT
from mematlas.kernel.maps import read_maps
from mematlas.kernel.messages import CONNECT, Grant, encode
from mematlas.kernel.procfs import ProcFS
from mematlas.kernel.vmfile import LiveFiles
from mematlas.observe.process import Process
from test_promises import pinned as pinned
from test_targets import headless as headless
from victim import DEADLINE, Victim, wait_until

pytestmark = pytest.mark.root("CAP_SYS_ADMIN")

AREAS = ("anon", "shared_anon_half", "shared_file", "memfd", "thp")
VOLATILE = frozenset(
    (
        *("duration_s", "hold", "seconds", "advise_s", "reader"),
        # Libraries are mapped by mematlas itself, which is more processes here; and pages grow old meanwhile.
        *("pss", "uss", "pss_low", "pss_high", "count", "shared", "nr_accessed", "frame_flags", "mapped", "mappers"),
    )
)
SAME = (
    *("usage", "usage --verify", "usage --if-ended", "usage --distinct", "usage --source pagemap", "usage --folios"),
    *("maps", "maps --by owner", "maps --by path", "maps --numa", "maps --gaps", "pages --runs", "map", "hist"),
    *("translate 0x400000", "ps", "ps --distinct", "cache", "pageout --dry-run", "cold --dry-run"),
)
BY_TABLES = ("usage --source tables", "pages --source tables", "tables", "tables --list --limit 7", "tables --verify")


def comparable(answer: Any) -> Any:
    """Return an answer without what is another one each time."""
    if isinstance(answer, dict):
        kept = {key: comparable(value) for key, value in answer.items() if key not in VOLATILE}
        if kept.get("measure") in ("pss", "uss"):
            return sorted(kept)
        if "code" in kept and "text" in kept:
            return kept["code"]  # times are in some texts
        if "flags" in kept and isinstance(kept["flags"], list):
            kept["flags"] = [flag for flag in kept["flags"] if flag != "accessed"]
        return kept
    return [comparable(each) for each in answer] if isinstance(answer, list) else answer


def answers(line: str, pid: int) -> list[Any]:
    """Return what a command says, as it is and apart."""
    name, *options = line.split()
    found = []
    for before in ((), ("--apart",)):
        run = mematlas(*before, name, pid, *options, "--json")
        assert run.returncode == 0, run.stderr
        found.append(comparable(json.loads(run.stdout)))
    return found


@pytest.mark.parametrize("line", SAME)
@steadily
def test_what_is_said_is_the_same(line: str, victim: Callable[..., Victim]) -> None:
    one = victim("anon_full", "shared_file", "memfd")
    direct, apart = answers(line, one.pid)
    assert apart == direct


@pytest.mark.parametrize("line", BY_TABLES)
@steadily
def test_what_page_tables_say_is_the_same(line: str, victim: Callable[..., Victim]) -> None:
    one = victim("anon_full", "shared_file", "memfd")
    with Process(one.pid) as process:
        skip_without_tables(process)
    direct, apart = answers(line, one.pid)
    assert apart == direct


@pytest.mark.parametrize(
    "line", ["ram", "ram --source files", "ram --kernel", "cache --limit 3", "owner pfn:0x1000", "share", "ps"]
)
@steadily
def test_the_whole_machine_is_seen(line: str) -> None:
    runs = [mematlas(*before, *line.split(), "--json") for before in ((), ("--apart",))]
    direct, apart = (json.loads(run.stdout) for run in runs)
    assert [run.returncode for run in runs] == [0, 0], runs[1].stderr
    assert apart["target"].get("source") == direct["target"].get("source")
    assert {note["code"] for note in apart["notes"]} == {note["code"] for note in direct["notes"]}
    assert bool(apart["rows"]) == bool(direct["rows"])


def test_nobody_of_us_is_among_the_processes() -> None:
    run = mematlas("--apart", "ps", "--limit", "1000", "--json")
    rows = json.loads(run.stdout)["rows"]
    ours = [row["pid"] for row in rows if "--apart" in command_line(row["pid"])]
    assert ours == []


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""


@pytest.mark.parametrize("what", ["usage", "vmas", "pages", "frames,tables"])
def test_what_is_recorded_is_the_same(what: str, victim: Callable[..., Victim], tmp_path: Path) -> None:
    stopped = victim("anon", "shared_anon")
    found = []
    with stopped.stopped():
        for number, before in enumerate(((), ("--apart",))):
            path = tmp_path / f"{number}.mematlas"
            words = (
                "record",
                stopped.pid,
                "--what",
                what,
                "-o",
                path,
                "-d",
                "300ms",
                "-i",
                "100ms",
                "--budget",
                "100%",
            )
            run = mematlas(*before, *words)
            assert run.returncode == 0, run.stderr
            assert path.stat().st_mode & 0o777 == 0o600
            answers = [json.loads(mematlas("usage", f"{path}@end", "--json").stdout)["rows"]]
            if "pages" in what:
                answers.append(json.loads(mematlas("hist", f"{path}@end", "--json").stdout)["rows"])
            if "tables" in what:
                answers.append(json.loads(mematlas("tables", f"{path}@end", "--json").stdout)["rows"])
            found.append(answers)
    for one, other in zip(*found, strict=True):
        assert len(one) == len(other) > 0
        for row, same in zip(one, other, strict=True):
            told = row.keys() - {"pss", "uss", "swap_pss", "source", "duration_s", "nr_accessed", "nr_own", "nr_shared"}
            assert {key: row[key] for key in told} == {key: same[key] for key in told}


@pytest.mark.root
def test_a_recording_is_of_who_called_us() -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        os.chmod(directory, 0o777)
        path = Path(directory) / "x.mematlas"
        words = ("--apart", "record", "self", "-o", path, "-d", "0")
        run = mematlas(*words, env={"SUDO_UID": "65534", "SUDO_GID": "65534"})
        assert run.returncode == 0, run.stderr
        assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (65534, 0o600)
        assert os.listdir(directory) == ["x.mematlas"]


def test_a_stream_is_recorded_without_rights_too() -> None:
    line = [sys.executable, "-m", "mematlas", "--apart", "record", "self", "-o", "-", "-d", "0"]
    stream = subprocess.run(line, capture_output=True, check=True).stdout
    assert stream.startswith(b"mematlas-stream\n")
    assert b'"usage":' in stream


def test_an_act_is_done_to_its_target_and_measured(victim: Callable[..., Victim]) -> None:
    one = victim("anon_full")
    run = mematlas("--apart", "cold", one.pid, "--json")
    (row,) = json.loads(run.stdout)["rows"]
    assert run.returncode == 0, run.stderr
    assert row["nr_moved"] + row["nr_stayed"] == row["nr_requested"] > 0
    assert row["nr_advised"] > 0


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["usage", "999999999"], 3, "no process 999999999"),
        (["usage", "no-such-name"], 3, "no process is called"),
        (["usage", "--no-such-option"], 2, "--no-such-option"),
        (["capture", "self", "/tmp/x"], 2, "not with --apart"),
        (["no-such-command"], 2, "no-such-command"),
    ],
)
def test_what_cannot_be_done_ends_as_without_it(words: list[str], code: int, text: str) -> None:
    run = mematlas("--apart", *words)
    assert (run.returncode, run.stdout) == (code, "")
    assert text in run.stderr
    assert "Traceback" not in run.stderr


def test_without_rights_there_is_nothing_to_leave(as_nobody: Callable[..., Outcome]) -> None:
    apart, direct = as_nobody(["--apart", "usage", "self", "--json"]), as_nobody(["usage", "self", "--json"])
    assert (apart.code, direct.code) == (0, 0)
    shown = [json.loads(run.stdout)["rows"][0].keys() for run in (apart, direct)]
    assert shown[0] == shown[1]


# --- the front end


class Running:
    """A front end that goes on, and its broker."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pid = process.pid
        wait_until(lambda: b"\nSeccomp:\t2\n" in status_of(self.pid), "it has no rights any more")
        wait_until(lambda: bool(self.broker and children(self.broker)), "the broker serves")

    @property
    def broker(self) -> int:
        return next((pid for pid in children(self.pid) if b"\nUid:\t0\t" in status_of(pid)), 0)


def children(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def status_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return b""


@pytest.fixture
def front(victim: Callable[..., Victim]) -> Iterator[Running]:
    one = victim("anon_full")
    words = [sys.executable, "-m", "mematlas", "--apart", "usage", str(one.pid), "-i", "0.1"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield Running(process)
        finally:
            process.kill()


def field(pid: int, name: str) -> str:
    return re.search(rf"^{name}:[ \t]*(.*)$", status_of(pid).decode(), re.MULTILINE)[1]  # type: ignore[index]


def test_the_front_end_has_no_right_and_can_get_none(front: Running) -> None:
    assert [int(field(front.pid, f"Cap{name}"), 16) for name in ("Inh", "Prm", "Eff", "Amb")] == [0, 0, 0, 0]
    assert (field(front.pid, "NoNewPrivs"), field(front.pid, "Seccomp"), field(front.pid, "Groups")) == ("1", "2", "")
    uids = {*field(front.pid, "Uid").split(), *field(front.pid, "Gid").split()}
    assert len(uids) == 1
    (uid,) = uids
    assert 61184 <= int(uid) <= 65519
    others = [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != front.pid]
    assert [pid for pid in others if f"\nUid:\t{uid}\t".encode() in status_of(pid)] == []


@steadily
def test_the_front_end_holds_nothing_that_opens_more(front: Running) -> None:
    # At first it may be importing a module.
    held = {fd: os.readlink(f"/proc/{front.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{front.pid}/fd")}
    assert not [
        link
        for link in held.values()
        if "bpf" in link or link.endswith(("/mem", "/kcore")) or link.startswith("/dev/k")
    ]
    names = ("/proc", "/dev/null", "pipe:", "socket:", "anon_inode:", "/root", "/usr")
    others = [fd for fd, link in held.items() if not link.startswith(names)]
    # Directories of modules are mounts of their own: no way leads up from them.
    places = [f"/proc/{front.pid}/fd/{fd}" for fd in others]
    assert [
        held[fd] for fd, place in zip(others, places, strict=True) if not os.path.samefile(place, f"{place}/..")
    ] == []


def test_nobody_can_trace_it_or_take_what_it_holds(front: Running, as_nobody: Callable[..., Outcome]) -> None:
    pids = front.pid, front.broker

    def attempts() -> list[int]:
        libc = ctypes.CDLL(None, use_errno=True)
        codes = []
        for pid in pids:
            libc.ptrace(16, pid, 0, 0)  # PTRACE_ATTACH
            codes.append(ctypes.get_errno())
            libc.syscall(438, os.pidfd_open(pid), 3, 0)  # pidfd_getfd
            codes.append(ctypes.get_errno())
            for name in ("mem", "maps", "fd/0"):
                try:
                    os.close(os.open(f"/proc/{pid}/{name}", os.O_RDONLY))
                    codes.append(0)
                except OSError as error:
                    codes.append(error.errno or 0)
            try:
                os.kill(pid, 0)
                codes.append(0)
            except OSError as error:
                codes.append(error.errno or 0)
        return codes

    # As somebody else, and as the front end's own user.
    for uid in (65534, int(field(front.pid, "Uid").split()[0])):
        refused = as_nobody(attempts).value if uid == 65534 else as_user(uid, attempts)
        # Its own user may signal it, and that is all.
        assert set(refused[:5] + refused[6:]) <= {errno.EPERM, errno.EACCES}, refused
        assert refused[5] == (errno.EPERM if uid == 65534 else 0)


def as_user(uid: int, ask: Callable[[], list[int]]) -> list[int]:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups(())
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            os.write(writer, json.dumps(ask()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        told = pipe.read()
    os.waitpid(pid, 0)
    return json.loads(told)  # type: ignore[no-any-return]


def test_the_broker_ends_with_the_front_end(front: Running) -> None:
    serving = [front.broker, *children(front.broker)]
    front.process.kill()
    front.process.wait()
    wait_until(lambda: not any(map(status_of, serving)), "broker and workers have ended")


def test_the_front_end_ends_with_the_broker(front: Running) -> None:
    os.kill(front.broker, signal.SIGKILL)
    assert front.process.wait(DEADLINE) == 1
    assert front.process.stderr
    text = front.process.stderr.read()
    assert "the part of mematlas that has the rights has ended" in text
    assert "Traceback" not in text


def test_an_interrupt_ends_both(front: Running) -> None:
    serving = [front.broker, *children(front.broker)]
    front.process.send_signal(signal.SIGINT)
    assert front.process.wait(DEADLINE) == 130
    wait_until(lambda: not any(map(status_of, serving)), "broker and workers have ended")


# --- as an attacker


def lender_of(grant: Grant, queries: str = QUERIES) -> Lender:
    """Start a broker for ourselves; return what asks it."""
    broker_pid, control, _ = start(replace(grant, front=os.getpid()), queries)
    return Lender(control, broker_pid)


def in_front(grant: Grant, attack: Callable[[Lender, BrokeredFS], Any]) -> tuple[int, Any, str]:
    """Run as a front end that somebody has taken over; return how it ended, what came of it, and what was said."""
    reader, writer = os.pipe()
    heard, said = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(said, 2)
            for fd in (reader, heard):
                os.close(fd)
            lender = lender_of(grant)
            os.write(writer, json.dumps(attack(lender, BrokeredFS(lender))).encode())
        finally:
            os._exit(0)
    for fd in (writer, said):
        os.close(fd)
    with open(reader, "rb") as pipe, open(heard, "rb") as stream:
        told, text = pipe.read(), stream.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code, json.loads(told) if told else None, text.decode()


def identity(pid: int) -> tuple[int, int]:
    with ProcFS().process(pid) as process:
        return process.identity


def refusal(lender: Lender, name: str, *parts: object) -> int:
    """Return the errno that a question is answered with; 0 where it was answered."""
    try:
        _, fd = lender.ask(name, *parts)
    except OSError as error:
        return error.errno or -1
    if fd >= 0:
        os.close(fd)
    return 0


def test_only_who_was_named_is_looked_at(victim: Callable[..., Victim]) -> None:
    one, other = identity(victim("anon_full").pid), identity(victim("anon_full").pid)

    def attack(lender: Lender, _: BrokeredFS) -> list[int]:
        files = ("maps", "pagemap", "smaps")
        asked = [refusal(lender, "open_file", *who, name, 0) for who in (one, other) for name in files]
        return [*asked, refusal(lender, "compare_memory", *other, one[0]), refusal(lender, "read_link", *other, "exe")]

    grant = Grant(0, processes=frozenset((one,)))
    code, refused, _ = in_front(grant, attack)
    assert (code, refused) == (0, [0, 0, 0, *[errno.EACCES] * 5])


def test_who_may_look_at_some_learns_nothing_of_others_by_the_machine(victim: Callable[..., Victim]) -> None:
    one = identity(victim("anon_full").pid)

    def attack(lender: Lender, _: BrokeredFS) -> list[int]:
        asked = [refusal(lender, "open_machine_file", name) for name in ("slabinfo", "vmallocinfo", "iomem")]
        return [*asked, refusal(lender, "open_page_file", "kpagecount")]

    grant = Grant(0, processes=frozenset((one,)))
    assert in_front(grant, attack)[1] == [*[errno.EACCES] * 3, 0]


def test_who_has_a_pid_later_is_another(victim: Callable[..., Victim]) -> None:
    pid, start = identity(victim("anon_full").pid)

    def attack(lender: Lender, _: BrokeredFS) -> list[int]:
        return [refusal(lender, "open_file", pid, start + late, "maps", 0) for late in (1, 0, 1)]

    assert in_front(Grant(0), attack)[1] == [errno.ESRCH, 0, errno.ESRCH]


def test_what_files_a_process_maps_is_asked_at_once_and_told_as_it_is(victim: Callable[..., Victim]) -> None:
    pid = victim("anon_full").pid

    def look(_: Lender, procfs: BrokeredFS) -> list[object]:
        asked: list[tuple[object, ...]] = []
        ask = procfs.lender.ask

        def noted(name: str, *parts: object) -> Any:
            asked.append((name, *parts))
            return ask(name, *parts)

        procfs.lender.ask = noted  # type: ignore[method-assign]
        os.setresuid(USERS[0], USERS[0], USERS[0])
        with procfs.process(pid) as process:
            kinds = [vma.kind for vma in read_maps(process, LiveFiles(process))]
        alone = [parts[1:] for parts in asked if parts[0] == "stat_link"]
        return [kinds, sum(parts[0] == "stat_mapped" for parts in asked), alone]

    with ProcFS().process(pid) as process:
        kinds = [vma.kind for vma in read_maps(process, LiveFiles(process))]
    assert "file" in kinds
    assert in_front(Grant(0), look)[1] == [kinds, 1, []]


def test_only_who_was_named_is_acted_on(victim: Callable[..., Victim]) -> None:
    one, other = (identity(victim("anon_full").pid) for _ in range(2))

    def attack(lender: Lender, _: BrokeredFS) -> list[int]:
        ranges = b"\0" * 16
        asked = [refusal(lender, "give_advice", *who, MADV_COLD, ranges) for who in (one, other, identity(1))]
        asked.append(refusal(lender, "give_advice", *one, MADV_PAGEOUT, ranges))
        return [*asked, refusal(lender, "touch_pages", *one, b"")]

    grant = Grant(0, acts=frozenset((one,)), advice=frozenset((MADV_COLD,)))
    assert in_front(grant, attack)[1] == [0, errno.EACCES, errno.EACCES, errno.EACCES, errno.EACCES]


NONSENSE = (
    *(b"", b"\0", b"open_file", b"open_file\0", b"open_file\0001\0002\0maps", b"open_file\0001\0002\0mem\0000"),
    *(
        b"open_file\0001\0002\0../1/mem\0000",
        b"open_file\0001\0002\0fdinfo/../mem\0000",
        b"open_file\0-1\0002\0maps\0000",
    ),
    *(b"open_file\0001\0002\0maps\0002", b"open_file\00099999999999999999999\0000\0maps\0000"),
    *(b"open_machine_file\0kcore", b"open_machine_file\0../../etc/shadow", b"read_link\0001\0002\0root", b"__init__"),
    *(b"read_link\0001\0002\0map_files/../mem", b"give_advice\0001\0002\0004\0", b"exec\0id", b"x" * 70000),
    *(b"find_owners\0000.5\0" + bytes(8), b"give_advice\0001\0002\00021\0" + bytes(24)),
    *(b"\xff\xfe\0001\0002", b"<", b"<0", b"<0open_tables\0auto", b"<<open_tables\0auto"),
)


@pytest.mark.parametrize("question", NONSENSE, ids=lambda question: repr(question[:30]))
def test_nonsense_ends_who_asks_it_and_says_so(question: bytes) -> None:
    def attack(lender: Lender, _: BrokeredFS) -> None:
        connection = lender._connection()
        connection.sendmsg([question or b"\0\0"])
        time.sleep(DEADLINE)

    code, _, text = in_front(Grant(0), attack)
    assert code == -signal.SIGKILL
    assert "asked for what it has no business with, and was ended" in text


def test_what_gets_no_answer_is_said_in_vain_where_nobody_has_such_a_number() -> None:
    def attack(lender: Lender, _: BrokeredFS) -> int:
        for number in (0, 1, (1 << 64) - 1):
            lender.tell("release_tables", number)
            lender.tell("release_counted", number)
        return int(lender.ask("read_stat_whole", *identity(os.getpid()))[0].split()[0]) - os.getpid()

    assert in_front(Grant(0), attack) == (0, 0, "")


def test_nonsense_where_connections_are_asked_for_ends_it_too() -> None:
    def attack(lender: Lender, _: BrokeredFS) -> None:
        lender.control.sendmsg([b"please"])
        time.sleep(DEADLINE)

    code, _, text = in_front(Grant(0), attack)
    assert code == -signal.SIGKILL
    assert "was ended" in text


def test_connections_are_bounded_and_who_has_too_many_is_told() -> None:
    def attack(lender: Lender, _: BrokeredFS) -> list[int]:
        held, refused = [], 0
        for _number in range(MOST_WORKERS + 20):
            try:
                held.append(lender._connect()[0])
            except OSError as error:
                refused = error.errno or -1
                break
        return [len(held), refused]

    assert in_front(Grant(0), attack)[1] == [MOST_WORKERS, errno.EAGAIN]


def test_who_never_reads_is_ended(victim: Callable[..., Victim]) -> None:
    who = identity(victim("anon_full").pid)

    def attack(lender: Lender, procfs: BrokeredFS) -> None:
        deaf = lender._connect()[0]
        question = encode("open_file", *who, "maps", 0)
        try:
            for _ in range(100_000):  # descriptors that are on their way count for all of root's
                deaf.sendmsg([question])
        except OSError:
            time.sleep(DEADLINE)  # who answers has ended

    code, _, text = in_front(Grant(0), attack)
    assert code == -signal.SIGKILL
    assert "was ended" in text


def test_many_questions_leave_a_worker_as_small_as_it_was(victim: Callable[..., Victim]) -> None:
    who = identity(victim("anon_full").pid)

    def size(pid: int) -> tuple[int, int]:
        return int(field(pid, "VmRSS").split()[0]), len(os.listdir(f"/proc/{pid}/fd"))

    def attack(lender: Lender, procfs: BrokeredFS) -> list[tuple[int, int]]:
        sizes = []
        for _ in range(2):
            for number in range(2000):
                refusal(lender, "open_file", *who, "maps", 0)
                refusal(lender, "open_file", number + 2, number, "maps", 0)
            sizes.append(size(next(iter(lender.workers))))
        return sizes

    (before, nr_before), (after, nr_after) = in_front(Grant(0), attack)[1]
    assert after <= before + 256
    assert nr_after == nr_before


def test_no_table_shows_where_the_kernel_lies(victim: Callable[..., Victim]) -> None:
    one = victim("anon_full")
    with Process(one.pid) as process:
        skip_without_tables(process)
    who = identity(one.pid)

    def attack(lender: Lender, _: BrokeredFS) -> list[Any]:
        number = lender.ask("hold_tables", *who, "auto")[0][0]
        found = lender.ask("walk_tables", number, False, 0, (1 << 47) - 1, 1)[0].entries[0][0].tolist()
        refused = []
        for first, last in ((1 << 63, (1 << 64) - 1), (0, 1 << 63), (4096, 0)):
            try:
                lender.ask("walk_tables", number, False, first, last, 4)
            except NotSupported as error:
                refused.append(str(error))
        return [any(found[:256]), any(found[256:]), len(refused)]

    assert in_front(Grant(0), attack)[1] == [True, False, 3]


def test_tables_that_were_not_handed_over_are_shared_by_nobody_that_is_told(victim: Callable[..., Victim]) -> None:
    one = victim("anon_full")
    with Process(one.pid) as process:
        skip_without_tables(process)
    who = identity(one.pid)

    def attack(lender: Lender, _: BrokeredFS) -> list[list[int]]:
        number, top, _ = lender.ask("hold_tables", *who, "auto")[0]
        lender.ask("prove_frames", "auto")

        def shares(tables: list[int]) -> list[int]:
            data = lender.ask("count_shares", "auto", array("Q", tables).tobytes())[0]
            return memoryview(data).cast("i").tolist()

        before = shares([frame << 12 for frame in range(4096)])
        levels = list(lender.ask("walk_tables", number, False, 0, (1 << 47) - 1, 9)[0].levels())
        lowest, above = (levels[place].tables.tolist() for place in (-1, -2))
        after = shares([above[0], top, lowest[0], 1 << 12])
        lender.tell("release_tables", number)
        return [before, after, shares(above[:1])]

    before, after, released = in_front(Grant(0), attack)[1]
    assert {*before, *after[1:], *released} == {-1}
    assert after[0] in (-1, 0)  # a kernel without tables that are shared counts none


def test_what_was_held_in_another_worker_is_nobody_s(victim: Callable[..., Victim]) -> None:
    one = victim("anon_full")
    with Process(one.pid) as process:
        skip_without_tables(process)
    who = identity(one.pid)

    def attack(lender: Lender, _: BrokeredFS) -> str:
        number = lender.ask("hold_tables", *who, "auto")[0][0]
        lender._own.socket = None
        lender.ask("hold_tables", *who, "auto")
        try:
            lender.ask("walk_tables", number, False, 0, 4095, 1)
        except NotSupported as error:
            return str(error)
        return ""

    assert in_front(Grant(0), attack)[1].startswith("address space ")


def test_a_pipe_that_nobody_reads_keeps_no_broker() -> None:
    reader, full = os.pipe()
    os.set_blocking(full, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(full, bytes(4096)):
            pass
    os.set_blocking(full, True)
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(full, 2)
            lender = lender_of(Grant(0))
            os.write(tell, str(lender.pid).encode())
            lender._connection().sendmsg([b"nonsense"])
            time.sleep(DEADLINE)
        finally:
            os._exit(0)
    broker_pid = int(os.read(told, 32))
    try:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        wait_until(lambda: b"\nState:\tZ" in status_of(broker_pid) or not status_of(broker_pid), "it has ended")
    finally:
        for fd in (reader, full, told, tell):
            os.close(fd)


STARTED_HERE = """
import os, sys
from mematlas.cli.apart import QUERIES
from mematlas.kernel import messages
from mematlas.kernel.brokered import Lender, start
assert sys.path[0] == "" and "ctypes" not in sys.modules
pid, control, _ = start(messages.Grant(os.getpid()), QUERIES)
import numpy  # what hears the answer has it already
with open("ctypes.py", "w") as file:
    file.write("open('imported', 'w')")
Lender(control, pid).ask("open_tables", "auto")
print("answered", flush=True)
os._exit(0)
"""


def test_a_broker_imports_nothing_that_is_put_where_it_was_started(
    tmp_path: Path, victim: Callable[..., Victim]
) -> None:
    with Process(victim("anon_full").pid) as process:
        skip_without_tables(process)
    run = subprocess.run(
        [sys.executable, "-c", STARTED_HERE], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert not (tmp_path / "imported").exists()
    assert run.stdout == "answered\n", run.stderr


def ask_nonsense(lender: Lender) -> None:
    lender._connection().sendmsg([b"nonsense"])
    time.sleep(DEADLINE)


def ask_for_nothing_more(lender: Lender) -> None:
    lender.control.shutdown(socket.SHUT_RDWR)
    time.sleep(DEADLINE)


def leave_an_answer(lender: Lender) -> None:
    lender.control.sendmsg([CONNECT])
    time.sleep(0.2)
    lender.control.close()
    time.sleep(DEADLINE)


def ask_nonsense_and_end(lender: Lender) -> None:
    for question in (CONNECT, b"nonsense"):
        lender.control.sendmsg([question])


WAYS_TO_END: tuple[Callable[[Lender], None], ...] = (
    *(ask_nonsense, ask_for_nothing_more, leave_an_answer, ask_nonsense_and_end),
    lambda lender: None,  # it has asked nothing at all
)


@pytest.mark.parametrize("way", WAYS_TO_END, ids=lambda way: way.__name__)
def test_children_left_behind_end_with_who_left_them(
    way: Callable[[Lender], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "GRACE_MS", 500)

    def attack(lender: Lender, _: BrokeredFS) -> None:
        uid = confine()
        lender.introduce()
        for _number in range(3):
            if os.fork() == 0:
                os.setsid()
                lender.control.close()
                while True:
                    go_on_as_a_child()
        assert uid in fronts()
        way(lender)

    def go_on_as_a_child() -> None:
        # Who goes through processes one by one meets none of them for long.
        if os.fork():
            os._exit(0)
        time.sleep(0.01)

    code, _, text = in_front(Grant(0), attack)
    assert code in (0, -signal.SIGKILL), text
    wait_until(lambda: not fronts(), "all of them have ended")
    assert "Traceback" not in text


def test_who_ends_the_others_cannot_be_stopped_by_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between becoming their user and ending them there is a moment, which is made long here."""
    kill = os.kill

    def slow(pid: int, number: int) -> None:
        if pid == -1:
            time.sleep(0.5)
        kill(pid, number)

    monkeypatch.setattr("os.kill", slow)

    def attack(lender: Lender, _: BrokeredFS) -> None:
        confine()
        lender.introduce()
        if os.fork() == 0:
            os.setsid()
            while True:
                for number in (signal.SIGSTOP, signal.SIGKILL):
                    with contextlib.suppress(PermissionError):
                        kill(lender.pid, number)
        os._exit(0)

    assert in_front(Grant(0), attack)[0] == 0
    wait_until(lambda: not fronts(), "they have ended")


def fronts() -> list[int]:
    """Return the users that only front ends are, of those who run now."""
    statuses = (status_of(int(name)) for name in os.listdir("/proc") if name.isdigit())
    found = [int(status.partition(b"\nUid:")[2].split()[0]) for status in statuses if status]
    return [user for user in found if user in USERS]


def test_an_end_waits_for_no_child_that_goes_on() -> None:
    def attack(lender: Lender, _: BrokeredFS) -> float:
        lender.ask("read_stat_whole", *identity(os.getpid()))
        pid = os.fork()
        if pid == 0:
            time.sleep(DEADLINE)
            os._exit(0)
        before = time.monotonic()
        lender.close()
        took = time.monotonic() - before
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return took

    assert in_front(Grant(0), attack)[1] < DEADLINE / 2


def test_a_broker_with_few_descriptors_refuses_and_goes_on(victim: Callable[..., Victim]) -> None:
    who = identity(victim("anon_full").pid)

    def attack(lender: Lender, _: BrokeredFS) -> list[int]:
        held, refused = [], 0
        try:
            for _number in range(40):
                held.append(lender._connect()[0])
        except OSError as error:
            refused = error.errno or -1
        for connection in held:
            connection.close()
        deadline = time.monotonic() + DEADLINE
        while (code := refusal(lender, "open_file", *who, "maps", 0)) and time.monotonic() < deadline:
            time.sleep(0.05)
        return [refused, code]

    pid = os.fork()
    if pid == 0:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
            os._exit(in_front(Grant(0), attack)[1] != [errno.EAGAIN, 0])
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_process_whose_first_thread_has_ended_is_looked_at(headless: Program) -> None:
    direct, apart = (mematlas(*before, "maps", headless.pid, "--json") for before in ((), ("--apart",)))

    assert (direct.returncode, apart.returncode) == (0, 0), apart.stderr
    # What is shared counts as more processes map it, and they do.
    told = [
        [(row["start"], row["size"], row["nr_present"]) for row in json.loads(run.stdout)["rows"]]
        for run in (direct, apart)
    ]
    assert told[0] == told[1]


def test_a_name_of_several_is_an_error_that_says_what_to_type(victim: Callable[..., Victim]) -> None:
    names = {field(victim("anon_full").pid, "Name") for _ in range(2)}
    (name,) = names
    run = mematlas("--apart", "usage", name)

    assert run.returncode == 3
    assert run.stderr.splitlines()[-1].endswith(f"--apart usage name:{name}")


def test_frames_that_are_too_many_for_a_question_are_refused() -> None:
    run = mematlas("--apart", "owner", *(f"pfn:{number}" for number in range(1, 4004, 2)))

    assert (run.returncode, run.stdout) == (2, "")
    assert "too many frames with rights apart: 2,000 of them" in run.stderr


@steadily
def test_pages_that_are_pinned_are_not_promised_apart_either(pinned: Program) -> None:
    direct, apart = (
        json.loads(mematlas(*before, "pageout", pinned.pid, "--dry-run", "--json").stdout)["rows"]
        for before in ((), ("--apart",))
    )
    assert apart == direct


def test_a_capture_that_only_root_may_read_is_said_to_be_one(victim: Callable[..., Victim], tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    assert mematlas("capture", victim("anon_full").pid, saved).returncode == 0
    run = mematlas("--apart", "usage", saved)

    assert (run.returncode, run.stdout) == (4, "")
    assert f"{saved}: permission denied (needs to be readable by all" in run.stderr


def test_a_capture_grants_nobody_who_lives(victim: Callable[..., Victim], tmp_path: Path) -> None:
    one = victim("anon_full")
    made = mematlas("capture", one.pid, tmp_path / "saved")
    assert made.returncode == 0, made.stderr
    session = Session(ProcFS(), sys.stdout, sys.stderr, None)
    session.text = str(tmp_path / "saved")
    assert found_now(session) == frozenset()
    session.text = str(one.pid)
    assert found_now(session) == {identity(one.pid)}


def test_a_program_is_started_as_without_it() -> None:
    run = mematlas("--apart", "usage", "--after", "0.1", "--json", "--", "sleep", "1")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["target"]["name"] == "sleep"


def test_a_broker_that_ended_is_an_error(victim: Callable[..., Victim]) -> None:
    who = identity(victim("anon_full").pid)

    def attack(lender: Lender, _: BrokeredFS) -> str:
        lender.ask("read_stat_whole", *who)
        os.kill(lender.pid, signal.SIGKILL)
        os.waitpid(lender.pid, 0)
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            try:
                lender.ask("read_stat_whole", *who)
            except BrokerGone as error:
                return str(error)
        return ""

    assert in_front(Grant(0), attack)[1] == "the part of mematlas that has the rights has ended"


def test_an_interrupt_while_it_begins_ends_it_as_without_rights_apart(victim: Callable[..., Victim]) -> None:
    one = victim("anon_full")
    words = [sys.executable, "-m", "mematlas", "--apart", "usage", str(one.pid), "-i", "0.05"]
    for number in range(40):
        with subprocess.Popen(
            words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
        ) as process:
            wait_until(functools.partial(has_begun, process.pid), "it has begun")
            # Until its rights are left, and a little longer; before that a Ctrl-C is Python's to tell.
            time.sleep(0.02 + 0.002 * number)
            code, said = interrupted(process)
        assert code in (130, 1, -signal.SIGINT), said
        assert not re.search("has ended|release unlocked", said), said


def interrupted(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Send what a terminal sends for Ctrl-C until a process ends; return how it did, and what it said.

    Python loses one that comes while it takes away the lock of a module that was imported.
    """
    assert process.stderr
    for _ in range(5):
        os.killpg(process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(2), process.stderr.read()
    process.kill()
    raise AssertionError("it goes on")


def has_begun(pid: int) -> bool:
    return "mematlas" in command_line(pid)


def test_a_broker_that_cannot_load_ends_the_front_end_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "GRACE_MS", 100)
    reader, said = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(said, 2)
            lender_of(Grant(0), "mematlas.observe.queries:NOT_THERE")
            time.sleep(DEADLINE)
        finally:
            os._exit(0)
    os.close(said)
    with open(reader) as stream:
        text = stream.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert "NOT_THERE" in text
