"""/sys/kernel/vmcoreinfo: where in physical memory the kernel keeps a note for crash dumps, and what it says.

Format: Documentation/admin-guide/kdump/vmcoreinfo.rst; kernel/vmcore_info.c.
"""

from __future__ import annotations

from mematlas.errors import FormatError

VMCOREINFO_PATH = "/sys/kernel/vmcoreinfo"


def read_vmcoreinfo_span(path: str = VMCOREINFO_PATH) -> tuple[int, int] | None:
    """Return the physical address of the note, and its size; None when this kernel has none."""
    try:
        with open(path, encoding="utf-8") as file:
            address, size = (int(word, 16) for word in file.read().split())
    except (OSError, ValueError):
        return None
    return address, size


def parse_vmcoreinfo(note: bytes) -> dict[str, int | str]:
    """Return what the kernel wrote for crash dumps: symbols and numbers by name, such as ``SYMBOL(_stext)``.

    Symbols and KERNELOFFSET are written in hexadecimal without a prefix, the rest as C would write it
    (kernel/vmcore_info.c).
    """
    start = note.find(b"OSRELEASE=")
    if start < 0:
        raise FormatError(VMCOREINFO_PATH, "a note without OSRELEASE")
    fields: dict[str, int | str] = {}
    for line in note[start:].split(b"\0", 1)[0].decode(errors="replace").splitlines():
        name, _, value = line.partition("=")
        is_hex = name.startswith("SYMBOL(") or name == "KERNELOFFSET"
        try:
            fields[name] = int(value, 16 if is_hex else 0)
        except ValueError:
            fields[name] = value
    return fields
