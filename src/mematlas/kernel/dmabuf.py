"""All buffers that drivers share (dma-buf): /sys/kernel/debug/dma_buf/bufinfo, or /sys/kernel/dmabuf/buffers.

Formats: drivers/dma-buf/dma-buf.c, dma_buf_debug_show(), and
Documentation/ABI/testing/sysfs-kernel-dmabuf-buffers. The first is root's, and needs debugfs; the second is of kernels
with CONFIG_DMABUF_SYSFS_STATS, as Android's. Processes tell of those that they have open (`mematlas.kernel.fdinfo`).
"""

from __future__ import annotations

import os

from mematlas.errors import FormatError, NotSupported, PermissionDenied
from mematlas.kernel.directory import MAX_FILE, read_piece
from mematlas.kernel.fdinfo import DmaBuf, amount_of
from mematlas.kernel.kconfig import is_built_in

BUFINFO, BUFFERS = "/sys/kernel/debug/dma_buf/bufinfo", "/sys/kernel/dmabuf/buffers"
NEEDS_DEBUGFS = "debugfs: as root, mount -t debugfs debugfs /sys/kernel/debug"
MOST_BUFFERS = 1 << 18


def read_dmabufs(bufinfo: str = BUFINFO, buffers: str = BUFFERS) -> list[DmaBuf]:
    """Return all shared buffers, whoever has them.

    Raises:
        PermissionDenied: they are root's to see.
        NotSupported: debugfs is not mounted.
    """
    try:
        return parse_bufinfo(read_file(bufinfo))
    except FileNotFoundError:
        pass
    except PermissionError:
        raise PermissionDenied(bufinfo, text="root") from None
    except OSError as error:
        raise NotSupported(f"{bufinfo}: {os.strerror(error.errno or 0)}") from None
    try:
        return read_sysfs_buffers(buffers)
    except OSError:
        if is_built_in("DMA_SHARED_BUFFER") is False:
            return []
        raise NotSupported(bufinfo, NEEDS_DEBUGFS) from None


def read_file(path: str) -> bytes:
    """Return a file whole, or as much of it as anybody needs."""
    with open(path, "rb", buffering=0) as file:
        return read_piece(file.fileno(), MAX_FILE)


def parse_bufinfo(data: bytes) -> list[DmaBuf]:
    """Return the buffers in the text of bufinfo; what stands between them is to whom they are attached.

    >>> parse_bufinfo(b"\\nDma-buf Objects:\\nsize\\tflags\\tmode\\tcount\\texp_name\\tino\\tname\\n"
    ...     b"00008192\\t00000002\\t00080007\\t00000003\\tsystem\\t00000019\\tcamera\\n\\tAttached Devices:\\n")
    [DmaBuf(inode=19, size=8192, exporter='system', name='camera')]
    """
    if b"Dma-buf Objects:" not in data[:200]:
        raise FormatError(BUFINFO, data[:80].decode("utf-8", "replace"), expected="Dma-buf Objects:")
    found = []
    for line in data.decode("utf-8", "replace").split("\n"):
        fields = line.split("\t", 6)
        if len(fields) < 7 or not all(map(is_padded, (*fields[:4], fields[5]))):
            continue
        size, inode = amount_of(fields[0]), amount_of(fields[5])
        if size is not None and inode is not None:
            found.append(DmaBuf(inode, size, fields[4], "" if fields[6] == "<none>" else fields[6]))
    return found


def is_padded(word: str) -> bool:
    """Whether a number is as long as the kernel writes it.

    A process may give a buffer any name, with newlines and tabs in it; of 31 bytes, in which no line has room that has
    five such numbers.
    """
    return len(word) >= 8 and word.isascii() and word.isalnum()


def read_sysfs_buffers(root: str) -> list[DmaBuf]:
    """Return the buffers that have a directory each, named by the inode; those that go away meanwhile are left out."""
    found = []
    for inode in os.listdir(root)[:MOST_BUFFERS]:
        try:
            size = read_file(f"{root}/{inode}/size").decode("ascii", "replace").strip()
            exporter = read_file(f"{root}/{inode}/exporter_name").decode("utf-8", "replace").strip()
        except OSError:
            continue
        number, amount = amount_of(inode), amount_of(size)
        if number is not None and amount is not None:
            found.append(DmaBuf(number, amount, exporter, ""))
    return found
