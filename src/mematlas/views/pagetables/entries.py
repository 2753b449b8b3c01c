"""Page-table entries one by one, in runs, and as whole tables, made while they are read."""

from __future__ import annotations

from mematlas.analysis.pagetables.decoded import EntryDecoder
from mematlas.analysis.pagetables.entries import LETTERS
from mematlas.kernel.memory.x86 import U64
from mematlas.views.columns import Column
from mematlas.views.format import format_address
from mematlas.views.pagetables.heading import folded, heading, walk_target
from mematlas.views.table import Drawn, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from mematlas.analysis.pagetables.decoded import DecodedEntries, DecodedRun
    from mematlas.analysis.pagetables.entries import EntryBatch, EntryRun
    from mematlas.analysis.pagetables.results import Origin, RawTable, Stream
    from mematlas.views.columns import AnItem
    from mematlas.views.pagetables.heading import Lines

    Brief = Callable[[str, tuple[str, ...], bool], str]

ENTRY_COLUMNS: tuple[Column[DecodedEntries], ...] = (
    Column("level", "LEVEL", value=lambda batch: batch.levels),
    Column("index", "INDEX", "count", lambda batch: batch.indices),
    Column("address", "ADDRESS", "address", lambda batch: batch.addresses),
    Column("entry", "ENTRY", "entry", lambda batch: batch.entries),
    Column("phys", "PHYSICAL", "address", lambda batch: batch.phys),
    Column("leaf", "LEAF", "flag", lambda batch: batch.leaves),
    Column("state", "STATE", value=lambda batch: batch.states),
    Column("swap_type", "SWAP", "count", lambda batch: batch.swap_types),
    Column("swap_offset", "SLOT", "hex", lambda batch: batch.swap_offsets),
    Column("flags", "FLAGS", "list", lambda batch: batch.flags),
)
"""Of entries that were decoded together: each gets the values of all."""
OF_SLOTS = ("swap_type", "swap_offset")
RAW_COLUMNS = tuple(column for column in ENTRY_COLUMNS if column.key not in OF_SLOTS)
RUN_COLUMNS: tuple[Column[DecodedRun], ...] = (
    Column("level", "LEVEL"),
    Column("start", "START", "address", lambda item: item.run.start),
    Column("end", "END", "address", lambda item: item.run.start + item.run.size),
    Column("size", "SIZE", "size", lambda item: item.run.size),
    Column("nr_entries", "ENTRIES", "count", lambda item: item.run.nr_entries),
    Column("state", "STATE"),
    Column("entry", "FIRST ENTRY", "entry", lambda item: item.run.entry),
    Column("phys", "FIRST AT", "address", lambda item: item.run.phys),
    Column("contiguous", "CONTIGUOUS", "flag", lambda item: item.follows_on),
    Column("nr_accessed", "ACCESSED", "count", lambda item: item.run.nr_accessed),
    Column("nr_dirty", "DIRTY", "count", lambda item: item.run.nr_dirty),
    Column("flags", "FLAGS", "list"),
)
FOLLOWED = ("table", "present", "prot-none")
"""States of entries that have flags."""
LETTERED = frozenset(("present", "nx", *LETTERS.values()))
"""The flags that letters stand for."""


def list_view(stream: Stream[EntryBatch], who: dict[str, Any]) -> Drawn:
    """Return entries, in text indented by level."""
    decoded = EntryDecoder(stream.origin.mode).decode_all(stream)
    return streamed(ENTRY_COLUMNS, list_columns(stream.origin), decoded, Column.get, stream, who)


def runs_view(stream: Stream[EntryRun], who: dict[str, Any]) -> Drawn:
    """Return runs of like entries."""
    decoded = map(EntryDecoder(stream.origin.mode).decode_run, stream)
    return streamed(RUN_COLUMNS, run_columns(stream.origin), decoded, alone, stream, who)


def alone(column: Column[AnItem], item: AnItem) -> Sequence[Any]:
    """Return the value of a column of a row that comes alone."""
    return [column.get(item)]


def streamed(
    columns: Iterable[Column[AnItem]],
    text_columns: Iterable[Column[AnItem]],
    items: Iterable[AnItem],
    get: Callable[[Column[AnItem], AnItem], Sequence[Any]],
    stream: Stream[Any],
    who: dict[str, Any],
) -> Drawn:
    """Return rows that are still being read; text has columns of its own, and how the reading went at the end."""
    columns, text_columns = tuple(columns), tuple(text_columns)

    def target() -> dict[str, Any]:
        return walk_target(who, stream.reading)

    def draw(in_bytes: bool, colour: bool, width: int) -> Lines:
        batches = ([get(column, item) for column in text_columns] for item in items)
        table = Table("tables/1", text_columns, batches=batches)
        yield from table.lines(in_bytes=in_bytes, colour=colour, width=width)
        yield from heading(target(), [stream.origin.half], width)

    batches = ([get(column, item) for column in columns] for item in items)
    return Drawn("tables/1", columns, batches=batches, target=target, draw=draw)


def list_columns(origin: Origin) -> tuple[Column[DecodedEntries], ...]:
    """Return the columns of text."""
    brief = brief_maker()

    def last_cells(batch: DecodedEntries) -> list[str]:
        columns = (batch.states, batch.swap_types, batch.swap_offsets, batch.flags, batch.executable)
        return [
            brief(state, flags, executable) if kind is None else f"swap {kind} slot {slot:#x}"
            for state, kind, slot, flags, executable in zip(*columns, strict=True)
        ]

    names = [f"{'  ' * depth}{level.name}" for depth, level in enumerate(origin.mode.levels)]

    def indented(batch: DecodedEntries) -> list[str]:
        return [names[depth] for depth in batch.depths]

    return (
        Column("level", "LEVEL", value=indented, width=len(names[-1])),
        Column("index", "INDEX", "count", lambda batch: batch.indices, rank=3),
        Column("address", "ADDRESS", "address", lambda batch: batch.addresses, width=address_width(origin)),
        Column("entry", "ENTRY", "entry", lambda batch: batch.entries, width=18, rank=2),
        Column("phys", "LEADS TO", "hex", lambda batch: batch.phys, width=phys_width(origin), rank=1),
        Column("flags", "FLAGS", value=last_cells),
    )


def run_columns(origin: Origin) -> tuple[Column[DecodedRun], ...]:
    """Return the columns of text."""
    brief = brief_maker("wxug")
    return (
        Column("level", "LEVEL", width=5),
        Column("start", "START", "address", lambda item: item.run.start, width=address_width(origin)),
        Column("size", "SIZE", "size", lambda item: item.run.size, width=8),
        Column("phys", "FIRST AT", value=first_target, width=phys_width(origin) + 2, rank=1),
        Column("nr_accessed", "ACCESSED", value=lambda item: part_of(item, item.run.nr_accessed), width=9, rank=3),
        Column("nr_dirty", "DIRTY", value=lambda item: part_of(item, item.run.nr_dirty), width=9, rank=2),
        Column("flags", "FLAGS", value=lambda item: brief(item.state, item.flags, item.executable)),
    )


def first_target(item: DecodedRun) -> str | None:
    """Return where the first entry leads; with a mark when the others do not follow it."""
    run = item.run
    if run.phys is None:
        return None
    mark = "" if run.contiguous or run.nr_entries == 1 else " ~"
    return f"{run.phys:#x}{mark}"


def part_of(item: DecodedRun, nr: int) -> str | None:
    """Return how many entries of a run that maps memory have something."""
    return of_all(nr, item.run.nr_entries) if item.is_present else None


def of_all(nr: int, nr_all: int) -> str:
    """Return how many of all have something.

    >>> of_all(0, 5), of_all(3, 5), of_all(5, 5)
    ('none', '3/5', 'all')
    """
    if nr == 0:
        return "none"
    return "all" if nr == nr_all else f"{nr}/{nr_all}"


def brief_maker(letters: str = "wxuadg") -> Brief:
    """Return what writes flags as --flags takes them, each combination once.

    >>> brief_maker()("present", ("present", "writable", "user", "nx", "pat"), False)
    'w-u--- pat'
    """
    known: dict[tuple[str, tuple[str, ...], bool], str] = {}

    def brief(state: str, flags: tuple[str, ...], executable: bool) -> str:
        key = state, flags, executable
        if key not in known:
            known[key] = brief_flags(state, flags, executable, letters)
        return known[key]

    return brief


def brief_flags(state: str, flags: tuple[str, ...], executable: bool, letters: str) -> str:
    """Return a letter or a dash for each of ``letters``, then the names that no letter stands for."""
    if state not in FOLLOWED:
        return state
    held = {*flags, "executable"} if executable and state != "prot-none" else set(flags)
    marks = "".join(letter if LETTERS[letter] in held else "-" for letter in letters)
    others = ",".join(name for name in flags if name not in LETTERED)
    return f"{marks} {others}".rstrip()


def address_width(origin: Origin) -> int:
    """Return the columns that addresses of the half take."""
    return 18 if origin.half == "kernel" else 14


def phys_width(origin: Origin) -> int:
    """Return the columns that addresses in memory take."""
    return len(f"{origin.memory_end:#x}")


def raw_view(stream: Stream[RawTable], who: dict[str, Any]) -> Drawn:
    """Return whole tables, every entry of them: text as a dump in hexadecimal, four to a line."""
    decoder = EntryDecoder(stream.origin.mode)

    def target() -> dict[str, Any]:
        return walk_target(who, stream.reading)

    def draw(in_bytes: bool, colour: bool, width: int) -> Lines:
        for raw in stream:
            line = raw_heading(raw, stream.origin)
            yield from folded(line, width)
            yield from dump_lines(raw.entries.tolist(), width)
        yield from heading(target(), [stream.origin.half], width)

    decoded = map(decoder.decode_table, stream)
    batches = ([column.get(batch) for column in RAW_COLUMNS] for batch in decoded)
    return Drawn("tables/1", RAW_COLUMNS, batches=batches, target=target, draw=draw)


def dump_lines(entries: Sequence[int], width: int) -> Lines:
    """Yield entries in hexadecimal, with the index of the first: four to a line, or as many of these as fit."""
    room = (width - len("12345 ")) // len(" 0123456789abcdef") if width else 4
    together = next((number for number in (4, 2) if number <= room), 1)
    for at in range(0, len(entries), together):
        yield f"{at:>5}  " + " ".join(f"{entry:016x}" for entry in entries[at : at + together])


def raw_heading(raw: RawTable, origin: Origin) -> str:
    """Return the line above the dump of a table."""
    mode = origin.mode
    level = mode.levels[raw.level]
    spans = [(raw.address, raw.address + level.size * level.nr_entries - 1)]
    if raw.level == 0:
        # The one table of this level is that of both halves.
        spans = [(0, mode.user_end - 1), (mode.kernel_start, U64)]
    ranges = " and ".join(f"{format_address(first)}-{format_address(last)}" for first, last in spans)
    number = "" if raw.number is None else f" {raw.number}"
    return f"{level.name} table{number} at {raw.table:#x}, translates {ranges}"
