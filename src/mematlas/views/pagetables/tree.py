"""Every page table, indented by level, with the sums of what is below it."""

from __future__ import annotations

from mematlas.views.columns import Column
from mematlas.views.pagetables.heading import heading, walk_target
from mematlas.views.table import Drawn, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mematlas.analysis.pagetables.results import TableTree
    from mematlas.analysis.pagetables.tables import TreeNode
    from mematlas.views.pagetables.heading import Lines


def tree_columns(levels: list[str]) -> tuple[Column[TreeNode], ...]:
    """Return the columns, given the names of the levels."""
    return (
        Column("level", "LEVEL", value=lambda node: levels[node.level]),
        Column("address", "TRANSLATES FROM", "address"),
        Column("table", "TABLE AT", "address", rank=3),
        Column("nr_used", "ENTRIES", "count", rank=1),
        Column("nr_tables", "TABLES BELOW", "count", rank=2),
        Column("mapped", "MAPPED", "size"),
    )


def tree_view(tree: TableTree, who: dict[str, Any], depth: int) -> Drawn:
    """Return every table down to a level."""
    origin = tree.reading.origin
    target = walk_target(who, tree.reading)
    nodes = [node for node in tree.nodes if node.level <= depth]
    names = [level.name for level in origin.mode.levels]

    def draw(in_bytes: bool, colour: bool, width: int) -> Lines:
        yield from heading(target, [origin.half], width)
        indented = [f"{'  ' * level}{name}" for level, name in enumerate(names)]
        table = Table("tables-tree/1", tree_columns(indented), nodes)
        yield from table.lines(in_bytes=in_bytes, colour=colour, width=width)

    return Drawn("tables-tree/1", tree_columns(names), nodes, target=target, draw=draw)
