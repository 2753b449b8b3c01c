"""Which pages of files processes map, whole folios of them: what the kernel does not take out of the page cache.

mm/truncate.c, mapping_evict_folio(): a folio goes as a whole, or not at all where anybody holds any of its pages.
"""

from __future__ import annotations

import time

from mematlas.arrays import Words, np
from mematlas.frozen import record
from mematlas.kernel.kpage import FrameWords
from mematlas.model.frame_facts import extents_of
from mematlas.observe.frame_mappers import WantedFiles, find_mappings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from mematlas.kernel.procfs import ProcFS
    from mematlas.notes import Note

    File = tuple[str, int]
    """A file, by its device as maps prints it, and its inode number."""

SECONDS = 30.0


@record
class MappedPages:
    """The pages of a file that are mapped."""

    nr_pages: int
    """Those, and all of the folios that they are part of."""
    pids: tuple[int, ...]
    """The processes that map any."""


def mapped_pages(procfs: ProcFS, files: Collection[File]) -> tuple[dict[File, MappedPages], tuple[Note, ...]]:
    """Return how much of files is mapped and by whom, of those of which anything is; and who could not be looked at.

    Raises:
        PermissionDenied: frames are hidden (needs CAP_SYS_ADMIN), or their flags (needs CAP_DAC_READ_SEARCH).
    """
    mappings = find_mappings(procfs, WantedFiles(files), time.monotonic() + SECONDS)
    pids: dict[File, set[int]] = {}
    pages: dict[File, list[Words]] = {}
    page_size = np.uint64(procfs.page_size)
    with FrameWords(procfs, "kpageflags") as flags:
        for each in mappings.found:
            vma = each.mapper.vma
            assert vma
            file = vma.dev, vma.inode
            indexes = (each.addresses - np.uint64(vma.start) + np.uint64(vma.offset)) // page_size
            pids.setdefault(file, set()).add(each.mapper.pid)
            pages.setdefault(file, []).append(with_folios(flags, indexes, each.pfns))
    mapped = {
        file: MappedPages(len(np.unique(np.concatenate(parts))), tuple(sorted(pids[file])))
        for file, parts in pages.items()
    }
    return mapped, tuple(mappings.notes)


def with_folios(flags: FrameWords, indexes: Words, pfns: Words) -> Words:
    """Return which pages of a file are mapped, with all of the folios that they lie in."""
    firsts, lengths = extents_of(flags, pfns)
    starts = indexes - (pfns - firsts)
    starts, which = np.unique(starts, return_index=True)
    lengths = lengths[which]
    inside = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    whole: Words = np.repeat(starts, lengths) + inside.astype(np.uint64)
    return whole
