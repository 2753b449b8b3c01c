"""/proc/PID/smaps_rollup: the sums over all VMAs of what the kernel counts in each.

Format: Documentation/ABI/testing/procfs-smaps_rollup; fs/proc/task_mmu.c, show_smaps_rollup(). It walks every page
under the target's mmap lock, as smaps does. There may be thousands of processes, so this knows nothing of VMAs.
"""

from __future__ import annotations

from mematlas.errors import FormatError, NotSupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.procfs import ProcessDir

NR_HEAD = 6
"""Words of the first line: as of a VMA called ``[rollup]``, that reaches over all of them."""
MAX_TEXT = 1 << 14
"""Bytes of the file; today it is some 700."""


def read_rollup(process: ProcessDir) -> dict[str, int]:
    """Return the sums over all VMAs of a process, in bytes."""
    return RollupReader().read(process).fields


class Rollup:
    """The sums of one process. (No record: there are thousands.)"""

    __slots__ = ("fields", "span")

    def __init__(self, fields: dict[str, int], span: bytes | None = None) -> None:
        self.fields = fields
        """In bytes, keyed as the kernel spells them (``Rss``, ``Private_Dirty``)."""
        self.span = span
        """From where to where its VMAs reach; None where that is not said. Two processes that agree in it run in one
        address space or are forks, but for rare chance."""


class RollupReader:
    """Reads one process after the other. All files have the same lines: they are looked at where they change.

    Since Linux commit 493b0e9d945f ("mm: add /proc/pid/smaps_rollup", in v4.14) the kernel sums; before that, smaps
    has the same fields, one set per VMA.
    """

    def __init__(self) -> None:
        self._keys: list[bytes] = []
        self._names: list[str] = []

    def read(self, process: ProcessDir) -> Rollup:
        """Return the sums of a process; it may have to be waited for."""
        try:
            return process.parsed_short("smaps_rollup", self.parse)
        except NotSupported:
            from mematlas.kernel.smaps import read_smaps, sum_fields

            return Rollup(sum_fields(fields for _, fields in read_smaps(process)))

    def parse(self, text: bytes) -> Rollup:
        """Return the sums in a file.

        >>> rollup = RollupReader().parse(b"7f00-7fff ---p 00000000 00:00 0    [rollup]\\nRss:     8 kB\\n")
        >>> rollup.fields, rollup.span
        ({'Rss': 8192}, b'7f00-7fff')
        """
        if len(text) > MAX_TEXT:
            raise not_rollup(text)
        words = text.split()
        keys = words[NR_HEAD::3]
        if keys != self._keys or (words and not keys):
            self._learn(text, keys)
        try:
            sizes = [int(word) << 10 for word in words[NR_HEAD + 1 :: 3]]
            if len(sizes) != len(keys) or (sizes and (min(sizes) < 0 or max(sizes) >> 64)):
                raise ValueError
        except ValueError:
            raise not_rollup(text) from None
        return Rollup(dict(zip(self._names, sizes, strict=True)), words[0] if words else None)

    def _learn(self, text: bytes, keys: list[bytes]) -> None:
        """Take over the names of a text whose lines are others."""
        lines = text.split(b"\n")[1:-1] if keys else []
        if not all(line.endswith(b" kB") and line.startswith(key) for line, key in zip(lines, keys, strict=False)):
            raise not_rollup(text)
        if len(lines) != len(keys) or (text and not keys) or not all(key.endswith(b":") for key in keys):
            raise not_rollup(text)
        self._names = [key[:-1].decode("ascii", "replace") for key in keys]
        self._keys = keys


def not_rollup(text: bytes) -> FormatError:
    """Return what is to be said of such a file."""
    return FormatError("smaps_rollup", text[:200].decode("utf-8", "replace"), expected="NAME: NUMBER kB")
