"""What a front end may not do once it has given up its rights: tried, in a child that has."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers import alone
from mematlas.errors import NotSupported
from mematlas.kernel import confine
from mematlas.kernel.confine import ARCHITECTURES, IOCTL, NEVER_MADE, USERS, filter_code, may_others_go, moved

MACHINE = os.uname().machine
NEWUSER = 0x10000000


def refused(call: Callable[[], object]) -> int:
    """Return with which errno something is refused; 0 where it is done."""
    try:
        call()
    except OSError as error:
        return error.errno or -1
    return 0


def by_libc(name: str, *numbers: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    ctypes.set_errno(0)
    getattr(libc, name)(*map(ctypes.c_long, numbers))
    return ctypes.get_errno()


@pytest.mark.root("CAP_SYS_ADMIN")
@alone
def test_a_confined_process_has_no_way_back() -> None:
    uid = confine.confine()
    assert uid in USERS
    assert os.getresuid() == os.getresgid() == (uid, uid, uid)
    assert os.getgroups() == []
    assert [refused(lambda: os.setresuid(0, 0, 0)), refused(lambda: os.setgroups([0]))] == [errno.EPERM, errno.EPERM]
    assert refused(lambda: os.open("/proc/kpageflags", os.O_RDONLY)) == errno.EACCES
    assert refused(lambda: os.kill(1, 0)) == errno.EPERM


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.skipif(MACHINE not in ARCHITECTURES, reason="needs x86-64 or arm64: how calls are numbered")
@alone
def test_calls_that_are_never_made_are_refused() -> None:
    confine.confine()
    assert {
        name: by_libc("syscall", number, 0, 0, 0, 0) for name, number in NEVER_MADE[MACHINE].items()
    } == dict.fromkeys(NEVER_MADE[MACHINE], errno.EPERM)
    assert refused(lambda: subprocess.run([sys.executable, "-c", ""], check=True)) == errno.EPERM
    assert refused(lambda: socket.socket(socket.AF_INET)) == errno.EPERM
    assert refused(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)) == errno.EPERM
    socket.socket(socket.AF_UNIX).close()
    assert refused(lambda: fcntl.ioctl(0, 0x5412, b"x")) == errno.EPERM
    assert by_libc("ioctl", 0, 0x5412 | 1 << 32, 0) == errno.EPERM
    for number in (0x541C, 0x5410):
        assert by_libc("ioctl", 0, number, 0) == errno.EPERM
    assert by_libc("ioctl", 0, 0x5411, 0) != errno.EPERM
    assert refused(lambda: socket.socketpair(socket.AF_INET)) == errno.EPERM
    pid = os.fork()  # is done still, and so are threads
    if pid == 0:
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert by_libc("syscall", {"x86_64": 56, "aarch64": 220}[MACHINE], NEWUSER | 17, 0, 0, 0, 0) == errno.EPERM
    assert by_libc("syscall", 435, 0, 0) == errno.ENOSYS


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_the_filter_jumps_to_places_in_it_and_ends(machine: str) -> None:
    lines = list(struct.iter_unpack("=HBBI", filter_code(machine)))
    for index, (code, yes, no, _) in enumerate(lines):
        if code in (0x15, 0x35, 0x45):
            assert max(index + 1 + yes, index + 1 + no) < len(lines)
    assert lines[-1][0] == 0x06
    assert IOCTL[machine] in {value for _, _, _, value in lines}


def test_a_directory_that_others_may_not_go_to_is_found_out(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    inner = tmp_path / "private" / "lib"
    inner.mkdir(parents=True)
    (tmp_path / "private").chmod(0o700)
    assert not may_others_go(str(inner))
    assert may_others_go("/usr")
    assert moved(f"{inner}/numpy", {str(inner): 7, str(tmp_path): 5}) == "/proc/self/fd/7/numpy"
    assert moved("/usr/lib", {str(inner): 7}) == "/usr/lib"


@pytest.mark.root("CAP_SYS_ADMIN")
@alone
def test_who_cannot_be_anybody_else_is_told() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(confine, "USERS", range(1, 2))
        patch.setattr(confine, "may_signal", lambda pid: True)
        with pytest.raises(NotSupported, match="a user of our own"):
            confine.become_nobody_else()
    assert os.geteuid() == 0


@pytest.mark.root("CAP_SYS_ADMIN")
@alone
def test_who_becomes_the_same_user_at_the_same_time_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one starts when we have listed all that run: it is not among them, and is to see us."""
    listdir = os.listdir
    refused_to: list[int] = []

    def listed(path: str) -> list[str]:
        found = listdir(path)
        if path == "/proc" and not refused_to:
            refused_to.append(-1)
            if (pid := os.fork()) == 0:
                try:
                    confine.become_nobody_else()
                except NotSupported:
                    os._exit(7)
                finally:
                    os._exit(0)
            refused_to[0] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return found

    monkeypatch.setattr(confine, "USERS", range(USERS[5], USERS[6]))
    monkeypatch.setattr("os.listdir", listed)
    assert confine.become_nobody_else() == USERS[5]
    assert refused_to == [7]


@pytest.mark.root("CAP_SYS_ADMIN")
@alone
def test_rights_are_left_in_a_directory_that_is_gone(tmp_path: Path) -> None:
    os.chdir(tmp_path)
    tmp_path.rmdir()
    confine.leave_rights({0, 1, 2})
    assert os.getcwd() == "/"
