"""/proc/cpuinfo: what the processor is and can do.

Format: Documentation/filesystems/proc.rst; arch/x86/kernel/cpu/proc.c.
"""

from __future__ import annotations


def read_cpuinfo() -> dict[str, str]:
    """Return what is said of the first processor."""
    fields: dict[str, str] = {}
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            name, _, value = line.partition(":")
            if not value:
                break
            fields[name.strip()] = value.strip()
    return fields


def phys_bits() -> int:
    """Return how many bits a physical address has on this processor; 52, the most there are, when it does not say."""
    words = read_cpuinfo().get("address sizes", "").split()
    return int(words[0]) if words else 52
