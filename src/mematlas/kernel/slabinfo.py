"""/proc/slabinfo: the caches that the kernel takes its objects from, root's; and /sys/kernel/slab: what else they are.

Formats: slabinfo(5); mm/slab_common.c, slab_show(); mm/slub.c, sysfs_slab_add(). Needs CONFIG_SLUB_DEBUG (CONFIG_SLAB
before Linux 6.8 had it too).
"""

from __future__ import annotations

import os

from mematlas.errors import FormatError
from mematlas.frozen import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.procfs import ProcFS

SLAB = "/sys/kernel/slab"
MOST_CACHES = 1 << 16


@record
class SlabCache:
    """A cache; of several that are merged, the first has given its name."""

    name: str
    nr_active: int
    """Objects that are in use, or that a CPU keeps for itself."""
    nr_objects: int
    """Objects that there is room for."""
    object_size: int
    nr_slabs: int
    pages_per_slab: int


def read_slab_caches(procfs: ProcFS) -> list[SlabCache]:
    """Return all caches.

    >>> from mematlas.kernel.procfs import ProcFS
    >>> max(read_slab_caches(ProcFS()), key=lambda cache: cache.nr_slabs).name   # doctest: +SKIP
    'ext4_inode_cache'

    Raises:
        PermissionDenied: needs CAP_DAC_READ_SEARCH.
        NotSupported: a kernel without CONFIG_SLUB_DEBUG.
    """
    return procfs.parsed("slabinfo", parse_slabinfo)


def parse_slabinfo(data: bytes) -> list[SlabCache]:
    """Return the caches in the lines of slabinfo.

    >>> parse_slabinfo(b"slabinfo - version: 2.1\\n# name <active_objs> ...\\n"
    ...     b"dentry 67494 74823 192 21 1 : tunables 0 0 0 : slabdata 3563 3563 0")
    [SlabCache(name='dentry', nr_active=67494, nr_objects=74823, object_size=192, nr_slabs=3563, pages_per_slab=1)]
    """
    caches = []
    for line in lines_of(data):
        try:
            name, *rest = line.split()
            active, objects, size, _, pages = map(int, rest[:5])
            slabs = int(rest[rest.index(b"slabdata") + 2])
        except (ValueError, IndexError):
            raise FormatError("slabinfo", line.decode("utf-8", "replace")) from None
        caches.append(SlabCache(name.decode("utf-8", "replace"), active, objects, size, slabs, pages))
    return caches


def read_aliases(root: str = SLAB) -> dict[str, tuple[str, ...]]:
    """Return the other names of caches that are several, merged, by each name; none where sysfs does not say."""
    names: dict[str, list[str]] = {}
    try:
        with os.scandir(root) as entries:
            for entry, _ in zip(entries, range(MOST_CACHES), strict=False):
                if entry.is_symlink():
                    names.setdefault(os.readlink(entry.path), []).append(entry.name)
    except OSError:
        return {}
    return {name: tuple(sorted(set(all_names) - {name})) for all_names in names.values() for name in all_names}


def read_slab_names(procfs: ProcFS) -> frozenset[str]:
    """Return the names of all caches; of several that are merged, that of the first.

    >>> from mematlas.kernel.procfs import ProcFS
    >>> "dentry" in read_slab_names(ProcFS())   # doctest: +SKIP
    True
    """
    return procfs.parsed("slabinfo", parse_slab_names)


def parse_slab_names(data: bytes) -> frozenset[str]:
    """Return the names in the lines of slabinfo.

    >>> parse_slab_names(b"slabinfo - version: 2.1\\n# name <active_objs> ...\\ndentry 67494 74823 192 21 1 : tunables")
    frozenset({'dentry'})
    """
    return frozenset(line.split(None, 1)[0].decode("utf-8", "replace") for line in lines_of(data))


def lines_of(data: bytes) -> list[bytes]:
    """Return the lines of caches."""
    head, _, rest = data.partition(b"\n")
    if not head.startswith(b"slabinfo - version: 2."):
        raise FormatError("slabinfo", head[:80].decode("utf-8", "replace"), expected="slabinfo - version: 2.1")
    return [line for line in rest.split(b"\n") if line.strip() and not line.startswith(b"#")]
