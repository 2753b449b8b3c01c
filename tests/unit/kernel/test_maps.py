"""Lines of maps, as the kernel writes them and as it might."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

import helpers  # noqa: F401  (the settings of hypothesis)
from helpers import parse_line
from mematlas.errors import FormatError
from mematlas.kernel.maps import KINDS, Vma, parse_maps
from mematlas.kernel.mounts import format_device, hugetlb_devices, memfd_device, parse_mountinfo, shmem_device
from mematlas.kernel.vmfile import Devices

DEVICES = Devices(shmem=frozenset(("00:01", "00:1a")), hugetlb=frozenset(("00:11",)))

# Whatever a file can be called: any bytes but the newline, which the kernel escapes, and the zero.
names = st.binary(min_size=1, max_size=40).filter(lambda name: not {0, 10} & set(name) and b"\\012" not in name)


def line_of(start: int, end: int, perms: str, offset: int, dev: str, inode: int, path: bytes) -> bytes:
    """Return a line as show_map_vma() prints it: the path begins at column 73, or after one blank."""
    head = b"%08x-%08x %s %08x %s %d " % (start, end, perms.encode(), offset, dev.encode(), inode)
    return head.ljust(73) + path if path else head.rstrip() + b" "


@given(
    st.integers(0, (1 << 64) - 2),
    st.integers(1, 1 << 47),
    st.tuples(*map(st.sampled_from, ("r-", "w-", "x-", "ps"))).map("".join),
    st.integers(0, 1 << 50),
    st.tuples(st.integers(0, 0xFFF), st.integers(0, 0xFFFFF)).map(lambda two: f"{two[0]:02x}:{two[1]:02x}"),
    st.integers(1, 1 << 63),
    names,
)
def test_every_line_is_read_back(
    start: int, size: int, perms: str, offset: int, dev: str, inode: int, name: bytes
) -> None:
    path = b"/" + name
    vma = parse_line(line_of(start, start + size, perms, offset, dev, inode, path))

    assert vma == Vma(
        start=start,
        end=start + size,
        perms=perms,
        offset=offset,
        dev=dev,
        inode=inode,
        path=os.fsdecode(path),
        kind=vma.kind,
    )
    assert vma.size == size


@given(st.lists(names, max_size=5))
def test_lines_are_cut_at_newlines_alone(paths: list[bytes]) -> None:
    lines = [line_of(n << 12, (n + 1) << 12, "r--p", 0, "fe:00", 5, b"/" + path) for n, path in enumerate(paths)]

    assert [os.fsencode(vma.path)[1:] for vma in parse_maps(lines)] == paths


def test_line_without_a_path_is_anonymous() -> None:
    vma = parse_line(b"7f0000000000-7f0000001000 rw-p 00000000 00:00 0 ")

    assert (vma.path, vma.inode, vma.kind) == ("", 0, "anon")


def test_escaped_newline_becomes_one_again() -> None:
    assert parse_line(rb"1000-2000 r--p 0 fe:01 7 /a\012b\134 (deleted)").path == "/a\nb\\134 (deleted)"


def test_device_numbers_may_have_three_digits() -> None:
    vma = parse_line(b"1000-2000 r--s 0 103:1a2 7 /x")

    assert (vma.dev, vma.inode) == ("103:1a2", 7)
    assert format_device(os.makedev(0x103, 0x1A2)) == "103:1a2"


@pytest.mark.parametrize(
    ("path", "dev", "inode", "kind"),
    [
        ("", "00:00", 0, "anon"),
        ("[anon:a name]", "00:00", 0, "anon"),
        ("[heap]", "00:00", 0, "heap"),
        ("[stack]", "00:00", 0, "stack"),
        ("[stack:1234]", "00:00", 0, "stack"),
        ("[vdso]", "00:00", 0, "vdso"),
        ("[vvar]", "00:00", 0, "vvar"),
        ("[vvar_vclock]", "00:00", 0, "vvar"),
        ("[vsyscall]", "00:00", 0, "vsyscall"),
        ("[uprobes]", "00:00", 0, "special"),
        ("/tmp/[heap]", "fe:00", 12, "file"),
        ("/dev/zero", "00:05", 5, "anon"),
        ("/dev/zero (deleted)", "00:01", 1029, "shmem"),
        ("/memfd:x (deleted)", "00:01", 1030, "shmem"),
        ("/SYSV00000000 (deleted)", "00:01", 3, "shmem"),
        ("/SYSV00000000 (deleted)", "00:01", 0, "shmem"),
        ("/dev/shm/x", "00:1a", 3, "shmem"),
        ("[anon_shmem:x]", "00:07", 3, "shmem"),
        ("/anon_hugepage (deleted)", "00:10", 3, "hugetlb"),
        ("/mnt/huge/x", "00:11", 3, "hugetlb"),
        ("/usr/lib/libc.so.6", "fe:00", 1234, "file"),
    ],
)
def test_kind_is_what_backs_a_vma(path: str, dev: str, inode: int, kind: str) -> None:
    vma = parse_line(line_of(4096, 8192, "rw-p", 0, dev, inode, path.encode()), DEVICES)

    assert (vma.path, vma.kind) == (path, kind)
    assert kind in KINDS


@pytest.mark.parametrize(
    "line",
    [
        *(b"nonsense", b"1000 r--p 0 00:00 0", b"1000-2000 r--p zz 00:00 0", b"1000-2000 r--p"),
        *(b"1000-2000 -1 0 00:00 0", b"1000-2000 00:00 0 00:00 0", b"1000-2000 r--p 0 r--p 0", b"1000-2000 r--p 0 1 0"),
    ],
)
def test_unknown_line_is_an_error_that_shows_it(line: bytes) -> None:
    with pytest.raises(FormatError, match=line.decode()):
        parse_maps([b"0-1000 r--p 0 00:00 0", line])


def test_file_systems_are_known_by_their_device() -> None:
    text = (
        b"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
        b"23 22 0:26 / /dev/shm rw,nosuid - tmpfs tmpfs rw\n"
        b"24 22 0:300 / /a\\040-\\040tmpfs rw shared:2 master:3 - ext4 /dev/x rw\n"
        b"25 22 0:17 / /huge rw - hugetlbfs none rw,pagesize=2M\n"
    )

    found = parse_mountinfo(text.split(b"\n"))
    assert found == {"fe:00": "ext4", "00:1a": "tmpfs", "00:12c": "ext4", "00:11": "hugetlbfs"}


def test_kernels_own_mounts_are_found_by_a_file_on_each() -> None:
    assert shmem_device() == memfd_device(0)
    assert shmem_device() not in hugetlb_devices()
    assert memfd_device(1 << 30) == ""
