"""ELF core files made by hand, as /proc/kcore is one."""

from __future__ import annotations

import struct

BASE = 0xFFFF888000000000
"""Where the direct map of physical memory begins."""


def core(segments: list[tuple[int, int, bytes]]) -> bytes:
    """Return an ELF core file of segments (address, physical address, content)."""
    place = 64 + 56 * len(segments)
    headers = content = b""
    for address, phys, data in segments:
        headers += struct.pack("<IIQQQQQQ", 1, 7, place + len(content), address, phys, len(data), len(data), 4096)
        content += data
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    head = struct.pack("<16sHHIQQQIHHHHHH", ident, 4, 62, 1, 0, 64, 0, 0, 64, 56, len(segments), 0, 0, 0)
    return head + headers + content
