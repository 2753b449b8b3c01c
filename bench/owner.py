"""Become ``mematlas owner`` of a frame that a process maps: owner.py MEMATLAS PID."""

import os
import sys

PAGE = os.sysconf("SC_PAGESIZE")
PRESENT, FRAME = 1 << 63, (1 << 55) - 1


def frame_of(pid: str) -> int:
    """Return the last frame that is mapped, of the largest VMA."""
    with open(f"/proc/{pid}/maps", "rb") as maps, open(f"/proc/{pid}/pagemap", "rb", 0) as pagemap:
        spans = [[int(word, 16) for word in line.split(b" ")[0].split(b"-")] for line in maps]
        start, end = max(spans, key=lambda span: span[1] - span[0])
        raw = os.pread(pagemap.fileno(), (end - start) // PAGE * 8, start // PAGE * 8)
    return next(entry & FRAME for entry in reversed(memoryview(raw).cast("Q").tolist()) if entry & PRESENT)


program, target = sys.argv[1:]
os.execv(program, [program, "owner", f"pfn:{frame_of(target)}", "--json"])
