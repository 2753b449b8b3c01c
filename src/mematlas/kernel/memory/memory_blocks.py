"""/sys/devices/system/memory: the blocks that memory is switched on and off by.

Format: Documentation/admin-guide/mm/memory-hotplug.rst.
"""

from __future__ import annotations

import os

MEMORY_BLOCKS = "/sys/devices/system/memory"


def read_memory_blocks(root: str = MEMORY_BLOCKS) -> list[tuple[int, int]]:
    """Return the ranges of online memory blocks; none when the kernel has no memory hotplug.

    One that is going offline is in use until it has.
    """
    ranges: list[tuple[int, int]] = []
    try:
        with open(f"{root}/block_size_bytes", encoding="utf-8") as file:
            size = int(file.read(), 16)
        blocks = (name[6:] for name in os.listdir(root) if name.startswith("memory"))
        for number in sorted(int(block) for block in blocks if block.isdigit()):
            if not is_online(f"{root}/memory{number}/state"):
                continue
            if ranges and ranges[-1][1] == number * size:
                ranges[-1] = (ranges[-1][0], (number + 1) * size)
            else:
                ranges.append((number * size, (number + 1) * size))
    except (OSError, ValueError):
        return []
    return ranges


def is_online(path: str) -> bool:
    """Whether a block is, by its file; one that was taken away meanwhile is not."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip() != "offline"
    except FileNotFoundError:
        return False
