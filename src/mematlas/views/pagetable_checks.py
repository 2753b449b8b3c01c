"""What checks of page tables find, as text and as rows: what is dangerous, what differs from the kernel's own files."""

from __future__ import annotations

from mematlas.analysis.pagetables.compare import EXPLAINED
from mematlas.model.pagetables.walk import EXECUTABLE, USER, WRITABLE
from mematlas.views.format import number_of
from mematlas.views.pagetables import MEANINGS, heading
from mematlas.views.table import Column, Drawn, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mematlas.analysis.pagetables.audit import Finding
    from mematlas.analysis.pagetables.compare import Verification
    from mematlas.views.pagetables import Lines

AUDIT_COLUMNS = (
    Column("kind", "KIND"),
    Column("start", "START", "address"),
    Column("size", "SIZE", "size"),
    Column("rights", "RIGHTS"),
    Column("phys", "PHYSICAL", "address"),
    Column("other", "ALSO AT", "address"),
    Column("other_rights", "THERE"),
    Column("where", "IN"),
    Column("harmless", "HARMLESS", "flag"),
)
FINDINGS = {
    "writable-executable": "writable and executable",
    "user-in-kernel": "kernel page open to user space",
    "executable-data": "executable heap or stack",
    "writable-alias": "writable here, executable there",
    "alias": "other rights at another address",
}
VERIFY_COLUMNS = (
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
SOURCES = {"pages": "pagemap", "table bytes": "VmPTE", "thp": "smaps", "hugetlb": "smaps"}


def format_rights(rights: int | None) -> str | None:
    """Return rights as letters: write, execute, user.

    >>> format_rights(WRITABLE | USER)
    'w-u'
    """
    if rights is None:
        return None
    return "".join(letter if rights & bit else "-" for letter, bit in (("w", WRITABLE), ("x", EXECUTABLE), ("u", USER)))


def audit_view(
    findings: list[Finding],
    where: Callable[[int], str],
    target: dict[str, Any],
    halves: str,
    must_pass: bool = False,
) -> Drawn:
    """Return what is dangerous, and what is only odd; in text, all of a kind under one line.

    With ``must_pass`` what is dangerous fails.
    """
    rows = [
        (
            finding.kind,
            finding.start,
            finding.size,
            format_rights(finding.rights),
            finding.phys,
            finding.other,
            format_rights(finding.other_rights),
            where(finding.start),
            finding.is_harmless,
        )
        for finding in findings
    ]
    nr_bad = sum(not finding.is_harmless for finding in findings)
    shown = (*AUDIT_COLUMNS[1:4], *AUDIT_COLUMNS[5:7], AUDIT_COLUMNS[7])

    def draw(in_bytes: bool, colour: bool, before: set[str] | None, width: int) -> Lines:
        yield heading(target, halves, width)
        for harmless in (False, True):
            for kind, words in FINDINGS.items():
                some = [row for row in rows if (row[0], row[8]) == (kind, harmless)]
                if some:
                    yield ""
                    yield f"{words}{' (harmless)' if harmless else ''}: {len(some)}"
                    columns = shown if some[0][5] is not None else (*shown[:3], shown[5])
                    places = [AUDIT_COLUMNS.index(column) for column in columns]
                    cells = [tuple(row[place] for place in places) for row in some]
                    yield from Table("tables-audit/1", columns, cells).lines(
                        in_bytes=in_bytes, colour=colour, width=width
                    )
        if rows:
            yield ""
        harmless_too = f", {len(rows) - nr_bad} more that are harmless" if len(rows) > nr_bad else ""
        yield f"{nr_bad or 'no'} finding{'' if nr_bad == 1 else 's'}{harmless_too}"

    failures = [f"the audit has {number_of(nr_bad, 'finding')}"] if nr_bad and must_pass else []
    return Drawn("tables-audit/1", AUDIT_COLUMNS, rows, target=target, failures=failures, draw=draw)


def verify_view(result: Verification, target: dict[str, Any]) -> Drawn:
    """Return what was compared, and each page that differs with its reason."""
    rows: list[tuple[Any, ...]] = [
        (check.what, None, check.tables, check.kernel, None, None, check.explained, check.reason, None)
        for check in result.checks
    ]
    for each, path in result.pages:
        reason = MEANINGS.get(each.reason, each.reason)
        explained = each.reason in EXPLAINED
        rows.append(("page", each.address, None, None, each.entry, each.pagemap, explained, reason, path))

    def draw(in_bytes: bool, colour: bool, before: set[str] | None, width: int) -> Lines:
        yield heading(target, "user", width)
        columns = (
            Column("what", "WHAT"),
            Column("tables", "TABLES", "count"),
            Column("kernel", "KERNEL", "count"),
            Column("source", "BY"),
            Column("explained", "OK"),
            Column("reason", "REASON"),
        )
        checks = [(row[0], row[2], row[3], SOURCES[row[0]], verdict(row[6]), row[7]) for row in rows if row[1] is None]
        yield from Table("tables-verify/2", columns, checks).lines(in_bytes=in_bytes, colour=colour, width=width)
        pages = [
            (row[1], row[4], row[5], verdict(row[6]), f"{row[8]}: {row[7]}" if row[8] else row[7])
            for row in rows
            if row[1] is not None
        ]
        if pages:
            yield ""
            shown = (*(VERIFY_COLUMNS[place] for place in (1, 4, 5)), *columns[4:])
            yield from Table("tables-verify/2", shown, pages).lines(in_bytes=in_bytes, colour=colour, width=width)

    differing = ", ".join(result.unexplained)
    failures = [f"page tables and the kernel's own numbers disagree: {differing}"] if differing else []
    return Drawn("tables-verify/2", VERIFY_COLUMNS, rows, target=target, failures=failures, draw=draw)


def verdict(is_explained: bool) -> str:
    """Return whether a comparison is as it should be: what is not stands out."""
    return "yes" if is_explained else "NO"
