"""Names of sections, of programs made by hand."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import make_process
from mematlas.kernel.elf import is_of_go, section_names
from mematlas.kernel.procfs import ProcFS


def reader(data: bytes) -> Callable[[int, int], bytes]:
    return lambda offset, size: data[offset : offset + size]


def made(*names: str, order: str = "<", entry_size: int = 64, index: int | None = None) -> bytes:
    """Return a program of 64 bits with these sections, and one for their names."""
    text = b"\0" + b"".join(name.encode() + b"\0" for name in (*names, ".shstrtab"))
    header = b"\x7fELF\x02" + (b"\1" if order == "<" else b"\2") + bytes(58)
    places = [text.index(name.encode() + b"\0") for name in (*names, ".shstrtab")]
    section = struct.Struct(f"{order}2I4Q2I2Q")
    table_at = 64 + len(text)
    table = section.pack(*bytes(10)) + b"".join(section.pack(at, 1, 0, 0, 64, len(text), 0, 0, 0, 0) for at in places)
    counts = entry_size, len(places) + 1, len(places) if index is None else index
    head = bytearray(header)
    head[40:48] = struct.pack(f"{order}Q", table_at)
    head[58:64] = struct.pack(f"{order}3H", *counts)
    return bytes(head) + text + table


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_program_has_the_names_of_its_sections(order: str) -> None:
    data = made(".text", ".gopclntab", order=order)

    assert section_names(reader(data)) == ["", ".text", ".gopclntab", ".shstrtab"]


@pytest.mark.parametrize(
    "data",
    [b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01" + bytes(58), made(".text")[:63], made(entry_size=40), made(index=9)],
    ids=["nothing", "a script", "32 bits", "cut short", "other entries", "no names"],
)
def test_anything_else_has_none(data: bytes) -> None:
    assert section_names(reader(data)) == []


WHOLE = made(".text", ".data.rel.ro.gopclntab")


@given(st.data())
def test_no_program_ends_in_a_mistake(data: st.DataObject) -> None:
    changed = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 12))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(changed)))

    assert all(isinstance(name, str) for name in section_names(reader(bytes(changed[:end]))))


@pytest.mark.parametrize(
    ("data", "answer"),
    [(WHOLE, True), (made(".text"), False), (b"#!/bin/sh", False), (None, None)],
    ids=["Go", "another", "a script", "nothing"],
)
def test_a_program_is_of_go_by_its_sections(data: bytes | None, answer: bool | None, tmp_path: Path) -> None:
    process = make_process(tmp_path)
    if data is not None:
        (process / "exe").write_bytes(data)

    with ProcFS(str(tmp_path)).process(7) as held:
        assert is_of_go(held) is answer


def test_a_program_that_cannot_be_read_in_time_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mematlas.kernel.elf.ANSWER_SECONDS", 0.2)
    os.mkfifo(make_process(tmp_path) / "exe")  # nobody ever writes to it

    with ProcFS(str(tmp_path)).process(7) as held:
        assert is_of_go(held) is None
