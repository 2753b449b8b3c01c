"""/proc/PID/numa_maps: how many pages of each VMA are on which node.

Format: numa(7); fs/proc/task_mmu.c, show_numa_map(). Like smaps, the kernel walks every page for it, under the target's
mmap lock. It counts what RSS counts and hugetlb pages, those as one each, in units of ``kernelpagesize_kB``; it leaves
out the zero page, and pages that are reserved for the kernel, which the vDSO's are (can_gather_numa_stats()).
"""

from __future__ import annotations

from mematlas.errors import FormatError, NotSupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mematlas.kernel.procfs import ProcessDir

HOLD_TO_SMAPS = 4 / 3
"""How long one reading holds the target's mmap lock, compared with one of smaps (measured: 15.6 to 12.0 us a MiB)."""


def read_numa_maps(process: ProcessDir) -> dict[int, dict[int, int]]:
    """Return the bytes on each node, of each VMA by its start. [vsyscall] has no line.

    Raises:
        NotSupported: a kernel without CONFIG_NUMA, or a capture.
        PermissionDenied: another user's process needs CAP_SYS_PTRACE.
    """
    try:
        return process.parsed_lines("numa_maps", parse_numa_maps)
    except NotSupported as error:
        raise NotSupported(error.what, "CONFIG_NUMA") if process.procfs.live else error from None


def parse_numa_maps(lines: Iterable[bytes]) -> dict[int, dict[int, int]]:
    """Return the bytes on each node, of each VMA by its start.

    >>> parse_numa_maps([b"7f00 default anon=5 N0=2 N2=3 kernelpagesize_kB=4", b"8000 default"])
    {32512: {0: 8192, 2: 12288}, 32768: {}}
    """
    sizes: dict[int, dict[int, int]] = {}
    for line in lines:
        if not line:
            continue
        # Blanks and equals signs in the file's name are escaped.
        words = line.split()
        nr_pages: dict[int, int] = {}
        size = 0
        try:
            for word in words[2:]:
                name, _, value = word.partition(b"=")
                if name[:1] == b"N" and name[1:].isdigit():
                    nr_pages[int(name[1:])] = int(value)
                elif name == b"kernelpagesize_kB":
                    size = int(value) * 1024
            if nr_pages and not size:
                raise ValueError
            sizes[int(words[0], 16)] = {node: count * size for node, count in nr_pages.items()}
        except (IndexError, ValueError):
            raise FormatError("numa_maps", line.decode("utf-8", "replace")) from None
    return sizes
