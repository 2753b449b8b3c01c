"""What a cgroup is charged, as lines below what its processes use: the parts, the limits, and what they have done."""

from __future__ import annotations

from mematlas.analysis.charge import KERNEL, tightest_of
from mematlas.frozen import record
from mematlas.notes import Note
from mematlas.views.format import fold_message, format_path, format_seconds, format_size, number_of, shorten
from mematlas.views.table import Column, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from mematlas.analysis.charge import Charge, ChargePart, Held, Oom
    from mematlas.kernel.memcg import Limit, Pressure

LEFT = {
    "anon": "anonymous: mapped by others than these",
    "shmem": "tmpfs, memfd, System V: mapped by none of them",
    "file": "page cache: mapped by none of them",
}
"""What pages are that no process of the group maps."""
WHOLE = {
    "anon": "anonymous memory that is mapped",
    "shmem": "tmpfs, memfd, System V: mapped or not",
    "file": "page cache: mapped or not",
    "unmapped": "mapped by nobody: in the swap cache, or left of huge pages",
    "hugetlb": "pages of the hugetlb pools",
    "slab": "kernel: small objects, such as inodes and dentries",
    "stacks": "kernel: stacks of threads",
    "tables": "kernel: page tables",
    "percpu": "kernel: what each processor has of its own",
    "vmalloc": "kernel: large objects",
    "zswap": "kernel: memory in swap, compressed in RAM",
    "kernel": "kernel: other",
    "sock": "buffers of sockets",
}
WHOLE_KERNEL = "kernel: objects, stacks, page tables and all else"
AHEAD = "charged ahead or counted late: the kernel's batches are up to {}"
UNEXPLAINED = "not explained: the kernel's batches are up to {} alone"
EVENTS = ("high", "max", "memsw_max", "oom", "oom_kill", "oom_group_kill")
"""Those that text shows, where they have happened."""


BESIDE = 6
"""Columns of a folded line of a heading that a path has no use of: before it, and a comma behind it."""


@record
class ChargeLine:
    """An amount with its meaning."""

    name: str
    size: int | None
    meaning: str


COLUMNS = (Column("name", "CHARGE"), Column("size", "SIZE", "size"), Column("meaning", "MEANING"))


def charge_text(charge: Charge, in_bytes: bool = False, colour: bool = False, width: int = 0) -> Iterator[str]:
    """Yield the lines of a charge."""
    seconds = format_seconds(charge.reading.duration_s)
    nobody = "" if charge.nr_processes else ", which belongs to nobody: no process is in it"
    which = path_text(charge.cgroup, width - BESIDE if width else 0)
    yield from fold_message(f"charge of cgroup {which}{nobody}, from memory.stat in {seconds}", width)
    lines = lines_of(charge, width // 2)
    yield from Table("charge/1", COLUMNS, lines).lines(in_bytes=in_bytes, colour=colour, width=width)
    for line in sentences_of(charge, width // 2):
        yield from fold_message(line, width)


def path_text(path: str, room: int) -> str:
    """Return a path in so many columns, 0 for any number: IDs of containers are as long as a line of a screen."""
    text = format_path(path)
    return shorten(text, room) if room else text


def lines_of(charge: Charge, room: int) -> Iterator[ChargeLine]:
    """Yield the amounts with their meaning; parts of which there is nothing are left out."""
    what = "RAM that it and the groups below it are charged"
    yield ChargeLine("charged", charge.charged, what if charge.charged is not None else "the root is charged nothing")
    if charge.mapped is not None and charge.nr_processes:
        yield ChargeLine("  mapped", charge.mapped, "by its processes")
    for part in charge.parts:
        line = line_of(part, charge)
        if line.size:
            yield line
    if charge.rest is not None:
        text = AHEAD if abs(charge.rest) <= charge.unsure else UNEXPLAINED
        yield ChargeLine("  rest", charge.rest, text.format(format_size(charge.unsure)))
    if charge.held is None and charge.unmapped_file:
        yield ChargeLine("nobody's", charge.unmapped_file, "of shmem and file: mapped by nobody")
    elif charge.by_others is not None and charge.by_others > charge.unsure:
        yield ChargeLine("others'", charge.by_others, "of shmem and file: mapped by others alone")
    if charge.held and charge.held.elsewhere:
        what = f"mapped by its processes, charged to {where_text(charge.held, room)}"
        yield ChargeLine("elsewhere", charge.held.charged_elsewhere, what)
    if charge.swap:
        yield ChargeLine("in swap", charge.swap, "charged to it there")
    yield from limit_lines(charge, room)


def where_text(held: Held, room: int) -> str:
    """Return which other groups are charged for what processes map."""
    path, _ = held.elsewhere[0]
    more = len(held.elsewhere) - 1
    return (path_text(path, room) if path else "a cgroup not seen here") + (
        f" and {number_of(more, 'other')}" if more else ""
    )


def line_of(part: ChargePart, charge: Charge) -> ChargeLine:
    """Return a part with what it is."""
    if part.mapped is not None:
        return ChargeLine(f"  {part.kind}", part.left, LEFT[part.kind])
    is_all = part.kind == "kernel" and all(other.size is None for other in charge.parts if other.kind in KERNEL)
    return ChargeLine(f"  {part.kind}", part.size, WHOLE_KERNEL if is_all else WHOLE[part.kind])


def limit_lines(charge: Charge, room: int) -> Iterator[ChargeLine]:
    """Yield what is left of each kind of limit, where it is tightest."""
    tightest = (
        ("headroom", charge.tightest),
        ("until high", tightest_of(charge.limits, ("memory.high",))),
        ("swap left", tightest_of(charge.limits, ("memory.swap.max",))),
    )
    for name, limit in tightest:
        if limit:
            yield ChargeLine(name, limit.headroom, limit_text(limit, room))
    if not charge.tightest:
        yield ChargeLine("headroom", None, "no limit, up to the root")


def limit_text(limit: Limit, room: int) -> str:
    """Return what limit it is."""
    text = f"of {format_size(limit.size)}: {limit.name} of {path_text(limit.path, room)}"
    if limit.spare:
        text += f"; {format_size(limit.spare)} of what is used makes room by itself"
    return text


def sentences_of(charge: Charge, room: int) -> Iterator[str]:
    """Yield what has happened, and what would."""
    happened = {name: charge.events[name] for name in EVENTS if charge.events.get(name)}
    if happened:
        yield "events: " + ", ".join(f"{name} {number:,}" for name, number in happened.items())
    if charge.pressure:
        yield pressure_text(charge.pressure)
    yield from oom_texts(charge.oom, room)


def pressure_text(pressure: Pressure) -> str:
    """Return how much time is lost.

    >>> from mematlas.kernel.memcg import Pressure
    >>> pressure_text(Pressure((1.5, 0.25, 0.0), (0.5, 0.0, 0.0), 77, 7))
    'pressure: somebody waited for memory 1.5% of the last 10 s and 0.25% of the last minute, all of them 0.5% and 0%'
    """
    some, full = ([f"{percent:g}%" for percent in spans[:2]] for spans in (pressure.some, pressure.full))
    last = f"{some[0]} of the last 10 s and {some[1]} of the last minute"
    return f"pressure: somebody waited for memory {last}, all of them {full[0]} and {full[1]}"


def oom_texts(oom: Oom, room: int) -> Iterator[str]:
    """Yield whom the OOM killer would take."""
    if oom.is_off:
        yield "at the limit nobody is killed: whoever needs memory waits (memory.oom_control)"
        return
    unseen = f"{oom.nr_unknown:,} process{'' if oom.nr_unknown == 1 else 'es'}" if oom.nr_unknown else ""
    if not oom.victim:
        if unseen:
            yield f"who would be killed first is not known: {unseen} could not be weighed"
        elif oom.nr_spared:
            yield f"nobody can be killed: oom_score_adj is -1000 for {'it' if oom.nr_spared == 1 else 'each of them'}"
        return
    victim = oom.victim
    when = f"at {oom.limit.name} of {path_text(oom.limit.path, room)}" if oom.limit else "if RAM ran out, of these"
    why = f"for {format_size(victim.badness)}"
    if victim.oom_score_adj:
        why += f", oom_score_adj {victim.oom_score_adj} included"
    text = f"{when} the first to be killed would be PID {victim.pid} ({format_path(victim.name)}), {why}"
    yield text + (f", and with it all of {path_text(oom.group, room)} (memory.oom.group)" if oom.group else "")
    if unseen:
        yield f"{unseen} could not be weighed, and may come before that one"


def charge_record(charge: Charge) -> dict[str, Any]:
    """Return a charge as JSON has it."""
    derived = ("rest", "mapped", "unmapped_file", "by_others", "headroom")
    return {**charge.to_dict(), **{name: getattr(charge, name) for name in derived}}


def charge_notes(charge: Charge) -> Iterator[Note]:
    """Yield why parts of a charge are not known."""
    if charge.unknown:
        yield Note("charge-untold", f"this kernel does not say {', '.join(charge.unknown)} apart: the rest has them")
