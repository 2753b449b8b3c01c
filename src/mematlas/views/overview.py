"""The first screen: at most 20 lines, 80 columns, safe for everybody."""

from __future__ import annotations

from mematlas.notes import Note, Notes
from mematlas.version import __version__
from mematlas.views.format import fold_message, format_size
from mematlas.views.table import Column, Drawn, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from mematlas.analysis.overview import Group

COLUMNS = (
    Column("pid", "PID", "count", width=7),
    Column("name", "NAME"),
    Column("nr_processes", "PROCS", "count"),
    Column("nr_measured", "MEASURED", "count", shown=False),
    Column("pss", "PSS", "size"),
    Column("uss", "USS", "size"),
    Column("swap", "SWAP", "size"),
    Column("hugetlb", "HUGETLB", "size"),
    Column("top_kind", "MOST OF IT"),
)
STATUS_LINES = {"swap": "VmSwap", "hugetlb": "HugetlbPages"}


def overview_view(
    machine: dict[str, Any],
    meminfo: dict[str, int],
    groups: list[Group],
    nr_refused: int | None,
    uid: int,
    missing: list[str],
    command: str,
    sudo: str | None,
    notes: Notes,
) -> Table:
    """Return the first screen; as JSON, its rows are the largest groups of processes.

    ``sudo`` is the line that gives all rights; None in a user namespace, where none does.
    """
    rows = [
        (
            *(group.pid, group.name, len(group.members), len(group.measured)),
            *(group.pss, group.uss, group.swap, group.hugetlb, top_kind(group.top_kind)),
        )
        for group in groups
    ]

    def draw(in_bytes: bool, colour: bool, before: set[str] | None, width: int) -> Iterator[str]:
        head = f"mematlas {__version__} on {machine['host']}, Linux {machine['kernel']}: {in_use(meminfo)}"
        yield from fold_message(head, width)
        yield ""
        yield from Table("overview/2", COLUMNS, rows).lines(in_bytes=in_bytes, colour=colour, width=width)
        yield ""
        for line in rights(uid, missing, nr_refused, sudo):
            yield from fold_message(line, width)
        yield ""
        target = to_try(groups)
        tries = (
            (f"usage {target}", "how much, by kind"),
            (f"map {target}", "its address space, drawn"),
            ("demo", "a tour of real memory, in half a minute"),
            ("--help", "everything else"),
        )
        for number, (words, text) in enumerate(tries):
            yield f"{'Try:' if number == 0 else '':<6}{f'{command} {words}':<{len(command) + 16}}{text}"

    return Drawn("overview/2", COLUMNS, rows, draw=draw, notes=[*estimates(groups), *notes])


def to_try(groups: list[Group]) -> int | str:
    """Return the target of the commands to try: the first that could be looked at, for want of one ourselves."""
    seen = (pid for group in groups for pid in (group.pid, *group.measured) if pid in group.measured)
    return next(seen, "self")


def in_use(meminfo: dict[str, int]) -> str:
    """Return how much of the machine is in use; ``-`` for what /proc/meminfo lacks.

    >>> in_use({"MemTotal": 2 << 30, "MemAvailable": 1 << 30, "SwapTotal": 0})
    '1 GiB of 2 GiB in use, swap none'
    >>> in_use({})
    '- of - in use, swap -'
    """
    total, free = meminfo.get("MemTotal"), meminfo.get("MemAvailable", meminfo.get("MemFree"))
    used = None if None in (total, free) else total - free  # type: ignore[operator]
    swap, swap_free = meminfo.get("SwapTotal"), meminfo.get("SwapFree")
    in_swap = "none" if swap == 0 else "-"
    if swap and swap_free is not None:
        in_swap = f"{format_size(swap - swap_free)} of {format_size(swap)}"
    ram = " of ".join("-" if each is None else format_size(each) for each in (used, total))
    return f"{ram} in use, swap {in_swap}"


def estimates(groups: list[Group]) -> Iterator[Note]:
    """Yield notes on what was not measured of the groups that are shown."""
    for group in groups:
        if group.measured and not group.is_measured:
            yield Note(
                "estimated",
                f"PSS and USS of {group.name} are estimated from {len(group.measured):,} of its "
                f"{len(group.members):,} processes",
            )
    if hidden := [group.name for group in groups if not group.measured]:
        text = f"PSS and USS of {', '.join(hidden)} unknown: not ours to look at, ended, or not measured in time"
        yield Note("not-measured", text)
    untold = [name for name in ("swap", "hugetlb") if any(getattr(group, name) is None for group in groups)]
    if untold:
        lines = " or ".join(STATUS_LINES[name] for name in untold)
        text = f"{' and '.join(untold)} unknown, and no part of the order: /proc/PID/status has no line {lines} here"
        yield Note("no-status-line", text)


def rights(uid: int, missing: list[str], nr_refused: int | None, sudo: str | None) -> Iterator[str]:
    """Yield what the reader may do, and how to get the rest."""
    who = "root" if uid == 0 else f"uid {uid}"
    hidden = "more may be" if nr_refused is None else f"{nr_refused} more {'is' if nr_refused == 1 else 'are'}"
    refused = "" if nr_refused == 0 else f", {hidden} hidden"
    if sudo is None:
        yield f"You are {who} in a user namespace: what belongs to it, without physical addresses{refused}."
        yield "More can be seen outside of it only, as root there: rights count in the first namespace."
        return
    if not missing:
        number = "some" if nr_refused is None else nr_refused
        refused = "" if nr_refused == 0 else f", but for {number} that the kernel refuses all the same"
        yield f"You are {who}: everything can be looked at, physical addresses too{refused}."
        return
    yield f"You are {who}: your own processes{refused}. Not held: {', '.join(missing)}."
    yield f"All of them: {sudo}"


def top_kind(found: tuple[str, float] | None) -> str | None:
    """Return what most of the memory is, with its share.

    >>> top_kind(("anon", 0.75)), top_kind(("anon", 0.0)), top_kind(None)
    ('anon 75 %', '-', None)
    """
    if found is None:
        return None
    name, part = found
    return f"{name} {int(100 * part)} %" if part else "-"
