"""Several processes together: what they have of RAM, with each page counted once."""

from __future__ import annotations

from mematlas.errors import ProcessGone
from mematlas.frozen import Record, record
from mematlas.model.pages import Hole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from mematlas.kernel.maps import Vma
    from mematlas.observe.process import Process
    from mematlas.words import Source

FILE, SHMEM, POOL = 1, 2, 3
"""Whose a frame is that is not anonymous."""


@record
class Together(Record):
    """The distinct frames that several processes map, in bytes."""

    anon: int
    file: int
    shmem: int
    hugetlb: int
    uss: int
    """What nobody else maps; without hugetlb."""

    @property
    def rss(self) -> int:
        """What is resident: hugetlb is no part of it."""
        return self.anon + self.file + self.shmem


def count_together(processes: Sequence[Process], source: Source = "auto") -> Together:
    """Return what processes of one machine have in RAM together. One that ends meanwhile is left out.

    >>> count_together([Process(4211), Process(4212)]).rss   # doctest: +SKIP
    110194688

    Raises:
        PermissionDenied: frames are hidden (needs CAP_SYS_ADMIN), or their counts (needs CAP_DAC_READ_SEARCH).
    """
    from mematlas.model.frames import ANON, FrameCounter, FrameKeys

    procfs = processes[0].procfs
    keys = FrameKeys()
    with FrameCounter(procfs, POOL + 1) as counter:  # refused before anything is read
        for process in processes:
            try:
                for vma, piece in process.pages(source="auto" if source == "smaps" else source):
                    if not isinstance(piece, Hole):
                        keys.add(piece, owner_of(vma), POOL if vma.kind == "hugetlb" else ANON)
            except ProcessGone:
                continue
        sums = counter.count(keys.take())
    anon, file, shmem, hugetlb = (number * procfs.page_size for number in sums.mapped)
    nr_alone = sum(sums.alone) - sums.alone[POOL]
    return Together(anon=anon, file=file, shmem=shmem, hugetlb=hugetlb, uss=nr_alone * procfs.page_size)


def owner_of(vma: Vma) -> int:
    """Return whose the frames of a VMA are that are not anonymous."""
    return {"shmem": SHMEM, "hugetlb": POOL}.get(vma.kind, FILE)
