"""BTF files made by hand."""

from __future__ import annotations

import struct

INT, STRUCT, UNION, ENUM, CONST, FUNC = 1, 4, 5, 6, 10, 12


class Builder:
    """Writes a BTF file, type by type; types count from 1."""

    def __init__(self) -> None:
        self.strings = b"\0"
        self.types = b""

    def name(self, text: str) -> int:
        if not text:
            return 0
        self.strings += text.encode() + b"\0"
        return len(self.strings) - len(text) - 1

    def add(self, kind: int, name: str, size: int, rows: list[tuple[int, ...]], flag: int = 0) -> None:
        info = flag << 31 | kind << 24 | (len(rows) if kind != INT else 0)
        self.types += struct.pack("=III", self.name(name), info, size)
        self.types += b"".join(struct.pack(f"={len(row)}I", *row) for row in rows)

    def build(self) -> bytes:
        header = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self.types), len(self.types), len(self.strings))
        return header + self.types + self.strings


def sample() -> bytes:
    """struct page { long flags; const union { int _mapcount; struct { int pad; int order:3; }; }; }; enum kinds."""
    made = Builder()
    made.add(INT, "int", 4, [(32,)])
    made.add(STRUCT, "", 8, [(made.name("pad"), 1, 0), (made.name("order"), 1, 3 << 24 | 32)], flag=1)
    made.add(UNION, "", 8, [(made.name("_mapcount"), 1, 0), (0, 2, 0)])
    made.add(CONST, "", 3, [])
    made.add(STRUCT, "page", 16, [(made.name("flags"), 1, 0), (0, 4, 64)])
    made.add(ENUM, "kinds", 4, [(made.name("KIND_A"), 0), (made.name("KIND_B"), 7)])
    made.add(STRUCT, "page_pool", 4, [(made.name("other"), 1, 0)])
    return made.build()
