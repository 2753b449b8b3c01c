"""Rows of frames that lie side by side, are alike and have one owner, made of arrays."""

from __future__ import annotations

from itertools import pairwise

from mematlas.analysis.frame_owners import NO_DETAIL, OwnedFrames
from mematlas.arrays import NDArray, Words, np
from mematlas.frozen import record
from mematlas.kernel.kpage import flag_names
from mematlas.model.census.kinds import Kind
from mematlas.model.frame_facts import NO_NODE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from mematlas.analysis.frame_owners import FrameDetail, FrameMapper
    from mematlas.model.frame_facts import FrameFacts


@record
class Found:
    """Frames that one process has somewhere: side by side, where and which."""

    mapper: FrameMapper
    addresses: Words
    pfns: Words


def rows_of(
    facts: FrameFacts,
    found: Sequence[Found],
    details: Mapping[int, FrameDetail],
    cgroups: Mapping[int, str],
    page_size: int,
) -> tuple[OwnedFrames, ...]:
    """Return rows: for each who was found, and for frames of which nobody was.

    ``details`` are by frame; ``cgroups`` are paths, by inode.
    """
    marks = marks_of(facts, details, page_size)
    rows = []

    def add(pfns: Words, addresses: Words | None, mapper: FrameMapper | None) -> None:
        places = np.searchsorted(facts.pfns, pfns)
        for low, high in runs_of(pfns, addresses, marks[places], page_size):
            pfn = int(pfns[low])
            rows.append(
                OwnedFrames(
                    pfn=pfn,
                    nr_pages=high - low,
                    mapper=mapper,
                    address=None if addresses is None else int(addresses[low]),
                    detail=details.get(pfn, NO_DETAIL),
                    **about(facts, int(places[low]), cgroups),
                )
            )

    for each in found:
        add(each.pfns, each.addresses, each.mapper)
    had = np.concatenate([np.empty(0, np.uint64), *(each.pfns for each in found)])
    add(facts.pfns[~np.isin(facts.pfns, had)], None, None)
    return tuple(sorted(rows, key=place_of))


def place_of(row: OwnedFrames) -> tuple[int, int, int]:
    """Return what rows are put in order by."""
    return row.pfn, row.mapper.pid if row.mapper else 0, row.address or 0


def about(facts: FrameFacts, index: int, cgroups: Mapping[int, str]) -> dict[str, Any]:
    """Return what a row says of a frame, whoever has it."""
    node = int(facts.nodes[index])
    inode = None if facts.cgroups is None else int(facts.cgroups[index])
    return {
        "kind": Kind(facts.kinds[index]).name.lower(),
        "flags": flag_names(int(facts.flags[index])),
        "count": int(facts.counts[index]),
        "node": None if node == NO_NODE else node,
        "cgroup": cgroups.get(inode) if inode else None,
        "cgroup_inode": inode,
    }


def marks_of(facts: FrameFacts, details: Mapping[int, FrameDetail], page_size: int) -> NDArray[np.intp]:
    """Return a number for each frame: the same for those that one row can be about."""
    no_cgroups = np.zeros(len(facts.pfns), np.uint64)
    of_details: dict[object, int] = {}
    number = np.zeros(len(facts.pfns), np.uint64)
    for pfn, detail in details.items():
        first = None if detail.file_offset is None else detail.file_offset - pfn * page_size
        key = detail.slab, detail.block, detail.file, detail.path, first
        number[np.searchsorted(facts.pfns, np.uint64(pfn))] = of_details.setdefault(key, len(of_details) + 1)
    columns = (
        *(facts.flags, facts.kinds, facts.counts, no_cgroups if facts.cgroups is None else facts.cgroups),
        *(facts.nodes, number),
    )
    table = np.stack([column.astype(np.int64).view(np.uint64) for column in columns])
    marks: NDArray[np.intp] = np.unique(table, axis=1, return_inverse=True)[1].reshape(-1)
    return marks


def runs_of(pfns: Words, addresses: Words | None, marks: NDArray[np.intp], page_size: int) -> Iterator[tuple[int, int]]:
    """Yield the indexes where runs of like frames begin and end, which lie side by side in memory as in addresses.

    >>> list(runs_of(np.array([5, 6, 8], np.uint64), None, np.array([0, 0, 0]), 1))
    [(0, 2), (2, 3)]
    """
    if not len(pfns):
        return
    is_new = (pfns[1:] != pfns[:-1] + np.uint64(1)) | (marks[1:] != marks[:-1])
    if addresses is not None:
        is_new |= addresses[1:] != addresses[:-1] + np.uint64(page_size)
    edges = [0, *(np.flatnonzero(is_new) + 1).tolist(), len(pfns)]
    yield from pairwise(edges)
