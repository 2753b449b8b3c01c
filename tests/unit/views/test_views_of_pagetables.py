"""The views of page tables, over constructed ones, compared whole."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from constructed_pagetables import MODE, NX, PATH, START, ConstructedTables, hide_pages, marked_tables, plain_tables
from mematlas.analysis.pagetables.audit import Finding, aliases, audit
from mematlas.analysis.pagetables.compare import Check, Disagreement
from mematlas.analysis.pagetables.entries import EntryFilter, entry_runs, list_entries
from mematlas.analysis.pagetables.regions import Region
from mematlas.analysis.pagetables.results import (
    AuditResult,
    KernelMap,
    MappedRegion,
    Origin,
    RawTable,
    Stream,
    SummaryResult,
    TableTree,
    Verification,
    WalkedAddress,
    WalkedAddresses,
    WalkReading,
)
from mematlas.analysis.pagetables.summary import summarize
from mematlas.analysis.pagetables.tables import tree_of
from mematlas.frozen import replace
from mematlas.model.pagetables.walk import EXECUTABLE, USER, walk, walk_address
from mematlas.views.pagetables.checks import audit_view, verify_view
from mematlas.views.pagetables.entries import list_view, raw_view, runs_view
from mematlas.views.pagetables.heading import heading, walk_target
from mematlas.views.pagetables.summary import summary_view
from mematlas.views.pagetables.tree import tree_view
from mematlas.views.pagetables.walks import walk_view
from mematlas.views.table import Table
from mematlas.views.writers import write

Item = TypeVar("Item")

ORIGIN = Origin("bpf", MODE, "user", 0x1000, 1 << 36)
READING = WalkReading(ORIGIN, 0.00123, False)
WHO = {"pid": 4211, "name": "made up", "start_time": 17}


def stream(items: Iterable[Item]) -> Stream[Item]:
    return Stream(ORIGIN, items, lambda: READING)


def expected(name: str) -> list[str]:
    """Return the lines of a page as it is to look."""
    return (Path(__file__).parent / "expected" / name).read_text().splitlines()


def rows_of(table: Table) -> list[dict[str, Any]]:
    out = io.StringIO()
    write(table, "json", out, {})
    rows: list[dict[str, Any]] = json.loads(out.getvalue())["rows"]
    return rows


@pytest.fixture
def tables() -> ConstructedTables:
    return marked_tables()


def test_summary() -> None:
    tables = plain_tables()
    hide_pages(tables)
    counted = summarize([walk(tables, MODE, 0x1000)])
    view = summary_view(SummaryResult(counted, 8192, None, READING), WHO)

    assert list(view.lines()) == expected("tables-summary.txt")
    *levels, whole = rows_of(view)
    assert [row["level"] for row in levels] == ["pgd", "pud", "pmd", "pte"]
    assert whole["level"] == "all"
    for key in ("nr_tables", "size", "nr_used", "nr_few", "nr_leaves", "mapped", "nr_nx", "nr_accessed"):
        assert whole[key] == sum(row[key] or 0 for row in levels), key


def kernel_result() -> SummaryResult:
    tables = ConstructedTables(MODE)
    tables.map(0xFFFF888040000000, PATH[:2], 0x63, 0x40000000 | 0x1E3 | NX)
    found = walk(tables, MODE, 0x1000, MODE.kernel_start, 1 << 64)
    region = Region("direct map", 0xFFFF888000000000, 0xFFFF888080000000)
    kernel = KernelMap((MappedRegion(region, 1 << 30),), 4096, 1 << 30, 2 << 30, 1 << 30)
    return SummaryResult(summarize([found]), None, kernel, replace(READING, origin=replace(ORIGIN, half="kernel")))


def test_summary_of_the_kernel_half() -> None:
    view = summary_view(kernel_result(), WHO)

    assert list(view.lines()) == expected("tables-kernel.txt")
    rows = rows_of(view)
    assert [row["region"] or row["level"] for row in rows] == [
        *("direct map", "elsewhere", "pgd", "pud", "pmd", "pte", "all")
    ]
    assert rows[0] == {**dict.fromkeys(rows[0]), "region": "direct map", "start": "0xffff888000000000",
                       "end": "0xffff888080000000", "size": 2 << 30, "mapped": 1 << 30}  # fmt: skip


def test_addresses_walked(tables: ConstructedTables) -> None:
    def walked(address: int, *beside: Any) -> WalkedAddress:
        return WalkedAddress(address, walk_address(tables, MODE, 0x1000, address), *beside)

    items = (
        walked(START + 0x10010, 1 << 63 | 1 << 56 | 0x800, "", "[heap]"),
        walked(START + 0x11000, 1 << 63, "hidden", "/a\nb"),
        walked(START + 0x20000, 1 << 62 | 78 << 5, "slot", "anon"),
        walked(START + 0x40000000, None, None, ""),
    )
    view = walk_view(WalkedAddresses(items, READING), WHO)

    assert list(view.lines()) == expected("tables-walk.txt")
    assert [row["agrees"] for row in rows_of(view)] == [*[None] * 3, True, *[None] * 4, *[None] * 3, False, None, None]


def test_entries_listed(tables: ConstructedTables) -> None:
    def view() -> Table:
        return list_view(stream(list_entries([walk(tables, MODE, 0x1000)], EntryFilter())), WHO)

    assert list(view().lines()) == expected("tables-list.txt")
    assert [row["level"] for row in rows_of(view())] == ["pgd", "pud", "pmd", *["pte"] * 12, "pmd"]


def test_runs_of_entries(tables: ConstructedTables) -> None:
    def view() -> Table:
        runs = entry_runs(MODE, list_entries([walk(tables, MODE, 0x1000)], EntryFilter()))
        return runs_view(stream(runs), WHO)

    assert list(view().lines()) == expected("tables-runs.txt")
    assert [(row["nr_entries"], row["contiguous"]) for row in rows_of(view())][:2] == [(3, True), (2, False)]


def test_table_as_it_is(tables: ConstructedTables) -> None:
    def view() -> Table:
        tops = [RawTable(0, 0, 0, 0x1000, tables.by_address[0x1000])]
        return raw_view(stream(tops), WHO)

    lines = list(view().lines())
    rows = rows_of(view())

    head = "pgd table 0 at 0x1000, translates 0x000000000000-0x7fffffffffff and 0xffff800000000000-0xffffffffffffffff"
    assert lines[:2] == [head, f"    0  {0x2067:016x} {0:016x} {0:016x} {0:016x}"]
    assert lines[2:-1] == [f"{at:>5}  {' '.join(['0' * 16] * 4)}" for at in range(4, 512, 4)]
    assert lines[-1:] == heading(walk_target(WHO, READING), ["user"])
    assert [int(row["entry"], 16) for row in rows] == tables.by_address[0x1000].tolist()
    assert {row["state"] for row in rows} == {"table", "empty"}


def test_tree(tables: ConstructedTables) -> None:
    tree = TableTree(tree_of([walk(tables, MODE, 0x1000)]), READING)

    assert list(tree_view(tree, WHO, 4).lines()) == expected("tables-tree.txt")
    assert [row["level"] for row in rows_of(tree_view(tree, WHO, 1))] == ["pgd", "pud"]


def test_audit() -> None:
    tables = plain_tables()
    for page in range(7):
        tables.map(START + 0x30000 + page * 4096, PATH, 0x67, 0xA00000 + page * 4096 | 0x67)
    tables.map(START + 0x50000, PATH, 0x67, 0x801000 | 0x25 | NX)
    tables.map(START + 0x51000, PATH, 0x67, 0x701000 | 0x27 | NX)
    found = walk(tables, MODE, 0x1000)
    findings = [replace(each, area="[heap]") for each in audit(found, [(START, START + 0xFFF)])]
    findings += [replace(each, area="/lib/a.so") for each in aliases(found)]
    findings.append(Finding("alias", START, 4096, USER, 0x700000, START + 0x60000, USER | EXECUTABLE, "anon"))
    result = AuditResult(findings, ("user", "kernel"), READING)

    assert list(audit_view(result, WHO).lines()) == expected("tables-audit.txt")
    assert audit_view(result, WHO).failures == []
    assert audit_view(result, WHO, must_pass=True).failures == [f"the audit has {result.nr_bad} findings"]
    assert list(audit_view(AuditResult([], ("user",), READING), WHO, must_pass=True).lines())[1:] == ["no findings"]


def test_verification() -> None:
    pages = (
        Disagreement(0x7FFF00000000, 1 << 63 | 0x225, 0, "special", "[vvar]"),
        Disagreement(START, 0x700025, 1 << 63 | 0x999, "frame", "anon"),
    )
    checks = (
        Check("pages", 1021, 1019, "listed", 3, is_explained=False),
        Check("table bytes", 40960, 45056, "kept-aside", 1),
        Check("thp", 4 << 20, 4 << 20),
        Check("hugetlb", 0, 2 << 20, "unexplained", is_explained=False),
    )
    view = verify_view(Verification(checks, pages, READING), WHO)

    assert list(view.lines()) == expected("tables-verify.txt")
    assert view.failures == ["page tables and the kernel's own numbers disagree: pages, hugetlb"]
    assert [row["what"] for row in rows_of(view)] == ["pages", "table bytes", "thp", "hugetlb", "page", "page"]


def test_what_was_torn_is_said_above_and_folded_to_the_screen(tables: ConstructedTables) -> None:
    tree = TableTree(tree_of([walk(tables, MODE, 0x1000)]), replace(READING, torn=True))
    lines = list(tree_view(tree, WHO, 0).lines(width=60))

    assert lines[:3] == [
        "made up, PID 4211: x86-64, 4 levels, user half, top table",
        "  at 0x1000, read with bpf in 1 ms, torn: what kept changing",
        "  is left out",
    ]


class Watch:
    """Notes what is opened while it watches. Python lets go of no audit hook, so it is one for good."""

    def __init__(self) -> None:
        self.is_on = False
        self.opened: list[object] = []
        sys.addaudithook(self.note)

    def note(self, event: str, args: tuple[object, ...]) -> None:
        if self.is_on and event in ("open", "os.scandir", "os.listdir", "subprocess.Popen"):
            self.opened.append(args)


@pytest.fixture(scope="module")
def watch() -> Watch:
    return Watch()


LONG = "/usr/lib/x86_64-linux-gnu/" + "libwhatever/" * 12 + "libwhatever.so.6"


def every_view(tables: ConstructedTables) -> dict[str, Table]:
    """Return one of each view, with names that are long."""
    found = walk(tables, MODE, 0x1000)
    address = START + 0x10010
    walked = WalkedAddress(address, walk_address(tables, MODE, 0x1000, address), 1 << 63 | 0x800, "", LONG)
    alias = Finding("alias", START, 4096, USER, 0x700000, START + 0x60000, USER | EXECUTABLE, LONG)
    page = Disagreement(START, 0x700025, 1 << 63 | 0x999, "frame", LONG)
    entries = list_entries([found], EntryFilter())
    return {
        "summary": summary_view(SummaryResult(summarize([found]), 8192, None, READING), WHO),
        "kernel": summary_view(kernel_result(), WHO),
        "walk": walk_view(WalkedAddresses((walked,), READING), WHO),
        "list": list_view(stream(entries), WHO),
        "runs": runs_view(stream(entry_runs(MODE, list_entries([found], EntryFilter()))), WHO),
        "raw": raw_view(stream([RawTable(0, 0, 0, 0x1000, tables.by_address[0x1000])]), WHO),
        "tree": tree_view(TableTree(tree_of([found]), READING), WHO, 4),
        "audit": audit_view(AuditResult([alias], ("user",), READING), WHO),
        "verify": verify_view(Verification((Check("pages", 9, 8, "listed", 3),), (page,), READING), WHO),
    }


VIEWS = ("summary", "kernel", "walk", "list", "runs", "raw", "tree", "audit", "verify")


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
@pytest.mark.parametrize("name", VIEWS)
def test_no_line_is_wider_than_the_screen(name: str, width: int, tables: ConstructedTables) -> None:
    lines = list(every_view(tables)[name].lines(width=width))

    assert len(lines) > 3
    assert [line for line in lines if len(line) > width] == []


def test_nothing_is_opened_while_page_tables_are_drawn(tables: ConstructedTables, watch: Watch) -> None:
    def draw() -> None:
        for view in every_view(tables).values():
            list(view.lines(width=100))
        for view in every_view(tables).values():
            rows_of(view)

    draw()  # modules that are imported late are there from now on
    watch.is_on = True
    try:
        draw()
        assert watch.opened == []
        Path(__file__).read_text()
        assert [args[0] for args in watch.opened if isinstance(args, tuple)] == [__file__]
    finally:
        watch.is_on = False


def test_results_turn_into_json(tables: ConstructedTables) -> None:
    found = walk(tables, MODE, 0x1000)
    summary = SummaryResult(summarize([found]), 8192, None, READING).to_dict()
    tree = TableTree(tree_of([found]), READING).to_dict()

    assert json.loads(json.dumps(summary)) == summary
    assert (summary["reserve"], summary["counted"]["nr_others"]["swap"]) == (8192, 4)
    assert [node["level"] for node in json.loads(json.dumps(tree))["nodes"]] == [0, 1, 2, 3]
