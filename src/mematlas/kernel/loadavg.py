"""/proc/loadavg: how many tasks there are, those of other PID namespaces among them.

Format: proc_loadavg(5); fs/proc/loadavg.c.
"""

from __future__ import annotations

from mematlas.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.procfs import ProcFS

MOST_DIGITS = 9


def read_nr_tasks(procfs: ProcFS) -> int:
    """Return how many tasks there are: threads of processes and of the kernel."""
    return procfs.parsed_short("loadavg", parse_nr_tasks)


def parse_nr_tasks(data: bytes) -> int:
    """Return the number of tasks in the text of a loadavg file.

    >>> parse_nr_tasks(b"3.78 3.15 2.86 6/118 24826\\n")
    118
    """
    words = data.split()
    digits = words[3].partition(b"/")[2] if len(words) > 3 else b""
    if not digits.isdigit() or len(digits) > MOST_DIGITS:
        raise FormatError("loadavg", data[:80].decode("utf-8", "replace"), expected="NUMBER/NUMBER")
    return int(digits)
