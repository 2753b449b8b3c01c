"""Who is charged for the page cache: its pages by memory cgroup, from struct pages.

Those tell cgroups apart; which each is the kernel says of some of its frames.
"""

from __future__ import annotations

import time

from mematlas.analysis.cached import CachedGroup, CacheResult
from mematlas.analysis.results import Reading
from mematlas.arrays import np
from mematlas.frozen import replace
from mematlas.model.cached_pages import Charges, count_cached_pages
from mematlas.model.charged import FrameCharges
from mematlas.notes import Note
from mematlas.observe.frame_owners import cgroup_paths
from mematlas.observe.frames import open_decoder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.procfs import ProcFS
    from mematlas.model.cached_pages import CachedPages

NOBODY = "-"
"""What stands for a cgroup where nobody is charged."""
NOT_TOLD = -1
"""In the place of the inode of a cgroup."""


def find_charged(procfs: ProcFS) -> CacheResult:
    """Return the page cache by the memory cgroups that are charged for its pages.

    Raises:
        PermissionDenied, NotSupported: struct pages cannot be read, or a kernel without memory cgroups.
    """
    start = time.monotonic()
    with open_decoder(procfs) as held:
        charges = Charges(held.array)
        pages = count_cached_pages(held.array, held.decoder, charges)
        cgroups = cgroups_of(procfs, charges)
    size, notes = procfs.page_size, []
    inodes = np.array([NOT_TOLD if inode is None else inode for inode in cgroups], np.int64)[
        pages.charges.astype(np.intp)
    ]
    different = np.unique(inodes).tolist()
    paths = cgroup_paths({*different} - {NOT_TOLD})
    groups = []
    for inode in different:
        part = pages.take(np.flatnonzero(inodes == inode))
        name = NOBODY if inode == 0 else paths.get(inode, f"inode {inode}") if inode != NOT_TOLD else None
        groups.append(replace(group_of(part, size), name=name, inode=None if inode == NOT_TOLD else inode))
        if inode == NOT_TOLD:
            text = f"whom {int(part.nr_resident.sum()):,} pages are charged to is unknown: they went meanwhile"
            notes.append(Note("pages-uncharged", text))
    reading = Reading("struct pages", time.monotonic() - start, False, tuple(notes))
    return CacheResult((), reading, group_of(pages, size), tuple(groups))


def group_of(pages: CachedPages, page_size: int) -> CachedGroup:
    """Return pages of the page cache added up."""
    amounts = {
        "resident": pages.nr_resident,
        "mapped": pages.nr_mapped,
        "dirty": pages.nr_dirty,
        "writeback": pages.nr_writeback,
    }
    sums = {name: int(numbers.sum()) * page_size for name, numbers in amounts.items()}
    return CachedGroup(name=None, nr_files=len(np.unique(pages.mappings)), size=None, **sums)


def cgroups_of(procfs: ProcFS, charges: Charges) -> list[int | None]:
    """Return the inode of each cgroup's directory, by number; None where its frames have all become something else."""
    inodes: list[int | None] = [0]
    with FrameCharges(procfs) as files:
        for number, some in enumerate(charges.frames[1:], 1):
            frames = np.unique(np.array(some, np.uint64))
            found, _ = files.inodes(frames)
            found = found[charges.still(number, frames) & (found != 0)]
            inodes.append(int(found[0]) if len(found) else None)
    return inodes
