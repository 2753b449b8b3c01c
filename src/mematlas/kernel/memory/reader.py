"""What a reader of kernel memory is."""

from __future__ import annotations

READER_NAMES = ("bpf", "kcore", "module")
"""In the order in which they are tried."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from mematlas.arrays import Bools, Words
    from mematlas.kernel.memory.btf import StructLayout

    class Reader(Protocol):
        """Something that copies kernel memory."""

        @property
        def name(self) -> str: ...

        @property
        def batch_size(self) -> int:
            """How many addresses one call of `read_batch` may name."""

        def read_batch(self, addresses: Words, size: int) -> tuple[Words, Bools]:
            """Return ``size`` bytes (8 or 4096) at each address, as words, and which of them could be read.

            What is returned may be overwritten by the next call.
            """

        def mm_address(self, pid: int, mem_fd: int, layout: StructLayout) -> int:
            """Return the address of the mm_struct of ``pid``, whose /proc/PID/mem we hold open."""

        def private_data(self, fd: int, layout: StructLayout) -> int:
            """Return the private_data of one of our own open files."""

        def forget(self, pgd: int) -> None:
            """Let go of the address space with this top table, which nobody has open any more."""

        def direct_map_bases(self) -> list[int]:
            """Return where the direct map may begin, if this source knows."""

        def close(self) -> None: ...
