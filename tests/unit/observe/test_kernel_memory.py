"""What the kernel has memory for, read from a /proc that was made: with graphics clients, which few machines have."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from helpers import make_process
from mematlas.analysis.kernel_memory import KernelResult
from mematlas.errors import NotSupported, PermissionDenied
from mematlas.kernel.fdinfo import DmaBuf
from mematlas.kernel.procfs import ProcFS
from mematlas.observe import kernel_memory
from mematlas.observe.kernel_memory import find_kernel_memory

PAGE = 4096
MEMINFO = """MemTotal: 1000 kB\nMemFree: 100 kB\nBuffers: 0 kB\nCached: 0 kB\nShmem: 0 kB\nAnonPages: 0 kB
Slab: 200 kB\nSReclaimable: 150 kB\nPageTables: 40 kB\nKernelStack: 32 kB\nVmallocUsed: 132 kB\nPercpu: 16 kB
Zswap: 4 kB\n"""
SLABINFO = """slabinfo - version: 2.1
# name
dentry 60 80 192 21 1 : tunables 0 0 0 : slabdata 40 40 0
"""
VMALLOCINFO = """0x1-0x2 20480 kernel_clone+0xb8/0x400 pages=4 vmalloc N0=4
0x3-0x4 20480 kernel_clone+0xb8/0x400 pages=4 vmalloc N0=4
0x5-0x6 104448 load_module+0x1/0x2 pages=25 vmalloc N0=25
"""
STATUS = "Name:\t{name}\nThreads:\t{threads}\nVmRSS:\t 8 kB\nVmPTE:\t {tables} kB\n"
CLIENT = (
    "pos:\t0\ndrm-driver:\txe\ndrm-pdev:\t0000:03:00.0\ndrm-client-id:\t{number}\ndrm-resident-vram0:\t{size} KiB\n"
)
BUFFER = "pos:\t0\nino:\t{inode}\nsize:\t{size}\ncount:\t2\nexp_name:\tsystem\n"


class Refused:
    """Frames that may not be looked at."""

    refused = PermissionDenied("/proc/kpageflags", "CAP_DAC_READ_SEARCH")

    def __init__(self, procfs: ProcFS) -> None: ...

    def __enter__(self) -> Refused:
        return self

    def __exit__(self, *exc: object) -> None: ...


def unlisted() -> list[DmaBuf]:
    raise NotSupported("buffers", "debugfs")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(kernel_memory, "Frames", Refused)
    monkeypatch.setattr(kernel_memory, "read_dmabufs", unlisted)
    monkeypatch.setattr(kernel_memory, "read_aliases", dict)
    monkeypatch.setattr(kernel_memory, "is_inside", lambda procfs: False)
    for name, text in (("meminfo", MEMINFO), ("slabinfo", SLABINFO), ("vmallocinfo", VMALLOCINFO)):
        (tmp_path / name).write_text(text)
    (tmp_path / "vmstat").write_text("nr_memmap_boot_pages 16\nnr_memmap_pages 2\n")
    (tmp_path / "loadavg").write_text("0.00 0.00 0.00 1/2 7\n")
    (tmp_path / "zoneinfo").write_text("")
    add(tmp_path, 7, "shop", 1, 24, {3: ("/dev/dri/renderD128", CLIENT.format(number=5, size=64))})
    return tmp_path


def add(
    root: Path, pid: int, name: str, threads: int, tables: int, files: Mapping[int, tuple[str, str | None]]
) -> None:
    """Add a process with files: where each leads, and its fdinfo, which is never answered where there is none."""
    directory = make_process(root, pid)
    (directory / "status").write_text(STATUS.format(name=name, threads=threads, tables=tables))
    (directory / "fd").mkdir()
    (directory / "fdinfo").mkdir()
    for number, (link, text) in files.items():
        os.symlink(link, directory / "fd" / str(number))
        if text is None:
            os.mkfifo(directory / "fdinfo" / str(number))
        else:
            (directory / "fdinfo" / str(number)).write_text(text)


def look(root: Path) -> tuple[KernelResult, dict[str, Any], set[str]]:
    result = find_kernel_memory(ProcFS(str(root), PAGE), 60.0)
    return result, {part.part: part for part in result.parts}, {note.code for note in result.reading.notes}


def test_parts_add_up_to_what_meminfo_counts(root: Path) -> None:
    result, parts, codes = look(root)
    sizes = {name: part.size // 1024 for name, part in parts.items() if part.is_summed and part.size is not None}
    expected = {"slab": 200, "vmalloc": 100, "stack": 32, "table": 40, "percpu": 16}
    assert sizes == expected | {"memmap": 8, "zswap": 4, "other": 500}
    assert result.size == sum(sizes.values()) * 1024
    assert [(item.name, item.size) for item in parts["vmalloc"].items] == [("load_module", 25 * PAGE)]
    assert [(item.name, item.size) for item in parts["stack"].items] == [("shop", 4 * PAGE)]
    assert parts["slab"].rest == 40 * 1024
    assert parts["reserved"].size is None
    assert codes == {"no-frames", "dmabufs-unknown"}


def test_a_client_and_a_buffer_of_two_processes_count_once(root: Path) -> None:
    shared = {
        4: ("/dev/dri/card0", CLIENT.format(number=5, size=64)),
        5: ("/dev/dri/card0", CLIENT.format(number=6, size=1)),
        6: ("/dmabuf:", BUFFER.format(inode=41, size=8192)),
        7: ("/srv/a", "pos:\t0\n"),
        8: ("/srv/dri/a", "pos:\t0\n"),
    }
    for pid in (8, 9):
        add(root, pid, "worker", 2, 4, shared)
    _, parts, _ = look(root)
    assert [(item.name, item.size, item.pids) for item in parts["drm"].items] == [
        ("xe 0000:03:00.0 5", 64 << 10, (7, 8, 9)),
        ("xe 0000:03:00.0 6", 1 << 10, (8, 9)),
    ]
    assert parts["drm"].size == 65 << 10
    assert [(item.name, item.size, item.pids) for item in parts["dmabuf"].items] == [("system", 8192, (8, 9))]
    assert parts["dmabuf"].size is None, "those that no process has open are not known"


def test_buffers_that_no_process_has_open_are_those_of_the_list(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        kernel_memory, "read_dmabufs", lambda: [DmaBuf(41, 8192, "system", ""), DmaBuf(42, 4096, "x", "")]
    )
    add(root, 8, "worker", 2, 4, {6: ("/dmabuf:", BUFFER.format(inode=41, size=8192))})
    _, parts, codes = look(root)
    assert (parts["dmabuf"].size, parts["dmabuf"].nr) == (12288, 2)
    assert codes == {"no-frames"}


def test_a_driver_that_never_answers_holds_up_nobody_and_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(root, 8, "stuck", 1, 4, {3: ("/dev/dri/card0", None)})
    add(root, 9, "next", 1, 4, {3: ("/dev/dri/card0", CLIENT.format(number=6, size=1))})
    _, parts, codes = look(root)
    assert [item.pids for item in parts["drm"].items] == [(7,), (9,)]
    assert parts["drm"].size is None
    assert "unanswered" in codes


def test_a_list_of_buffers_that_never_ends_is_left_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_memory, "read_dmabufs", lambda: time.sleep(600))
    _, parts, codes = look(root)
    assert parts["dmabuf"].size is None
    assert parts["drm"].size == 64 << 10
    assert codes == {"no-frames", "dmabufs-unknown"}


def test_files_of_root_that_cannot_be_read_leave_parts_without_items(root: Path) -> None:
    for name in ("slabinfo", "vmallocinfo"):
        (root / name).unlink()
    _, parts, codes = look(root)
    assert parts["slab"].size == 200 << 10
    assert parts["slab"].items == parts["vmalloc"].items == ()
    assert "part-unknown" in codes
    assert parts["vmalloc"].size == 100 << 10
