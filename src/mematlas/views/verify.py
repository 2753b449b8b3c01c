"""The sources of amounts side by side."""

from __future__ import annotations

from mematlas.views.table import Column, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from mematlas.analysis.verify import Comparison
    from mematlas.notes import Note

VERIFY_COLUMNS: tuple[Column[Comparison], ...] = (
    Column("measure", "MEASURE"),
    Column("smaps", "SMAPS", "size", lambda row: row.first),
    Column("pagemap", "PAGEMAP", "size", lambda row: row.second),
    Column("tables", "TABLES", "size", lambda row: row.third),
    Column("difference", "DIFFERENCE", "size"),
    Column("explained", "OK", "flag"),
    Column("reason", "REASON"),
)


def verify_table(comparisons: list[Comparison], target: dict[str, Any], notes: Iterable[Note] = ()) -> Table:
    """Return the sources side by side; a difference without a reason fails."""
    unexplained = [row.measure for row in comparisons if row.explained is False]
    failures = [f"the sources disagree without a reason: {', '.join(unexplained)}"] if unexplained else []
    return Table("verify/1", VERIFY_COLUMNS, comparisons, target=target, notes=notes, failures=failures)
