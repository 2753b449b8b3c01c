"""Whom frames are charged to, by files that were made."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from helpers import write_words
from mematlas.kernel.kpage import KPF_COMPOUND_HEAD, KPF_COMPOUND_TAIL
from mematlas.kernel.procfs import ProcFS
from mematlas.model.census.kinds import Kind
from mematlas.model.charged import FrameCharges

INODES = {0: 7, 1: 7, 2: 9, 3: 7, 4: 0, 5: 0, 6: 0, 7: 9}
"""Of the frames; 4 to 6 are a folio that is charged to nobody."""
KINDS = [Kind.ANON, Kind.FILE, Kind.FILE, Kind.ANON, Kind.SLAB, Kind.SLAB, Kind.SLAB, Kind.ANON]


def test_frames_are_counted_by_inode_and_kind_however_they_lie(tmp_path: Path) -> None:
    flags = dict.fromkeys(INODES, 0) | {4: KPF_COMPOUND_HEAD, 5: KPF_COMPOUND_TAIL, 6: KPF_COMPOUND_TAIL}
    write_words(tmp_path / "kpagecgroup", INODES)
    write_words(tmp_path / "kpageflags", flags)
    pfns, kinds = np.arange(8, dtype=np.uint64), np.array(KINDS, np.uint8)
    with FrameCharges(ProcFS(str(tmp_path), 4096)) as charges:
        counted = charges.count_kinds([(pfns[:3], kinds[:3]), (pfns[3:3], kinds[3:3]), (pfns[3:], kinds[3:])])

    found = {(inode, Kind(kind)): nr for inode, numbers in counted.items() for kind, nr in enumerate(numbers) if nr}
    assert found == {
        (7, Kind.ANON): 2,
        (7, Kind.FILE): 1,
        (9, Kind.FILE): 1,
        (9, Kind.ANON): 1,
        (0, Kind.SLAB): 3,
    }
