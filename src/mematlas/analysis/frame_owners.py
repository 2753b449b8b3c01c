"""What frames are and who has them: what `mematlas.Machine.owners` returns."""

from __future__ import annotations

from mematlas.frozen import Record, Tabular, record
from mematlas.kernel.maps import NO_FILE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from mematlas.analysis.results import Reading
    from mematlas.kernel.maps import Vma

COPIES = ("anon", "ksm")
"""Kinds of frames that are no part of the file that a VMA is of, though they stand in its place."""


@record
class FrameMapper(Record):
    """A process that maps frames, or whose page tables they are; the kernel's own tables have PID 0."""

    pid: int
    name: str
    start_time: int
    """As field 22 of /proc/PID/stat has it."""
    vma: Vma | None = None
    """Where they are mapped."""
    level: str | None = None
    """Of a page table: ``pte``, ``pmd``, ``pud``, ``p4d`` or ``pgd``."""


@record
class FrameDetail(Record):
    """What is known of frames that nobody maps, by their struct pages."""

    slab: str | None = None
    """The cache that objects in it are of, as /proc/slabinfo has it."""
    block: int | None = None
    """The first frame of the free block."""
    order: int | None = None
    """The free block has two to the power of this frames."""
    file: tuple[str, int] | None = None
    """Device, as maps prints it, and inode of the file whose page it is."""
    file_offset: int | None = None
    """Bytes into that file."""
    path: str | None = None
    """Of that file, as it is seen from here; None where the kernel keeps none, or it is not known."""
    is_deleted: bool | None = None
    """Whether that file has no name any more; None of no file, and where that is not known."""


NO_DETAIL = FrameDetail()


@record
class OwnedFrames(Record):
    """Frames that lie side by side and are alike, and one that has them; of frames that several map, one of several."""

    pfn: int
    """The first of them."""
    nr_pages: int
    kind: str
    """What they are: the name of a `mematlas.model.census.kinds.Kind`, in lower case."""
    flags: tuple[str, ...]
    """Of kpageflags, by name."""
    count: int
    """How often the kernel counts each as mapped."""
    node: int | None
    cgroup: str | None
    """The path of the cgroup they are charged to; None for none, and where that is not known."""
    cgroup_inode: int | None
    """The inode of its directory; 0 where they are charged to none, None where it is not known."""
    mapper: FrameMapper | None = None
    """None where nobody was found."""
    address: int | None = None
    """Where the first of them is mapped; of a page table, the first address that it translates."""
    detail: FrameDetail = NO_DETAIL

    @property
    def file_offset(self) -> int | None:
        """Bytes into the file whose page the first of them is; None where it is of none, or that is not known."""
        if self.mapper is None or self.address is None or (vma := self.mapper.vma) is None:
            return self.detail.file_offset
        return vma.offset + self.address - vma.start if vma.dev != NO_FILE and self.kind not in COPIES else None


@record
class FrameOwners(Tabular, Record):
    """What frames are and who has them, in the order of the frames."""

    items: tuple[OwnedFrames, ...]
    page_size: int
    nr_missing: int
    """Frames that were asked for and do not exist."""
    sharing: dict[int, int]
    """Processes that run in the address space of another, and of which."""
    reading: Reading

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[OwnedFrames]:
        return iter(self.items)
