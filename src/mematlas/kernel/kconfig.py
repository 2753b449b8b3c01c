"""/proc/config.gz, or a file of the kernel's package: what the running kernel was configured with."""

from __future__ import annotations

import os

from mematlas.kernel.directory import GZIP
from mematlas.notes import Note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.procfs import ProcFS

IN_PROC = "/proc/config.gz"
PACKAGED = ("/boot/config-{}", "/lib/modules/{}/config")
"""Debian's packages of Linux 7 and Fedora's have it beside the modules, and where /boot is another's, as in a container
with the host's modules, nowhere else.
"""
AVERAGE_COUNTS = Note(
    "average-counts",
    "map counts of pages of large folios are averages here (CONFIG_NO_PAGE_MAPCOUNT): PSS is an estimate, and such a"
    " page counts as exclusive only where nobody else maps any part of its folio",
)


def parse_config(text: bytes) -> frozenset[str]:
    """Return the options that are on, built in or as modules, without their CONFIG_.

    >>> sorted(parse_config(b"CONFIG_A=y\\n# CONFIG_B is not set\\nCONFIG_C=m\\nCONFIG_D=7\\n"))
    ['A', 'C']
    """
    are_on = (line for line in text.split(b"\n") if line.endswith((b"=y", b"=m")))
    return frozenset(line[7:-2].decode("utf-8", "replace") for line in are_on if line.startswith(b"CONFIG_"))


def read_config() -> frozenset[str] | None:
    """Return the options of the running kernel that are on; None when it does not say."""
    text = read_config_text()
    return None if text is None else parse_config(text)


def is_built_in(option: str) -> bool | None:
    """Whether an option of the running kernel is built in, at a fifth of the time that all take; None if unknown.

    The kernel does not change: each is looked up once.
    """
    if option not in _built_in:
        text = read_config_text()
        _built_in[option] = None if text is None else f"\nCONFIG_{option}=y\n".encode() in text
    return _built_in[option]


_built_in: dict[str, bool | None] = {}


def counts_are_averages(procfs: ProcFS) -> bool:
    """Whether the kernel keeps no count of single pages of large folios. Of a capture, what was found out when it was
    made.

    Since v6.15 a kernel may be built so (CONFIG_NO_PAGE_MAPCOUNT), which nothing else shows. Then kpagecount has the
    average of the folio, at least 1 where any of it is mapped (folio_average_page_mapcount()), and smaps divides by it.
    What is exclusive, by smaps and by bit 56 of pagemap, are folios of which no other process maps any part.
    """
    if not procfs.live:
        return bool((procfs.machine or {}).get("average_counts"))
    return bool(is_built_in("NO_PAGE_MAPCOUNT"))


def read_config_text() -> bytes | None:
    """Return the configuration of the running kernel; None when it does not say."""
    return read_own_config() or read_packaged_config()


def read_own_config() -> bytes | None:
    """Return what the kernel itself says; None where it was not built to (CONFIG_IKCONFIG_PROC), as in Debian."""
    try:
        with open(IN_PROC, "rb") as file:
            packed = file.read()
    except OSError:
        return None
    import zlib  # a third of a millisecond, which is not spent where there is no such file

    try:
        return zlib.decompress(packed, GZIP)
    except zlib.error:
        return None


def read_packaged_config() -> bytes | None:
    """Return the file of the kernel's package; None where that is not here."""
    for path in PACKAGED:
        try:
            with open(path.format(os.uname().release), "rb") as file:
                return file.read()
        except OSError:
            pass
    return None
