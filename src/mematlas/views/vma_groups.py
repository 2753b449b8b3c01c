"""VMAs that have something in common, added up."""

from __future__ import annotations

from mematlas.analysis.groups import grouped
from mematlas.views.format import first_of, number_of
from mematlas.views.maps import notes_of, present_of, share_of_all, shown_if_known, with_changes
from mematlas.views.table import Column, Table, node_columns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mematlas.analysis.groups import VmaGroup
    from mematlas.analysis.results import MapsResult, VmaUsage
    from mematlas.views.since import Since


def members_of(groups: list[VmaGroup]) -> list[VmaUsage]:
    """Return the VMAs of groups."""
    return [item for group in groups for item in group.vmas]


def pages_present(group: VmaGroup) -> int | None:
    """Return how many pages of a group are present."""
    return present_of(group.vmas)


def all_present(groups: list[VmaGroup]) -> int | None:
    """Return how many pages of all groups are present."""
    return present_of(members_of(groups))


def share_present(group: VmaGroup) -> float | None:
    """Return how much of the pages of a group is present."""
    return share_of_all(group.vmas)


def share_all_present(groups: list[VmaGroup]) -> float | None:
    """Return how much of the pages of all groups is present."""
    return share_of_all(members_of(groups))


def number_of_paths(groups: list[VmaGroup]) -> str:
    """Return how many paths there are."""
    return number_of(len(groups), "path")


def sum_of(key: str) -> Callable[[VmaGroup], int | None]:
    """Return what gets the sum over the VMAs of a group; None where it is not known of one."""

    def total(group: VmaGroup) -> int | None:
        amounts = [getattr(item, key) for item in group.vmas]
        return None if None in amounts else sum(amounts)

    return total


GROUP_COLUMNS: tuple[Column[VmaGroup], ...] = (
    Column("nr_vmas", "VMAS", "count", lambda group: len(group.vmas), sum),
    Column("size", "SIZE", "size", total=sum),
    Column("nr_present", "PRESENT", "count", pages_present, all_present, rank=8),
    Column("nr_pages", "PAGES", "count", lambda group: group.usage.nr_pages, sum, rank=8),
    Column("nr_swapped", "SWAPPED", "count", lambda group: group.usage.nr_swapped, sum, rank=5),
    Column("nr_accessed", "ACCESSED", "count", sum_of("nr_accessed"), sum, rank=6, shown=False),
    Column("nr_dirty", "DIRTY", "count", sum_of("nr_dirty"), sum, rank=6, shown=False),
    Column("rss", "RSS", "size", lambda group: group.usage.rss, sum),
    Column("pss", "PSS", "size", lambda group: group.usage.pss, sum, rank=6),
    Column("uss", "USS", "size", lambda group: group.usage.uss, sum, rank=1),
    Column("swap", "SWAP", "size", lambda group: group.usage.swap, sum, shown=False),
    Column("here", "HERE", "share", share_present, share_all_present, rank=2),
)
BEFORE: dict[str, tuple[Column[VmaGroup], ...]] = {
    "kind": (Column("kind", "KIND"),),
    "perms": (Column("perms", "PERM", value=lambda group: group.name),),
    "owner": (
        Column("owner", "OWNER", value=lambda group: group.owner.what),
        Column("known_by", "KNOWN BY", "list", lambda group: group.owner.known_by, rank=1),
        Column("nr_threads", "THREADS", "count", lambda group: len(group.owner.tids) or None, rank=4),
    ),
}
BEHIND: dict[str, tuple[Column[VmaGroup], ...]] = {
    "path": (
        Column("kind", "KIND", rank=7),
        Column("path", "PATH", "path", lambda group: group.name, number_of_paths),
    ),
    "owner": (
        Column("kind", "KIND", shown=False),
        Column("name", "NAME", "path", lambda group: first_of(group.owner.names), width=15),
    ),
}
"""The columns that name groups of VMAs, by what these have in common: before their amounts, and behind them."""


def groups_table(
    result: MapsResult,
    target: dict[str, Any],
    by: str,
    sort: str | None = None,
    limit: int | None = None,
    since: Since | None = None,
) -> Table:
    """Return a row per group of VMAs that have their kind, path, permissions or owner in common, the largest first."""
    groups = grouped(result.vmas, by, result.nodes)
    known = [shown_if_known(column, result) for column in GROUP_COLUMNS]
    columns = with_changes(known, since, lambda group: group.name)
    if result.nodes:
        columns += node_columns([group.nodes for group in groups], lambda group: group.nodes)
    columns = [*BEFORE.get(by, ()), *columns, *BEHIND.get(by, ())]
    notes = notes_of(result)
    return Table(f"maps-by-{by}/1", columns, groups, target=target, notes=notes, sort=sort or "rss", limit=limit)
