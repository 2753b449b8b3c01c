"""A file of 64-bit words with large holes, kept small: how a capture stores pagemap and the kpage files.

The pagemap of a process reaches over 256 TiB of addresses, half a TiB of file, nearly all of it empty. A packed
file keeps the parts that hold something, so it survives tar, git and mail. Little-endian throughout::

    magic       8 bytes   b"mematlas"
    version     u32       1
    word_size   u32       8
    nr_extents  u64
    extents     nr_extents x (offset u64, size u64)     bytes, ascending, not touching, multiples of 8
    data        zlib      the extents' bytes, one after another
"""

from __future__ import annotations

import os
import sys
from bisect import bisect_right

from mematlas.errors import FormatError, TooLarge

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

MAGIC = b"mematlas"
VERSION = 1
WORD_SIZE = 8
HEADER_SIZE = 24
MAX_DATA = 1 << 30


class PackedFile:
    """A packed file, read by position as the file it was made from would be; holes read as zeros."""

    def __init__(self, extents: Iterable[tuple[int, int]], data: bytes) -> None:
        from array import array

        # Arrays: pages scattered over a TiB are an extent each, and lists take ten times as much.
        self.starts, self.ends = array("Q"), array("Q")
        self.data = data
        self.places = array("Q")
        """Where in ``data`` each extent begins."""
        place = 0
        for offset, size in extents:
            self.starts.append(offset)
            self.ends.append(offset + size)
            self.places.append(place)
            place += size

    @classmethod
    def open(cls, fd: int, path: str) -> Self:
        """Read a packed file, and close its descriptor.

        Raises:
            FormatError: it is not a packed file, or it is cut short.
        """
        import struct
        import zlib

        with open(fd, "rb") as file:
            # A bound alone would be asked for whole, before anything is read.
            size = os.fstat(fd).st_size
            if size > MAX_DATA:
                raise TooLarge(path)
            content = file.read(size)
        if content[:8] != MAGIC or len(content) < HEADER_SIZE:
            raise FormatError(path, expected="a packed file")
        version, word_size, nr_extents = struct.unpack_from("<IIQ", content, 8)
        table_end = HEADER_SIZE + 16 * nr_extents
        if version != VERSION or word_size != WORD_SIZE or len(content) < table_end:
            raise FormatError(path, expected=f"version {VERSION}, words of {WORD_SIZE} bytes, and all its extents")
        extents = memoryview(content)[HEADER_SIZE:table_end]
        end = total = 0
        for offset, size in struct.iter_unpack("<QQ", extents):
            if offset < end or offset % WORD_SIZE or size % WORD_SIZE or (end := offset + size) >> 64:
                raise FormatError(path, expected="extents of whole words in ascending order")
            total += size
        if total > MAX_DATA:
            raise TooLarge(path)
        try:
            data = zlib.decompressobj().decompress(memoryview(content)[table_end:], total + 1)
        except zlib.error:
            raise FormatError(path, expected="packed data") from None
        if len(data) != total:
            raise FormatError(path, expected=f"{total} bytes of data")
        return cls(struct.iter_unpack("<QQ", extents), data)

    def read_into(self, buffer: memoryview, offset: int) -> int:
        size = len(buffer)
        buffer[:] = bytes(size)
        end = offset + size
        i = max(bisect_right(self.starts, offset) - 1, 0)
        while i < len(self.starts) and self.starts[i] < end:
            low, high = max(self.starts[i], offset), min(self.ends[i], end)
            if low < high:
                place = self.places[i] + low - self.starts[i]
                buffer[low - offset : high - offset] = self.data[place : place + high - low]
            i += 1
        return size

    def next_data(self, offset: int) -> int | None:
        i = max(bisect_right(self.starts, offset) - 1, 0)
        while i < len(self.starts):
            if offset < self.ends[i]:
                return max(offset, self.starts[i])
            i += 1
        return None

    def close(self) -> None:
        """Nothing is held open."""


def write_packed(path: str, parts: Iterable[tuple[int, bytes]], mode: int = 0o600) -> None:
    """Write ``parts`` (byte offset, bytes), ascending, as a packed file; parts that touch become one extent.

    The data goes through to the disk as it comes: memory holds the table alone, 16 bytes an extent.
    """
    import struct
    import tempfile
    import zlib
    from array import array

    table = array("Q")
    packer = zlib.compressobj(6)
    with tempfile.TemporaryFile(dir=os.path.dirname(path) or ".") as body:
        for offset, data in parts:
            if table and table[-2] + table[-1] == offset:
                table[-1] += len(data)
            else:
                table.extend((offset, len(data)))
            body.write(packer.compress(data))
        body.write(packer.flush())
        body.seek(0)
        if sys.byteorder == "big":
            table.byteswap()
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(fd, "wb") as file:
            file.write(MAGIC + struct.pack("<IIQ", VERSION, WORD_SIZE, len(table) // 2))
            file.write(table.tobytes())
            while part := body.read(1 << 20):
                file.write(part)
