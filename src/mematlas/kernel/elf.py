"""The section headers of an ELF file: what made it.

Format: elf(5). A program of Go has a section ``.gopclntab``, by which its runtime finds functions, stripped or not.
"""

from __future__ import annotations

import os
import struct
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mematlas.kernel.procfs import ProcessDir

    Read = Callable[[int, int], bytes]

HEADER_SIZE = 64
MAGIC_64 = b"\x7fELF\x02"
BYTE_ORDERS = {1: "<", 2: ">"}
"""By EI_DATA: ELFDATA2LSB, ELFDATA2MSB."""
SECTION = "2I4Q2I2Q"
"""sh_name, sh_type, sh_flags, sh_addr, sh_offset, sh_size, sh_link, sh_info, sh_addralign, sh_entsize."""
MOST_SECTIONS = 1 << 10
MAX_NAMES = 1 << 16
MAX_OFFSET = 1 << 63
GO_SECTION = ".gopclntab"
"""``.data.rel.ro.gopclntab`` in a program whose place is chosen when it starts (PIE)."""
ANSWER_SECONDS = 1.0
"""For a file system to give parts of a file."""


def section_names(read: Read) -> list[str]:
    """Return the names of the sections of a program of 64 bits, given what reads so many bytes at an offset.

    There are none of a file that is something else.
    """
    header = read(0, HEADER_SIZE)
    order = BYTE_ORDERS.get(header[5]) if header[:5] == MAGIC_64 and len(header) == HEADER_SIZE else None
    if order is None:
        return []
    table_at, entry_size, nr_entries, names_index = struct.unpack(f"{order}40xQ10x3H", header)
    entry = struct.Struct(f"{order}{SECTION}")
    if entry_size != entry.size or table_at >= MAX_OFFSET:
        return []
    table = read(table_at, min(nr_entries, MOST_SECTIONS) * entry.size)
    sections = list(entry.iter_unpack(table[: len(table) // entry.size * entry.size]))
    if names_index >= len(sections) or (names_at := sections[names_index][4]) >= MAX_OFFSET:
        return []
    names = read(names_at, min(sections[names_index][5], MAX_NAMES))
    return [names[section[0] :].partition(b"\0")[0].decode("ascii", "replace") for section in sections]


def program_sections(process: ProcessDir) -> list[str]:
    """Return the names of the sections of the program that a process runs. Raises OSError."""
    fd = os.open("exe", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process.fd)
    try:
        return section_names(lambda offset, size: os.pread(fd, size, offset))
    finally:
        os.close(fd)


def is_of_go(process: ProcessDir) -> bool | None:
    """Whether the program that a process runs is one of Go; None where it cannot be read.

    A child reads it: the program may lie on a file system whose server does not answer.
    """
    from mematlas.kernel.abandon import Inquiry

    def ask(process: ProcessDir) -> tuple[bool | None, int]:
        try:
            return any(name.endswith(GO_SECTION) for name in process.procfs.ask(program_sections, process)), -1
        except OSError:
            return None, -1

    inquiry = Inquiry(ask, [process], patience=ANSWER_SECONDS, deadline=time.monotonic() + ANSWER_SECONDS)
    answers = [answer for _, answer, _ in inquiry]
    return answers[0] if answers else None
