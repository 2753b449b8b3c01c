"""/proc/PID/ksm_stat: what KSM, which merges equal pages, has done for a process.

Format: proc_pid_ksm_stat in fs/proc/base.c. Since Linux 6.1 (commit 21b7bdb504ae), with CONFIG_KSM; its owner's.
"""

from __future__ import annotations

from mematlas.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.procfs import ProcessDir


def read_merging_pages(process: ProcessDir) -> int:
    """Return how many pages of a process KSM has merged with others.

    Raises:
        NotSupported: the kernel has no KSM, or none that counts by process.
        PermissionDenied: the process is another user's.
    """
    return parse_merging_pages(process.read("ksm_stat"))


def parse_merging_pages(data: bytes) -> int:
    """Return ``ksm_merging_pages`` of a ksm_stat file."""
    for line in data.split(b"\n"):
        name, _, value = line.partition(b" ")
        if name == b"ksm_merging_pages" and value.isdigit() and len(value) < 20:
            return int(value)
    raise FormatError("ksm_stat", data[:120].decode("utf-8", "replace"))
