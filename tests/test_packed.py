"""Packed files: what goes in comes out, and nothing else is taken for one."""

from __future__ import annotations

import os
import stat
import struct
import tempfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import helpers  # noqa: F401  (the settings of hypothesis)
from mematlas.errors import FormatError
from mematlas.kernel.packed import MAGIC, PackedFile, write_packed

Parts = list[tuple[int, bytes]]


def make_parts(steps: list[tuple[int, bytes]]) -> Parts:
    """Return ascending parts from (gap in words, data)."""
    parts = []
    at = 0
    for gap, data in steps:
        at += gap * 8
        data += bytes(-len(data) % 8)
        parts.append((at, data))
        at += len(data)
    return parts


parts_lists = st.lists(
    st.tuples(st.one_of(st.integers(0, 5), st.integers(0, 1 << 50)), st.binary(min_size=1, max_size=100)), max_size=12
).map(make_parts)


def expected(parts: Parts, offset: int, size: int) -> bytes:
    """Return what a range of the file reads as, byte by byte."""
    out = bytearray(size)
    for at, data in parts:
        for place, byte in enumerate(data):
            if 0 <= at + place - offset < size:
                out[at + place - offset] = byte
    return bytes(out)


def open_packed(path: str) -> PackedFile:
    return PackedFile.open(os.open(path, os.O_RDONLY), path)


def write_and_open(parts: Parts) -> PackedFile:
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "x.packed")
        write_packed(path, parts)
        return open_packed(path)


@given(parts_lists, st.integers(0, 60), st.integers(0, 40), st.data())
def test_what_was_written_is_read_at_every_place(parts: Parts, before: int, words: int, data: st.DataObject) -> None:
    packed = write_and_open(parts)

    near = data.draw(st.sampled_from([at for at, _ in parts] or [0]))
    offset = max(near - before * 8, 0)
    buffer = bytearray(b"\xff" * (words * 8))
    assert packed.read_into(memoryview(buffer), offset) == len(buffer)
    assert bytes(buffer) == expected(parts, offset, len(buffer))


@given(parts_lists)
def test_next_data_goes_from_part_to_part(parts: Parts) -> None:
    packed = write_and_open(parts)

    found = []
    at: int | None = packed.next_data(0)
    while at is not None:
        found.append(at)
        at = packed.next_data(at + 8)
    assert found == [at + place for at, data in parts for place in range(0, len(data), 8)]


def test_parts_that_touch_become_one(tmp_path: Path) -> None:
    write_packed(str(tmp_path / "x"), [(0, bytes(8)), (8, bytes(16)), (32, bytes(8))])

    assert struct.unpack_from("<IIQ", (tmp_path / "x").read_bytes(), 8) == (1, 8, 2)


def test_file_is_its_owners_alone_and_never_an_old_one(tmp_path: Path) -> None:
    write_packed(str(tmp_path / "x"), [])

    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["x"]
    with pytest.raises(FileExistsError):
        write_packed(str(tmp_path / "x"), [])


def packed_bytes(extents: list[tuple[int, int]], data: bytes, version: int = 1) -> bytes:
    table = b"".join(struct.pack("<QQ", *extent) for extent in extents)
    return MAGIC + struct.pack("<IIQ", version, 8, len(extents)) + table + zlib.compress(data)


BROKEN = {
    "empty": b"",
    "no magic": b"x" * 40,
    "only a head": MAGIC,
    "another version": packed_bytes([], b"", version=2),
    "a table longer than the file": MAGIC + struct.pack("<IIQ", 1, 8, 1 << 60),
    "cut short": packed_bytes([(0, 64)], os.urandom(64))[:-9],
    "too little data": packed_bytes([(0, 16)], bytes(8)),
    "too much data": packed_bytes([(0, 16)], bytes(24)),
    "parts that overlap": packed_bytes([(0, 16), (8, 8)], bytes(24)),
    "parts out of order": packed_bytes([(16, 8), (0, 8)], bytes(16)),
    "half a word": packed_bytes([(4, 8)], bytes(8)),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_broken_file_is_an_error_that_names_it(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.packed"
    path.write_bytes(content)

    with pytest.raises(FormatError, match=r"broken\.packed"):
        open_packed(str(path))
