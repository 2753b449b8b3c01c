"""How a cgroup may be given: its path, or its directory in any hierarchy."""

from __future__ import annotations

from pathlib import Path

import pytest

from mematlas.kernel.cgroups import hierarchy_path

V2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"
V1 = """\
24 1 0:21 / /proc rw - proc proc rw
31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/systemd rw shared:6 master:2 - cgroup cgroup rw,xattr,name=systemd
35 30 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
36 30 0:32 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
"""
BOUND = "30 24 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n"
"""A container without a cgroup namespace of its own sees its part of the hierarchy alone."""


@pytest.mark.parametrize(
    ("mounts", "text", "path", "controllers"),
    [
        (V2, "/sys/fs/cgroup/system.slice/ssh.service/", "/system.slice/ssh.service", ""),
        (V2, "/sys/fs/cgroup", "/", ""),
        (V2, "/sys/fs/cgroupish", "/sys/fs/cgroupish", None),
        (V2, "system.slice", "/system.slice", None),
        (V1, "/sys/fs/cgroup/memory/docker/abc", "/docker/abc", "memory"),
        (V1, "/sys/fs/cgroup/cpu,cpuacct/a", "/a", "cpu,cpuacct"),
        (V1, "/sys/fs/cgroup/systemd/a", "/a", "name=systemd"),
        (V1, "/sys/fs/cgroup/unified/a", "/a", ""),
        (BOUND, "/sys/fs/cgroup/child", "/docker/abc/child", ""),
        ("", "/sys/fs/cgroup/a", "/sys/fs/cgroup/a", None),
    ],
)
def test_directory_of_a_cgroup_is_its_path(
    tmp_path: Path, mounts: str, text: str, path: str, controllers: str | None
) -> None:
    (tmp_path / "mountinfo").write_text(mounts)

    assert hierarchy_path(text, str(tmp_path / "mountinfo")) == (path, controllers)
