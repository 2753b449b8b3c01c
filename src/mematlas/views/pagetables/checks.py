"""What checks of page tables find: what is dangerous, and what differs from the kernel's own files."""

from __future__ import annotations

from itertools import product

from mematlas.kernel.smaps import LEFT_OUT
from mematlas.model.pagetables.walk import EXECUTABLE, USER, WRITABLE
from mematlas.views.columns import Aside, Column
from mematlas.views.format import number_of
from mematlas.views.pagetables.heading import MEANINGS, heading, walk_target
from mematlas.views.table import Drawn, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from mematlas.analysis.pagetables.audit import Finding
    from mematlas.analysis.pagetables.compare import Check, Disagreement
    from mematlas.analysis.pagetables.results import AuditResult, Verification
    from mematlas.views.pagetables.heading import Lines

AUDIT_COLUMNS: tuple[Column[Finding], ...] = (
    Column("kind", "KIND"),
    Column("start", "START", "address"),
    Column("size", "SIZE", "size"),
    Column("rights", "RIGHTS", value=lambda finding: format_rights(finding.rights)),
    Column("phys", "PHYSICAL", "address"),
    Column("other", "ALSO AT", "address"),
    Column("other_rights", "THERE", value=lambda finding: format_rights(finding.other_rights)),
    Column("where", "IN", "path", lambda finding: finding.area),
    Column("harmless", "HARMLESS", "flag", lambda finding: finding.is_harmless),
)
IN_TEXT = ("start", "size", "rights", "where")
OF_ALIASES = ("other", "other_rights")
RIGHT_LETTERS = (("w", WRITABLE), ("x", EXECUTABLE), ("u", USER))
FINDINGS = {
    "writable-executable": "writable and executable",
    "user-in-kernel": "kernel page open to user space",
    "executable-data": "executable heap or stack",
    "writable-alias": "writable here, executable there",
    "alias": "other rights at another address",
}


def format_rights(rights: int | None) -> str | None:
    """Return rights as letters: write, execute, user.

    >>> format_rights(WRITABLE | USER)
    'w-u'
    """
    if rights is None:
        return None
    return "".join(letter if rights & bit else "-" for letter, bit in RIGHT_LETTERS)


def audit_view(audit: AuditResult, who: dict[str, Any], must_pass: bool = False) -> Drawn:
    """Return what is dangerous, and what is only odd; in text, all of a kind under one line.

    With ``must_pass`` what is dangerous fails.
    """
    findings, nr_bad = audit.findings, audit.nr_bad
    target = walk_target(who, audit.reading)

    def draw(in_bytes: bool, colour: bool, width: int) -> Lines:
        yield from heading(target, audit.halves, width)
        for is_harmless, kind in product((False, True), FINDINGS):
            alike = [item for item in findings if item.kind == kind and item.is_harmless == is_harmless]
            if alike:
                yield ""
                yield f"{FINDINGS[kind]}{' (harmless)' if is_harmless else ''}: {len(alike)}"
                yield from findings_table(alike).lines(in_bytes=in_bytes, colour=colour, width=width)
        if findings:
            yield ""
        yield sum_line(nr_bad, len(findings) - nr_bad)

    failures = [f"the audit has {number_of(nr_bad, 'finding')}"] if nr_bad and must_pass else []
    return Drawn("tables-audit/1", AUDIT_COLUMNS, findings, target=target, failures=failures, draw=draw)


def sum_line(nr_bad: int, nr_harmless: int) -> str:
    """Return how many findings there are.

    >>> sum_line(2, 0), sum_line(2, 9), sum_line(0, 1)
    ('2 findings', '2 findings, and 9 harmless ones', 'no findings but 1 harmless one')
    """
    bad = number_of(nr_bad, "finding") if nr_bad else "no findings"
    if not nr_harmless:
        return bad
    return f"{bad}{', and' if nr_bad else ' but'} {number_of(nr_harmless, 'harmless one')}"


def findings_table(findings: Sequence[Finding]) -> Table:
    """Return findings of one kind as text shows them."""
    keys = IN_TEXT if findings[0].other is None else (*IN_TEXT, *OF_ALIASES)
    columns = [column for column in AUDIT_COLUMNS if column.key in keys]
    return Table("tables-audit/1", columns, findings)


# Beside the kernel's own files

SOURCES = {"pages": "pagemap", "table bytes": "VmPTE", "thp": "smaps", "hugetlb": "smaps"}
REASONS = {
    "not-reported": "not compared: the kernel does not say",
    "changed": "the process ran meanwhile",
    "left-out": LEFT_OUT,
    "unexplained": "no known reason: please report it",
}
VERIFY_COLUMNS: tuple[Column[Any], ...] = (
    Column("what", "WHAT"),
    Column("address", "ADDRESS", "address"),
    Column("tables", "TABLES", "count"),
    Column("kernel", "KERNEL", "count"),
    Column("entry", "ENTRY", "entry"),
    Column("pagemap", "PAGEMAP", "entry"),
    Column("explained", "OK", "flag"),
    Column("reason", "REASON"),
    Column("path", "IN", "path"),
)
CHECK_COLUMNS: tuple[Column[Check], ...] = (
    Column("what", "WHAT"),
    Column("tables", "TABLES", "count"),
    Column("kernel", "KERNEL", "count"),
    Column("source", "BY", value=lambda check: SOURCES[check.what], rank=1),
    Column("explained", "OK", value=lambda check: verdict(check.is_explained)),
    Column("reason", "REASON", value=lambda check: reason_of(check)),
)
PAGE_COLUMNS: tuple[Column[Disagreement], ...] = (
    Column("address", "ADDRESS", "address"),
    Column("entry", "ENTRY", "entry", rank=1),
    Column("pagemap", "PAGEMAP", "entry", rank=2),
    Column("explained", "OK", value=lambda page: verdict(page.is_explained)),
    Column("reason", "REASON", value=lambda page: meaning(page)),
    Column("path", "IN", "path", lambda page: page.area),
)


def verify_view(result: Verification, who: dict[str, Any]) -> Drawn:
    """Return what was compared, and each page that differs with its reason; what has none fails."""
    target = walk_target(who, result.reading)

    def draw(in_bytes: bool, colour: bool, width: int) -> Lines:
        yield from heading(target, ["user"], width)
        checks = Table("tables-verify/2", CHECK_COLUMNS, result.checks)
        yield from checks.lines(in_bytes=in_bytes, colour=colour, width=width)
        if result.pages:
            yield ""
            pages = Table("tables-verify/2", PAGE_COLUMNS, result.pages)
            yield from pages.lines(in_bytes=in_bytes, colour=colour, width=width)

    rows = [*map(check_row, result.checks), *map(page_row, result.pages)]
    differing = ", ".join(result.unexplained)
    failures = [f"page tables and the kernel's own numbers disagree: {differing}"] if differing else []
    return Drawn("tables-verify/2", VERIFY_COLUMNS, rows, target=target, failures=failures, draw=draw)


def check_row(check: Check) -> Aside:
    """Return the row of one thing that was compared."""
    counts = {"tables": check.tables, "kernel": check.kernel}
    return Aside({"what": check.what, **counts, "explained": check.is_explained, "reason": reason_of(check)})


def page_row(page: Disagreement) -> Aside:
    """Return the row of a page that differs."""
    entries = {"address": page.address, "entry": page.entry, "pagemap": page.pagemap}
    return Aside(
        {"what": "page", **entries, "explained": page.is_explained, "reason": meaning(page), "path": page.area}
    )


def reason_of(check: Check) -> str:
    """Return why tables and kernel differ, or could not be compared."""
    if check.reason == "kept-aside":
        is_or_are = "table is" if check.amount == 1 else "tables are"
        return f"{check.amount} {is_or_are} in reserve, to split huge pages with"
    if check.reason not in ("listed", "hidden"):
        return REASONS.get(check.reason, "")
    reasons = ["those that differ are listed"] if check.reason == "listed" else []
    if check.amount:
        reasons.append(f"{check.amount:,} frames and swap slots are hidden, so not compared: needs CAP_SYS_ADMIN")
    return "; ".join(reasons)


def meaning(page: Disagreement) -> str:
    """Return why a page differs."""
    return MEANINGS.get(page.reason, page.reason)


def verdict(is_explained: bool) -> str:
    """Return whether a comparison is as it should be: what is not stands out."""
    return "yes" if is_explained else "NO"
