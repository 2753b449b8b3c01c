"""/sys/devices/system/node and memory: which node a frame of RAM is on.

Formats: Documentation/admin-guide/mm/memory-hotplug.rst, Documentation/ABI/stable/sysfs-devices-node,
Documentation/filesystems/proc.rst (zoneinfo). RAM is cut into blocks of one size, and each node has a link to every
block that some of its RAM lies in: to a block that two nodes share both have one (drivers/base/node.c). What of such a
block is whose, the spans of their zones in /proc/zoneinfo say, unless these overlap too.

Node numbers may have gaps, and a node may have processors and no memory.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from itertools import pairwise

from mematlas.errors import FormatError, NotHeld, NotSupported
from mematlas.kernel.directory import translate_error
from mematlas.kernel.zoneinfo import read_zone_spans

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mematlas.arrays import NDArray, Words, np
    from mematlas.kernel.procfs import ProcFS

    Span = tuple[int, int, int]
    """First frame, first frame after it, node."""

SYSTEM = "/sys/devices/system"
NEEDS = "CONFIG_NUMA, and sysfs"
MAX_NODES = 1 << 10
"""CONFIG_NODES_SHIFT is 10 at most."""
UNREPORTED = -1
"""In arrays: in memory, on a node that is not known."""


class NodeMap:
    """Where the RAM of each node is.

    >>> nodes = NodeMap([0, 2], [(0, 100, 0), (200, 300, 2)])
    >>> nodes.of_frame(99), nodes.of_frame(150), nodes.of_frame(200)
    (0, None, 2)
    """

    def __init__(self, with_memory: Iterable[int], spans: Iterable[Span], only: int | None = None) -> None:
        self.with_memory = tuple(with_memory)
        """The nodes that have memory, ascending."""
        self.spans = join(spans)
        """Ascending, none overlapping: what lies between them is of no node, or of one that is not known."""
        self.only = only
        """The node of every frame, where the machine has one alone."""
        self._starts = [first for first, _, _ in self.spans]

    def of_frame(self, pfn: int) -> int | None:
        """Return the node of a frame; None where it is not known."""
        if self.only is not None:
            return self.only
        index = bisect_right(self._starts, pfn) - 1
        return self.spans[index][2] if index >= 0 and pfn < self.spans[index][1] else None

    def of_frames(self, pfns: Words) -> NDArray[np.int16]:
        """Return the node of each of some frames; `UNREPORTED` where it is not known."""
        from mematlas.arrays import np

        if self.only is not None or not self.spans:
            return np.full(len(pfns), UNREPORTED if self.only is None else self.only, np.int16)
        starts, ends, owners = np.array(self.spans, np.uint64).T
        owner = np.maximum(np.searchsorted(starts, pfns, "right"), 1) - 1
        is_inside = (pfns >= starts[owner]) & (pfns < ends[owner])
        return np.where(is_inside, owners[owner].astype(np.int16), np.int16(UNREPORTED))


def read_nodes(procfs: ProcFS, system: str = SYSTEM) -> NodeMap:
    """Return where the RAM of each node is, on this machine or on that of a capture.

    >>> from mematlas.kernel.procfs import ProcFS
    >>> read_nodes(ProcFS()).with_memory   # doctest: +SKIP
    (0, 1)

    Raises:
        NotSupported: a kernel without CONFIG_NUMA, no sysfs, or a capture that holds nothing of it.
        FormatError: a capture says what is no such thing.
    """
    if not procfs.live:
        return saved_nodes(procfs)
    online = parse_list(read_line(f"{system}/node/online"))
    with_memory = parse_list(read_line(f"{system}/node/has_memory"))
    if len(online) == 1:
        return NodeMap(with_memory, (), online[0])
    block_pages, owners = read_blocks(system, online, procfs.page_size)
    zones = read_zone_spans(procfs)
    return NodeMap(with_memory, spans_of(owners, block_pages, zones) if owners else unshared(zones))


def saved_nodes(procfs: ProcFS) -> NodeMap:
    """Return what a capture says; see `to_save`."""
    saved = (procfs.machine or {}).get("nodes")
    if saved is None:
        raise NotHeld(f"{procfs.root}: what node frames are on")
    if not is_saved(saved):
        raise FormatError(f"{procfs.root}/machine.json", expected="nodes as lists of numbers")
    return NodeMap(saved["with_memory"], map(tuple, saved["spans"]), saved["only"])


def to_save(nodes: NodeMap) -> dict[str, object]:
    """Return what a capture keeps, for JSON."""
    spans = [list(span) for span in nodes.spans]
    return {"with_memory": list(nodes.with_memory), "spans": spans, "only": nodes.only}


def is_saved(value: object) -> bool:
    """Whether a value is what `to_save` makes."""
    if not isinstance(value, dict) or value.keys() != {"with_memory", "spans", "only"}:
        return False
    spans, only = value["spans"], value["only"]
    return (
        are_numbers(value["with_memory"])
        and (only is None or are_numbers([only]))
        and isinstance(spans, list)
        and all(are_numbers(span) and len(span) == 3 for span in spans)
    )


def are_numbers(values: object) -> bool:
    """Whether this is a list of numbers from 0 up, and of nothing else."""
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def read_line(path: str) -> str:
    """Return the one line of a file of sysfs."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError as error:
        translated = translate_error(error, path)
        if isinstance(translated, NotSupported):
            raise NotSupported("NUMA nodes", NEEDS) from None
        raise translated from None


def parse_list(text: str) -> list[int]:
    """Return the numbers in a list of the kernel's.

    >>> parse_list("0-2,5"), parse_list("")
    ([0, 1, 2, 5], [])
    """
    numbers: list[int] = []
    try:
        for part in text.split(",") if text else ():
            first, _, last = part.partition("-")
            low, high = int(first), int(last or first)
            if not 0 <= low <= high < MAX_NODES:
                raise ValueError
            numbers += range(low, high + 1)
    except ValueError:
        raise FormatError(f"{SYSTEM}/node", text) from None
    return numbers


def read_blocks(system: str, nodes: list[int], page_size: int) -> tuple[int, dict[int, list[int]]]:
    """Return the frames in a block, and the nodes of each block; none where the kernel has no blocks.

    Blocks are there with CONFIG_MEMORY_HOTPLUG alone.
    """
    owners: dict[int, list[int]] = {}
    try:
        size = int(read_line(f"{system}/memory/block_size_bytes"), 16)
    except NotSupported:
        return 0, owners
    for node in nodes:
        for name in os.listdir(f"{system}/node/node{node}"):
            if name.startswith("memory") and name[6:].isdigit():  # there is "memory_side_cache" too
                owners.setdefault(int(name[6:]), []).append(node)
    return size // page_size, owners


def spans_of(owners: dict[int, list[int]], block_pages: int, zones: list[Span]) -> Iterator[Span]:
    """Yield the frames of each node: whole blocks, and of those that several share what their zones tell apart."""
    for block, nodes in sorted(owners.items()):
        first, end = block * block_pages, (block + 1) * block_pages
        if len(nodes) == 1:
            yield first, end, nodes[0]
        else:
            theirs = (zone for zone in zones if zone[2] in nodes)
            spans = [(max(low, first), min(high, end), node) for low, high, node in theirs]
            yield from unshared(spans)


def unshared(zones: list[Span]) -> Iterator[Span]:
    """Yield the frames that the zones of one node alone span."""
    zones = [zone for zone in zones if zone[0] < zone[1]]
    cuts = sorted({cut for first, end, _ in zones for cut in (first, end)})
    for low, high in pairwise(cuts):
        nodes = {node for first, end, node in zones if first <= low and high <= end}
        if len(nodes) == 1:
            yield low, high, nodes.pop()


def join(spans: Iterable[Span]) -> list[Span]:
    """Return spans in order, those of one node that touch as one.

    >>> join([(4, 8, 0), (0, 4, 0), (8, 9, 1)])
    [(0, 8, 0), (8, 9, 1)]
    """
    joined: list[Span] = []
    for first, end, node in sorted(spans):
        if joined and joined[-1][1:] == (first, node):
            joined[-1] = (joined[-1][0], end, node)
        else:
            joined.append((first, end, node))
    return joined
