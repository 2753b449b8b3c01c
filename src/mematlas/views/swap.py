"""How to get swap space: the lines to type."""

from __future__ import annotations

FILE = "/var/tmp/swapfile"


def ways_to_swap(mib: int, for_what: str = "this run") -> list[str]:
    """Return the lines that make swap space of so many MiB, for good or for a while."""
    size = f"{mib}M" if mib < 1024 else f"{mib >> 10}G"
    return [
        "To make some, as root, in a file:",
        f"    fallocate -l {size} {FILE} && chmod 600 {FILE} && mkswap {FILE} && swapon {FILE}",
        "or compressed in RAM:",
        f"    modprobe zram; zram=$(zramctl --find --size {size}) && mkswap $zram && swapon -p 100 $zram",
        f"or for {for_what} alone: --temporary-swap {size}",
    ]
