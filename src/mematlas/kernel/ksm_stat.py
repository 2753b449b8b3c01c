"""/proc/PID/ksm_stat, /proc/PID/ksm_merging_pages: what KSM, which merges equal pages, has done for a process.

Format: fs/proc/base.c, proc_pid_ksm_stat() and proc_pid_ksm_merging_pages(). With CONFIG_KSM; the owner's.
"""

from __future__ import annotations

from mematlas.errors import FormatError, NotSupported
from mematlas.kernel.status import read_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.procfs import ProcessDir


def read_merging_pages(process: ProcessDir) -> int:
    """Return how many pages of a process KSM has merged with others.

    Raises:
        NotSupported: the kernel has no KSM, or none that counts by process.
        PermissionDenied: the process is another user's.
        ProcessGone: it has ended: either file is empty then.
    """
    # Since Linux 6.4 (commit d21077fbc2fc) ksm_stat has the line; before, there is a file of that name, since 5.19
    # (commit 7609385337a4), and ksm_stat, where there is one, knows less.
    try:
        nr_pages = read_of(process, "ksm_stat", parse_ksm_stat).get("ksm_merging_pages")
    except NotSupported:
        nr_pages = None
    return read_of(process, "ksm_merging_pages", parse_number) if nr_pages is None else nr_pages


def parse_ksm_stat(data: bytes) -> dict[str, int]:
    """Return the numbers of a ksm_stat file by name; lines that say yes or no are left out."""
    pairs = (line.split() for line in data.decode("ascii", "replace").split("\n"))
    numbers = (pair for pair in pairs if len(pair) == 2 and is_number(pair[1]))
    return {name: int(number) for name, number in numbers}


def parse_number(data: bytes) -> int:
    """Return the number that a file consists of."""
    text = data.strip()
    if not is_number(text.decode("ascii", "replace")):
        raise FormatError("ksm_merging_pages", data[:120].decode("utf-8", "replace"))
    return int(text)


def is_number(text: str) -> bool:
    """Whether a text is a number that fits 64 bits."""
    return text.isascii() and text.isdigit() and len(text) < 20
