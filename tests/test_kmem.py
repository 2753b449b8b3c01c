"""Finding the direct map, RAM and vmcoreinfo, through a reader that reads a constructed memory."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest

from mematlas.arrays import Bools, Words
from mematlas.errors import Error, FormatError, NotSupported, PermissionDenied, ProcessGone
from mematlas.kernel import kmem
from mematlas.kernel.btf import Layout
from mematlas.kernel.kmem import (
    KernelMemory,
    RamRanges,
    combined_refusal,
    open_kernel_memory,
    parse_iomem,
    parse_vmcoreinfo,
    probe,
    read_memory_blocks,
    read_ram,
)
from mematlas.kernel.procfs import ProcFS

GIB = 1 << 30
LAYOUT = Layout({"mm_struct.pgd": 120})


class ConstructedReader:
    """A memory whose direct map at ``base`` maps its first GiB by one leaf, in tables at 0x1000, 0x2000, ..."""

    name = "constructed"
    batch_size = 3

    def __init__(self, base: int, nr_levels: int = 4, encryption_mask: int = 0, pgd: int = 0x1000) -> None:
        self.base = base
        self.closed = False
        self.mm = 0xFFFF900000000000 if nr_levels == 4 else 0xFF11900000000000
        self.words: dict[int, int] = {self.mm + 120: base + pgd}
        table = pgd
        for level in reversed(range(2, nr_levels)):
            index = base >> 12 + 9 * level & 511
            entry = (table + 0x1000) | 0x63 | encryption_mask if level > 2 else 0xE3 | encryption_mask
            self.words[base + table + 8 * index] = entry
            table += 0x1000

    def read_batch(self, addresses: Words, size: int) -> tuple[Words, Bools]:
        assert len(addresses) <= self.batch_size
        rows = np.zeros((len(addresses), size // 8), np.uint64)
        good = np.zeros(len(addresses), np.bool_)
        for row, address in enumerate(addresses.tolist()):
            good[row] = address in self.words or self.base <= address < self.base + GIB
            for place in range(size // 8):
                rows[row, place] = self.words.get(address + 8 * place, 0)
        return rows, good

    def mm_address(self, pid: int, mem_fd: int, layout: Layout) -> int:
        return self.mm

    def private_data(self, fd: int, layout: Layout) -> int:
        return 0

    def direct_map_bases(self) -> list[int]:
        return []

    def close(self) -> None:
        self.closed = True


RAM = RamRanges([(0x1000, GIB)])


def memory_of(reader: ConstructedReader) -> KernelMemory:
    return KernelMemory(reader, LAYOUT, RAM, ProcFS())


@pytest.fixture(autouse=True)
def no_vmcoreinfo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmem, "VMCOREINFO_PATH", "/nonexistent")


@pytest.mark.parametrize("base", [0xFFFF888000000000, 0xFFFF9A5F40000000])
def test_the_direct_map_is_found_wherever_it_is(base: int) -> None:
    memory = memory_of(ConstructedReader(base))
    assert (memory.base, memory.levels, memory.encryption_mask) == (base, 4, 0)


def test_five_levels_are_told_by_where_the_direct_map_is() -> None:
    memory = memory_of(ConstructedReader(0xFF11000000000000, nr_levels=5))
    assert (memory.base, memory.levels) == (0xFF11000000000000, 5)


def test_the_encryption_bit_is_seen_in_the_tables() -> None:
    memory = memory_of(ConstructedReader(0xFFFF888000000000, encryption_mask=1 << 47))
    assert memory.encryption_mask == 1 << 47


def test_a_base_that_is_not_consistent_is_refused() -> None:
    reader = ConstructedReader(0xFFFF888000000000)
    reader.words.clear()
    reader.words[reader.mm + 120] = reader.base + 0x1000
    with pytest.raises(NotSupported, match="finding the direct map"):
        memory_of(reader)


def test_a_probe_that_fails_closes_its_reader() -> None:
    reader = ConstructedReader(0xFFFF888000000000)
    reader.words = {reader.mm + 120: reader.base + 0x1000}
    with pytest.raises(NotSupported):
        probe(lambda: reader, LAYOUT, RAM, ProcFS())
    assert reader.closed


def test_tables_outside_of_ram_are_not_read() -> None:
    memory = memory_of(ConstructedReader(0xFFFF888000000000))
    _, good = memory.tables(np.array([0x1000, 0, GIB + 0x1000, 1 << 51], np.uint64))
    assert good.tolist() == [True, False, False, False]
    _, good = memory.entries(np.array([0x1008, GIB + 8], np.uint64))
    assert good.tolist() == [True, False]


def test_more_addresses_than_a_batch_are_read_in_order() -> None:
    reader = ConstructedReader(0xFFFF888000000000)
    memory = memory_of(reader)
    reader.words |= {reader.base + 0x5000 + 8 * place: place + 1 for place in range(7)}
    values, good = memory.words(np.arange(7, dtype=np.uint64) * np.uint64(8) + np.uint64(reader.base + 0x5000))
    assert values.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert good.all()


def test_a_process_without_memory_is_gone() -> None:
    reader = ConstructedReader(0xFFFF888000000000)
    memory = memory_of(reader)
    reader.mm = 0
    with pytest.raises(ProcessGone):
        memory.open_mm(os.getpid())


def test_iomem_ranges_that_touch_are_one() -> None:
    text = "1000-9fbff : System RAM\n  2000-2fff : x\n9fc00-9ffff : System RAM\nf0000-fffff : x\n"
    assert parse_iomem(text) == [(0x1000, 0xA0000)]


def test_iomem_line_that_is_not_understood_is_shown() -> None:
    with pytest.raises(FormatError, match="what-is"):
        parse_iomem("what-is : System RAM\n")


def test_iomem_without_the_right_is_refused(tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmem, "read_memory_blocks", list)
    with open(os.path.join(tmp_path, "iomem"), "w") as file:
        file.write("00000000-00000000 : System RAM\n00000000-00000000 : PCI Bus\n")
    with pytest.raises(PermissionDenied, match="CAP_SYS_ADMIN"):
        read_ram(ProcFS(str(tmp_path)))


def test_ram_is_half_open() -> None:
    ram = RamRanges([(0x100000, 0x200000), (0x1000, 0xA0000)])
    asked = [0, 0xFFF, 0x1000, 0x9FFFF, 0xA0000, 0x100000, 0x1FFFFF, 0x200000]
    assert [address in ram for address in asked] == ram.contain(np.array(asked, np.uint64)).tolist()
    assert [address for address in asked if address in ram] == [0x1000, 0x9FFFF, 0x100000, 0x1FFFFF]
    assert (ram.end, ram.size) == (0x200000, 0x19F000)


def test_vmcoreinfo_numbers_are_read_as_they_are_written() -> None:
    text = b"OSRELEASE=6.1\nSYMBOL(a)=ffff0000\nNUMBER(b)=-5\nNUMBER(c)=0x10\n\0\0"
    note = struct.pack("<III", 11, len(text), 0) + b"VMCOREINFO\0\0" + text
    assert parse_vmcoreinfo(note) == {"OSRELEASE": "6.1", "SYMBOL(a)": 0xFFFF0000, "NUMBER(b)": -5, "NUMBER(c)": 16}


def test_what_is_no_vmcoreinfo_is_an_error() -> None:
    with pytest.raises(FormatError):
        parse_vmcoreinfo(bytes(4096))


def test_a_right_that_would_help_stands_for_all_refusals() -> None:
    refused: dict[str, Error] = {"bpf": PermissionDenied("bpf(2)", "CAP_BPF"), "kcore": NotSupported("/proc/kcore")}
    assert combined_refusal(refused, "auto") is refused["bpf"]


def test_when_nothing_helps_every_reason_is_given() -> None:
    refused: dict[str, Error] = {"bpf": NotSupported("bpf(2)", "X"), "kcore": NotSupported("/proc/kcore", "Y")}
    assert "needs X" in str(combined_refusal(refused, "auto"))
    assert "needs Y" in str(combined_refusal(refused, "auto"))


def test_a_reader_that_does_not_exist_is_refused() -> None:
    assert "bpf" in str(combined_refusal({}, "strange"))


def test_a_capture_has_no_page_tables(tmp_path: os.PathLike[str]) -> None:
    with open(os.path.join(tmp_path, "machine.json"), "w") as file:
        file.write('{"page_size": 4096}')
    with pytest.raises(NotSupported, match="live"):
        open_kernel_memory(procfs=ProcFS(str(tmp_path)))


def test_the_users_copy_of_the_top_table_is_the_page_after(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = memory_of(ConstructedReader(0xFFFF888000000000))
    monkeypatch.setattr(kmem, "cpu_info", lambda: {"flags": "fpu pti lm"})
    assert memory.user_pgd(0x2000) == 0x3000
    monkeypatch.setattr(kmem, "cpu_info", lambda: {"flags": "fpu lm"})
    assert memory.user_pgd(0x2000) is None


def test_a_processor_that_does_not_tell_has_52_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = memory_of(ConstructedReader(0xFFFF888000000000))
    monkeypatch.setattr(kmem, "cpu_info", lambda: {"address sizes": "46 bits physical, 48 bits virtual"})
    assert memory.phys_bits == 46
    monkeypatch.setattr(kmem, "cpu_info", dict)
    assert memory.phys_bits == 52


def test_memory_blocks_that_touch_are_one(tmp_path: Path) -> None:
    (tmp_path / "block_size_bytes").write_text("8000000\n")
    for number, state in ((0, "online"), (1, "online"), (2, "offline"), (32, "online")):
        (tmp_path / f"memory{number}").mkdir()
        (tmp_path / f"memory{number}" / "state").write_text(f"{state}\n")
    assert read_memory_blocks(str(tmp_path)) == [(0, 2 << 27), (32 << 27, 33 << 27)]
    assert read_memory_blocks(str(tmp_path / "nowhere")) == []
