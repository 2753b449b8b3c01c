"""/proc/meminfo: the machine's memory in a few sums.

Format: proc_meminfo(5); fs/proc/meminfo.c.
"""

from __future__ import annotations

from mematlas.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.procfs import ProcFS


def read_meminfo(procfs: ProcFS) -> dict[str, int]:
    """Return the lines that are amounts, in bytes: ``{"MemTotal": 25276510208, ...}``."""
    return procfs.parsed("meminfo", parse_meminfo)


def parse_meminfo(data: bytes) -> dict[str, int]:
    """Return the amounts in the text of a meminfo file. Lines without a unit are counts and are left out."""
    amounts = {}
    for line in data.decode("ascii", "replace").split("\n"):
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            try:
                amounts[name] = int(value[:-3]) * 1024
            except ValueError:
                raise FormatError("meminfo", line) from None
    return amounts
