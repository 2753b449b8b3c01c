"""BTF: constructed type information, its offsets, and the cache of them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from constructed_btf import FUNC, INT, STRUCT, Builder, sample
from mematlas.errors import FormatError, NotSupported
from mematlas.kernel.memory.btf import StructLayout, parse_btf, parse_build_id, read_layout


def test_members_of_unnamed_members_count_as_ones_own() -> None:
    found = parse_btf(sample(), {"page": ("flags", "_mapcount", "order")})
    assert found == {"page": 16, "page.flags": 0, "page._mapcount": 8, "page.order": 12}


def test_a_missing_structure_is_left_out_and_named_when_needed() -> None:
    layout = StructLayout(parse_btf(sample(), {"folio": ("_entire_mapcount",)}))
    assert "folio" not in layout
    with pytest.raises(NotSupported, match=r"folio\._entire_mapcount"):
        layout["folio._entire_mapcount"]


@pytest.mark.parametrize("size", [0, 10, 24, 60, 200])
def test_a_file_cut_short_is_an_error(size: int) -> None:
    with pytest.raises(FormatError):
        parse_btf(sample()[:size], {"page": ("flags",)})


def test_another_magic_is_an_error_that_shows_it() -> None:
    with pytest.raises(FormatError, match="0x1234"):
        parse_btf(b"\x34\x12" + sample()[2:], {})


def test_a_kind_that_is_not_known_is_an_error() -> None:
    made = Builder()
    made.add(31, "strange", 4, [])
    with pytest.raises(FormatError, match="kind 31"):
        parse_btf(made.build(), {"page": ()})


def test_without_the_file_the_option_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotSupported, match="CONFIG_DEBUG_INFO_BTF"):
        read_layout(str(tmp_path / "vmlinux"))


def damaged(made: Builder, what: str) -> Builder:
    """Add a struct page of a kind that no kernel has."""
    if what == "itself":
        made.add(8, "", 1, [])  # typedef of type 1, which is this one
        made.add(STRUCT, "page", 8, [(0, 1, 0)])
    elif what == "in itself":
        made.add(STRUCT, "page", 8, [(0, 1, 0)])
    elif what == "many times":
        for below in range(2, 31):
            made.add(STRUCT, "", 8, [(0, below, 0), (0, below, 0)])
        made.add(STRUCT, "page", 8, [(0, 1, 0)])
    elif what == "no such type":
        made.add(STRUCT, "page", 8, [(0, 1 << 31, 0)])
    elif what == "no such name":
        made.add(STRUCT, "page", 8, [(1 << 31, 1, 0)])
    return made


@pytest.mark.parametrize("what", ["itself", "in itself", "many times", "no such type", "no such name"])
def test_types_that_no_kernel_has_are_an_error_and_soon(what: str) -> None:
    with pytest.raises(FormatError):
        parse_btf(damaged(Builder(), what).build(), {"page": ("flags",)})


def test_a_name_that_is_no_text_is_another_name() -> None:
    made = Builder()
    made.add(STRUCT, "page", 8, [(made.name("flags"), 1, 0)])
    assert parse_btf(made.build().replace(b"flags", b"fl\xffgs"), {"page": ("flags",)}) == {"page": 8}


def note(name: bytes, kind: int, data: bytes) -> bytes:
    return struct.pack("=3I", len(name), len(data), kind) + name.ljust(-(-len(name) // 4) * 4, b"\0") + data


def test_the_build_id_is_found_among_other_notes() -> None:
    build = bytes(range(20))
    notes = note(b"Xen\0", 3, build[::-1]) + note(b"Linux\0", 257, b"\0\0\0\0") + note(b"GNU\0", 3, build)
    assert parse_build_id(notes) == build.hex()
    # Not one that is cut short, and nothing else that GNU notes.
    assert parse_build_id(notes[:-1]) is None
    assert parse_build_id(note(b"GNU\0", 1, build) + note(b"GNU\0", 3, b"short")) is None


def test_numbers_of_types_are_given_beside_offsets() -> None:
    made = Builder()
    made.add(INT, "int", 4, [(32,)])
    made.add(STRUCT, "page", 8, [(made.name("flags"), 1, 0)])
    made.add(FUNC, "bpf_rdonly_cast", 1, [])
    found = parse_btf(made.build(), {"page": ("flags",), "type": ("page", "bpf_rdonly_cast", "missing")})
    assert found == {"page": 8, "page.flags": 0, "type.page": 2, "type.bpf_rdonly_cast": 3}


def test_numbers_of_an_enumeration_are_found_by_name() -> None:
    found = parse_btf(sample(), {"kinds": ("KIND_B", "KIND_C")})
    assert found == {"kinds": 4, "kinds.KIND_B": 7}
