"""Caches of objects, their other names, and who asked for vmalloc memory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mematlas.errors import FormatError
from mematlas.kernel.slabinfo import parse_slabinfo, read_aliases
from mematlas.kernel.vmallocinfo import VmallocUse, parse_vmallocinfo

HEAD = b"slabinfo - version: 2.1\n# name            <active_objs> <num_objs>\n"
DENTRY = b"dentry             67494  74823    192   21    1 : tunables    0    0    0 : slabdata   3563   3563      0\n"


def test_a_cache_has_as_many_pages_as_its_slabs() -> None:
    (cache,) = parse_slabinfo(HEAD + DENTRY)
    assert (cache.name, cache.nr_active, cache.object_size) == ("dentry", 67494, 192)
    assert cache.nr_slabs * cache.pages_per_slab == 3563


@pytest.mark.parametrize("line", [b"dentry\n", b"dentry 1 2 3 4 5 : tunables 0\n", DENTRY.replace(b"192", b"x")])
def test_a_line_that_is_none_is_an_error_that_shows_it(line: bytes) -> None:
    with pytest.raises(FormatError, match="dentry"):
        parse_slabinfo(HEAD + line)


def test_caches_that_are_merged_have_several_names(tmp_path: Path) -> None:
    for name in (":0000192", "kmalloc-192", "dentry"):
        if name != "kmalloc-192":
            (tmp_path / name).mkdir()
    for name in ("kmalloc-192", "skbuff_small", "bio-192"):
        os.symlink(":0000192", tmp_path / name)
    assert read_aliases(str(tmp_path))["kmalloc-192"] == ("bio-192", "skbuff_small")
    assert "dentry" not in read_aliases(str(tmp_path))
    assert read_aliases(str(tmp_path / "nowhere")) == {}


def test_only_areas_with_pages_of_their_own_count() -> None:
    lines = [
        b"0x01-0x02   20480 irq_init_percpu_irqstack+0xed/0x120 vmap",
        b"0x02-0x03    8192 acpi_os_map_iomem+0x1bc/0x1e0 phys=0x00000000000a0000 ioremap",
        b"0x03-0x04   20480 kernel_clone+0xb8/0x400 pages=4 vmalloc N0=3 N1=1",
        b"0x04-0x05 2101248 xlog_alloc+0x1/0x2 [xfs] pages=512 vmalloc vpages N0=512",
        b"0x05-0x06   69632 unpurged vm_area",
        b"0x06-0x07  262144 pcpu_get_vm_areas+0x0/0x800 vmalloc",
        b"0x07-0x08   20480 kernel_clone+0xb8/0x400 pages=8 vmalloc N0=8",
        b"0x08-0x09    8192 0xffffffff81234567 pages=1 vmalloc N0=1",
        b"",
    ]
    assert parse_vmallocinfo(lines) == [
        VmallocUse("kernel_clone", 2, 12, 8),
        VmallocUse("xlog_alloc [xfs]", 1, 512, 512),
        VmallocUse("", 1, 1, 1),
    ]
