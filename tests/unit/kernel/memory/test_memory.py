"""Finding the direct map, RAM and vmcoreinfo, through a reader that reads a constructed memory."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest

from mematlas.arrays import Bools, Words
from mematlas.errors import Error, FormatError, NotSupported, PermissionDenied, ProcessGone
from mematlas.kernel import cpuinfo
from mematlas.kernel.memory import memory as kmem
from mematlas.kernel.memory import memory_blocks
from mematlas.kernel.memory.btf import StructLayout
from mematlas.kernel.memory.iomem import RamRanges, parse_iomem, read_ram
from mematlas.kernel.memory.memory import KernelMemory
from mematlas.kernel.memory.memory_blocks import read_memory_blocks
from mematlas.kernel.memory.readers import combined_refusal, open_kernel_memory, probe
from mematlas.kernel.memory.vmcoreinfo import parse_vmcoreinfo, read_vmcoreinfo_span
from mematlas.kernel.memory.x86 import is_x86_64
from mematlas.kernel.procfs import ProcFS

GIB = 1 << 30
LAYOUT = StructLayout({"mm_struct.pgd": 120})


class ConstructedReader:
    """A memory whose direct map at ``base`` maps its first GiB by one leaf, in tables at 0x1000, 0x2000, ..."""

    name = "constructed"
    batch_size = 3

    def __init__(self, base: int, nr_levels: int = 4, encryption_mask: int = 0, pgd: int = 0x1000) -> None:
        self.base = base
        self.closed = False
        self.forgotten: list[int] = []
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

    def mm_address(self, pid: int, mem_fd: int, layout: StructLayout) -> int:
        return self.mm

    def private_data(self, fd: int, layout: StructLayout) -> int:
        return 0

    def forget(self, pgd: int) -> None:
        self.forgotten.append(pgd)

    def direct_map_bases(self) -> list[int]:
        return []

    def close(self) -> None:
        self.closed = True


RAM = RamRanges([(0x1000, GIB)])


def memory_of(reader: ConstructedReader) -> KernelMemory:
    return KernelMemory(reader, LAYOUT, RAM, ProcFS())


@pytest.fixture(autouse=True)
def no_vmcoreinfo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmem, "read_vmcoreinfo_span", lambda: None)


@pytest.mark.parametrize("base", [0xFFFF888000000000, 0xFFFF9A5F40000000])
def test_the_direct_map_is_found_wherever_it_is(base: int) -> None:
    memory = memory_of(ConstructedReader(base))
    assert (memory.base, memory.levels, memory.encryption_mask) == (base, 4, 0)


def test_five_levels_are_known_by_where_the_direct_map_is() -> None:
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


def addresses(*numbers: int) -> Words:
    return np.array(numbers, np.uint64)


def with_tables(encryption_mask: int = 0) -> tuple[ConstructedReader, KernelMemory]:
    """Top table 0x1000, below it 0x2000 and, at two entries of that, 0x5000 and 0x6000; 0x7000 below 0x5000.

    A huge page of 0x2000 is at 2 MiB, a page of 0x7000 at 0x9000, and an entry leads out of RAM.
    """
    reader = ConstructedReader(0xFFFF888000000000, encryption_mask=encryption_mask)
    for table, index, entry in (
        (0x1000, 0, 0x2067),
        (0x2000, 3, 0x5067),
        (0x2000, 4, 0x6067),
        (0x2000, 5, 0xC0000000 | 0xE7),
        (0x2000, 6, (1 << 40) | 0x67),
        (0x2000, 7, 0x8066),
        (0x5000, 0, 0x7067),
        (0x5000, 1, 0x200000 | 0xE7),
        (0x7000, 0, 0x9067),
    ):
        reader.words[reader.base + table + 8 * index] = entry | encryption_mask
    return reader, memory_of(reader)


@pytest.mark.parametrize("mask", [0, 1 << 47])
def test_tables_are_read_where_entries_led_and_nowhere_else(mask: int) -> None:
    _, memory = with_tables(mask)
    asked = addresses(0x1000, 0x2000, 0x5000, 0x6000, 0x7000, 0x8000, 0x9000, 0xA000, 0x200000, GIB, 1 << 40, 1 << 51)
    assert not memory.tables(asked)[1].any()
    assert not memory.entries(asked)[1].any()
    with memory.open_mm(os.getpid()) as mm:
        for level in ((mm.pgd,), (0x2000,), (0x5000, 0x6000), (0x7000,)):
            assert memory.tables(addresses(*level))[1].all()
        assert memory.tables(asked)[1].tolist() == [True] * 5 + [False] * 7
        assert memory.tables(asked + np.uint64(8))[1].tolist() == [False] * 12
        assert memory.entries(asked + np.uint64(8))[1].tolist() == [True] * 5 + [False] * 7
    # The top table may be anybody's once the address space is closed.
    assert memory.tables(addresses(0x1000))[1].tolist() == [False]


def test_single_entries_lead_on_as_well() -> None:
    _, memory = with_tables()
    with memory.open_mm(os.getpid()):
        for address, entry in ((0x1000, 0x2067), (0x2018, 0x5067), (0x5000, 0x7067), (0x7000, 0x9067)):
            values, good = memory.entries(addresses(address, 0x9000))
            assert (values.tolist(), good.tolist()) == ([entry, 0], [True, False])


def test_an_address_space_that_is_open_twice_stays_until_both_are_closed() -> None:
    reader, memory = with_tables()
    assert reader.forgotten == [0x1000], "our own, which showed where the direct map is"
    with memory.open_mm(os.getpid()):
        memory.open_mm(os.getpid()).close()
        assert memory.tables(addresses(0x1000))[1].all()
        assert reader.forgotten == [0x1000]
    assert not memory.tables(addresses(0x1000))[1].any()
    assert reader.forgotten == [0x1000] * 2


def test_an_address_space_that_is_only_looked_at_is_not_held() -> None:
    reader, memory = with_tables()
    reader.forgotten.clear()
    with memory.open_mm(os.getpid()) as mm:
        assert memory.is_current(mm)
        assert reader.forgotten == []
        reader.mm += 0x10000
        reader.words[reader.mm + 120] = memory.base + 0x6000
        assert not memory.is_current(mm)
        assert reader.forgotten == [0x6000]


def test_nothing_that_is_public_reads_kernel_memory_at_large() -> None:
    reader, memory = with_tables()
    public = {name for name in dir(KernelMemory) if not name.startswith("_") and callable(getattr(KernelMemory, name))}
    assert public == {
        "close", "entries", "forget_top", "frame_pages", "frame_words", "is_current", "object_members", "object_text",
        "object_words", "objects", "open_frame_array", "open_mm", "pipe_pages", "table_batches", "tables", "together",
        "user_pgd",
    }  # fmt: skip
    text = addresses(0xFFFFFFFF81000000, memory.base + 0x9000)
    assert not memory.frame_words(text)[1].any()
    assert [good.tolist() for _, _, good in memory.frame_pages(text)] == [[False, False]]
    assert not any(good.any() for _, _, good in memory.table_batches(text))
    with pytest.raises(NotSupported, match="run under RCU"):
        memory.together(text)
    reader.is_one_section = True  # type: ignore[attr-defined]
    assert not memory.together(addresses(0x9000, 0x7FFFF000, 0xFFFFFFFF81000000))[1].any()


def test_objects_are_whole_words_of_ram_in_the_direct_map() -> None:
    reader, memory = with_tables()
    end = memory.base + memory.ram.end
    inside, outside = memory.base + 0x9000, (0, 0x9000, memory.base - 8, end, 0xFFFFEA0000000000, 0xFFFFFFFF81000000)
    reader.words |= dict.fromkeys((inside, *outside), 0x4141414141414141)

    values, good = memory.object_words(addresses(inside, inside + 1, inside + 4, *outside))
    assert good.tolist() == [True] + [False] * 8
    assert values[0] == 0x4141414141414141
    # Of larger ones the end as well.
    some = addresses(inside, end - 8, inside + 4, *outside)
    rows, good = memory.objects(some, 16)
    members, also_good = memory.object_members(some, 16, [1, 0])
    assert good.tolist() == also_good.tolist() == [True] + [False] * 8
    assert (rows[0].tolist(), members[:, 0].tolist()) == ([0x4141414141414141, 0], [0, 0x4141414141414141])
    assert not members[:, 1:].any()


def test_a_text_ends_where_memory_does() -> None:
    reader, memory = with_tables()
    last = memory.base + memory.ram.end - 8
    reader.words |= {last: 0x4847464544434241, last + 8: 0x5A5A5A5A5A5A5A5A, 0xFFFFFFFF81000000: 0x4847464544434241}

    assert memory.object_text(last + 2, 64) == b"CDEFGH"
    assert memory.object_text(last + 2, 3) == b"CDE"
    assert memory.object_text(0xFFFFFFFF81000003, 5) == b"DEFGH"
    assert memory.object_text(0x401000, 8) == b""


def test_struct_pages_are_read_in_their_array_and_nowhere_else() -> None:
    reader, memory = with_tables()
    array = 0xFFFFEA0000000000
    reader.words |= {array + 8 * place: place + 1 for place in range(7)}
    memory.open_frame_array(array, 64)
    values, good = memory.frame_words(addresses(*(array + 8 * place for place in range(7)), array - 8, array + GIB))
    assert values[:7].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert good.tolist() == [True] * 7 + [False] * 2


@pytest.mark.parametrize(
    "base", [0, 0x1000, 0xFFFF888000000000, 0xFFFF888000001000, 0xFFFFEA0000000008, 0xFFFFFFFF81000000]
)
def test_no_array_of_struct_pages_begins_elsewhere(base: int) -> None:
    _, memory = with_tables()
    with pytest.raises(NotSupported):
        memory.open_frame_array(base, 64)


def test_more_addresses_than_a_batch_are_read_in_order() -> None:
    reader, memory = with_tables()
    reader.words |= {reader.base + 0x7000 + 8 * place: place + 1 for place in range(7)}
    with memory.open_mm(os.getpid()):
        for table in (0x1000, 0x2000, 0x5000):
            memory.tables(addresses(table))
        values, good = memory.entries(np.arange(7, dtype=np.uint64) * np.uint64(8) + np.uint64(0x7000))
    assert values.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert good.all()


def test_no_message_tells_what_was_read() -> None:
    reader = ConstructedReader(0xFFFF888000000000)
    word = 0xFFFF8ABCDEF12345
    for pointer in (word, 0xFFFF888012345678, 0xFFFF888080000000):
        reader.words = {reader.mm + 120: pointer}
        with pytest.raises(Error) as caught:
            memory_of(reader)
        assert f"{pointer:x}"[4:] not in str(caught.value)
    reader = ConstructedReader(0xFFFF888000000000)
    memory = memory_of(reader)
    for pointer in (word, reader.base + 0x1008, reader.base + GIB):
        reader.words[reader.mm + 120] = pointer
        with pytest.raises(NotSupported) as caught:
            memory.open_mm(os.getpid())
        assert "0x" not in str(caught.value)


def test_a_process_without_memory_is_gone() -> None:
    reader = ConstructedReader(0xFFFF888000000000)
    memory = memory_of(reader)
    reader.mm = 0
    with pytest.raises(ProcessGone):
        memory.open_mm(os.getpid())


def test_iomem_ranges_that_touch_are_one() -> None:
    text = "1000-9fbff : System RAM\n  2000-2fff : x\n9fc00-9ffff : System RAM\nf0000-fffff : x\n"
    assert parse_iomem(text.encode()) == [(0x1000, 0xA0000)]


def test_iomem_line_that_is_not_understood_is_shown() -> None:
    with pytest.raises(FormatError, match="what-is"):
        parse_iomem(b"what-is : System RAM\n")


def test_iomem_without_the_right_is_refused(tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_blocks, "read_memory_blocks", list)
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


@pytest.mark.parametrize(
    ("text", "place"), [("0x11f0e000 4024\n", (0x11F0E000, 0x4024)), ("", None), ("nothing here at all", None)]
)
def test_place_of_vmcoreinfo_is_an_address_and_a_size(text: str, place: tuple[int, int] | None, tmp_path: Path) -> None:
    (tmp_path / "vmcoreinfo").write_text(text)
    assert read_vmcoreinfo_span(str(tmp_path / "vmcoreinfo")) == place
    assert read_vmcoreinfo_span(str(tmp_path / "nowhere")) is None


def test_a_right_that_would_help_stands_for_all_refusals() -> None:
    refused: dict[str, Error] = {"bpf": PermissionDenied("bpf(2)", "CAP_BPF"), "kcore": NotSupported("/proc/kcore")}
    assert combined_refusal(refused, "auto") is refused["bpf"]


def test_when_nothing_helps_every_reason_is_given() -> None:
    refused: dict[str, Error] = {"bpf": NotSupported("bpf(2)", "X"), "kcore": NotSupported("/proc/kcore", "Y")}
    said = str(combined_refusal(refused, "auto"))
    assert said == "reading page tables (bpf: bpf(2), needs X; kcore: /proc/kcore, needs Y): not supported here"


def test_a_reader_that_does_not_exist_is_refused() -> None:
    assert "bpf" in str(combined_refusal({}, "strange"))


@pytest.mark.skipif(not is_x86_64(), reason="needs x86-64")
def test_a_capture_has_no_page_tables(tmp_path: os.PathLike[str]) -> None:
    with open(os.path.join(tmp_path, "machine.json"), "w") as file:
        file.write('{"page_size": 4096}')
    with pytest.raises(NotSupported, match="live"):
        open_kernel_memory(procfs=ProcFS(str(tmp_path)))


def test_the_users_copy_of_the_top_table_is_the_page_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmem, "read_cpuinfo", lambda: {"flags": "fpu pti lm"})
    memory = memory_of(ConstructedReader(0xFFFF888000000000))
    assert memory.user_pgd(0x2000) == 0x3000
    monkeypatch.setattr(kmem, "read_cpuinfo", lambda: {"flags": "fpu lm"})
    assert memory_of(ConstructedReader(0xFFFF888000000000)).user_pgd(0x2000) is None


def test_a_processor_that_does_not_tell_has_52_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = memory_of(ConstructedReader(0xFFFF888000000000))
    monkeypatch.setattr(cpuinfo, "read_cpuinfo", lambda: {"address sizes": "46 bits physical, 48 bits virtual"})
    assert memory.phys_bits == 46
    monkeypatch.setattr(cpuinfo, "read_cpuinfo", dict)
    assert memory.phys_bits == 52


def test_memory_blocks_that_touch_are_one(tmp_path: Path) -> None:
    (tmp_path / "block_size_bytes").write_text("8000000\n")
    for number, state in ((0, "online"), (1, "online"), (2, "offline"), (32, "online")):
        (tmp_path / f"memory{number}").mkdir()
        (tmp_path / f"memory{number}" / "state").write_text(f"{state}\n")
    assert read_memory_blocks(str(tmp_path)) == [(0, 2 << 27), (32 << 27, 33 << 27)]
    assert read_memory_blocks(str(tmp_path / "nowhere")) == []


def test_memory_block_that_is_going_offline_is_in_use_and_one_that_is_gone_is_not(tmp_path: Path) -> None:
    (tmp_path / "block_size_bytes").write_text("8000000\n")
    for number, state in ((0, "online"), (1, "going-offline"), (2, None), (3, "offline")):
        (tmp_path / f"memory{number}").mkdir()
        if state:
            (tmp_path / f"memory{number}" / "state").write_text(f"{state}\n")
    assert read_memory_blocks(str(tmp_path)) == [(0, 2 << 27)]


@pytest.mark.root("CAP_SYS_ADMIN")
def test_a_process_reads_with_the_reader_that_is_asked_for() -> None:
    from mematlas import Process

    with Process(os.getpid()) as process:
        try:
            access = process.page_table_access()
        except Error as error:
            pytest.skip(f"page tables cannot be read: {error}")
        assert process.page_table_access(access.name) is process.page_table_access() is access
        with pytest.raises(NotSupported, match="strange"):
            process.page_table_access("strange")
        other = "kcore" if access.name == "bpf" else "bpf"
        try:
            assert process.page_table_access(other).name == other
        except (NotSupported, PermissionDenied, FormatError):
            pass
        assert process.page_table_access() is access
