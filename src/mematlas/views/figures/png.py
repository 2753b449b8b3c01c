"""Pictures as PNG: drawn here, in strips, and packed with zlib alone.

Format: ISO/IEC 15948, Portable Network Graphics; www.w3.org/TR/png.
"""

from __future__ import annotations

import struct
import zlib

from mematlas.arrays import np
from mematlas.views.figures.canvas import HATCH, Box
from mematlas.views.figures.lettering import Letters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from mematlas.arrays import Bytes, NDArray
    from mematlas.views.figures.canvas import Canvas, Words

SIGNATURE = b"\x89PNG\r\n\x1a\n"
SCALE = 2
"""Pixels of ours in one of the picture, along each side: screens of today have as many."""
PER_METRE = round(SCALE * 96 / 0.0254)
STRIP = 512
"""Rows of pixels that are drawn together."""
RGB, BITS = 2, 8
STRIPE = 5
"""Pixels of a stripe, and of what is between two: of what is hatched."""


def png_of(canvas: Canvas) -> Iterator[bytes]:
    """Yield a picture as the bytes of a PNG file."""
    width, height = canvas.width * SCALE, canvas.height * SCALE
    yield SIGNATURE
    yield chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, BITS, RGB, 0, 0, 0))
    yield chunk(b"pHYs", struct.pack(">IIB", PER_METRE, PER_METRE, 1))
    yield chunk(b"tEXt", b"Title\0" + canvas.title.encode("latin-1", "backslashreplace"))
    packer = zlib.compressobj()
    for strip in Painter(canvas).strips():
        # Each row begins with how it was filtered: not at all.
        rows = np.concatenate([np.zeros((len(strip), 1), np.uint8), strip.reshape(len(strip), -1)], axis=1)
        if data := packer.compress(rows.tobytes()):
            yield chunk(b"IDAT", data)
    yield chunk(b"IDAT", packer.flush())
    yield chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a part of a PNG file.

    >>> chunk(b"IEND", b"").hex()
    '0000000049454e44ae426082'
    """
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def rgb_of(colour: str) -> tuple[int, int, int]:
    """Return a colour as red, green and blue.

    >>> rgb_of("#0a4f9e")
    (10, 79, 158)
    """
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


class Painter:
    """Draws a picture, a strip of it at a time."""

    def __init__(self, canvas: Canvas) -> None:
        self.canvas = canvas
        self._letters: dict[tuple[float, bool], Letters] = {}
        self._by_strip: dict[int, list[Box | Words]] = {}
        for shape in canvas.shapes:
            low, high = self.rows_of(shape)
            for number in range(max(low, 0) // STRIP, (high - 1) // STRIP + 1):
                self._by_strip.setdefault(number, []).append(shape)

    def strips(self) -> Iterator[Bytes]:
        """Yield the picture from its top, as rows of pixels of three bytes."""
        width, height = self.canvas.width * SCALE, self.canvas.height * SCALE
        for number in range(-(-height // STRIP)):
            top = number * STRIP
            strip = np.full((min(STRIP, height - top), width, 3), rgb_of(self.canvas.paper), np.uint8)
            for shape in self._by_strip.pop(number, ()):
                if isinstance(shape, Box):
                    self.fill(strip, top, shape)
                else:
                    self.write(strip, top, shape)
            yield strip

    def rows_of(self, shape: Box | Words) -> tuple[int, int]:
        """Return which rows of pixels something is in."""
        if isinstance(shape, Box):
            return round(shape.y * SCALE), round((shape.y + shape.height) * SCALE)
        top = round(shape.y * SCALE) - self.letters(shape).above
        return top, top + round(2 * shape.size * SCALE)

    def letters(self, words: Words) -> Letters:
        """Return the letters of a text."""
        key = words.size, words.bold
        if key not in self._letters:
            self._letters[key] = Letters(words.size * SCALE, words.bold)
        return self._letters[key]

    def fill(self, strip: Bytes, top: int, box: Box) -> None:
        """Fill a box, as far as it is in a strip."""
        low, high = (max(row - top, 0) for row in self.rows_of(box))
        left, right = round(box.x * SCALE), round((box.x + box.width) * SCALE)
        part = strip[low:high, max(left, 0) : right]
        if box.fill != HATCH:
            part[:] = rgb_of(box.fill)
            return
        rows, columns = np.mgrid[top + low : top + low + part.shape[0], left : left + part.shape[1]]
        part[(rows + columns) // STRIPE % 2 == 0] = rgb_of(HATCH.split()[1])

    def write(self, strip: Bytes, top: int, words: Words) -> None:
        """Write a text, as far as it is in a strip."""
        letters = self.letters(words)
        covered = letters.line(words.text)
        before = {"start": 0.0, "middle": 0.5, "end": 1.0}[words.anchor]
        left = round(words.x * SCALE - before * letters.width(words.text))
        low = self.rows_of(words)[0] - top
        covered = covered[max(-low, 0) :, max(-left, 0) :]
        part = strip[max(low, 0) :, max(left, 0) :][: covered.shape[0], : covered.shape[1]]
        share: NDArray[np.float32] = covered[: part.shape[0], : part.shape[1], None]
        part[:] = np.rint(part * (1 - share) + np.array(rgb_of(words.ink), np.float32) * share)
