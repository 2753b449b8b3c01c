"""Entries of every architecture, decoded from constructed words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mematlas.errors import BadInput
from mematlas.model.pagetables.entries import (
    STATE_NAMES,
    PagingMode,
    SpecialSwap,
    address_of,
    contiguous_size,
    flag_names,
    holds,
    is_leaf,
    is_table,
    leaf_address,
    migration_frame,
    state_of,
    states,
    swap_fields,
)
from mematlas.model.pagetables.modes import arm64, riscv64, x86_64
from mematlas.model.pagetables.swap_types import special_swap_of
from mematlas.model.pagetables.walk import EXECUTABLE, USER, rights_of

ALL_MODES = [x86_64(4), x86_64(5), arm64(4096), arm64(16384), arm64(65536), arm64(4096, 52, wide=True),
             arm64(65536, 52, wide=True), arm64(older=True), riscv64(39), riscv64(48), riscv64(57)]  # fmt: skip
X86 = x86_64(special_swap=SpecialSwap(nr_device=0, nr_migration=3, nr_hwpoison=0, pfn_bits=34))
PTE = 3


def x86_swap(kind: int, offset: int) -> int:
    return kind << 59 | (~offset & (1 << 50) - 1) << 9


def name_of(entry: int, level: int = PTE) -> str:
    return STATE_NAMES[state_of(X86, level, entry)]


def test_x86_levels_have_the_kernels_names_and_shifts() -> None:
    assert [(level.name, level.shift) for level in x86_64(5).levels] == [
        ("pgd", 48), ("p4d", 39), ("pud", 30), ("pmd", 21), ("pte", 12)]  # fmt: skip
    assert [level.name for level in x86_64(4).levels] == ["pgd", "pud", "pmd", "pte"]


def test_halves_meet_where_the_tables_do() -> None:
    assert (x86_64(4).user_end, x86_64(4).kernel_start) == (1 << 47, 0xFFFF800000000000)
    assert (arm64().user_end, arm64().kernel_start) == (1 << 48, 0xFFFF000000000000)
    assert (x86_64(5).user_end, x86_64(5).kernel_start) == (1 << 56, 0xFF00000000000000)


@pytest.mark.parametrize(
    ("granule", "shifts"), [(4096, [39, 30, 21, 12]), (16384, [47, 36, 25, 14]), (65536, [42, 29, 16])]
)
def test_arm64_granules_have_their_shifts(granule: int, shifts: list[int]) -> None:
    assert [level.shift for level in arm64(granule).levels] == shifts


def test_arm64_16k_has_a_top_table_of_two_entries() -> None:
    assert [level.nr_entries for level in arm64(16384).levels] == [2, 2048, 2048, 2048]


@pytest.mark.parametrize("bad", [lambda: x86_64(3), lambda: arm64(8192), lambda: riscv64(47)])
def test_a_mode_that_does_not_exist_is_refused(bad: object) -> None:
    with pytest.raises(BadInput):
        bad()  # type: ignore[operator]


def test_x86_flags_have_names() -> None:
    assert flag_names(X86, PTE, 0x8000000012345067) == ("present", "writable", "user", "accessed", "dirty", "nx")
    assert flag_names(X86, PTE, 0x1 | 1 << 7) == ("present", "pat")
    assert flag_names(X86, 2, 0x1 | 1 << 7 | 1 << 12) == ("present", "huge", "pat")
    assert flag_names(X86, 2, 0x1063) == ("present", "writable", "accessed")
    assert "pkey5" in flag_names(X86, PTE, 1 | 5 << 59)


def test_bit_12_of_a_huge_leaf_is_no_address() -> None:
    assert leaf_address(X86, 2, 0x40000000 | 1 << 12 | 0x81) == 0x40000000
    assert leaf_address(X86, 1, 0x40000000 | 1 << 12 | 0x81) == 0x40000000


def test_bit_7_means_huge_above_the_last_level_only() -> None:
    assert is_leaf(X86, 2, 0x81)
    assert not is_table(X86, 2, 0x81)
    assert is_leaf(X86, PTE, 0x81)
    assert is_table(X86, 2, 0x1001)
    assert not is_leaf(X86, 0, 0x81)


def test_prot_none_has_its_frame_inverted() -> None:
    entry = (~0x12345000 & 0x000FFFFFFFFFF000) | 1 << 8
    assert name_of(entry) == "prot-none"
    assert leaf_address(X86, PTE, entry) == 0x12345000
    assert flag_names(X86, PTE, entry)[0] == "prot-none"


def test_a_huge_leaf_under_prot_none_is_no_swap() -> None:
    entry = (~0x40000000 & 0x000FFFFFFFE00000) | 1 << 7 | 1 << 8
    assert name_of(entry, 2) == "prot-none"
    assert leaf_address(X86, 2, entry) == 0x40000000


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        (0, "empty"),
        (x86_swap(0, 1), "swap"),
        (x86_swap(27, 5), "swap"),
        (x86_swap(28, 5), "migration"),
        (x86_swap(30, 5), "migration"),
        (x86_swap(31, 1), "uffd-wp-marker"),
        (x86_swap(31, 2), "poison"),
        (x86_swap(31, 4), "guard"),
        (x86_swap(31, 5), "marker"),
    ],
)
def test_non_present_entries_are_what_their_type_says(entry: int, name: str) -> None:
    assert name_of(entry) == name
    assert flag_names(X86, PTE, entry) == ((name,) if entry else ())


def test_types_depend_on_the_configuration() -> None:
    everything = special_swap_of(frozenset(["MIGRATION", "DEVICE_PRIVATE", "MEMORY_FAILURE"]), (6, 2), 34)
    assert everything is not None
    kinds = [STATE_NAMES[state] for state in everything.state_of_types()]
    assert kinds[22:] == ["swap", "hwpoison", *["migration"] * 3, *["device"] * 4, "marker"]
    debian_6_1 = special_swap_of(frozenset(["MIGRATION", "MEMORY_FAILURE", "PTE_MARKER"]), (6, 1), 34)
    assert debian_6_1 is not None
    kinds = [STATE_NAMES[state] for state in debian_6_1.state_of_types()]
    assert kinds[25:] == ["swap", "hwpoison", *["migration"] * 3, "marker", "poison"]
    assert special_swap_of(frozenset(["MIGRATION"]), (5, 15), 34) == SpecialSwap(0, 2, 0, 34, nr_marker=0)
    assert special_swap_of(frozenset(["MIGRATION", "DEVICE_PRIVATE"]), (7, 99), 34) is None


def test_without_the_configuration_what_may_be_special_is_unknown() -> None:
    assert STATE_NAMES[state_of(x86_64(), PTE, x86_swap(25, 1))] == "unknown"
    assert STATE_NAMES[state_of(x86_64(), PTE, x86_swap(3, 1))] == "swap"
    assert STATE_NAMES[state_of(x86_64(), PTE, x86_swap(31, 4))] == "guard"


@given(st.integers(0, 27), st.integers(0, (1 << 40) - 1))
def test_every_swap_slot_comes_back(kind: int, offset: int) -> None:
    assert swap_fields(X86, x86_swap(kind, offset)) == (kind, offset)
    assert swap_fields(arm64(), kind << 6 | offset << 12) == (kind, offset)
    assert swap_fields(riscv64(), kind << 7 | offset << 12) == (kind, offset)


def test_a_migration_entry_has_its_frame_below_its_other_bits() -> None:
    _, offset = swap_fields(X86, x86_swap(28, 1 << 34 | 0x1234))
    assert migration_frame(X86, offset) == 0x1234


def test_the_encryption_bit_is_no_address() -> None:
    mode = x86_64(encryption_mask=1 << 47)
    assert address_of(mode, 1 << 47 | 0x12345067) == 0x12345000


@given(st.integers(0, (1 << 64) - 1), st.sampled_from(ALL_MODES))
def test_an_array_is_decoded_as_each_of_its_entries(entry: int, mode: object) -> None:
    assert isinstance(mode, PagingMode)
    for level in range(len(mode.levels)):
        entries = np.array([entry, 0], np.uint64)
        assert int(leaf_address(mode, level, entries)[0]) == leaf_address(mode, level, entry)
        assert bool(is_table(mode, level, entries)[0]) == bool(is_table(mode, level, entry))
        assert bool(is_leaf(mode, level, entries)[0]) == bool(is_leaf(mode, level, entry))
        assert bool(holds(entries, mode.dirty)[0]) == bool(holds(entry, mode.dirty))
        assert [int(part[0]) for part in swap_fields(mode, entries)] == list(swap_fields(mode, entry))
        assert states(mode, level, entries)[0] == state_of(mode, level, entry)
        assert states(mode, level, entries)[1] == 0


@pytest.mark.parametrize(
    ("mode", "mark", "names"),
    [
        (X86, 1 << 8, ("accessed", "dirty")),
        (riscv64(), 1 << 5, ("accessed", "dirty")),
        (arm64(), 1 << 11, ("accessed", "dirty")),
        (arm64(older=True), 1 << 58, ("accessed", "dirty")),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_mark_of_prot_none_is_no_other_flag(mode: PagingMode, mark: int, names: tuple[str, ...]) -> None:
    bits = {"x86": 0x60, "ris": 0xC0, "arm": 1 << 10 | 1 << 55}[mode.name[:3]]
    level = len(mode.levels) - 1
    assert flag_names(mode, level, mark | bits) == ("prot-none", *names)
    assert int(rights_of(mode, np.array([mark | bits], np.uint64))[0]) == 0


def test_x86_before_saved_dirty_has_another_bit_58() -> None:
    older = x86_64(saved_dirty=False)
    entry = 1 << 58 | 0x12345025
    assert (holds(entry, X86.dirty), holds(entry, older.dirty)) == (True, False)
    assert "saved-dirty" in flag_names(X86, PTE, entry)
    assert "saved-dirty" not in flag_names(older, PTE, entry)
    assert "no-pti-shadow" in flag_names(older, 0, 1 << 58 | 0x12345067)


def test_riscv_bits_of_software_are_not_reserved() -> None:
    entry = 1 << 59 | 1 << 60 | 1 << 9 | 0x12345 << 10 | 0xDF
    assert not entry & riscv64().reserved
    assert "soft-dirty" not in flag_names(riscv64(), 2, entry)


def test_riscv_a_huge_page_that_is_being_split_is_a_leaf() -> None:
    assert STATE_NAMES[state_of(riscv64(), 1, 0x12200 << 10 | 0xD6)] == "prot-none"
    assert STATE_NAMES[state_of(riscv64(), 1, 5 << 7 | 0x1234 << 12)] != "prot-none"


def test_arm64_code_that_may_not_be_read_is_the_users() -> None:
    only_executed = 0x12345003 | 1 << 7 | 1 << 10 | 1 << 11 | 1 << 53
    assert int(rights_of(arm64(), np.array([only_executed], np.uint64))[0]) == USER | EXECUTABLE


def test_arm64_before_2024_has_its_swap_fields_lower() -> None:
    older = arm64(older=True)
    assert swap_fields(older, 5 << 3 | 0x1234 << 8) == (5, 0x1234)
    assert STATE_NAMES[state_of(older, PTE, 5 << 3 | 1 << 11)] == "swap"
    assert STATE_NAMES[state_of(older, 2, 0x12200000 | 1 << 59)] == "prot-none"


def test_arm64_pages_and_blocks_and_tables() -> None:
    mode = arm64()
    assert is_table(mode, 1, 0x12345003)
    assert is_leaf(mode, 1, 0x40000001)
    assert is_leaf(mode, PTE, 0x12345003)
    assert not is_leaf(mode, 0, 0x40000001)
    assert not is_leaf(mode, PTE, 0x12345002)


def test_arm64_rights() -> None:
    mode = arm64()
    user_code = 3 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 11 | 1 << 53
    user_data = 3 | 1 << 6 | 1 << 10 | 1 << 11 | 1 << 51 | 1 << 53 | 1 << 54
    kernel_code = 3 | 1 << 7 | 1 << 10 | 1 << 54
    rights = (mode.user, mode.writable, mode.executable)
    assert [bool(holds(user_code, test)) for test in rights] == [True, False, True]
    assert [bool(holds(user_data, test)) for test in rights] == [True, True, False]
    assert [bool(holds(kernel_code, test)) for test in (*rights, mode.global_)] == [False, False, True, True]
    assert holds(user_data, mode.dirty)
    assert not holds(user_data | 1 << 7, mode.dirty)


@pytest.mark.parametrize(
    ("granule", "last", "above"),
    [(4096, 16 << 12, 16 << 21), (16384, 128 << 14, 32 << 25), (65536, 32 << 16, 32 << 29)],
)
def test_arm64_contiguous_entries_join(granule: int, last: int, above: int) -> None:
    mode = arm64(granule)
    bottom = len(mode.levels) - 1
    assert contiguous_size(mode, bottom, 1 << 52 | 3) == last
    assert contiguous_size(mode, bottom - 1, 1 << 52 | 1) == above
    assert contiguous_size(mode, bottom, 3) == granule


def test_arm64_wide_addresses_are_put_together() -> None:
    assert address_of(arm64(65536, 52, wide=True), 0x123450003 | 0xF << 12) == 0x123450000 | 0xF << 48
    assert address_of(arm64(4096, 52, wide=True), 0x12345003 | 3 << 8) == 0x12345000 | 3 << 50


def test_arm64_prot_none_keeps_its_frame() -> None:
    entry = 0x12345000 | 1 << 11
    assert STATE_NAMES[state_of(arm64(), PTE, entry)] == "prot-none"
    assert leaf_address(arm64(), PTE, entry) == 0x12345000


def test_riscv_an_entry_without_rights_is_a_table() -> None:
    mode = riscv64()
    assert is_table(mode, 0, 0x12345 << 10 | 1)
    assert address_of(mode, 0x12345 << 10 | 1) == 0x12345000
    assert is_leaf(mode, 0, 0x40000 << 10 | 0xCF)
    assert flag_names(mode, 2, 0x12345 << 10 | 0xDF)[:4] == ("valid", "readable", "writable", "executable")


def test_riscv_napot_has_its_size_in_the_frame() -> None:
    mode = riscv64()
    entry = 1 << 63 | 0x12348 << 10 | 0xDF
    assert leaf_address(mode, 2, entry) == 0x12340000
    assert contiguous_size(mode, 2, entry) == 65536
    assert "napot" in flag_names(mode, 2, entry)
