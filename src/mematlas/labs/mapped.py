"""A file of our own, mapped: something in the page cache that nobody else has."""

from __future__ import annotations

import mmap
import os
import tempfile

from mematlas.errors import NotSupported
from mematlas.kernel.maps import read_maps
from mematlas.kernel.procfs import ProcFS
from mematlas.kernel.vmfile import KIND_OF_MAGIC, magic_of
from mematlas.labs.memory import PAGE_SIZE
from mematlas.labs.own import shown_pid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.maps import Vma

DIRECTORIES = ("/var/tmp", os.environ.get("TMPDIR", "/tmp"), ".")
"""Where a file is made that is to lie on a disk, in this order."""
TABLE_SPAN = PAGE_SIZE // 8 * PAGE_SIZE
"""Bytes that one page table maps."""


class FileMemory:
    """A file mapped for reading, as libraries are."""

    def __init__(self, fd: int, nr_pages: int) -> None:
        self.fd = fd
        self.nr_pages = nr_pages
        # Linux 6.18 maps no neighbours along with a page of a large folio that lies across two page tables. So take
        # an address within one table: of two that follow each other at least one is.
        passed_over: list[mmap.mmap] = []
        while True:
            known = addresses_of(fd)
            self.map = mmap.mmap(fd, nr_pages * PAGE_SIZE, mmap.MAP_SHARED, mmap.PROT_READ)
            (self.address,) = addresses_of(fd) - known
            if self.address % TABLE_SPAN + nr_pages * PAGE_SIZE <= TABLE_SPAN or passed_over:
                break
            passed_over.append(self.map)
        for other in passed_over:
            other.close()

    def close(self) -> None:
        """Map it no longer; it stays open."""
        self.map.close()

    def read(self, first: int, nr_pages: int) -> None:
        """Read one byte of each of some consecutive pages."""
        assert self.map[first * PAGE_SIZE : (first + nr_pages) * PAGE_SIZE : PAGE_SIZE]

    def evict(self) -> None:
        """Have the kernel drop the file from the page cache; before, what is mapped must go from our page table."""
        if not self.map.closed:
            self.map.madvise(mmap.MADV_DONTNEED)
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)


def make_file(nr_pages: int) -> int:
    """Return the descriptor of a file on a disk, written to and already without a name: it goes with us."""
    for directory in DIRECTORIES:
        try:
            with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
                fd = file.fileno()
                if KIND_OF_MAGIC.get(magic_of(fd) or 0) != "shmem":
                    file.write(bytes((1,)) * (nr_pages * PAGE_SIZE))
                    os.fsync(fd)  # only clean pages can be evicted
                    return os.dup(fd)
        except OSError:
            continue
    names = ", ".join(DIRECTORIES)
    raise NotSupported("a file on a disk", f"one of {names} to be writable, and no tmpfs")


def addresses_of(fd: int) -> set[int]:
    """Return where our mappings of a file start."""
    inode = os.fstat(fd).st_ino
    return {vma.start for vma in own_vmas() if vma.inode == inode}


def own_vmas() -> list[Vma]:
    """Return our own VMAs."""
    with ProcFS().process(shown_pid()) as process:
        return read_maps(process)
