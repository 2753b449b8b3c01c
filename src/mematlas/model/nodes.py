"""Which NUMA node each page is on: by its frame, or else by asking move_pages(2).

Swapped, cached and absent pages are on none, and the zero page is nobody's memory: they have no node. A page in memory
whose node is not known has none either; amounts keep these apart, under None.
"""

from __future__ import annotations

import errno
import time

from mematlas.errors import NotSupported, PermissionDenied
from mematlas.kernel.nodes import UNREPORTED, NodeMap, read_nodes
from mematlas.kernel.pagemap import PM_PFRAME, PRESENT, ZERO
from mematlas.notes import Note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mematlas.arrays import NDArray, np
    from mematlas.kernel.maps import Vma
    from mematlas.kernel.pagemap import Block, Pacer
    from mematlas.kernel.procfs import ProcessDir
    from mematlas.model.page_source import PageSource
    from mematlas.model.pages import PageReader

    Sizes = dict[int | None, int]

NOWHERE = -2
"""In arrays: not in memory."""
NR_ASKED = 512
"""Pages asked about between pauses."""

HAS_NODE = bytes(byte & ZERO == PRESENT for byte in range(256))
"""Which state bytes are of a page that lies on a node."""


class PageNodes:
    """Finds the node of pages of one process.

    >>> nodes = PageNodes(process.dir)   # doctest: +SKIP
    >>> [set(nodes.of(block)) for block in reader.blocks(vma)]   # doctest: +SKIP
    [{0, None}, {1}]

    Raises:
        NotSupported: a kernel without CONFIG_NUMA, no sysfs, or a capture that holds nothing of it.
    """

    def __init__(self, process: ProcessDir, pacer: Pacer | None = None, nodes: NodeMap | None = None) -> None:
        self.process = process
        self.map = nodes or read_nodes(process.procfs)
        self.page_size = process.procfs.page_size
        self.why: str | None = None
        """Why the node of some pages is not known."""
        self._pacer = pacer

    @property
    def with_memory(self) -> tuple[int, ...]:
        """The nodes that have memory, ascending."""
        return self.map.with_memory

    def of(self, block: Block) -> list[int | None]:
        """Return the node of each page of a block, in order; None for what is on no node, or on an unknown one."""
        only = self.map.only
        if only is not None:
            return [only if has_node else None for has_node in block.states.translate(HAS_NODE)]
        nodes: list[int | None] = [None] * len(block)
        hidden = []
        for index, (byte, entry) in enumerate(zip(block.states, block.entries, strict=True)):
            if not HAS_NODE[byte]:
                continue
            if pfn := entry & PM_PFRAME:
                nodes[index] = self.map.of_frame(pfn)
                if nodes[index] is None:
                    self.why = NO_BLOCK
            else:  # not frame 0, which is of the first node
                hidden.append(index)
        for index, node in zip(hidden, self._ask(block, hidden), strict=True):
            nodes[index] = None if node < 0 else node
        return nodes

    def array(self, block: Block) -> NDArray[np.int16]:
        """Return the node of each page of a block, as an array: `NOWHERE` and `UNREPORTED` are negative."""
        from mematlas.arrays import np

        present = np.frombuffer(block.states.translate(HAS_NODE), np.bool_)
        if self.map.only is not None:
            return np.where(present, np.int16(self.map.only), np.int16(NOWHERE))
        nodes = np.where(present, np.int16(UNREPORTED), np.int16(NOWHERE))
        pfns = np.frombuffer(block.raw, np.uint64) & np.uint64(PM_PFRAME)
        has_frame = present & (pfns != 0)
        nodes[has_frame] = self.map.of_frames(pfns[has_frame])
        unreported = nodes == UNREPORTED
        if unreported.any():
            hidden = np.flatnonzero(unreported & (pfns == 0)).tolist()
            if len(hidden) < np.count_nonzero(unreported):
                self.why = NO_BLOCK
            nodes[hidden] = self._ask(block, hidden)
        return nodes

    def count(self, block: Block) -> Sizes:
        """Return how many pages of a block are on each node; under None, those of which it is not known."""
        nr_present = sum(nr_pages for byte, nr_pages in block.kinds.items() if HAS_NODE[byte])
        if nr_present == 0 or self.map.only is not None:
            return {self.map.only: nr_present} if nr_present else {}
        from mematlas.arrays import np

        counts = np.bincount(self.array(block) - NOWHERE).tolist()
        return {
            None if node == UNREPORTED else node: count
            for node, count in enumerate(counts, NOWHERE)
            if count and node != NOWHERE
        }

    def add(self, sums: Sizes, block: Block) -> None:
        """Add the bytes of a block on each node to sums."""
        add_sizes(sums, self.count(block), self.page_size)

    def of_vma(self, reader: PageSource, vma: Vma) -> Sizes:
        """Return the bytes of a VMA on each node, by walking its pages."""
        sums: Sizes = {}
        for block in reader.blocks(vma):
            self.add(sums, block)
        return sums

    def of_sizes(self, reader: PageReader | None, by_smaps: Iterable[tuple[Vma, int]]) -> list[Sizes]:
        """Return the bytes on each node, given what smaps says of VMAs: by numa_maps, of a capture by its pages."""
        if self.process.procfs.live:
            return self._beside_smaps(by_smaps)
        if reader is None:
            return [self._placeless(size, "the capture holds no pagemap") for _, size in by_smaps]
        return [self.of_vma(reader, vma) for vma, _ in by_smaps]

    def _beside_smaps(self, by_smaps: Iterable[tuple[Vma, int]]) -> list[Sizes]:
        from mematlas.kernel.numa_maps import read_numa_maps

        by_start = read_numa_maps(self.process)
        amounts: list[Sizes] = []
        for vma, size in by_smaps:
            if vma.kind == "vdso":
                amounts.append(self._of_vdso(vma, size))
                continue
            sizes: Sizes = dict(by_start.get(vma.start, {}).items())
            # What came since then is on its node, and more than smaps reports.
            missing = size - sum(sizes.values())
            if missing > 0:
                sizes[self.map.only] = sizes.get(self.map.only, 0) + missing
                self.why = "they changed while they were read, or belong to the kernel"
            amounts.append(sizes)
        return amounts

    def _placeless(self, size: int, why: str) -> Sizes:
        """Return the bytes that smaps reports of a VMA as of the only node, or as of none that we know."""
        self.why = why
        return {self.map.only: size} if size else {}

    def _of_vdso(self, vma: Vma, size: int) -> Sizes:
        """Return what numa_maps does not report, though RSS has it: where the kernel's few own pages are."""
        if self.map.only is not None:
            return self._placeless(size, "")
        try:
            statuses = self._statuses(range(vma.start, vma.end, self.page_size))
        except (PermissionDenied, NotSupported) as error:
            return self._placeless(size, str(error))
        return {node: statuses.count(node) * self.page_size for node in set(statuses) if node >= 0}

    def _ask(self, block: Block, indexes: Sequence[int]) -> list[int]:
        """Return the nodes of present pages whose frames are hidden."""
        statuses: list[int] = []
        addresses = [block.address + index * self.page_size for index in indexes]
        try:
            for low in range(0, len(addresses), NR_ASKED):
                statuses += self._statuses(addresses[low : low + NR_ASKED])
        except (PermissionDenied, NotSupported) as error:
            self.why = str(error)
            return [UNREPORTED] * len(indexes)
        return [node_of_status(status) for status in statuses]

    def _statuses(self, addresses: Sequence[int]) -> list[int]:
        from mematlas.kernel.move_pages import read_page_nodes

        before = time.perf_counter()
        statuses = read_page_nodes(self.process, addresses)
        if self._pacer:
            self._pacer.spend(time.perf_counter() - before)
        return statuses


def node_of_status(status: int) -> int:
    """Return the node that move_pages(2) reports of a page whose entry is present."""
    if status >= 0:
        return status
    # The entry does not show that it is the zero page; anything else went away since that was read.
    return NOWHERE if status == -errno.EFAULT else UNREPORTED


NO_BLOCK = "frames lie in no memory block of a single node"


def nodes_unknown(why: object) -> Note:
    """Return the note that some pages are on a node that is not known."""
    return Note("nodes-unknown", f"nodes of some pages unknown: {why}")


def add_sizes(sums: Sizes, counts: Sizes, size: int) -> None:
    """Add counts of pieces of one size to sums of bytes.

    >>> sums = {0: 4096}
    >>> add_sizes(sums, {0: 1, None: 2}, 4096)
    >>> sums
    {0: 8192, None: 8192}
    """
    for node, count in counts.items():
        sums[node] = sums.get(node, 0) + count * size
