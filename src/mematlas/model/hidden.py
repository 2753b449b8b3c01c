"""VMAs of which the kernel shows nothing, whatever is mapped there."""

from __future__ import annotations

from mematlas.errors import NotSupported, PermissionDenied
from mematlas.kernel.maps import MAY_BE_HIDDEN
from mematlas.kernel.pagemap import LAST_ADDRESS, Pagemap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.maps import Vma
    from mematlas.kernel.procfs import ProcessDir


class HiddenVmas:
    """Which VMAs pagemap shows nothing of, whatever is mapped there: `[vsyscall]`, and VM_PFNMAP areas.

    Those are devices' memory, and `[vvar]` on most kernels; the kernel itself says so. Where it does not (before v6.7),
    what no page is shown of counts as hidden.
    """

    def __init__(self, process: ProcessDir, pagemap: Pagemap | None = None) -> None:
        self._process = process
        self._pagemap = pagemap
        self._known: dict[int, bool] = {}
        self._shown: set[int] = set()

    def note_shown(self, vma: Vma) -> None:
        """Take note that something of a VMA was shown."""
        if vma.kind in MAY_BE_HIDDEN:
            self._shown.add(vma.start)

    def is_hidden(self, vma: Vma) -> bool:
        """Whether nothing of a VMA can be seen. Ask after reading its blocks."""
        if vma.start >= LAST_ADDRESS:
            return True
        if vma.kind not in MAY_BE_HIDDEN or vma.start in self._shown:
            return False
        if vma.start not in self._known:
            self._known[vma.start] = self._ask(vma)
        return self._known[vma.start]

    def _ask(self, vma: Vma) -> bool:
        machine = self._process.procfs.machine
        if machine is not None:
            return "hidden" not in machine or f"{vma.start:x}-{vma.end:x}" in machine["hidden"]
        try:
            if self._pagemap is not None:
                return not self._pagemap.shows(vma.start)
            with Pagemap(self._process) as pagemap:
                return not pagemap.shows(vma.start)
        except NotSupported:
            # Another file: blocks of the one that is given may be in use.
            with Pagemap(self._process) as pagemap:
                return next(pagemap.blocks(vma.start, vma.end), None) is None
        except PermissionDenied:
            return True
