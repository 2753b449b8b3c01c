"""/proc/PID/fdinfo: the memory of devices that processes have open: buffers that are shared (dma-buf), and clients of
graphics drivers (DRM).

Formats: Documentation/filesystems/proc.rst; drivers/dma-buf/dma-buf.c, dma_buf_show_fdinfo();
Documentation/gpu/drm-usage-stats.rst. A driver answers by itself, and may take its time.
"""

from __future__ import annotations

import os

from mematlas.errors import PermissionDenied
from mematlas.frozen import record
from mematlas.kernel.directory import translate_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from mematlas.kernel.procfs import ProcessDir

    Fields = dict[str, str]

DMABUF, DRM = "/dmabuf:", "/dri/"
"""What the links of /proc/PID/fd have of such files: the beginning of one, a part of the other."""
MOST_FILES = 1 << 20
MOST_TEXT = 1 << 14
"""Bytes of one file that are looked at: drivers of many regions and engines write some KiB."""
MOST_DIGITS = 20
UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
AMOUNTS = {"total": "total", "shared": "shared", "resident": "resident", "memory": "resident"}
"""What drivers call amounts of memory; the last is what the third was called first."""


@record
class DmaBuf:
    """A buffer that drivers and processes share."""

    inode: int
    size: int
    exporter: str
    name: str
    """Given by a process; empty of most."""


@record
class DrmRegion:
    """What a client has in one sort of memory, in bytes; None is "not reported"."""

    name: str
    """``vram0``, ``system``, ``memory``: as the driver calls it."""
    total: int | None
    """Of all its buffers, be there memory behind them or not."""
    shared: int | None
    """Of those that another file has as well."""
    resident: int | None


@record
class DrmClient:
    """A client of a graphics driver: a file that was opened, by whatever processes have it now."""

    driver: str
    device: str
    """``0000:03:00.0``; empty where it is not on PCI."""
    number: str
    """Of the client: unique on its device. Empty where the driver has none, which is then no client of its own."""
    regions: tuple[DrmRegion, ...]


def parse_fields(text: str) -> Fields:
    """Return the lines of an fdinfo file by name; the first of a name, since what a process says comes last.

    >>> parse_fields("pos:\\t0\\nsize:\\t4096\\nname:\\tx\\nsize:\\t7\\n")
    {'pos': '0', 'size': '4096', 'name': 'x'}
    """
    fields: Fields = {}
    for line in text.split("\n"):
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name, value.strip())
    return fields


def dmabuf_of(fields: Fields) -> DmaBuf | None:
    """Return a shared buffer; None where a file is none.

    >>> dmabuf_of({"ino": "7", "size": "4096", "count": "2", "exp_name": "system"})
    DmaBuf(inode=7, size=4096, exporter='system', name='')
    """
    inode, size = amount_of(fields.get("ino", "")), amount_of(fields.get("size", ""))
    if inode is None or size is None or "exp_name" not in fields:
        return None
    return DmaBuf(inode, size, fields["exp_name"], fields.get("name", ""))


def drm_client_of(fields: Fields) -> DrmClient | None:
    """Return a client of a graphics driver; None where a file is none, or its driver says nothing.

    >>> client = drm_client_of({"drm-driver": "xe", "drm-client-id": "7", "drm-total-vram0": "3 MiB",
    ...     "drm-resident-vram0": "2 MiB", "drm-engine-rcs": "5 ns"})
    >>> client.number, client.regions
    ('7', (DrmRegion(name='vram0', total=3145728, shared=None, resident=2097152),))
    """
    if "drm-driver" not in fields:
        return None
    regions: dict[str, dict[str, int | None]] = {}
    for key, value in fields.items():
        drm, _, rest = key.partition("-")
        sort, _, region = rest.partition("-")
        # drm-total-cycles-ENGINE is no memory.
        if drm == "drm" and region and sort in AMOUNTS and not region.startswith("cycles-"):
            regions.setdefault(region, {})[AMOUNTS[sort]] = amount_of(value)
    return DrmClient(
        driver=fields["drm-driver"],
        device=fields.get("drm-pdev", ""),
        number=fields.get("drm-client-id", ""),
        regions=tuple(
            DrmRegion(name, found.get("total"), found.get("shared"), found.get("resident"))
            for name, found in sorted(regions.items())
        ),
    )


def amount_of(text: str) -> int | None:
    """Return a number with its unit, in bytes; None where it is none.

    >>> amount_of("12 KiB"), amount_of("7"), amount_of("7 parsecs"), amount_of("")
    (12288, 7, None, None)
    """
    digits, _, unit = text.partition(" ")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= MOST_DIGITS and unit in UNITS):
        return None
    return int(digits) * UNITS[unit]


def device_files(process: ProcessDir) -> Iterator[Fields]:
    """Yield the fdinfo of each file of a process that is such memory.

    Raises:
        PermissionDenied: the files of the process may not be looked at.
        ProcessGone: it ended.
    """
    directory = process.open_fd("fd", os.O_RDONLY | os.O_DIRECTORY)
    try:
        for number in os.listdir(directory)[:MOST_FILES]:
            try:
                link = process.link(f"fd/{number}")
                if not (is_buffer := link.startswith(DMABUF)) and DRM not in link:
                    continue
                text = process.read_start(f"fdinfo/{number}", MOST_TEXT)
                if len(text) == MOST_TEXT:
                    text = text[: text.rfind(b"\n") + 1]  # a number that is cut off is another number
                fields = parse_fields(text.decode("utf-8", "replace"))
                if is_buffer and "ino" not in fields:
                    # Since Linux commit 3845f5f42bf7 ("procfs/dmabuf: add inode number to /proc/*/fdinfo") (in v5.14)
                    # the file says it.
                    fields["ino"] = str(process.status(f"fd/{number}").st_ino)
            except (OSError, PermissionDenied):
                continue  # closed meanwhile
            yield fields
    except OSError as error:
        raise translate_error(error, f"{process.path}/fd", process.pid) from None
    finally:
        os.close(directory)
