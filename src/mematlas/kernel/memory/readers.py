"""Readers of kernel memory: which there are, and kernel memory through the first of them that works."""

from __future__ import annotations

from mematlas.errors import Error, NotSupported, PermissionDenied
from mematlas.kernel.memory.btf import StructLayout, asked_twice, read_layout
from mematlas.kernel.memory.iomem import RamRanges, read_ram
from mematlas.kernel.memory.memory import KernelMemory
from mematlas.kernel.memory.reader import READER_NAMES
from mematlas.kernel.memory.x86 import check_tables
from mematlas.kernel.procfs import ProcFS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mematlas.kernel.memory.reader import Reader


def open_kernel_memory(reader: str = "auto", procfs: ProcFS | None = None) -> KernelMemory:
    """Return kernel memory through the first reader that works, or through the one that is named.

    Raises:
        PermissionDenied: no reader works, and a right would make one work; ``needs`` names it.
        NotSupported: no reader can work here. The message has the reason of each.

    >>> open_kernel_memory()  # doctest: +SKIP
    <KernelMemory by bpf, 4 levels, direct map at 0xffff888000000000>
    """
    procfs = procfs or ProcFS()
    check_tables(procfs)
    ram = read_ram(procfs)
    layout = read_layout()
    refused: dict[str, Error] = {}
    for name, make in READERS.items():
        if reader not in ("auto", name):
            continue
        try:
            memory = probe(make, layout, ram, procfs)
        except Error as error:
            refused[name] = error
            continue
        memory.refused = refused
        return memory
    raise combined_refusal(refused, reader)


def probe(make: Callable[[], Reader], layout: StructLayout, ram: RamRanges, procfs: ProcFS) -> KernelMemory:
    """Return kernel memory through the reader that ``make`` makes. It is closed again when the probe fails."""
    reader = make()
    try:
        return asked_twice(layout, lambda: KernelMemory(reader, layout, ram, procfs))
    except BaseException:
        reader.close()
        raise


def combined_refusal(refused: dict[str, Error], reader: str) -> Error:
    """Return one error for all refusals: the one that a right would cure, if any, stands for them."""
    if not refused:
        return NotSupported(f"a reader called {reader!r}", " or ".join(("auto", *READERS)))
    curable = [error for error in refused.values() if isinstance(error, PermissionDenied)]
    if curable or len(refused) == 1:
        return curable[0] if curable else next(iter(refused.values()))
    reasons = [f"{name}: {reason_of(error)}" for name, error in refused.items()]
    return NotSupported(f"reading page tables ({'; '.join(reasons)})")


def reason_of(error: Error) -> str:
    """Return what an error says, without that it is not supported."""
    if not isinstance(error, NotSupported):
        return str(error)
    return error.what + (f", needs {error.needs}" if error.needs else "")


def _bpf() -> Reader:
    from mematlas.kernel.memory.bpf import BpfReader

    return BpfReader()


def _kcore() -> Reader:
    from mematlas.kernel.memory.kcore import KcoreReader

    return KcoreReader.open()


def _module() -> Reader:
    from mematlas.kernel.memory.kmod import ModuleReader

    return ModuleReader()


READERS: dict[str, Callable[[], Reader]] = dict(zip(READER_NAMES, (_bpf, _kcore, _module), strict=True))
