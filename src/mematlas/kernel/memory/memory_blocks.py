"""/sys/devices/system/memory: the blocks that memory is switched on and off by.

Format: Documentation/admin-guide/mm/memory-hotplug.rst.
"""

from __future__ import annotations

import os

MEMORY_BLOCKS = "/sys/devices/system/memory"


def read_memory_blocks(root: str = MEMORY_BLOCKS) -> list[tuple[int, int]]:
    """Return the ranges of online memory blocks; none when the kernel has no memory hotplug."""
    ranges: list[tuple[int, int]] = []
    try:
        with open(f"{root}/block_size_bytes", encoding="utf-8") as file:
            size = int(file.read(), 16)
        blocks = (name[6:] for name in os.listdir(root) if name.startswith("memory"))
        for number in sorted(int(block) for block in blocks if block.isdigit()):
            with open(f"{root}/memory{number}/state", encoding="utf-8") as file:
                if file.read().strip() != "online":
                    continue
            if ranges and ranges[-1][1] == number * size:
                ranges[-1] = (ranges[-1][0], (number + 1) * size)
            else:
                ranges.append((number * size, (number + 1) * size))
    except (OSError, ValueError):
        return []
    return ranges
