"""Which processes a group has, by its prefix; and what is said where there is none, or more than one of its name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from helpers import make_process, program
from mematlas.cli.command import PREFIXES
from mematlas.errors import BadInput, TargetAmbiguous, TargetNotFound
from mematlas.kernel.procfs import ProcFS
from mematlas.kernel.rights import user_name
from mematlas.model.groups import MAKERS
from mematlas.model.search import find, resolve
from mematlas.model.target import GROUPS, is_group

WEB, DB = "9ec39b91f3d7" + "0" * 52, "9ec39b91aaaa" + "0" * 52
POD = "2c48913c-b29f-11e7-9350-020968147796"
NGINX = "/system.slice/nginx.service"
WORKER = f"/docker/{WEB}/worker"
PLACES = {
    10: ("init", 0, 0, "/init.scope"),
    20: ("sshd", 10, 0, "/system.slice/ssh.service"),
    21: ("bash", 20, 1000, "/user.slice/user-1000.slice/session-3.scope"),
    22: ("vim", 21, 1000, "/user.slice/user-1000.slice/session-3.scope"),
    30: ("nginx", 10, 33, NGINX),
    31: ("nginx", 30, 33, NGINX),
    40: ("nginx", 10, 0, f"/docker/{WEB}"),
    41: ("a name of fifte", 40, 0, WORKER),
    50: ("postgres", 10, 70, f"/kubepods/burstable/pod{POD}/{DB}"),
    51: ("pause", 10, 70, f"/kubepods/burstable/pod{POD}/{'b' * 64}"),
    60: ("nginx", 10, 0, f"/lxc.payload.web{NGINX}"),
    61: ("cron", 10, 0, r"/system.slice/my\x2djob.service"),
}
"""Name, parent, user and cgroup, by PID."""


@pytest.fixture
def machine(tmp_path: Path) -> ProcFS:
    """A machine of made processes."""
    for pid, (name, parent, uid, cgroup) in PLACES.items():
        directory = make_process(tmp_path, pid=pid)
        fields = (directory / "stat").read_text().rpartition(")")[2].split()
        fields[1] = str(parent)
        (directory / "stat").write_text(f"{pid} ({name}) {' '.join(fields)}\n")
        (directory / "status").write_text(f"Name:\t{name}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nVmRSS:\t32 kB\n")
        (directory / "cgroup").write_text(f"0::{cgroup}\n")
        (directory / "cmdline").write_text(f"/srv/{name}en bytes\0" if len(name) == 15 else f"{name}\0")
    (tmp_path / "machine.json").write_text('{"page_size": 4096}')
    return ProcFS(str(tmp_path))


def pids(text: str, procfs: ProcFS) -> list[int]:
    targets = list(find(text, procfs))
    for target in targets:
        target.close()
    return [target.pid for target in targets]


def test_every_prefix_is_known_everywhere() -> None:
    assert list(MAKERS) == list(GROUPS)
    assert set(GROUPS) | {"cmdline:", "pid:"} == set(PREFIXES)
    assert not is_group("postgres")
    assert not is_group("12")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("name:nginx", [30, 31, 40, 60]),
        ("name:a name of fifteen bytes", [41]),
        ("user:1000", [21, 22]),
        ("tree:20", [20, 21, 22]),
        ("tree:pid:21", [21, 22]),
        ("tree:nginx", [30, 31, 40, 41, 60]),
        ("tree:10", sorted(PLACES)),
        ("cgroup:/docker", [40, 41]),
        ("cgroup:system.slice/", [20, 30, 31, 61]),
        ("cgroup:/", sorted(PLACES)),
        (f"container:{WEB}", [40, 41]),
        ("container:9ec39b91f", [40, 41]),
        ("container:containerd://9ec39b91a", [50]),
        ("container:web", [60]),
        (f"pod:{POD}", [50, 51]),
        ("pod:2c48913c_b29f", [50, 51]),
        ("unit:ssh", [20]),
        ("unit:my-job", [61]),
        (r"unit:my\x2djob.service", [61]),
        ("unit:session-3.scope", [21, 22]),
        ("unit:user.slice", [21, 22]),
    ],
)
def test_group_has_the_processes_that_it_names(text: str, found: list[int], machine: ProcFS) -> None:
    assert pids(text, machine) == found


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("container:9ec39b91f", f"/docker/{WEB}"),
        ("pod:2c48", f"/kubepods/burstable/pod{POD}"),
        ("unit:ssh", "/system.slice/ssh.service"),
        ("cgroup:/docker/", "/docker"),
    ],
)
def test_group_that_is_a_cgroup_says_which(text: str, level: str, machine: ProcFS) -> None:
    found = find(text, machine).level

    assert found is not None
    assert found.path == level
    assert find("name:nginx", machine).level is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name:ngin", r"no process is called 'ngin' \(did you mean 'nginx'\?\)"),
        ("name:zzz", r"no process is called 'zzz' \(cmdline:zzz searches command lines\)"),
        ("name:usr:root", r"no process is called 'usr:root' \(did you mean 'user:root'\?\)"),
        ("name:http:x", r"no process is called 'http:x' \(cmdline:http:x searches"),
        (
            "user:nobody-is-called-so",
            rf"no user 'nobody-is-called-so' here .there are processes of .*\b{user_name(0)}\b",
        ),
        ("user:4294967294", "no process of user 4294967294 .there are processes of "),
        ("tree:99", "no process 99 to begin with"),
        ("tree:ssd", r"no process is called 'ssd' \(did you mean 'sshd'\?\)"),
        ("cgroup:/dockr", r"no process in cgroup /dockr \(there are processes in "),
        ("cgroup:/init.scop", r"\(did you mean '/init.scope'\?\)"),
        ("container:77", r"no container '77' \(there are: 9ec39b91aaaa .kubernetes., 9ec39b91f3d7 .docker., bbbb"),
        ("pod:77", rf"no pod '77' \(there are: {POD} .kubernetes.\)"),
        ("unit:zz", r"no unit 'zz' \(there are: my.*job.service, nginx.service, ssh.service\)$"),
        ("unit:ss", r"no unit 'ss' \(did you mean 'ssh.service'\?\)$"),
    ],
)
def test_no_such_group_is_said_with_what_there_is(text: str, message: str, machine: ProcFS) -> None:
    with pytest.raises(TargetNotFound, match=message):
        find(text, machine)


def test_names_that_others_made_take_a_line_however_long_they_are(tmp_path: Path) -> None:
    for pid in range(7, 10):
        (make_process(tmp_path, pid=pid) / "cgroup").write_text(f"0::/{pid}{'x/' * 2000}\n")

    with pytest.raises(TargetNotFound, match=r"there are processes in /7x/[x/]*\.\.\., /8") as caught:
        find("cgroup:/other", ProcFS(str(tmp_path)))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("text", GROUPS)
def test_prefix_alone_asks_for_more(text: str, machine: ProcFS) -> None:
    with pytest.raises(BadInput, match=f"^{text} needs more: {text}"):
        find(text, machine)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("container:9ec3", r"2 containers; give one: 9ec39b91aaaa \(kubernetes\), 9ec39b91f3d7 \(docker\)$"),
        ("unit:nginx", f"2 units; give one: cgroup:/lxc.payload.web{NGINX}, cgroup:{NGINX}$"),
    ],
)
def test_several_of_a_name_are_listed_and_none_is_taken(text: str, message: str, machine: ProcFS) -> None:
    with pytest.raises(TargetAmbiguous, match=message) as caught:
        find(text, machine)
    assert caught.value.exit_code == 3


def test_where_nothing_is_in_a_container_that_is_said(tmp_path: Path) -> None:
    (make_process(tmp_path) / "cgroup").write_text("0::/\n")

    with pytest.raises(TargetNotFound, match="no container 'x': no process here is in a container"):
        find("container:x", ProcFS(str(tmp_path)))


def test_pod_of_several_cgroups_is_one_group(tmp_path: Path) -> None:
    for pid, container in ((7, WEB), (8, DB)):
        path = f"/system.slice/containerd.service/kubepods-burstable-pod{POD.replace('-', '_')}.slice"
        (make_process(tmp_path, pid=pid) / "cgroup").write_text(f"0::{path}:cri-containerd:{container}\n")

    found = find("pod:2c48", ProcFS(str(tmp_path)))
    assert ([target.pid for target in found], found.level) == ([7, 8], None)


@pytest.mark.parametrize(("text", "kind"), [("pod:2c48", "pods"), (f"container:{WEB}", "containers")])
def test_cgroup_that_somebody_named_like_another_is_not_taken_for_it(text: str, kind: str, tmp_path: Path) -> None:
    own = "/user.slice/user-1000.slice/user@1000.service"
    for pid, path in ((7, f"/kubepods/pod{POD}/{WEB}"), (8, f"{own}/pod{POD}/{WEB}")):
        (make_process(tmp_path, pid=pid) / "cgroup").write_text(f"0::{path}\n")

    with pytest.raises(TargetAmbiguous, match=f"is 2 {kind}; give one: cgroup:/kubepods.*, cgroup:{own}/pod"):
        find(text, ProcFS(str(tmp_path)))


def test_one_process_of_a_group_is_a_target_of_any_command(machine: ProcFS) -> None:
    assert resolve("name:vim", machine).pid == 22
    with pytest.raises(TargetAmbiguous, match="names 4 processes; give one PID: 30, 31, 40, 60"):
        resolve("name:nginx", machine)


# --- of this machine


def test_we_are_in_no_group() -> None:
    procfs = ProcFS()
    own = os.getpid()
    name = Path("/proc/self/comm").read_text().rstrip()
    texts = [f"name:{name}", f"user:{user_name(os.getuid())}", f"tree:{own}"]
    if os.path.exists("/proc/self/cgroup"):
        texts.append("cgroup:" + Path("/proc/self/cgroup").read_text().splitlines()[-1].split(":", 2)[2])

    code = f"import os, sys; open('/proc/self/comm', 'w').write({name!r}); print(os.getpid(), flush=True)"
    with program(code) as one:
        for text in texts:
            found = pids(text, procfs)
            assert one.pid in found
            assert own not in found


def test_nobody_but_us_below_a_process_is_an_empty_group() -> None:
    with pytest.raises(TargetNotFound, match="nobody but us is below self"):
        find("tree:self", ProcFS())


def test_name_is_as_long_as_its_bytes_are(tmp_path: Path) -> None:
    name = "a" * 14 + "é and more"
    directory = make_process(tmp_path)
    fields = (directory / "stat").read_text().rpartition(")")[2]
    (directory / "stat").write_bytes(b"7 (" + name.encode()[:15] + b")" + fields.encode())
    (directory / "cmdline").write_bytes(f"/srv/{name}\0".encode())

    assert pids(f"name:{name}", ProcFS(str(tmp_path))) == [7]
    with pytest.raises(TargetNotFound):
        find(f"name:{name[:15]}", ProcFS(str(tmp_path)))


def test_tree_has_grandchildren_and_not_the_parent() -> None:
    code = """
import subprocess, sys
child = subprocess.Popen(["sh", "-c", "sleep 100 & echo; wait"], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
"""
    with program(code) as top:
        try:
            found = pids(f"tree:{top.told}", ProcFS())
            assert len(found) == 2
            assert top.told in found
            assert top.pid not in found
            assert set(pids(f"tree:{top.pid}", ProcFS())) == {top.pid, *found}
        finally:
            for pid in pids(f"tree:{top.told}", ProcFS()):
                os.kill(pid, 9)
