"""Pictures taken apart by others' rules: PNG by its chunks and zlib, SVG by a parser of XML."""

from __future__ import annotations

import struct
import xml.etree.ElementTree as ElementTree
import zlib

import numpy as np

from mematlas.arrays import Bytes

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</text><script>x</script>]]>&amp;\x00\x1b[31m\ufffe \u202e $x_1$ \\frac{1}{2}--> "
"""A name that would end a text, run something, or be set as mathematics."""


def pixels_of(data: bytes) -> Bytes:
    """Return the pixels of a PNG file of ours, as rows of red, green and blue."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, []
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length) == (zlib.crc32(kind + body),)
        chunks.append((kind, body))
        at += length + 12
    assert [chunks[0][0], chunks[-1]] == [b"IHDR", (b"IEND", b"")]
    width, height, *rest = struct.unpack(">IIBBBBB", chunks[0][1])
    assert rest == [8, 2, 0, 0, 0]
    rows = np.frombuffer(zlib.decompress(b"".join(body for kind, body in chunks if kind == b"IDAT")), np.uint8)
    rows = rows.reshape(height, 1 + 3 * width)
    assert not rows[:, 0].any()  # no filters
    return rows[:, 1:].reshape(height, width, 3)


def texts_of(root: ElementTree.Element) -> list[str]:
    """Return the texts of an SVG picture, with plain blanks."""
    return ["".join(one.itertext()).replace("\u00a0", " ").strip("\n") for one in root.iter(f"{SVG}text")]
