"""The reader that asks the kernel module, with a module made of Python."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mematlas.errors import FormatError, NotSupported, PermissionDenied, ProcessGone
from mematlas.kernel.memory.btf import StructLayout
from mematlas.kernel.memory.kmod import COPY, MEMATLAS_SELECT, REQUEST, SELECT, ModuleReader

LAYOUT = StructLayout({"mm_struct.pgd": 120})
BASE = 0xFFFF888000000000
PGD, TABLE, LEAF = 0x5000, 0x6000, 0x7000
INFO = "abi 1\nlevels 4\npage_offset 0xffff888000000000\npti 1\naddress_mask 0x7fffffffff000\n"


class Module:
    """Tables by their physical address; the walk is that of the real module."""

    def __init__(self) -> None:
        self.selected: Callable[[], None] = lambda: None
        self.gone = False
        self.pgd = PGD
        self.tables = {PGD: {3: TABLE | 7}, TABLE: {4: LEAF | 7, 5: 0x200000 | 0x87}, LEAF: {6: 0x8000 | 7}}
        self.tables[LEAF][7] = 0x9000 | 7
        self.nr_calls = 0
        self.chosen: dict[int, int] = {}
        """By the open file, the top table that was selected with it."""

    def ioctl(self, fd: int, command: int, argument: bytearray) -> int:
        if command == MEMATLAS_SELECT:
            pid = SELECT.unpack(argument)[0]
            if self.gone:
                raise ProcessLookupError(errno.ESRCH, "gone")
            self.selected()
            argument[:] = SELECT.pack(pid, 0, self.pgd)
            self.chosen[fd] = self.pgd
            return 0
        self.nr_calls += 1
        requests_at, tables_at, nr, _ = COPY.unpack(argument)
        requests = np.frombuffer((ctypes.c_char * (nr * REQUEST.itemsize)).from_address(requests_at), REQUEST)
        rows = np.frombuffer((ctypes.c_char * (nr * 4096)).from_address(tables_at), np.uint64).reshape(nr, 512)
        for request, row in zip(requests, rows, strict=True):
            self.copy(self.chosen[fd], request, row)
        return 0

    def copy(self, table: int, request: np.void, row: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> None:
        level = 3
        while level > request["level"]:
            entry = self.tables[table].get(int(request["address"]) >> 12 + 9 * level & 511, 0)
            if entry & 0x81 != 1:
                request["error"] = -errno.ENODATA
                return
            table, level = entry & 0x7FFFFFFFFF000, level - 1
        row[:] = 0
        for place, entry in self.tables.get(table, {}).items():
            row[place] = entry
        request["frame"], request["error"] = table, 0


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Module:
    (tmp_path / "info").write_text(INFO)
    (tmp_path / "tables").touch()
    module = Module()
    monkeypatch.setattr("mematlas.kernel.memory.kmod.fcntl.ioctl", module.ioctl)
    return module


def read(reader: ModuleReader, *phys: int, size: int = 4096) -> tuple[list[list[int]], list[bool]]:
    rows, good = reader.read_batch(np.array([BASE + each for each in phys], np.uint64), size)
    return rows.tolist(), good.tolist()


def select(reader: ModuleReader, pid: int | None = None) -> int:
    with open(f"/proc/{pid or os.getpid()}/mem", "rb", buffering=0) as mem:
        return reader.mm_address(os.getpid(), mem.fileno(), LAYOUT)


@pytest.fixture
def reader(module: Module, tmp_path: Path) -> ModuleReader:
    return ModuleReader(str(tmp_path))


def test_what_it_was_led_to_it_reads(reader: ModuleReader) -> None:
    assert read(reader, PGD)[1] == [False]
    select(reader)
    assert read(reader, TABLE)[1] == [False]
    rows, good = read(reader, PGD)
    assert (rows[0][3], good) == (TABLE | 7, [True])
    assert read(reader, TABLE)[0][0][4] == LEAF | 7
    reader.close()


def test_a_batch_is_one_call(reader: ModuleReader, module: Module) -> None:
    select(reader)
    read(reader, PGD)
    module.nr_calls = 0
    rows, good = read(reader, TABLE, 0xABC000, PGD)
    assert (good, rows[0][4], rows[2][3], module.nr_calls) == ([True, False, True], LEAF | 7, TABLE | 7, 1)
    reader.close()


def test_huge_entries_lead_nowhere(reader: ModuleReader) -> None:
    select(reader)
    for phys in (PGD, TABLE):
        read(reader, phys)
    assert read(reader, 0x200000)[1] == [False]
    reader.close()


def test_a_table_that_was_exchanged_is_not_taken_for_the_old_one(reader: ModuleReader, module: Module) -> None:
    select(reader)
    read(reader, PGD)
    module.tables[PGD] = {3: 0xF000 | 7}
    assert read(reader, TABLE)[1] == [False]
    reader.close()


def test_words_of_tables_and_the_pointer_to_the_first_are_read(reader: ModuleReader) -> None:
    mm = select(reader)
    read(reader, PGD)
    data, good = reader.read_batch(np.array([mm + 120, BASE + PGD + 24, BASE + 0x999000], np.uint64), 8)
    assert data.ravel().tolist() == [BASE + PGD, TABLE | 7, 0]
    assert good.tolist() == [True, True, False]
    assert reader.direct_map_bases() == [BASE]
    with pytest.raises(NotSupported):
        reader.private_data(0, LAYOUT)
    reader.close()


def test_who_has_ended_is_gone(reader: ModuleReader, module: Module) -> None:
    module.gone = True
    with pytest.raises(ProcessGone):
        select(reader)


def test_a_number_that_is_another_process_s_is_gone(reader: ModuleReader) -> None:
    child = subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with pytest.raises(ProcessGone):
            select(reader, child.pid)
    finally:
        child.communicate()
    assert not reader._fds


@pytest.mark.parametrize("reaped", [False, True])
def test_a_process_that_ends_while_it_is_chosen_is_gone(reaped: bool, reader: ModuleReader, module: Module) -> None:
    child = subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE)

    def end() -> None:
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | (0 if reaped else os.WNOWAIT))

    module.selected = end
    with open(f"/proc/{child.pid}/mem", "rb", buffering=0) as mem, pytest.raises(ProcessGone):
        reader.mm_address(child.pid, mem.fileno(), LAYOUT)
    child.communicate()
    assert not reader._fds


def test_a_file_that_is_of_another_proc_is_refused(reader: ModuleReader, tmp_path: Path) -> None:
    with open(tmp_path / "info", "rb") as file, pytest.raises(NotSupported, match="PID namespace"):
        reader.mm_address(os.getpid(), file.fileno(), LAYOUT)


def test_a_proc_that_counts_otherwise_is_refused(reader: ModuleReader, monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/proc/self/mem", "rb", buffering=0) as mem:
        monkeypatch.setattr("mematlas.kernel.memory.kmod.os.getpid", lambda: 4211)
        with pytest.raises(NotSupported, match="PID namespace"):
            reader.mm_address(4211, mem.fileno(), LAYOUT)


def test_every_table_is_remembered_however_many(reader: ModuleReader, module: Module) -> None:
    """512 tables of the last level under each of 8 of the second: walked level by level, as a walk does."""
    seconds = [0x100000 + 0x1000 * number for number in range(8)]
    lasts = [[0x1000000 + 0x1000 * (512 * number + place) for place in range(512)] for number in range(8)]
    module.tables[PGD] = {number: second | 7 for number, second in enumerate(seconds)}
    for second, below in zip(seconds, lasts, strict=True):
        module.tables[second] = {place: table | 7 for place, table in enumerate(below)}
        module.tables |= {table: {0: table >> 12 | 0x100000000007} for table in below}
    select(reader)
    read(reader, PGD)
    assert all(read(reader, *seconds)[1])
    for below in lasts:
        for start in range(0, 512, 64):
            rows, good = read(reader, *below[start : start + 64])
            assert all(good)
            assert [row[0] for row in rows] == [table >> 12 | 0x100000000007 for table in below[start : start + 64]]
    reader.close()


def test_a_space_is_let_go_of_by_its_top_table(reader: ModuleReader, module: Module) -> None:
    nr_before = len(os.listdir("/proc/self/fd"))
    select(reader)
    select(reader)
    assert len(os.listdir("/proc/self/fd")) == nr_before + 1, "the same space is held once"
    read(reader, PGD)
    assert read(reader, TABLE)[1] == [True]
    reader.forget(PGD)
    assert read(reader, TABLE)[1] == [False]
    assert len(os.listdir("/proc/self/fd")) == nr_before
    reader.forget(PGD)


def test_every_space_is_held_until_it_is_let_go_of(reader: ModuleReader, module: Module) -> None:
    pgds = [0x10000000 + 0x1000 * number for number in range(100)]
    for pgd in pgds:
        module.pgd = pgd
        module.tables[pgd] = {3: TABLE | 7, 9: pgd | 0x63}
        select(reader)
    assert all(read(reader, pgd)[1] == [True] for pgd in pgds)
    # What all have in common is read through that which led there last.
    assert read(reader, TABLE, pgds[5])[1] == [True, True]
    reader.forget(pgds[5])
    assert read(reader, TABLE, pgds[5])[1] == [False, False]
    assert read(reader, pgds[6])[1] == [True]
    assert read(reader, TABLE)[1] == [True]
    reader.close()


def test_a_table_that_another_space_was_given_is_read_there(reader: ModuleReader, module: Module) -> None:
    other = 0x10000000
    select(reader)
    read(reader, PGD)
    module.pgd = other
    module.tables[other] = {}
    select(reader)
    # Both spaces are held. The table goes from the newer one to the older.
    module.tables[other] = {8: 0xF000 | 7}
    module.tables[0xF000] = {1: 0x11000 | 7}
    read(reader, other)
    assert read(reader, 0xF000)[1] == [True]
    module.tables[other] = {}
    module.tables[PGD] = {3: 0xF000 | 7}
    read(reader, PGD)
    assert read(reader, 0xF000)[1] == [True]
    reader.close()


@pytest.mark.parametrize("mode", ["integrity", "confidentiality"])
def test_lockdown_is_named(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mematlas.kernel.memory.kmod.read_lockdown", lambda: mode)
    (tmp_path / "info").write_text(INFO)

    def refuse(path: str, flags: int) -> int:
        raise PermissionError(errno.EPERM, "debugfs")

    monkeypatch.setattr("mematlas.kernel.memory.kmod.os.open", refuse)
    with pytest.raises(NotSupported, match=f"lockdown={mode}"):
        ModuleReader(str(tmp_path))


def test_what_fails_otherwise_is_not_put_down_to_the_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotSupported, match="needs the mematlas module"):
        ModuleReader(str(tmp_path))
    (tmp_path / "info").write_text(INFO)

    def fail(path: str, flags: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("mematlas.kernel.memory.kmod.os.open", fail)
    with pytest.raises(NotSupported, match="Too many open files") as raised:
        ModuleReader(str(tmp_path))
    assert raised.value.needs is None


def test_the_bit_that_says_encrypted_is_no_address(reader: ModuleReader, module: Module) -> None:
    module.tables[PGD][3] |= 1 << 51
    select(reader)
    read(reader, PGD)
    assert read(reader, TABLE)[1] == [True]
    reader.close()


def test_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "info").write_text(INFO.replace("abi 1", "abi 2"))
    with pytest.raises(NotSupported, match="version 2"):
        ModuleReader(str(tmp_path))
    (tmp_path / "info").write_bytes(b"\xff nonsense")
    with pytest.raises(FormatError):
        ModuleReader(str(tmp_path))


def test_without_the_module_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotSupported, match="mematlas module"):
        ModuleReader(str(tmp_path / "none"))


@pytest.mark.root
def test_without_root_the_right_is_named(tmp_path: Path, as_nobody: object) -> None:
    tmp_path.chmod(0o700)

    def refused() -> str:
        try:
            ModuleReader(str(tmp_path))
        except PermissionDenied as error:
            return error.text
        return "taken"

    outcome = as_nobody(refused)  # type: ignore[operator]
    assert outcome.value == "root with CAP_SYS_ADMIN"
