"""Packed files: what goes in comes out, and nothing else is taken for one."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import helpers  # noqa: F401  (the settings of hypothesis)
from mematlas.errors import Error, FormatError
from mematlas.kernel import packed as packing
from mematlas.kernel.packed import CHUNK_SIZE, HEADER_SIZE, MAGIC, PackedFile, write_packed

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


def open_packed(path: Path) -> PackedFile:
    return PackedFile(os.open(path, os.O_RDONLY), str(path))


def write_and_open(parts: Parts) -> PackedFile:
    with tempfile.TemporaryFile() as file:
        write_packed(file, parts)
        file.flush()
        return PackedFile(os.dup(file.fileno()), "x.packed")


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
    with open(tmp_path / "x", "wb") as file:
        write_packed(file, [(0, bytes(8)), (8, bytes(16)), (32, bytes(8))])

    assert struct.unpack_from("<IIQ", (tmp_path / "x").read_bytes(), 8) == (2, 8, 2)
    packed = open_packed(tmp_path / "x")
    assert (list(packed.starts), list(packed.ends)) == ([0, 32], [24, 40])
    packed.close()


def test_parts_longer_than_a_chunk_are_read_across_its_ends() -> None:
    data = bytes(range(256)) * (3 * CHUNK_SIZE // 256) + b"the last"
    packed = write_and_open([(1 << 40, data)])

    for place in (0, CHUNK_SIZE - 8, 2 * CHUNK_SIZE - 16, 3 * CHUNK_SIZE):
        buffer = bytearray(CHUNK_SIZE + 32)
        packed.read_into(memoryview(buffer), (1 << 40) + place)
        assert buffer == data[place : place + len(buffer)].ljust(len(buffer), b"\0")
    packed.close()


def test_no_more_chunks_are_held_than_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "HELD_CHUNKS", 2)
    packed = write_and_open([(0, os.urandom(5 * CHUNK_SIZE))])
    first, again = bytearray(5 * CHUNK_SIZE), bytearray(5 * CHUNK_SIZE)

    packed.read_into(memoryview(first), 0)
    assert len(packed._held) == 2
    packed.read_into(memoryview(again), 0)
    assert first == again
    packed.close()


def test_more_than_a_packed_file_holds_is_an_error_when_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "MAX_EXTENTS", 2)
    with open(tmp_path / "x", "wb") as file, pytest.raises(Error, match="more pages than a capture holds"):
        write_packed(file, [(place * 16, bytes(8)) for place in range(3)])


def packed_bytes(
    extents: list[tuple[int, int]], data: bytes, version: int = 2, chunks: list[bytes] | None = None
) -> bytes:
    if chunks is None:
        chunks = [zlib.compress(data[place : place + CHUNK_SIZE]) for place in range(0, len(data), CHUNK_SIZE)]
    body = b"".join(chunks)
    head = MAGIC + struct.pack("<IIQQQ", version, 8, len(extents), len(chunks), HEADER_SIZE + len(body))
    tables = b"".join(struct.pack("<QQ", *extent) for extent in extents)
    return head + body + tables + b"".join(struct.pack("<I", len(chunk)) for chunk in chunks)


BROKEN = {
    "empty": b"",
    "no magic": b"x" * 60,
    "only a head": MAGIC,
    "another version": packed_bytes([], b"", version=1),
    "tables longer than the file": MAGIC + struct.pack("<IIQQQ", 2, 8, 1 << 20, 1, 40),
    "more extents than are possible": MAGIC + struct.pack("<IIQQQ", 2, 8, 1 << 60, 0, 40),
    "more chunks than are possible": MAGIC + struct.pack("<IIQQQ", 2, 8, 0, 1 << 60, 40),
    "tables past all files": MAGIC + struct.pack("<IIQQQ", 2, 8, 1, 1, (1 << 64) - 1),
    "cut short": packed_bytes([(0, 64)], os.urandom(64))[:-9],
    "too little data": packed_bytes([(0, 16)], bytes(8)),
    "too much data": packed_bytes([(0, 16)], bytes(24)),
    "data that is not packed": packed_bytes([(0, 8)], b"", chunks=[b"not zlib"]),
    "a chunk that unpacks to gigabytes": packed_bytes([(0, 8)], b"", chunks=[zlib.compress(bytes(1 << 20))]),
    "a chunk that is packed long": packed_bytes([(0, 8)], b"", chunks=[bytes(1 << 20)]),
    "fewer chunks than the extents take": packed_bytes([(0, 2 << 20)], b"", chunks=[zlib.compress(bytes(8))]),
    "parts that overlap": packed_bytes([(0, 16), (8, 8)], bytes(24)),
    "parts out of order": packed_bytes([(16, 8), (0, 8)], bytes(16)),
    "parts past 64 bits": packed_bytes([((1 << 64) - 8, 16)], bytes(16)),
    "half a word": packed_bytes([(4, 8)], bytes(8)),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_broken_file_is_an_error_that_names_it(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.packed"
    path.write_bytes(content)
    before = len(os.listdir("/proc/self/fd"))

    with pytest.raises(FormatError, match=r"broken\.packed"):
        read_whole(path)
    assert len(os.listdir("/proc/self/fd")) == before


def read_whole(path: Path) -> None:
    packed = open_packed(path)
    try:
        packed.read_into(memoryview(bytearray(32)), 0)
    finally:
        packed.close()


def test_reader_of_gigabytes_of_nothing_holds_little() -> None:
    code = """
import os, sys, zlib, struct
from mematlas.kernel.packed import PackedFile, CHUNK_SIZE, HEADER_SIZE, MAGIC
chunk, number = zlib.compress(bytes(CHUNK_SIZE)), (3 << 30) // CHUNK_SIZE
fd = os.memfd_create("bomb")
os.write(fd, MAGIC + struct.pack("<IIQQQ", 2, 8, 1, number, HEADER_SIZE + number * len(chunk)))
for _ in range(number):
    os.write(fd, chunk)
os.write(fd, struct.pack("<QQ", 0, 3 << 30) + number * struct.pack("<I", len(chunk)))
before = int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])
packed = PackedFile(fd, "bomb")
buffer = memoryview(bytearray(1 << 16))
for place in range(0, 300 << 20, 1 << 16):
    packed.read_into(buffer, place)
print(int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100 << 10
