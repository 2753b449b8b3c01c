"""The assembler for BPF, and the program that counts, as far as no kernel is needed to know them right."""

from __future__ import annotations

import struct

import pytest

from mematlas.kernel.memory import countmap
from mematlas.kernel.memory.bpfcode import R0, R1, R2, R3, Code
from mematlas.kernel.memory.btf import StructLayout, TypeTable
from mematlas.kernel.memory.countcode import Counting
from mematlas.kernel.memory.countmap import AT
from mematlas.kernel.memory.directmap import find_direct_map
from mematlas.kernel.memory.iomem import RamRanges

LAYOUT = StructLayout(
    {
        "type.page": 77,
        "type.bpf_rdonly_cast": 88,
        "page": 64,
        "page._mapcount": 48,
        "page.compound_head": 8,
        "page.mapping": 24,
        "folio._entire_mapcount": 80,
        "folio._nr_pages_mapped": 84,
    }
)
# What calls a helper, another function, a kernel function; and what is made of two instructions.
CALL, WIDE, JUMPS = 0x85, 0x18, {0x05, *(code | of for code in range(0x15, 0xE0, 0x10) for of in (0, 8))} - {0x85, 0x95}


def decoded(program: bytes) -> list[tuple[int, int, int, int]]:
    """Return (opcode, registers, offset, value) of each instruction."""
    return list(struct.iter_unpack("=BBhi", program))


def test_labels_belong_to_their_function() -> None:
    code = Code(3)
    for name in ("one", "two"):
        code.function(name, 1)
        code.jump_if(R1, "==", 0, "out")
        code.do(R0, "+=", R1)
        code.label("out")
        code.leave()
    assert [offset for opcode, _, offset, _ in decoded(code.assembled()) if opcode in JUMPS] == [1, 1]


def test_a_call_leads_from_where_it_stands() -> None:
    code = Code(3)
    code.function("main", 1)
    code.call("other")
    code.address_of(R2, "other")
    code.leave()
    code.function("other", 2)
    code.leave(0)
    assert decoded(code.assembled())[:3] == [(0x85, 0x10, 0, 3), (0x18, 0x42, 0, 2), (0, 0, 0, 0)]


def test_registers_and_numbers_are_told_apart() -> None:
    code = Code(3)
    code.do(R3, "=", R2)
    code.do(R3, "=", 2)
    code.wide(R1, 0xFFFF800000000001)
    assert decoded(code.assembled()) == [(0xBF, 0x23, 0, 0), (0xB7, 3, 0, 2), (0x18, 1, 0, 1), (0, 0, 0, -0x8000)]


def test_a_label_that_is_not_there_is_no_program() -> None:
    code = Code(3)
    code.function("main", 1)
    code.jump("nowhere")
    with pytest.raises(KeyError):
        code.assembled()


def test_types_of_functions_are_as_btf_has_them() -> None:
    code = Counting(3, LAYOUT).write()
    code.assembled()
    types, infos = code.types()
    table = TypeTable(types, {"type": ("tally", "step")})
    assert len(infos) // 8 == len(table.starts) - 1 - 4
    for name, linkage, nr_arguments in (("tally", 1, 2), ("step", 0, 2)):
        at = table.starts[table.named[name]]
        proto = table.starts[table.words[at + 2]]
        assert (table.words[at + 1] & 0xFFFF, table.words[proto + 1] & 0xFFFF) == (linkage, nr_arguments)


def test_the_program_stays_inside_itself_and_its_map() -> None:
    code = Counting(3, LAYOUT).write()
    program = decoded(code.assembled())
    begins = {at for at, _ in struct.iter_unpack("=2I", code.types()[1])}
    halves = {number + 1 for number, each in enumerate(program) if each[0] == WIDE}
    for number, (opcode, registers, offset, value) in enumerate(program):
        if number in halves:
            continue
        if opcode in JUMPS:
            assert number + 1 + offset in set(range(len(program))) - halves
        elif opcode == CALL and registers >> 4 == 1:
            assert number + 1 + value in begins
        elif opcode == CALL and registers >> 4 == 2:
            assert value == 88
        elif opcode == CALL:
            assert value in (35, 113, 181)
    assert all(place < AT["end of all"] for place in AT.values() if place != AT["end of all"])
    assert len(set(AT.values())) == len(AT)
    assert AT["list"] < 1 << 15  # an offset has 16 bits, with a sign


def test_sums_lie_together() -> None:
    places = [AT[name] for name in countmap.SUMS]
    assert places == list(range(places[0], places[0] + countmap.SUMS_SIZE, 8))


def test_memory_that_is_encrypted_shows_in_the_mask() -> None:
    base, pgd, mask = 0xFFFF888000000000, 0x3000, 1 << 47
    words = {base + pgd + 273 * 8: 0x4000 | 1 | mask, base + 0x4000: 1 << 7 | 1 | mask}
    ram = RamRanges([(0x1000, 1 << 30)])
    assert find_direct_map(base + pgd, 4, ram, words.get) == (base, mask)
    assert find_direct_map(base + pgd, 4, ram, lambda address: None) is None


def test_the_mask_is_that_of_the_top_table_whatever_stands_beside_it() -> None:
    base, pgd, tables, mask = 0xFFFF888000000000, 0x3000, 0x4000, 1 << 47
    words = {base + pgd + 273 * 8: tables | 1 | mask}
    words.update({base + tables + number * 8: number << 30 | 1 << 7 | 1 | mask for number in range(512)})
    words[base + pgd + 274 * 8] = 0x5001 | 3 << 45  # of the RAM beyond 512 GiB, which no processor would walk
    ram = RamRanges([(0x1000, 700 << 30)])
    assert find_direct_map(base + pgd, 4, ram, words.get) == (base, mask)


def test_a_small_odd_number_where_a_wrong_base_leads_is_no_huge_page() -> None:
    base, pgd, tables = 0xFFFF888000000000, 5 << 30 | 0x3000, 0x4000
    words = {base + pgd + 273 * 8: tables | 1}
    words.update({base + tables + number * 8: number << 30 | 1 << 7 | 1 for number in range(8)})
    # Tried first: the base with which the top table would lie in the first GiB.
    wrong = base + (5 << 30)
    words[wrong + tables + 5 * 8] = 0x81
    ram = RamRanges([(0x1000, 8 << 30)])
    assert find_direct_map(base + pgd, 4, ram, words.get) == (base, 0)
    del words[base + tables + 5 * 8]
    assert find_direct_map(base + pgd, 4, ram, words.get) is None
