"""A file of 64-bit words with large holes, kept small: how a capture stores pagemap and the kpage files.

The pagemap of a process reaches over 256 TiB of addresses, half a TiB of file, nearly all of it empty. A packed
file keeps the parts that hold something, so it survives tar, git and mail. Little-endian throughout::

    magic       8 bytes   b"mematlas"
    version     u32       2
    word_size   u32       8
    nr_extents  u64
    nr_chunks   u64
    table       u64                             where in the file the tables begin
    chunks      nr_chunks x zlib                the extents' bytes, one after another, 64 KiB in each but the last
    extents     nr_extents x (offset u64, size u64)     bytes, ascending, not touching, multiples of 8
    sizes       nr_chunks x u32                 of the chunks as they are packed

It may come from a stranger. A chunk is unpacked when something in it is asked for, and never to more than its 64 KiB:
what a reader holds does not grow with what a file says of itself.
"""

from __future__ import annotations

import os
import sys
from array import array
from bisect import bisect_right
from itertools import accumulate

from mematlas.errors import Error, FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import BinaryIO

MAGIC = b"mematlas"
VERSION = 2
WORD_SIZE = 8
HEADER = "<8sIIQQQ"
HEADER_SIZE = 40
CHUNK_SIZE = 1 << 16
MAX_PACKED_CHUNK = CHUNK_SIZE + (CHUNK_SIZE >> 8) + 64
"""Bytes of a chunk that does not get smaller (zlib.h, compressBound)."""
MAX_CHUNKS = 1 << 16
"""4 GiB of words: those of 2 TiB of 4 KiB pages."""
MAX_EXTENTS = 1 << 22
HELD_CHUNKS = 1 << 10
WELL, QUICKLY = 6, 1
"""How hard zlib tries with what is kept, and with what is gone soon."""


class PackedFile:
    """A packed file, read by position as the file it was made from would be; holes read as zeros."""

    def __init__(self, fd: int, path: str) -> None:
        """Take over a descriptor.

        Raises:
            FormatError: it is not a packed file, or it is cut short.
        """
        self.fd = fd
        self.path = path
        self._held: dict[int, bytes] = {}
        """Chunks that were unpacked, the one that was used last at the end."""
        try:
            self._read_tables()
        except BaseException:
            self.close()
            raise

    def _read_tables(self) -> None:
        nr_extents, nr_chunks, at = self._read_header()
        if os.fstat(self.fd).st_size != at + 16 * nr_extents + 4 * nr_chunks:
            raise FormatError(self.path, expected="all of its tables: it is cut short")
        self._set_extents(self._table("Q", at, 2 * nr_extents))
        sizes = self._table("I", at + 16 * nr_extents, nr_chunks)
        if nr_chunks != -(-self.size // CHUNK_SIZE) or HEADER_SIZE + sum(sizes) != at:
            raise FormatError(self.path, expected="as many chunks as the extents take")
        if sizes and max(sizes) > MAX_PACKED_CHUNK:
            raise FormatError(self.path, expected=f"chunks of {CHUNK_SIZE} bytes")
        self._offsets = array("Q", accumulate(sizes, initial=HEADER_SIZE))

    def _read_header(self) -> tuple[int, int, int]:
        """Return the number of extents, that of chunks, and where in the file the tables begin."""
        import struct

        header = os.pread(self.fd, HEADER_SIZE, 0)
        if len(header) < HEADER_SIZE or header[: len(MAGIC)] != MAGIC:
            raise FormatError(self.path, expected="a packed file")
        _, version, word_size, nr_extents, nr_chunks, table = struct.unpack(HEADER, header)
        if version != VERSION or word_size != WORD_SIZE:
            raise FormatError(self.path, expected=f"version {VERSION} of packed files, with words of {WORD_SIZE} bytes")
        if nr_extents > MAX_EXTENTS or nr_chunks > MAX_CHUNKS:
            raise FormatError(self.path, expected=f"at most {MAX_EXTENTS} extents and {MAX_CHUNKS} chunks")
        return nr_extents, nr_chunks, table

    def _set_extents(self, extents: array[int]) -> None:
        """Take over the offset and the size of each extent."""
        # Arrays: pages scattered over a TiB are an extent each, and lists take ten times as much.
        self.starts, self.ends, self.offsets = extents[::2], array("Q"), array("Q")
        offset = before = 0
        for start, size in zip(self.starts, extents[1::2], strict=True):
            end = start + size
            is_whole = size and not (start % WORD_SIZE or size % WORD_SIZE)
            if start < before or not is_whole or end >> 64:
                raise FormatError(self.path, expected="extents of whole words in ascending order")
            self.ends.append(end)
            self.offsets.append(offset)
            offset += size
            before = end
        self.size = offset
        """Bytes of all extents."""

    def _table(self, code: str, offset: int, length: int) -> array[int]:
        table = array(code)
        data = os.pread(self.fd, length * table.itemsize, offset)
        if len(data) != length * table.itemsize:
            raise FormatError(self.path, expected="all of its tables: it is cut short")
        table.frombytes(data)
        if sys.byteorder == "big":
            table.byteswap()
        return table

    def _chunk(self, number: int) -> bytes:
        chunk = self._held.pop(number, None)
        if chunk is None:
            import zlib

            if len(self._held) >= HELD_CHUNKS:
                del self._held[next(iter(self._held))]
            low, high = self._offsets[number], self._offsets[number + 1]
            size = min(self.size - number * CHUNK_SIZE, CHUNK_SIZE)
            try:
                packed = os.pread(self.fd, high - low, low)
                chunk = zlib.decompressobj().decompress(packed, size + 1)
            except zlib.error:
                chunk = b""
            if len(chunk) != size:
                raise FormatError(self.path, place=f"chunk {number}", expected=f"{size} bytes, packed")
        self._held[number] = chunk
        return chunk

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill a buffer from an offset on, with zeros for holes; return its size: such a file has no end."""
        size = len(buffer)
        buffer[:] = bytes(size)
        end = offset + size
        index = max(bisect_right(self.starts, offset) - 1, 0)
        while index < len(self.starts) and self.starts[index] < end:
            start = self.starts[index]
            low, high = max(start, offset), min(self.ends[index], end)
            if low < high:
                self._copy(buffer[low - offset : high - offset], self.offsets[index] + low - start)
            index += 1
        return size

    def _copy(self, buffer: memoryview, offset: int) -> None:
        """Fill a buffer with the extents' bytes from an offset among them on."""
        done = 0
        while done < len(buffer):
            number, start = divmod(offset + done, CHUNK_SIZE)
            part = self._chunk(number)[start : start + len(buffer) - done]
            buffer[done : done + len(part)] = part
            done += len(part)

    def next_data(self, offset: int) -> int | None:
        """Return the next offset that an extent holds; None behind the last."""
        index = max(bisect_right(self.starts, offset) - 1, 0)
        while index < len(self.starts):
            if offset < self.ends[index]:
                return max(offset, self.starts[index])
            index += 1
        return None

    def __del__(self) -> None:
        # Pages that nobody begins to look at are held by a generator that never runs.
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def write_packed(file: BinaryIO, parts: Iterable[tuple[int, bytes]], level: int = WELL) -> None:
    """Write ``parts`` (byte offset, bytes), ascending, as a packed file; parts that touch become one extent.

    ``level`` says how hard zlib tries.

    The data goes through to the disk as it comes: memory holds the tables alone, 16 bytes an extent.

    Raises:
        Error: there is more than a packed file holds.
    """
    import zlib

    extents, sizes = array("Q"), array("I")
    file.write(bytes(HEADER_SIZE))
    waiting = bytearray()

    def pack(size: int) -> None:
        packed = zlib.compress(bytes(waiting[:size]), level)
        del waiting[:size]
        sizes.append(len(packed))
        file.write(packed)

    for offset, data in parts:
        if extents and extents[-2] + extents[-1] == offset:
            extents[-1] += len(data)
        else:
            extents.extend((offset, len(data)))
        waiting += data
        while len(waiting) >= CHUNK_SIZE:
            pack(CHUNK_SIZE)
        if len(sizes) >= MAX_CHUNKS or len(extents) > 2 * MAX_EXTENTS:
            raise Error("the process has more pages than a capture holds")
    if waiting:
        pack(CHUNK_SIZE)
    write_tables(file, extents, sizes)


def write_tables(file: BinaryIO, extents: array[int], sizes: array[int]) -> None:
    """Write the tables of a packed file behind its chunks, and its header before them."""
    import struct

    numbers = (len(extents) // 2, len(sizes), HEADER_SIZE + sum(sizes))
    header = struct.pack(HEADER, MAGIC, VERSION, WORD_SIZE, *numbers)
    for table in (extents, sizes):
        if sys.byteorder == "big":
            table.byteswap()
        file.write(table.tobytes())
    file.seek(0)
    file.write(header)
