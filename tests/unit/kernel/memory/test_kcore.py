"""/proc/kcore: a constructed core file, since not every kernel has the real one."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest

from constructed_core import BASE, core
from mematlas.errors import FormatError, NotSupported, PermissionDenied
from mematlas.kernel.lockdown import read_lockdown
from mematlas.kernel.memory import kcore
from mematlas.kernel.memory.btf import StructLayout
from mematlas.kernel.memory.kcore import KcoreReader, find_symbol
from mematlas.kernel.memory.x86 import U64

TEXT = 0xFFFFFFFF81000000
LAYOUT = StructLayout(
    {
        "task_struct.tasks": 16,
        "task_struct.pid": 32,
        "task_struct.files": 40,
        "files_struct.fdt": 8,
        "fdtable.fd": 16,
        "file.private_data": 24,
    }
)
MEM_FD = 5
PINNED = BASE + 0x7777000


def words(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)


@pytest.fixture
def reader(tmp_path: Path) -> KcoreReader:
    """RAM of two pages, a text page, and a page of vmalloc without a physical address."""
    ram = words(*range(1, 1025))
    segments = [
        (TEXT, 0x1000000, words(0xAA) * 512),
        (BASE + 0x1000, 0x1000, ram),
        (BASE + 0x100000, 0x100000, words(7) * 512),
        (0xFFFFC90000000000, (1 << 64) - 1, words(0xBB) * 512),
    ]
    (tmp_path / "kcore").write_bytes(core(segments))
    return KcoreReader.open(str(tmp_path / "kcore"))


def test_pages_and_words_are_found_by_address(reader: KcoreReader) -> None:
    rows, good = reader.read_batch(np.array([BASE + 0x2000, TEXT], np.uint64), 4096)
    assert rows[0].tolist() == list(range(513, 1025))
    assert rows[1, 5] == 0xAA
    assert good.all()
    values, _ = reader.read_batch(np.array([BASE + 0x1008], np.uint64), 8)
    assert values.tolist() == [[2]]


def test_what_is_in_no_segment_cannot_be_read(reader: KcoreReader) -> None:
    asked = np.array([0, BASE, BASE + 0x3000, BASE + 0x2FFC, (1 << 64) - 8], np.uint64)
    assert reader.read_batch(asked, 8)[1].tolist() == [False] * 5


def test_the_direct_map_is_read_off_the_segments_of_ram(reader: KcoreReader) -> None:
    assert reader.direct_map_bases()[0] == BASE


def test_an_empty_file_is_a_containers(tmp_path: Path) -> None:
    (tmp_path / "kcore").write_bytes(b"")
    with pytest.raises(NotSupported, match="empty"):
        KcoreReader.open(str(tmp_path / "kcore"))


def test_what_is_no_core_file_is_shown(tmp_path: Path) -> None:
    (tmp_path / "kcore").write_bytes(b"#!/bin/sh" + bytes(100))
    with pytest.raises(FormatError, match="bin/sh"):
        KcoreReader.open(str(tmp_path / "kcore"))


def test_headers_cut_short_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "kcore").write_bytes(core([(BASE, 0, bytes(8))])[:100])
    with pytest.raises(FormatError, match="program headers"):
        KcoreReader.open(str(tmp_path / "kcore"))


def test_without_the_file_the_option_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotSupported, match="CONFIG_PROC_KCORE"):
        KcoreReader.open(str(tmp_path / "kcore"))


@pytest.fixture
def tasks(tmp_path: Path) -> KcoreReader:
    """init_task and two tasks after it, PIDs 0, 1 and our own, in a ring; our files lead to the mm that we hold."""
    places = [BASE + 0x1000, BASE + 0x1100, BASE + 0x1200]
    files, table, file = BASE + 0x1300, BASE + 0x1400, BASE + 0x1500
    data = bytearray(0x1000)

    def put(place: int, *numbers: int) -> None:
        data[place - places[0] : place - places[0] + 8 * len(numbers)] = words(*numbers)

    for index, (place, pid) in enumerate(zip(places, (0, 1, os.getpid()), strict=True)):
        put(place, 0, 0, places[(index + 1) % 3] + 16, 0, pid | 99 << 32, files if index == 2 else 0)
    put(files, 0, table)
    put(table, 0, 0, table + 0x20)
    put(table + 0x20 + 8 * MEM_FD, file)
    put(file, 0, 0, 0, PINNED)
    (tmp_path / "kcore").write_bytes(core([(BASE + 0x1000, 0x1000, bytes(data))]))
    (tmp_path / "kallsyms").write_text(f"{TEXT:x} T _text\n{places[0]:x} D init_task\n")
    return KcoreReader.open(str(tmp_path / "kcore"), str(tmp_path / "kallsyms"))


def in_first_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kcore, "INITIAL_PID_NAMESPACE", os.stat("/proc/self/ns/pid").st_ino)


@pytest.mark.parametrize("pid", [1, 4211])
def test_the_address_space_is_the_one_that_is_held_open(
    pid: int, tasks: KcoreReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whether the PID is that of a first thread, in the list of tasks, or executed a program meanwhile, is all one.
    in_first_namespace(monkeypatch)
    assert tasks.mm_address(pid, MEM_FD, LAYOUT) == PINNED


def test_our_own_task_is_looked_for_once(tasks: KcoreReader, monkeypatch: pytest.MonkeyPatch) -> None:
    in_first_namespace(monkeypatch)
    assert tasks.private_data(MEM_FD, LAYOUT) == PINNED
    monkeypatch.setattr(kcore, "find_symbol", lambda *_: pytest.fail("looked for again"))
    assert tasks.private_data(MEM_FD, LAYOUT) == PINNED


def test_who_is_not_in_the_list_says_so(tasks: KcoreReader, monkeypatch: pytest.MonkeyPatch) -> None:
    in_first_namespace(monkeypatch)
    monkeypatch.setattr(os, "getpid", lambda: 4212)
    with pytest.raises(NotSupported, match="list of tasks"):
        tasks.mm_address(4211, MEM_FD, LAYOUT)


def test_no_message_tells_what_was_read(tasks: KcoreReader, monkeypatch: pytest.MonkeyPatch) -> None:
    in_first_namespace(monkeypatch)
    wrong = StructLayout(LAYOUT.values | {"task_struct.files": 16})
    with pytest.raises(NotSupported) as caught:
        tasks.mm_address(4211, MEM_FD, wrong)
    assert "0x" not in str(caught.value)


def test_pids_of_another_namespace_are_not_looked_up(tasks: KcoreReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kcore, "INITIAL_PID_NAMESPACE", 1)
    with pytest.raises(NotSupported, match="namespace"):
        tasks.mm_address(4211, -1, LAYOUT)


def test_a_symbol_that_is_not_listed_names_the_option(tasks: KcoreReader) -> None:
    with pytest.raises(NotSupported, match="KALLSYMS_ALL"):
        find_symbol("init_mm", tasks.kallsyms)


def test_addresses_that_are_hidden_are_a_missing_right(tmp_path: Path) -> None:
    (tmp_path / "kallsyms").write_text("0000000000000000 D init_task\n")
    with pytest.raises(PermissionDenied, match="CAP_SYSLOG"):
        find_symbol("init_task", str(tmp_path / "kallsyms"))


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("none integrity [confidentiality]\n", "confidentiality"),
        ("none [integrity] confidentiality\n", "integrity"),
        ("[none] integrity confidentiality\n", "none"),
        ("", None),
    ],
)
def test_lockdown_is_read_from_its_file(text: str, mode: str | None, tmp_path: Path) -> None:
    (tmp_path / "lockdown").write_text(text)
    assert read_lockdown(str(tmp_path / "lockdown")) == mode
    assert read_lockdown(str(tmp_path / "none")) is None


@pytest.mark.parametrize(
    ("at", "value"), [(32, 1 << 63), (32, (1 << 63) - 8), (64 + 8, (1 << 63) - 8), (64 + 8, 1 << 63), (64 + 16, U64)]
)
def test_places_that_no_file_has_are_an_error(tmp_path: Path, at: int, value: int) -> None:
    data = bytearray(core([(BASE, 0x1000, words(1) * 512)]))
    data[at : at + 8] = words(value)
    (tmp_path / "core").write_bytes(data)
    with pytest.raises(FormatError):
        KcoreReader.open(str(tmp_path / "core"))
