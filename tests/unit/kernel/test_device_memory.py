"""Memory of devices as drivers tell it: no GPU is needed for texts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from helpers import make_process
from mematlas.errors import FormatError, NotSupported
from mematlas.kernel import dmabuf, fdinfo
from mematlas.kernel.dmabuf import parse_bufinfo, read_dmabufs
from mematlas.kernel.fdinfo import DmaBuf, DrmRegion, dmabuf_of, drm_client_of, parse_fields
from mematlas.kernel.procfs import ProcFS

MIB = 1 << 20
AMDGPU = """pos:\t0
flags:\t02100002
mnt_id:\t23
ino:\t1023
drm-driver:\tamdgpu
drm-client-id:\t55
drm-pdev:\t0000:03:00.0
pasid:\t32779
drm-memory-vram:\t2048 KiB
drm-memory-gtt: \t12 MiB
drm-memory-cpu: \t0 KiB
amd-evicted-vram:\t0 KiB
drm-engine-gfx:\t7382 ns
"""
XE = """drm-driver:\txe
drm-client-id:\t7
drm-pdev:\t0000:00:02.0
drm-total-system:\t0
drm-shared-system:\t0
drm-total-gtt:\t192 KiB
drm-shared-gtt:\t64 KiB
drm-active-gtt:\t0
drm-resident-gtt:\t128 KiB
drm-cycles-rcs:\t28257900
drm-total-cycles-rcs:\t7655183225
"""
BUFINFO = """
Dma-buf Objects:
size    \tflags   \tmode    \tcount   \texp_name\tino     \tname
{rows}

Total 1 objects, 8192 bytes
"""
ROW = (
    "00008192\t00000002\t00080007\t00000003\tsystem\t00000019\t{name}\n\tAttached Devices:\nTotal 0 devices attached\n"
)


def test_what_the_first_drivers_called_memory_is_what_is_resident() -> None:
    client = drm_client_of(parse_fields(AMDGPU))
    assert client
    assert (client.driver, client.device, client.number) == ("amdgpu", "0000:03:00.0", "55")
    assert client.regions == (
        DrmRegion("cpu", None, None, 0),
        DrmRegion("gtt", None, None, 12 * MIB),
        DrmRegion("vram", None, None, 2 * MIB),
    )


def test_regions_have_all_that_is_told_of_them_and_engines_are_none() -> None:
    client = drm_client_of(parse_fields(XE))
    assert client
    assert client.regions == (
        DrmRegion("gtt", 192 << 10, 64 << 10, 128 << 10),
        DrmRegion("system", 0, 0, None),
    )


def test_a_driver_that_says_nothing_of_memory_has_no_regions() -> None:
    client = drm_client_of(parse_fields("drm-driver:\tnova\ndrm-total-vram:\tmuch\n"))
    assert client
    assert client.regions == (DrmRegion("vram", None, None, None),)
    assert drm_client_of(parse_fields("pos:\t0\n")) is None


def test_a_name_does_not_forge_the_size_of_a_shared_buffer() -> None:
    fields = parse_fields("ino:\t9\nsize:\t4096\ncount:\t2\nexp_name:\tsystem\nname:\tx\nsize:\t1\nino:\t8\n")
    assert dmabuf_of(fields) == DmaBuf(9, 4096, "system", "x")


def test_of_a_text_that_is_too_long_no_number_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "drm-driver:\txe\ndrm-resident-vram0:\t1024 KiB\ndrm-resident-vram1:\t1024 KiB\n"
    own = make_process(tmp_path)
    (own / "fd").mkdir()
    os.symlink("/dev/dri/card0", own / "fd" / "3")
    (own / "fdinfo").mkdir()
    (own / "fdinfo" / "3").write_text(text)
    monkeypatch.setattr(fdinfo, "MOST_TEXT", len(text) - len("24 KiB\n"))
    with ProcFS(str(tmp_path), 4096).process(7) as process:
        (fields,) = fdinfo.device_files(process)
    client = drm_client_of(fields)
    assert client
    assert client.regions == (DrmRegion("vram0", None, None, MIB),)


def test_before_it_was_told_the_inode_is_that_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = make_process(tmp_path)
    for name in ("fd", "fdinfo"):
        (own / name).mkdir()
    (own / "buffer").touch()
    os.symlink(own / "buffer", own / "fd" / "3")
    (own / "fdinfo" / "3").write_text("pos:\t0\nsize:\t4096\ncount:\t1\nexp_name:\tdrm\n")
    monkeypatch.setattr(fdinfo, "DMABUF", str(own))
    with ProcFS(str(tmp_path), 4096).process(7) as process:
        (fields,) = fdinfo.device_files(process)
    assert dmabuf_of(fields) == DmaBuf((own / "buffer").stat().st_ino, 4096, "drm", "")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("<none>", ""),
        ("camera", "camera"),
        ("a\tb", "a\tb"),
        ("x\n9\t0\t0\t0\ty\t8\tz", "x"),  # what a process of bad will calls its buffer: 31 bytes at most
        ("\n00000001\t0\t0\t0\ty\t00000002\tz", ""),
    ],
)
def test_the_list_of_buffers_has_those_that_there_are(name: str, shown: str) -> None:
    text = BUFINFO.format(rows=ROW.format(name=name))
    assert parse_bufinfo(text.encode()) == [DmaBuf(19, 8192, "system", shown)]


def test_what_is_no_list_of_buffers_is_an_error() -> None:
    with pytest.raises(FormatError):
        parse_bufinfo(b"Total 0 objects")


def test_buffers_are_read_from_sysfs_where_debugfs_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = str(tmp_path / "nowhere")
    (tmp_path / "buffers" / "21").mkdir(parents=True)
    (tmp_path / "buffers" / "21" / "size").write_text("12288\n")
    (tmp_path / "buffers" / "21" / "exporter_name").write_text("udmabuf\n")
    (tmp_path / "buffers" / "22").mkdir()  # it went away
    assert read_dmabufs(nowhere, str(tmp_path / "buffers")) == [DmaBuf(21, 12288, "udmabuf", "")]
    monkeypatch.setattr(dmabuf, "is_built_in", lambda option: None)
    with pytest.raises(NotSupported, match="mount -t debugfs"):
        read_dmabufs(nowhere, nowhere)
    monkeypatch.setattr(dmabuf, "is_built_in", lambda option: False)
    assert read_dmabufs(nowhere, nowhere) == []
