"""VMAs found by address, chosen by name, and the words that name them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import helpers  # noqa: F401  (the settings of hypothesis)
from mematlas.errors import BadInput
from mematlas.kernel.maps import Vma
from mematlas.model.address_space import (
    AddressSpace,
    Selection,
    parse_address,
    parse_kinds,
    parse_perms,
    parse_range,
    parse_size,
)
from mematlas.words import Kind


def make_vma(start: int, end: int, perms: str = "rw-p", path: str = "", kind: Kind = "anon") -> Vma:
    return Vma(start=start, end=end, perms=perms, offset=0, dev="00:00", inode=0, path=path, kind=kind)


def make_space(steps: list[tuple[int, int]]) -> AddressSpace:
    """Return a space from (gap, size) in pages."""
    vmas = []
    at = 0
    for gap, size in steps:
        vmas.append(make_vma(at + gap, at + gap + size))
        at += gap + size
    return AddressSpace(vmas)


spaces = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 5)), max_size=8).map(make_space)


@given(spaces, st.integers(0, 80))
def test_address_is_found_in_the_vma_that_holds_it(space: AddressSpace, address: int) -> None:
    holders = [vma for vma in space.vmas if vma.start <= address < vma.end]

    assert space.find(address) == (holders[0] if holders else None)


@given(spaces, st.integers(0, 80), st.integers(0, 80))
def test_pieces_are_the_mapped_part_of_a_range(space: AddressSpace, start: int, size: int) -> None:
    pieces = space.pieces(start, start + size)

    assert all(max(vma.start, start) == low and min(vma.end, start + size) == high for vma, low, high in pieces)
    covered = [address for _, low, high in pieces for address in range(low, high)]
    assert covered == [address for address in range(start, start + size) if space.find(address)]


@given(spaces)
def test_gaps_are_what_lies_between(space: AddressSpace) -> None:
    inside = {address for low, high in space.gaps() for address in range(low, high)}

    first, last = (space.vmas[0].start, space.vmas[-1].end) if space.vmas else (0, 0)
    assert inside == {address for address in range(first, last) if not space.find(address)}


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("1234", (0x1000, 0x2000)),
        ("0x1fff", (0x1000, 0x2000)),
        ("1000-3000", (0x1000, 0x3000)),
        ("0x1000+8K", (0x1000, 0x3000)),
        ("1000+0x10", (0x1000, 0x1010)),
        ("ffffffffff600000", (0xFFFFFFFFFF600000, 0xFFFFFFFFFF601000)),
        ("[heap]", None),
        ("dead", None),
        ("0xdead", (0xD000, 0xE000)),
        ("libc-2.31.so", None),
        ("1000+lots", None),
        ("1000+-8", None),
        ("10000000000000000", None),
        ("", None),
    ],
)
def test_ranges_have_three_forms(text: str, span: tuple[int, int] | None) -> None:
    assert parse_range(text, 4096) == span


@pytest.mark.parametrize("text", ["0x", "0x7f3+1MB", "0x7f3-0x7fzz", "0xlib.so", "0x1000+-8"])
def test_what_begins_as_an_address_and_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="bad address or range"):
        parse_range(text, 4096)


@pytest.mark.parametrize("text", ["1000-1000", "3000-1000", "1000+0", "0x1000+0K"])
def test_empty_range_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match=r"is an empty range$"):
        parse_range(text, 4096)


def test_range_of_one_address_is_its_page_of_any_size() -> None:
    assert parse_range("0x12345", 65536) == (0x10000, 0x20000)


@given(st.integers(0, (1 << 64) - 1))
def test_addresses_are_hexadecimal(address: int) -> None:
    assert parse_address(f"{address:#x}") == address
    assert parse_address(f"0X{address:X}") == address


@pytest.mark.parametrize("text", ["", "-1", "0x-1", "12 34", "1_0", "0xg", "0x1_0", "٣"])
def test_what_is_no_address_is_none(text: str) -> None:
    assert parse_address(text) is None


@pytest.mark.parametrize("text", ["", "K", "-1", "1.5G", "x", "1KK"])
def test_what_is_no_size_is_none(text: str) -> None:
    assert parse_size(text) is None


VMA = make_vma(0x1000, 0x3000, "r-xp", "/usr/lib/libc.so.6", "file")


@pytest.mark.parametrize(
    ("selection", "matches"),
    [
        (Selection(), True),
        (Selection(perms="rx"), True),
        (Selection(perms="x"), True),
        (Selection(perms="w"), False),
        (Selection(perms="r-xp"), True),
        (Selection(perms="r--p"), False),
        (Selection(kinds=frozenset(("file", "heap"))), True),
        (Selection(kinds=frozenset(("heap",))), False),
        (Selection(path="libc"), True),
        (Selection(path="LIBC"), False),
        (Selection(span=(0x1000, 0x1001)), True),
        (Selection(span=(0x3000, 0x3001)), False),
        (Selection(span=(0x2FFF, 0x9000)), True),
        (Selection(name="file"), True),
        (Selection(name="libc.so"), True),
        (Selection(name="heap"), False),
        (Selection(name=""), False),
        (Selection(perms="x", name="heap"), False),
    ],
)
def test_selection_holds_when_all_of_it_does(selection: Selection, matches: bool) -> None:
    assert selection.matches(VMA) == matches


def test_names_in_brackets_are_found_with_and_without() -> None:
    stack = make_vma(0, 1, path="[stack]", kind="stack")

    assert Selection(name="stack").matches(stack)
    assert Selection(name="[stack]").matches(stack)


def test_mistakes_in_filters_name_what_there_is() -> None:
    assert parse_kinds("heap,stack") == {"heap", "stack"}
    with pytest.raises(BadInput, match="no such kind: heapp"):
        parse_kinds("heapp")
    for text in ("", "rwz", "7"):
        with pytest.raises(BadInput, match="bad permissions"):
            parse_perms(text)
