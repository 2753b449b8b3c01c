"""The memory of a process as a few lines with their meaning, and two sources side by side."""

from __future__ import annotations

from mematlas.analysis.results import TORN
from mematlas.frozen import as_dict
from mematlas.notes import Note, Notes
from mematlas.views.format import first_of, format_path, format_seconds, format_size, number_of
from mematlas.views.table import Column, Drawn, Table, node_columns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from mematlas.analysis.results import UsageResult
    from mematlas.analysis.verify import Comparison
    from mematlas.model.folio_sizes import FolioSizes

LINES = (
    ("rss", "RSS", "resident: in RAM and mapped here"),
    ("anon", "  anon", "its own, of no file"),
    ("file", "  file", "parts of files, devices and the kernel"),
    ("shmem", "  shmem", "shared memory, memfd, tmpfs"),
    ("pss", "PSS", "each page divided by its number of mappings"),
    ("uss", "USS", "mapped here alone"),
    ("swap", "swap", "paged out"),
    ("hugetlb", "hugetlb", "huge pages of the pools, no part of RSS"),
    ("thp", "THP", "the part of RSS that huge entries map, a transparent huge page each"),
    ("zero", "zero", "addresses that show the zero page, no part of RSS"),
    ("tables", "tables", "page tables of this process"),
)
MORE = (
    ("lazyfree", "lazyfree", "the part of anon that it has given up (MADV_FREE) and the kernel has not taken"),
    ("swap_pss", "swap PSS", "each page in swap divided by its number of mappings"),
    ("ksm", "KSM", "the part of RSS that is merged with equal pages"),
    ("locked", "locked", "what mlock holds in RAM, in addresses"),
    ("pinned", "pinned", "what drivers or io_uring hold in place: it cannot move"),
    ("peak_rss", "peak", "the most that RSS has been"),
)
"""Lines of amounts that most processes have nothing of: text leaves those of nothing, and of what is unknown, out."""

DISTINCT = ("distinct", "distinct", "resident, each frame counted once")
"""The line of what is only counted when asked for."""

COLUMNS = (
    Column("pid", "PID", "count"),
    Column("name", "NAME"),
    *(Column(key, title.strip(), "size") for key, title, _ in LINES),
    *(Column(key, title, "size", shown=False) for key, title, _ in MORE),
    Column("size", "SIZE", "size", shown=False),
    Column("peak_size", "PEAK SIZE", "size", shown=False),
    Column("nr_vmas", "VMAS", "count", shown=False),
    Column("source", "SOURCE"),
)
FOLIO_COLUMNS = (Column("folios", "FOLIOS", "sizes"), Column("held", "HELD", "size"))
SMAPS_ALONE = "{keys} unknown with this source: smaps alone tells (--source smaps)"
KSM_UNKNOWN = Note(
    "ksm-unknown",
    "ksm unknown: needs Linux 5.19 with CONFIG_KSM, and of another user's process CAP_DAC_READ_SEARCH",
)

LINE_COLUMNS = (Column("measure", "MEASURE"), Column("size", "SIZE", "size"), Column("meaning", "MEANING"))


def usage_table(results: list[tuple[dict[str, Any], UsageResult]], notes: Notes, has_distinct: bool = False) -> Table:
    """Return the usage of one process as lines, of several as a row each."""
    has_nodes = any(result.nodes is not None for _, result in results)
    added = node_columns(result.nodes or {} for _, result in results) if has_nodes else {}
    folios = FOLIO_COLUMNS if any(result.folios for _, result in results) else ()
    asked = [Column("distinct", "DISTINCT", "size")] if has_distinct else []
    columns = (*COLUMNS[:-1], *asked, *added.values(), *folios, COLUMNS[-1])
    rows = []
    fine_print = Notes()
    for target, result in results:
        amounts = amounts_of(result) | target | {"source": result.reading.source}
        nodes = result.nodes
        amounts |= {column.key: None if nodes is None else nodes.get(node, 0) for node, column in added.items()}
        rows.append(tuple(amounts[column.key] for column in columns))
        notes += result.reading.notes
        if result.reading.torn:
            notes.add(TORN)
        if unknown := [key for key in ("lazyfree", "swap_pss") if amounts[key] is None]:
            fine_print.add(Note("smaps-alone-tells", SMAPS_ALONE.format(keys=" and ".join(unknown))))
        if amounts["ksm"] is None:
            fine_print.add(KSM_UNKNOWN)
    if len(results) != 1:
        return Table("usage/1", columns, rows, notes=notes, fine_print=fine_print)
    target, result = results[0]

    def draw(in_bytes: bool, colour: bool, before: set[str] | None, width: int) -> Iterator[str]:
        took = format_seconds(result.reading.duration_s)
        source = result.reading.source + (f" ({result.reading.reader})" if result.reading.reader else "")
        vmas = number_of(result.counters.nr_vmas, "VMA") + ", " if result.counters else ""
        yield f"{format_path(target['name'])}, PID {target['pid']}, {vmas}from {source} in {took}"
        amounts = dict(zip((column.key for column in columns), rows[0], strict=True))
        lines = [(title, amounts[key], text) for key, title, text in (*LINES, *([DISTINCT] if has_distinct else ()))]
        lines += [(title, amounts[key], text) for key, title, text in MORE if amounts[key]]
        lines += [node_line(node, amounts[column.key]) for node, column in added.items() if column.shown]
        lines += folio_lines(result.folios) if result.folios else []
        yield from Table("usage/1", LINE_COLUMNS, lines).lines(
            in_bytes=in_bytes, colour=colour, before=before, width=width
        )

    return Drawn("usage/1", columns, rows, target=target, notes=notes, fine_print=fine_print, draw=draw)


def amounts_of(result: UsageResult) -> dict[str, Any]:
    """Return all amounts of a result by their keys."""
    amounts = dict.fromkeys(column.key for column in COLUMNS) | as_dict(result.usage)
    amounts |= {"tables": result.tables, "distinct": result.distinct}
    if result.counters:
        amounts |= as_dict(result.counters)
    if result.folios:
        amounts |= {"folios": result.folios.by_size, "held": result.folios.held}
    return amounts


def folio_lines(folios: FolioSizes) -> Iterator[tuple[str, int, str]]:
    """Yield a line for each size of folios."""
    for size, amount in folios.by_size.items():
        yield format_size(size), amount, "of RSS, in folios of this size"
    yield "held", folios.held, "by large folios of its own, and mapped by nobody: given back in part"


def sharing_notes(earlier: dict[int, int]) -> list[Note]:
    """Return what there is to say of processes that run in the address space of another one, which is told for each.

    >>> print(*sharing_notes({8: 7}))
    PID 8 runs in the address space of 7 (CLONE_VM, vfork): that memory exists once, and goes with the last of them
    >>> sharing_notes({}), sharing_notes({pid: 7 for pid in range(8, 20)})[0].text[:60]
    ([], 'PID 8, 9, 10 and 9 more run in the address space of 7 (CLONE')
    """
    if not earlier:
        return []
    firsts = list(dict.fromkeys(earlier.values()))
    whose = (
        f"the address space of {firsts[0]}" if len(firsts) == 1 else f"address spaces of others, such as {firsts[0]}"
    )
    who = f"PID {first_of(list(earlier))} {'runs' if len(earlier) == 1 else 'run'}"
    text = f"{who} in {whose} (CLONE_VM, vfork): that memory exists once, and goes with the last of them"
    return [Note("shared-address-space", text)]


def node_line(node: int | None, size: int) -> tuple[str, int, str]:
    """Return the line of a NUMA node."""
    if node is None:
        return "node ?", size, "on a NUMA node that cannot be told"
    return f"node {node}", size, f"in the RAM of NUMA node {node}: of RSS and hugetlb"


VERIFY_COLUMNS = (
    Column("measure", "MEASURE"),
    Column("smaps", "SMAPS", "size"),
    Column("pagemap", "PAGEMAP", "size"),
    Column("tables", "TABLES", "size"),
    Column("difference", "DIFFERENCE", "size"),
    Column("explained", "OK", "flag"),
    Column("reason", "REASON"),
)


def verify_table(comparisons: list[Comparison], target: dict[str, Any], notes: Notes) -> Table:
    """Return the sources side by side."""
    rows = [
        (row.measure, row.first, row.second, row.third, row.difference, row.explained, row.reason)
        for row in comparisons
    ]
    return Table("verify/1", VERIFY_COLUMNS, rows, target=target, notes=notes)
