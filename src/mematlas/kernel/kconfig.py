"""/proc/config.gz, or a file of the kernel's package: what the running kernel was configured with."""

from __future__ import annotations

import os

from mematlas.kernel.directory import GZIP, MAX_FILE
from mematlas.notes import Note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mematlas.kernel.procfs import ProcFS

IN_PROC = "/proc/config.gz"
PACKAGED = ("/boot/config-{}", "/lib/modules/{}/config")
"""Debian's packages of Linux 7 and Fedora's have it beside the modules, and where /boot is another's, as in a container
with the host's modules, nowhere else.
"""
BLOCK = 32 << 10
"""Bytes of /proc/config.gz that are unpacked at once, of some 100 to 300 KiB: options of memory stand early in it."""
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
    text = b"".join(read_config_blocks())
    return parse_config(text) if text else None


def is_built_in(option: str) -> bool | None:
    """Whether an option of the running kernel is built in, at a tenth of the time that all take; None if unknown.

    The kernel does not change: each is looked up once.
    """
    if option not in _built_in:
        _built_in[option] = find_option(option, read_config_blocks())
    return _built_in[option]


_built_in: dict[str, bool | None] = {}


def find_option(option: str, blocks: Iterable[bytes]) -> bool | None:
    """Whether a configuration has an option built in; no more of it is taken than answers that. None of no text."""
    yes, no = f"\nCONFIG_{option}=y\n".encode(), f"\n# CONFIG_{option} is not set\n".encode()
    text = b""
    for block in blocks:
        text = text[-len(no) :] + block
        if yes in text or no in text:
            return yes in text
    return False if text else None


def counts_are_averages(procfs: ProcFS) -> bool:
    """Whether the kernel keeps no count of single pages of large folios. Of a capture, what was found out when it was
    made.

    Since v6.15 a kernel may be built so (CONFIG_NO_PAGE_MAPCOUNT), which nothing else shows. Then kpagecount has the
    average of the folio, at least 1 where any of it is mapped (folio_average_page_mapcount()), and smaps divides by it.
    What is exclusive, by smaps and by bit 56 of pagemap, are folios of which no other process maps any part.

    Where the configuration cannot be read, counts are taken for exact: the option is off unless somebody sets it.
    """
    if not procfs.live:
        return bool((procfs.machine or {}).get("average_counts"))
    return bool(is_built_in("NO_PAGE_MAPCOUNT"))


def read_config_blocks() -> Iterator[bytes]:
    """Yield the configuration of the running kernel, a piece at a time; nothing when it does not say."""
    try:
        with open(IN_PROC, "rb") as file:
            packed = file.read(MAX_FILE)
    except OSError:  # the kernel itself does not say (CONFIG_IKCONFIG_PROC), as in Debian
        yield from read_packaged_config()
        return
    import zlib  # a third of a millisecond, which is not spent where there is no such file

    unpacker = zlib.decompressobj(GZIP)
    try:
        for _ in range(MAX_FILE // BLOCK):
            if not (block := unpacker.decompress(packed, BLOCK)):
                return
            yield block
            packed = unpacker.unconsumed_tail
    except zlib.error:
        pass  # a file that was mounted in its place


def read_packaged_config() -> Iterator[bytes]:
    """Yield what the file of the kernel's package holds; nothing where that is not here."""
    for path in PACKAGED:
        try:
            with open(path.format(os.uname().release), "rb") as file:
                yield file.read(MAX_FILE)
                return
        except OSError:
            pass
