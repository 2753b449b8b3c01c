"""In which container, pod and unit a process runs: the cgroup's paths of each runtime, as it really makes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import helpers  # noqa: F401  (the settings of hypothesis)
from mematlas.model.containers import Level, Place, levels_of, place_of, unescaped

ID = "9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d"
OUTER = "4f797c539e6c745de61a93ca3ff892358ecbcaccd8414d5db545c38428142970"
UID = "2c48913c-b29f-11e7-9350-020968147796"
SLICE_UID = UID.replace("-", "_")
STATIC = "3fb7e5c2a7e0d6e0a7c1a6e8c7c2d9f2"
USER = "/user.slice/user-1000.slice/user@1000.service"
QOS = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod"
KIND = "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod"

CONTAINERS = {
    # Docker
    f"/docker/{ID}": ("docker", ID, None),
    f"/system.slice/docker-{ID}.scope": ("docker", ID, None),
    f"{USER}/user.slice/docker-{ID}.scope": ("docker", ID, None),
    f"/batch.slice/docker-{ID}.scope": ("docker", ID, None),
    f"/system.slice:docker:{ID}": ("docker", ID, None),
    f"/docker/{ID}/init": ("docker", ID, None),
    f"/docker/{ID}/system.slice/nginx.service": ("docker", ID, None),
    f"/ecs/0123456789abcdef/{ID}": (None, ID, None),
    f"/{ID}": (None, ID, None),
    # containerd, by itself and for Kubernetes
    f"/system.slice/nerdctl-{ID}.scope": ("containerd", ID, None),
    f"/default/{ID}": (None, ID, None),
    f"/kubepods/besteffort/pod{UID}/{ID}": ("kubernetes", ID, UID),
    f"/kubepods/pod{UID}/{ID}": ("kubernetes", ID, UID),
    f"/kubepods/burstable/pod{STATIC}/{ID}": ("kubernetes", ID, STATIC),
    f"{QOS}{SLICE_UID}.slice/cri-containerd-{ID}.scope": ("containerd", ID, UID),
    f"/kubepods.slice/kubepods-pod{SLICE_UID}.slice/cri-containerd-{ID}.scope": ("containerd", ID, UID),
    f"{QOS}{STATIC}.slice/cri-containerd-{ID}.scope": ("containerd", ID, STATIC),
    f"/system.slice/containerd.service/kubepods-burstable-pod{SLICE_UID}.slice:cri-containerd:{ID}": (
        "containerd",
        ID,
        UID,
    ),
    f"/kubepods-besteffort-pod{SLICE_UID}.slice:cri-containerd:{ID}": ("containerd", ID, UID),
    f"{QOS}{UID}.slice/docker-{ID}.scope": ("docker", ID, UID),
    # CRI-O
    f"{QOS}{SLICE_UID}.slice/crio-{ID}.scope": ("cri-o", ID, UID),
    f"{QOS}{SLICE_UID}.slice/crio-{ID}.scope/container": ("cri-o", ID, UID),
    f"/kubepods/burstable/pod{UID}/crio-{ID}": ("cri-o", ID, UID),
    f"{QOS}{SLICE_UID}.slice/crio-conmon-{ID}.scope": (None, None, UID),
    # Podman
    f"/machine.slice/libpod-{ID}.scope": ("podman", ID, None),
    f"/machine.slice/libpod-{ID}.scope/container": ("podman", ID, None),
    f"{USER}/user.slice/libpod-{ID}.scope/container": ("podman", ID, None),
    f"{USER}/app.slice/redis.service/libpod-payload-{ID}": ("podman", ID, None),
    f"{USER}/app.slice/redis.service/runtime": (None, None, None),
    f"/machine.slice/libpod-conmon-{ID}.scope": (None, None, None),
    f"/libpod_parent/libpod-{ID}": ("podman", ID, None),
    f"/libpod_parent/{OUTER}/libpod-{ID}": ("podman", ID, OUTER),
    f"/libpod_parent/{OUTER}/conmon": (None, None, OUTER),
    f"/machine.slice/machine-libpod_pod_{OUTER}.slice/libpod-{ID}.scope": ("podman", ID, OUTER),
    "/libpod_parent/conmon": (None, None, None),
    # LXC, Incus, LXD, Proxmox
    "/lxc.payload.web-1": ("lxc", "web-1", None),
    "/lxc.payload.web/system.slice/ssh.service": ("lxc", "web", None),
    "/lxc.payload/web": ("lxc", "web", None),
    "/lxc/101/ns/init.scope": ("lxc", "101", None),
    "/lxc.monitor.web-1": (None, None, None),
    "/lxc.monitor/101": (None, None, None),
    # systemd-nspawn, and what systemd-machined knows besides
    r"/machine.slice/machine-my\x2dmachine.scope/payload/init.scope": ("nspawn", "my-machine", None),
    "/machine.slice/systemd-nspawn@jammy.service/payload/system.slice/console-getty.service": ("nspawn", "jammy", None),
    "/machine.slice/systemd-nspawn@delphix.uE0noy5.service": ("nspawn", "delphix.uE0noy5", None),
    "/machine.slice/systemd-nspawn@jammy.service/supervisor": (None, None, None),
    r"/machine.slice/machine-qemu\x2d1\x2dvm1.scope/libvirt/emulator": ("libvirt", "qemu-1-vm1", None),
    # One in another: Kubernetes in Docker, Docker in Docker, Docker in a pod
    f"/docker/{OUTER}/kubelet/kubepods/besteffort/pod{UID}/{ID}": ("kubernetes", ID, UID),
    f"/system.slice/docker-{OUTER}.scope{KIND}{SLICE_UID}.slice/cri-containerd-{ID}.scope": ("containerd", ID, UID),
    f"/docker/{OUTER}/docker/{ID}": ("docker", ID, None),
    f"/kubepods/burstable/pod{UID}/{OUTER}/docker/{ID}": ("docker", ID, UID),
    # As a process in a cgroup namespace of its own sees others
    f"/../crio-{ID}.scope": ("cri-o", ID, None),
    f"/../../pod{UID}/{ID}": ("kubernetes", ID, UID),
    # None of all these
    "/": (None, None, None),
    "/system.slice/docker.service": (None, None, None),
    "/system.slice/snap.firefox.firefox-1f2e3d4c.scope": (None, None, None),
    f"/somebody-{ID}": (None, None, None),
    f"/docker/{ID[1:]}": (None, None, None),
    f"/docker/{ID.upper()}": (None, None, None),
    "/kubepods/besteffort": (None, None, None),
    "/podium": (None, None, None),
}


@pytest.mark.parametrize("path", CONTAINERS)
@pytest.mark.parametrize(
    "form", ["0::{}\n", "11:memory:{}\n1:name=systemd:/\n0::/\n", "4:cpu,cpuacct:{}\n0::{}\n"], ids=["v2", "v1", "both"]
)
def test_container_and_pod_are_what_the_path_names(path: str, form: str) -> None:
    place = place_of(form.format(path, path))

    assert (place.runtime, place.container, place.pod) == CONTAINERS[path]


@pytest.mark.parametrize(
    ("path", "unit", "within", "user"),
    [
        ("/system.slice/nginx.service", "nginx.service", "system.slice", None),
        ("/init.scope", "init.scope", None, None),
        ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope", "user-1000.slice", 1000),
        (f"{USER}/init.scope", "init.scope", "user-1000.slice", 1000),
        (f"{USER}/app.slice/app-gnome-firefox-1234.scope", "app-gnome-firefox-1234.scope", "app.slice", 1000),
        ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service", "system-getty.slice", None),
        (
            r"/system.slice/system-postgresql.slice/postgresql@15-main.service",
            "postgresql@15-main.service",
            "system-postgresql.slice",
            None,
        ),
        (r"/system.slice/my\x2dapp.service/worker", r"my\x2dapp.service", "system.slice", None),
        ("/system.slice/_cpu.service", "cpu.service", "system.slice", None),
        ("/system.slice/srv.mount", "srv.mount", "system.slice", None),
        (f"/system.slice/docker-{ID}.scope", f"docker-{ID}.scope", "system.slice", None),
        ("/docker/nothing", None, None, None),
        ("/batch.slice", None, "batch.slice", None),
        ("/user.slice/user-x.slice", None, "user-x.slice", None),
    ],
)
def test_unit_is_the_innermost_that_is_no_slice(path: str, unit: str | None, within: str | None, user: int) -> None:
    place = place_of(f"0::{path}\n")

    assert (place.unit, place.slice, place.user) == (unit, within, user)


def test_each_level_has_the_cgroup_that_it_is() -> None:
    scope = f"/system.slice/docker-{OUTER}.scope"
    place = place_of(f"0::{scope}/kubelet/kubepods/pod{UID}/{ID}/system.slice/cron.service\n")

    assert place.containers == (
        Level(OUTER, scope, "", "docker"),
        Level(ID, f"{scope}/kubelet/kubepods/pod{UID}/{ID}", "", "kubernetes"),
    )
    assert place.pods == (Level(UID, f"{scope}/kubelet/kubepods/pod{UID}", "", "kubernetes"),)
    assert [level.name for level in place.units] == [f"docker-{OUTER}.scope", "cron.service"]
    assert place.units[1].path == place.path


def test_hierarchy_that_charges_memory_tells_the_container_and_that_of_systemd_the_unit() -> None:
    place = place_of(
        f"9:name=systemd:{USER}/app.slice/redis.service\n4:memory:{USER}\n3:cpu,cpuacct:/docker/{ID}\n0::{USER}\n"
    )

    assert (place.path, place.unit, place.container) == (USER, "redis.service", ID)
    assert (place.units[-1].controllers, place.containers[-1].controllers) == ("name=systemd", "cpu,cpuacct")


def test_path_of_memory_is_that_of_version_1_where_it_has_the_controller() -> None:
    assert place_of("12:hugetlb:/h\n4:memory:/docker/x\n0::/y\n").path == "/docker/x"
    assert place_of("12:hugetlb:/h\n0::/y\n").path == "/y"
    assert place_of("").path == ""


def test_cgroup_that_was_removed_is_still_told() -> None:
    place = place_of(f"0::/docker/{ID} (deleted)\n")

    assert (place.container, place.path) == (ID, f"/docker/{ID}")


@pytest.mark.parametrize(
    ("name", "plain"),
    [(r"a\x2db", "a-b"), (r"\xc3\xa9", "é"), (r"\xZZ", r"\xZZ"), ("a\\x", "a\\x"), (r"\xff", "\udcff"), (r"\x2D", "-")],
)
def test_name_that_systemd_escaped_is_read_back(name: str, plain: str) -> None:
    assert unescaped(name) == plain


PIECES = (*CONTAINERS, ":", "\n", "/", "lxc", "lxc.payload.", "pod", "0::")


@given(st.text() | st.lists(st.sampled_from(PIECES)).map("".join))
def test_no_text_is_too_strange(text: str) -> None:
    place = place_of(text)

    assert isinstance(place, Place)
    assert all(level.name and level.path for _, level in levels_of(text))
