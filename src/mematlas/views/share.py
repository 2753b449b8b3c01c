"""Who shares how much with whom, as tables: a matrix of few processes, the largest pairs of many, and VMAs of two."""

from __future__ import annotations

from mematlas.frozen import as_dict
from mematlas.notes import Note, Notes
from mematlas.views.format import first_of, number_of
from mematlas.views.table import Column, Drawn, Table
from mematlas.views.usage import sharing_notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from mematlas.analysis.sharing import SharedPair, SharedSet, SharedVma, Sharer, ShareResult, Through

NAMELESS = {
    "cow": "copy-on-write",
    "ksm": "equal pages (KSM)",
    "shmem": "shared memory",
    "hugetlb": "huge pages",
    "other": "the kernel's",
}
"""What stands for memory that has no path."""


def text_of(through: Through) -> str:
    """Return what memory is shared through, for people."""
    return through.path or NAMELESS.get(through.kind, through.kind)


def kind_column(index: int, heading: str, rank: int, shown: bool = True) -> Column[SharedPair]:
    """Return the column of one kind of what a pair shares."""
    return Column(heading.lower(), heading, "size", lambda pair: pair.kinds[index], rank=rank, shown=shown)


def pair_columns(result: ShareResult) -> tuple[Column[SharedPair], ...]:
    """Return the columns of pairs; those of a kind that nobody shares are for programs."""
    has = [any(pair.kinds[index] for pair in result.pairs) for index in range(6)]
    have_pids = any(sharer.pid is not None for sharer in result.sharers)
    return (
        Column("pid", "PID", "count", lambda pair: pair.one.pid, shown=have_pids),
        Column("name", "NAME", value=lambda pair: pair.one.name),
        Column("other_pid", "AND PID", "count", lambda pair: pair.other.pid, shown=have_pids),
        Column("other_name", "NAME", value=lambda pair: pair.other.name),
        Column("size", "SHARED", "size"),
        Column("hugetlb", "HUGETLB", "size", rank=1, shown=has[5]),
        kind_column(0, "FILE", 6, has[0]),
        kind_column(1, "SHMEM", 5, has[1]),
        kind_column(2, "COW", 4, has[2]),
        kind_column(3, "KSM", 4, has[3]),
        kind_column(4, "OTHER", 7, shown=False),
        Column("through_kind", "KIND", value=lambda pair: pair.through.kind, shown=False),
        Column("through_size", "OF IT", "size", lambda pair: pair.most, rank=3),
        Column("through", "MOST OF IT THROUGH", "path", lambda pair: text_of(pair.through), rank=2),
    )


def set_columns(result: ShareResult) -> tuple[Column[SharedSet], ...]:
    """Return the columns of sets."""
    nr_sharers = len(result.sharers)

    def who(each: SharedSet) -> str:
        if len(each.sharers) == nr_sharers > 2:
            return f"all {nr_sharers:,}"
        return first_of([sharer.name if sharer.pid is None else sharer.pid for sharer in each.sharers])

    return (
        Column("size", "SHARED", "size"),
        Column("others", "BY OTHERS TOO", "size", rank=3, shown=any(each.others for each in result.sets)),
        Column("kind", "KIND", value=lambda each: each.through.kind, rank=2),
        Column("nr_sharers", "BY", "count", lambda each: len(each.sharers), shown=nr_sharers > FEW),
        Column("who", "WHO", value=who),
        Column("pids", "PIDS", "list", pids_of, shown=False),
        Column("names", "NAMES", "list", names_of, shown=False),
        Column("through", "THROUGH", "path", lambda each: text_of(each.through)),
    )


def pids_of(each: SharedSet) -> tuple[int, ...]:
    """Return the PIDs of all that share a set."""
    return tuple(pid for sharer in each.sharers for pid in sharer.pids)


def names_of(each: SharedSet) -> tuple[str, ...]:
    """Return the names of those that share a set, each once."""
    return tuple(dict.fromkeys(sharer.name for sharer in each.sharers))


def vma_columns(result: ShareResult) -> tuple[Column[SharedVma], ...]:
    """Return the columns of VMAs of two processes; the second path is for text only where it is another one."""
    one, other = (f"IN {sharer.pid}" for sharer in result.sharers)
    differ = any(row.other_path != row.through.path for row in result.vmas or ())
    return (
        Column("size", "SHARED", "size", total=sum),
        Column("kind", "KIND", value=lambda row: row.through.kind),
        Column("start", one, "address", lambda row: span_of(row)[0]),
        Column("end", "END", "address", lambda row: span_of(row)[1], shown=False),
        Column("other_start", other, "address", lambda row: row.other_span[0]),
        Column("other_end", "END", "address", lambda row: row.other_span[1], shown=False),
        Column("other_path", "PATH THERE", "path", rank=2, shown=differ),
        Column("path", "PATH", "path", lambda row: row.through.path, lambda rows: number_of(len(rows), "row")),
    )


def span_of(row: SharedVma) -> tuple[int, int]:
    """Return where the VMA of the first process is."""
    return row.through.span or (0, 0)


# The tables


def share_view(result: ShareResult, limit: int) -> Table:
    """Return who shares with whom; as JSON, its rows are pairs, and its target has everyone that was looked at.

    Text of two processes has the VMAs that show the same, of few a matrix and what most is shared through, of many the
    pairs that share the most.
    """
    if result.vmas is not None:
        below = Table("share-vmas/1", vma_columns(result), result.vmas, target=target_of(result), limit=limit)
    else:
        below = sets_table(result, limit)
    pairs = pairs_table(result)
    matrix = Table("share/1", matrix_columns(result), result.sharers) if is_small(result) else None

    def draw(in_bytes: bool, colour: bool, width: int) -> Iterator[str]:
        if matrix is None or (width and width_of_matrix(matrix) > width):
            yield from pairs.lines(in_bytes=in_bytes, colour=colour, width=width)
            return
        yield from matrix.lines(in_bytes=in_bytes, colour=colour, width=width)
        if below.items:
            yield ""
            yield from below.lines(in_bytes=in_bytes, colour=colour, width=width)

    rows = pairs if result.vmas is None else below
    return Drawn(
        rows.schema.removeprefix("mematlas."),
        rows.columns,
        rows.items,
        target=target_of(result),
        draw=draw,
        notes=[*notes_of(result), *rows.notes],
    )


FEW = 8
"""As many as `Machine.share` returns all pairs of."""


def is_small(result: ShareResult) -> bool:
    """Whether all pairs are known of few: a matrix has them."""
    return len(result.sharers) <= FEW and result.nr_pairs == len(result.pairs)


def width_of_matrix(matrix: Table) -> int:
    """Return how many columns a matrix takes without what may be left out."""
    columns = [column for column in matrix.columns if not column.rank]
    return max(map(len, Table("share/1", columns, matrix.items).lines()))


def matrix_columns(result: ShareResult) -> Iterator[Column[Sharer]]:
    """Yield the columns of a row for each process, or group, with what it shares with each."""
    sizes = {(pair.one, pair.other): pair.size for pair in result.pairs}

    def shared_with(other: Sharer) -> Column[Sharer]:
        def size(one: Sharer) -> int | None:
            return None if one is other else sizes.get((one, other), sizes.get((other, one), 0))

        return Column(f"with_{other.name}", str(other.name if other.pid is None else other.pid), "size", size)

    are_groups = any(sharer.pid is None for sharer in result.sharers)
    if are_groups:
        yield Column("name", "GROUP", value=lambda one: one.name if one.pid is None else f"{one.pid} {one.name}")
    else:
        yield Column("pid", "PID", "count", width=7)
    if len(result.sharers) > 1:
        yield from map(shared_with, result.sharers)
    has_pools = any(sharer.hugetlb for sharer in result.sharers)
    yield Column("others", "OTHERS", "size")
    yield Column("alone", "ALONE", "size", rank=3)
    yield Column("pss", "PSS", "size", rank=4)
    yield Column("hugetlb_shared", "HUGETLB", "size", rank=1, shown=has_pools)
    if not are_groups:
        yield Column("name", "NAME", rank=2)


def pairs_table(result: ShareResult) -> Table:
    """Return a row for each pair."""
    notes = left_out(len(result.pairs), result.nr_pairs, "pairs")
    return Table("share/1", pair_columns(result), result.pairs, notes=notes)


def sets_view(result: ShareResult, limit: int) -> Table:
    """Return a row for each set of processes, the largest first: what the same ones share through the same."""
    table = sets_table(result, limit)
    table.notes += notes_of(result)
    return table


def sets_table(result: ShareResult, limit: int) -> Table:
    """Return the same without what there is to say about the reading."""
    sets = result.sets[:limit]
    notes = left_out(len(sets), result.nr_sets, "sets")
    return Table("share-sets/1", set_columns(result), sets, target=target_of(result), notes=notes)


def left_out(nr_shown: int, nr_all: int, what: str) -> list[Note]:
    """Return the note that some rows are left out, if any are."""
    if nr_shown == nr_all:
        return []
    return [Note("rows-left-out", f"{nr_all - nr_shown:,} of {nr_all:,} {what} are left out (--limit)")]


def notes_of(result: ShareResult) -> Notes:
    """Return what there is to say about what was looked at."""
    return Notes((*sharing_notes(result.sharing), *result.reading.notes))


def target_of(result: ShareResult) -> dict[str, Any]:
    """Return what JSON has of everyone that was looked at."""
    reading = result.reading
    return {
        "nr_processes": sum(len(sharer.pids) for sharer in result.sharers),
        "source": reading.source,
        "duration_s": round(reading.duration_s, 6),
        "torn": reading.torn,
        "nr_pairs": result.nr_pairs,
        "nr_sets": result.nr_sets,
        "refused": list(result.refused),
        "sharers": [as_dict(sharer) | {"pids": list(sharer.pids)} for sharer in result.sharers],
    }
