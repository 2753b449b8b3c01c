"""The first screen: at most 20 lines, 80 columns, safe for everybody."""

from __future__ import annotations

from mematlas.version import __version__
from mematlas.views.format import format_size
from mematlas.views.table import Column, Drawn, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from mematlas.analysis.overview import Ranked
    from mematlas.analysis.usage import Usage

COLUMNS = (
    Column("pid", "PID", "count", width=7),
    Column("name", "NAME"),
    Column("uss", "USS", "size"),
    Column("pss", "PSS", "size"),
    Column("rss", "RSS", "size"),
    Column("swap", "SWAP", "size"),
    Column("top_kind", "MOST OF IT"),
)


def overview_view(
    machine: dict[str, Any],
    meminfo: dict[str, int],
    ranked: list[Ranked],
    nr_refused: int,
    uid: int,
    missing: list[str],
    command: str,
    sudo: str,
) -> Table:
    """Return the first screen; as JSON, its rows are the largest processes."""
    rows = [
        (one.pid, one.name, one.usage.uss, one.usage.pss, one.usage.rss, one.usage.swap, top_kind(one.usage))
        for one in ranked
    ]

    def draw(in_bytes: bool, colour: bool, before: set[str] | None) -> Iterator[str]:
        used = meminfo["MemTotal"] - meminfo.get("MemAvailable", meminfo["MemFree"])
        swap = meminfo.get("SwapTotal", 0)
        in_swap = f"{format_size(swap - meminfo.get('SwapFree', 0))} of {format_size(swap)}" if swap else "none"
        yield (
            f"mematlas {__version__} on {machine['host']}, Linux {machine['kernel']}: "
            f"{format_size(used)} of {format_size(meminfo['MemTotal'])} in use, swap {in_swap}"
        )
        yield ""
        yield from Table("overview/1", COLUMNS, rows).lines(in_bytes=in_bytes, colour=colour)
        yield ""
        yield from rights(uid, missing, nr_refused, sudo)
        yield ""
        pid = rows[0][0] if rows else "PID"
        tries = (
            (f"usage {pid}", "how much, by kind"),
            (f"map {pid}", "its address space, drawn"),
            ("demo", "a tour of real memory, in half a minute"),
            ("--help", "everything else"),
        )
        for number, (words, text) in enumerate(tries):
            yield f"{'Try:' if number == 0 else '':<6}{f'{command} {words}':<{len(command) + 16}}{text}"

    return Drawn("overview/1", COLUMNS, rows, draw=draw)


def rights(uid: int, missing: list[str], nr_refused: int, sudo: str) -> Iterator[str]:
    """Yield what the reader may do, and how to get the rest."""
    who = "root" if uid == 0 else f"uid {uid}"
    if not missing:
        refused = f", but for {nr_refused} that the kernel refuses all the same" if nr_refused else ""
        yield f"You are {who}: everything can be looked at, physical addresses too{refused}."
        return
    refused = f", {nr_refused} more are hidden" if nr_refused else ""
    yield f"You are {who}: your own processes{refused}. Not held: {', '.join(missing)}."
    yield f"All of them: {sudo}"


def top_kind(usage: Usage) -> str:
    """Return what most of the resident memory is, with its share.

    >>> from mematlas.analysis.usage import Usage
    >>> top_kind(Usage(100, 100, 100, 0, 75, 25, 0, 0, 0, 0, 1, 1, 0, 1))
    'anon 75 %'
    """
    if not usage.rss:
        return "-"
    name, size = max(
        ((name, getattr(usage, name) or 0) for name in ("anon", "file", "shmem")), key=lambda item: item[1]
    )
    return f"{name} {100 * size // usage.rss} %"
