"""How to get swap space: the lines to type."""

from __future__ import annotations

FILE = "/var/tmp/swapfile"


def size_of(mib: int) -> str:
    """Return so many MiB as tools take it.

    >>> size_of(64), size_of(2048)
    ('64M', '2G')
    """
    return f"{mib}M" if mib < 1024 else f"{mib >> 10}G"


def swap_file_line(mib: int) -> str:
    """Return the line that makes a swap file of so many MiB."""
    return f"fallocate -l {size_of(mib)} {FILE} && chmod 600 {FILE} && mkswap {FILE} && swapon {FILE}"


def ways_to_swap(mib: int, for_what: str) -> list[str]:
    """Return the lines that make swap space of so many MiB, for good or for a while."""
    size = size_of(mib)
    return [
        "To make some, as root, in a file:",
        f"    {swap_file_line(mib)}",
        "or compressed in RAM:",
        f"    modprobe zram; zram=$(zramctl --find --size {size}) && mkswap $zram && swapon -p 100 $zram",
        f"or for {for_what} alone: --temporary-swap {size}",
    ]
