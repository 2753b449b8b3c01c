"""The sources of amounts side by side."""

from __future__ import annotations

from mematlas.notes import Note
from mematlas.views.format import format_seconds
from mematlas.views.table import Column, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from mematlas.analysis.verify import Comparison
    from mematlas.observe.usage_check import UsageCheck

VERIFY_COLUMNS: tuple[Column[Comparison], ...] = (
    Column("measure", "MEASURE"),
    Column("smaps", "SMAPS", "size", lambda row: row.first),
    Column("pagemap", "PAGEMAP", "size", lambda row: row.second),
    Column("tables", "TABLES", "size", lambda row: row.third),
    Column("difference", "DIFFERENCE", "size"),
    Column("explained", "OK", "flag"),
    Column("reason", "REASON"),
)


def verify_table(check: UsageCheck, target: dict[str, Any]) -> Table:
    """Return the sources side by side; a difference without a reason fails."""
    rows = check.comparisons
    unexplained = [row.measure for row in rows if row.explained is False]
    failures = []
    if unexplained:
        failures = [f"the sources disagree without a reason: {', '.join(unexplained)}"]
    return Table("verify/1", VERIFY_COLUMNS, rows, target=target, notes=notes_of(check), failures=failures)


def notes_of(check: UsageCheck) -> Iterator[Note]:
    """Yield why a source is missing, and what reading cost the process."""
    if check.no_tables:
        yield check.no_tables
    if hold := check.hold:
        total, longest = format_seconds(hold.total_s), format_seconds(hold.longest_s)
        text = f"smaps was read twice, each time holding up the target for {total}, at most {longest} at once"
        yield Note("smaps-hold", text)
