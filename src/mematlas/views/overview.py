"""The first screen: 22 lines of 80 columns unless more rows are asked for, safe for everybody."""

from __future__ import annotations

from mematlas.analysis.ranking import largest, with_more
from mematlas.frozen import as_dict, plain, record
from mematlas.model.containers import place_of
from mematlas.notes import Note
from mematlas.version import __version__
from mematlas.views.format import first_of, fold_message, format_path, format_size, number_of, shorten, width_of
from mematlas.views.shares import shares_bar
from mematlas.views.table import Column, Drawn, Table
from mematlas.views.usage import sharing_notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from mematlas.analysis.cached import CachedFile
    from mematlas.analysis.overview import Census, Facts, Group, MachineUsage, OtherProcesses
    from mematlas.analysis.ram import Ram
    from mematlas.kernel.memcg import Limit, Pressure
    from mematlas.model.containers import Level

SCHEMA = "overview/4"
STATUS_LINES = {"swap": "VmSwap", "hugetlb": "HugetlbPages"}
IN_USE = (
    ("anon", "processes' own"),
    ("shmem", "shmem/tmpfs"),
    ("hugetlb", "hugetlb"),
    ("kernel", "kernel"),
    ("cpu_free", "per-CPU free lists"),
    ("reserve", "reserve"),
    ("other", "other"),
)
ON_BAR = ("anon", "shmem", "hugetlb", "kernel", "cpu_free", "other", "page_cache", "kernel_caches", "free")
"""Parts of RAM that add up to all of it."""
WIDEST_BAR = 100
"""Columns of the line with the bar, where there are as many as one likes or more."""
MOST_FILE = 30
"""Columns of the path of a file."""
AVAILABLE = (("free", "free"), ("page_cache", "page cache"), ("kernel_caches", "kernel caches"))
DERIVED = ("in_use", "reserve", "other", "pss", "in_swap")
"""Parts of RAM that are made of others."""
MOST_NAME = 20
"""Columns of the name of a container: there are some that people choose."""
MOST_PATH = 28
"""Columns of the path of a cgroup."""
LEAST_ROWS = 3
"""Rows that are shown however many lines all else takes: one may be the largest user of swap, one that of the pools."""
OF_FILES = ("path", "dev", "inode", "fs", "size", "resident", "is_deleted")
"""What JSON has of files in the page cache."""
HEAD = 13
"""Columns before the parts of RAM."""


def title(group: Group) -> str:
    """Return what a group is called: the name of its processes; or a container, with who made it."""
    return container_title(group.container) if group.container else group.name


def container_title(container: Level) -> str:
    """Return what a container is called: who made it, and its short ID or its name, the middle left out if need be."""
    name = shorten(format_path(container.short), MOST_NAME)
    return f"{container.runtime} {name}" if container.runtime else name


def label(group: Group) -> str:
    """Return what a group is called, and of how many processes it is.

    >>> from mematlas.analysis.overview import Facts, Group
    >>> from mematlas.model.containers import place_of
    >>> backends = [Facts(pid, 0, "postgres", 70, "", 4096, 4096, 0, 0, 0, 0) for pid in range(61)]
    >>> label(Group(backends)), label(Group(backends[:1]))
    ('postgres (61)', 'postgres')
    >>> label(Group(backends, place_of("0::/docker/" + "5fc0" * 16).containers[0]))
    'docker 5fc05fc05fc0 (61)'
    """
    nr = len(group.members)
    return f"{title(group)} ({nr:,})" if nr > 1 else title(group)


def columns_of(groups: Sequence[Group], by: str | None) -> tuple[Column[Group], ...]:
    """Return the columns; text shows no amounts of which nobody has any, and RSS where PSS is not known."""
    has_swap = any(group.swap != 0 for group in groups)
    has_pools = any(group.hugetlb != 0 for group in groups)
    needs_rss = by == "rss" or any(group.pss is None for group in groups)
    return (
        Column("pid", "PID", "count", width=7),
        Column("label", "GROUP", value=label),
        Column("name", "NAME", shown=False),
        Column("container", "CONTAINER", value=lambda group: group.container and group.container.name, shown=False),
        Column("runtime", "RUNTIME", value=lambda group: group.container and group.container.runtime, shown=False),
        Column("uid", "UID", "count", shown=False),
        Column("nr_processes", "PROCS", "count", lambda group: len(group.members), shown=False),
        Column("nr_measured", "MEASURED", "count", lambda group: len(group.measured), shown=False),
        Column("rss", "SUM OF RSS", "size", shown=needs_rss),
        Column("pss", "PSS", "size"),
        Column("uss", "USS", "size", rank=1),
        Column("swap", "SWAP", "size", rank=1, shown=has_swap or by == "swap"),
        Column("hugetlb", "HUGETLB", "size", rank=1, shown=has_pools),
        Column("anon", "ANON", "size", lambda group: group.parts()["anon"], shown=False),
        Column("file", "FILE", "size", lambda group: group.parts()["file"], shown=False),
        Column("shmem", "SHMEM", "size", lambda group: group.parts()["shmem"], shown=False),
        Column("top_kind", "MOST OF IT", value=lambda group: group.top_kind and group.top_kind[0], rank=3),
        Column("top_share", "SHARE", "share", lambda group: group.top_kind and group.top_kind[1], rank=4),
    )


FACTS: tuple[Column[Facts], ...] = (
    Column("pid", "PID", "count"),
    Column("name", "NAME"),
    Column("uid", "UID", "count"),
    *(Column(key, key.upper(), "size") for key in ("rss", "anon", "file", "shmem", "swap", "hugetlb")),
    Column("cgroup", "CGROUP", shown=False),
)


def census_table(census: Census) -> Table:
    """Return the counters of every process as a table."""
    return Table("processes/1", FACTS, census.processes)


def groups_table(usage: MachineUsage) -> Table:
    """Return the largest groups of processes as a table."""
    return Table(SCHEMA, columns_of(usage.groups, None), usage.groups, notes=notes_of(usage))


def notes_of(usage: MachineUsage) -> list[Note]:
    """Return what there is to say of the amounts."""
    return [*estimates(usage.groups), *not_measured(usage.groups), *usage_notes(usage)]


def usage_notes(usage: MachineUsage) -> list[Note]:
    """Return what there is to say besides about groups."""
    return [*sharing_notes(usage.sharing), *usage.notes]


def overview_view(
    machine: dict[str, Any],
    usage: MachineUsage,
    by: str | None,
    uid: int,
    command: str,
    sudo: str | None,
    nr_lines: int | None = None,
    files: Sequence[CachedFile] | None = None,
    no_files: str = "",
) -> Table:
    """Return the first screen; as JSON, its rows are the largest groups of processes, and its target is the machine.

    ``sudo`` is the line that gives all rights; None in a user namespace, where none does. Text has the last rows left
    out where they would make it longer than ``nr_lines``, and then the last of ``files``, which are the largest in the
    page cache. Where these are not known ``no_files`` says why.
    """
    columns = columns_of(usage.groups, by)
    # That others' are hidden, and why, is said below the rows.
    refused = frozenset(usage.refused or ()) if uid and usage.missing and sudo is not None else frozenset()
    hidden: list[Group] = []
    seen: list[Group] = []
    for group in usage.groups:
        (hidden if refused.issuperset(one.pid for one in group.members) else seen).append(group)
    head = f"mematlas {__version__} on {machine['host']}, Linux {machine['kernel']}, {swap_of(usage.ram)}"
    may = tuple(rights(uid, usage.missing, usage.refused, command, sudo))
    notes = (*estimates(usage.groups), *not_measured(seen), *usage_notes(usage))
    return Drawn(
        SCHEMA,
        columns,
        usage.groups,
        target=target_of(usage) | {"files": None if files is None else [file_of(file) for file in files]},
        draw=Screen(usage, head, columns, by, may, command, nr_lines, tuple(files or ()), notes).lines,
        notes=notes,
        fine_print=[*not_measured(hidden), *files_unknown(files, no_files)],
    )


def file_of(file: CachedFile) -> dict[str, Any]:
    """Return what JSON has of a file."""
    return {name: getattr(file, name) for name in OF_FILES}


def files_unknown(files: Sequence[CachedFile] | None, why: str) -> list[Note]:
    """Return the note that the largest files are not known, which the screen is silent about: there are no lines."""
    text = "the largest files in the page cache are unknown" + (f": {why}" if why else "")
    return [Note("largest-unknown", text)] if files is None else []


@record
class Screen:
    """The first screen as text."""

    usage: MachineUsage
    head: str
    """Its first line."""
    columns: tuple[Column[Group], ...]
    by: str | None
    may: tuple[str, ...]
    """What the reader may see."""
    command: str
    nr_lines: int | None
    files: tuple[CachedFile, ...]
    notes: tuple[Note, ...]
    """What is said below, which takes lines too."""

    def lines(self, in_bytes: bool, colour: bool, width: int) -> list[str]:
        """Return its lines; the last rows, and then files, are left out where there would be too many."""
        usage, nr_lines = self.usage, self.nr_lines
        if nr_lines:
            # The room of one line is left anyway.
            notes = [line for note in self.notes for line in fold_message(f"note: {note.text}", width)]
            nr_lines -= max(len(notes) - 1, 0)
        below = list(self.below(width))
        rows = list(self.rows(usage.groups, in_bytes, colour, width))
        least = len(rows) - max(len(usage.groups) - LEAST_ROWS, 0) + len(below)
        for nr_files in range(len(self.files), -1, -1):
            above = list(self.above(width, nr_files))
            if not nr_lines or len(above) + least <= nr_lines:
                break
        too_many = len(above) + len(rows) + len(below) - nr_lines if nr_lines else 0
        if too_many > 0:
            shown = largest(usage.groups, max(len(usage.groups) - too_many, LEAST_ROWS), self.by)
            rows = list(self.rows(shown, in_bytes, colour, width))
        return [*above, *rows, *below]

    def above(self, width: int, nr_files: int) -> Iterator[str]:
        """Yield the lines about the machine."""
        yield from fold_message(self.head, width)
        yield from parts_of(self.usage.ram, width)
        if nr_files:
            yield from fold_parts("page cache", "largest: ", [cached(file) for file in self.files[:nr_files]], width)
        yield from fold_parts("pressure", "", list(limits_of(self.usage)), width)
        yield ""

    def rows(self, groups: Sequence[Group], in_bytes: bool, colour: bool, width: int) -> Iterator[str]:
        """Yield the lines of some groups, and that of all other processes."""
        yield from Table(SCHEMA, self.columns, groups).lines(in_bytes=in_bytes, colour=colour, width=width)
        beside = set(self.usage.groups).difference(groups)
        yield from fold_message(others(with_more(self.usage.others, beside)), width)

    def below(self, width: int) -> Iterator[str]:
        """Yield the lines about what the reader may, and what to try."""
        yield ""
        for line in (*self.may, *tries(self.command, *to_try(self.usage.groups))):
            yield from fold_message(line, width)


def target_of(usage: MachineUsage) -> dict[str, Any]:
    """Return what JSON has of the machine as a whole."""
    ram = as_dict(usage.ram) | {name: getattr(usage.ram, name) for name in DERIVED}
    refused = None if usage.refused is None else list(usage.refused)
    return {
        "ram": ram,
        "pressure": plain(usage.pressure),
        "tightest": usage.tightest and usage.tightest.to_dict() | left_of(usage.tightest),
        "others": as_dict(usage.others),
        "refused": refused,
        "missing": list(usage.missing),
    }


def left_of(limit: Limit) -> dict[str, int]:
    """Return what JSON has of a limit besides its fields: what is left, without and with what makes room by itself."""
    return {"headroom": limit.headroom, "room": limit.room}


def swap_of(ram: Ram) -> str:
    """Return how much of swap is used.

    >>> from mematlas.analysis.ram import account
    >>> [swap_of(account(lines)) for lines in ({"SwapTotal": 8192, "SwapFree": 4096}, {"SwapTotal": 0}, {})]
    ['swap 4 KiB of 8 KiB', 'no swap', 'swap -']
    """
    if ram.swap_total == 0:
        return "no swap"
    if ram.in_swap is None:
        return "swap -"
    return f"swap {amount(ram.in_swap)} of {amount(ram.swap_total)}"


def amount(size: int | None) -> str:
    """Return a size; a dash for one that is not known.

    >>> amount(None), amount(-4096)
    ('-', '-4 KiB')
    """
    if size is None:
        return "-"
    return f"-{format_size(-size)}" if size < 0 else format_size(size)


def parts_of(ram: Ram, width: int) -> Iterator[str]:
    """Yield the lines of what RAM is used for, without what there is nothing of."""
    if ram.total is None:
        yield from fold_parts("in use", "", ["unknown: this /proc has no meminfo"], width)
        return
    if bar := bar_of(ram, width):
        yield bar
    used = [f"{title} {amount(size)}" for name, title in IN_USE if (size := getattr(ram, name))]
    if ram.hugetlb and ram.hugetlb_free is not None:
        index = next(index for index, part in enumerate(used) if part.startswith("hugetlb"))
        used[index] += f" ({amount(ram.hugetlb_free)} of it free)"
    spare = [f"{title} {amount(getattr(ram, name))}" for name, title in AVAILABLE]
    yield from fold_parts("in use", f"{amount(ram.in_use)} of {amount(ram.total)}: ", used, width)
    yield from fold_parts("available", f"{amount(ram.available)}: ", [*spare, "less the reserve"], width)


def bar_of(ram: Ram, width: int) -> str:
    """Return the line in which all of RAM is drawn; empty where a part of it is not known.

    The parts are those of meminfo, which anybody may read and which cost nothing. What every frame is, which `ram`
    shows, takes a look at all of them, and so more time than the rest of the screen together.
    """
    titles = dict((*IN_USE, *AVAILABLE))
    # A kernel that does not count what CPUs keep free has it in what is other.
    parts = [(titles[name], getattr(ram, name)) for name in ON_BAR if name != "cpu_free" or ram.cpu_free is not None]
    if any(size is None for _, size in parts):
        return ""
    room = min(width or WIDEST_BAR, WIDEST_BAR) - HEAD
    return f"{'  RAM':<{HEAD}}{shares_bar([(title, max(size, 0)) for title, size in parts], room)}"


def cached(file: CachedFile) -> str:
    """Return how much of a file is in the page cache; of a path that is long its end.

    >>> from mematlas.analysis.cached import CachedFile
    >>> cached(CachedFile("/usr/lib/python3/dist-packages/libtorch_cpu.so", "fe:00", 7, "ext4", 8192, 4096, 0, 0))
    'libtorch_cpu.so 4 KiB'
    """
    path = f"inode {file.inode} on {file.dev}" if file.path is None else format_path(file.path)
    name = path if width_of(path) <= MOST_FILE else path.rpartition("/")[2]
    return f"{shorten(name, MOST_FILE)} {format_size(file.resident)}"


def limits_of(usage: MachineUsage) -> Iterator[str]:
    """Yield how near the machine is to having too little memory."""
    yield pressure_text(usage.pressure)
    if usage.tightest:
        yield f"tightest cgroup {cgroup_name(usage.tightest.path)}"
        yield f"{format_size(usage.tightest.room)} left of {format_size(usage.tightest.size)}"


def pressure_text(pressure: Pressure | None) -> str:
    """Return how much of the time was lost lately, by the shortest span in which it was any.

    >>> from mematlas.kernel.memcg import Pressure
    >>> pressure_text(Pressure((1.5, 0.25, 0.0), (0.5, 0.0, 0.0), 77, 7))
    'some 1.5% and full 0.5% of 10 s'
    >>> pressure_text(Pressure((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 77, 7)), pressure_text(None)
    ('none in 5 min', '- (needs CONFIG_PSI)')
    """
    if pressure is None:
        return "- (needs CONFIG_PSI)"
    for some, full, span in zip(pressure.some, pressure.full, ("10 s", "1 min", "5 min"), strict=True):
        if some or full:
            return f"some {some:g}% and full {full:g}% of {span}"
    return "none in 5 min"


def cgroup_name(path: str) -> str:
    """Return what a cgroup is called in a line: a container by its short ID, else its path, its middle left out.

    >>> cgroup_name("/system.slice/docker-" + "5fc0" * 16 + ".scope"), cgroup_name("/system.slice/nginx.service")
    ('docker 5fc05fc05fc0', '/system.slice/nginx.service')
    """
    box = next((level for level in place_of(f"0::{path}").containers if level.path == path), None)
    return container_title(box) if box else shorten(format_path(path), MOST_PATH)


def fold_parts(head: str, whole: str, parts: Sequence[str], width: int) -> Iterator[str]:
    """Yield parts behind their heading and their sum, none of them broken.

    >>> list(fold_parts("in use", "2 GiB: ", ["anon 1 GiB", "other 1 GiB"], 32))
    ['  in use     2 GiB: anon 1 GiB,', '             other 1 GiB']
    """
    line = f"  {head}".ljust(HEAD) + whole
    for index, part in enumerate(parts):
        text = part + "," * (index < len(parts) - 1)
        if index and width and len(line) + 1 + len(text) > width:
            yield line
            line = " " * HEAD + text
        else:
            line += f" {text}" if index else text
    yield line


def others(rest: OtherProcesses) -> str:
    """Return the line of the processes that have no row.

    >>> from mematlas.analysis.overview import OtherProcesses
    >>> print(others(OtherProcesses(489, 1 << 31, 1 << 30, 0, False)))
             489 others: 1 GiB PSS
    >>> print(others(OtherProcesses(1, 4096, None, 2, True)))
             1 other, 2 above without PSS, and processes outside this PID namespace: PSS unknown
    """
    who = [number_of(rest.nr_processes, "other")]
    if rest.nr_unknown:
        who.append(f"{rest.nr_unknown:,} above without PSS")
    if rest.has_more:
        who.append("processes outside this PID namespace")
    what = "PSS unknown" if rest.pss is None else f"{format_size(rest.pss)} PSS"
    return f"{'':9}{all_of(who)}: {what}"


def all_of(parts: Sequence[str]) -> str:
    """Return a list as a person would say it.

    >>> all_of(["a"]), all_of(["a", "b"]), all_of(["a", "b", "c"])
    ('a', 'a and b', 'a, b, and c')
    """
    if len(parts) < 3:
        return " and ".join(parts)
    return f"{', '.join(parts[:-1])}, and {parts[-1]}"


def to_try(groups: Sequence[Group]) -> tuple[str, str]:
    """Return the targets to try: the first group of which one could be looked at, and that one; else ourselves."""
    for group in groups:
        if group.measured:
            pid = group.pid if group.pid in group.measured else next(iter(group.measured))
            return target_text(group) or str(pid), str(pid)
    return "self", "self"


def target_text(group: Group) -> str | None:
    """Return what names a group of several processes on a command line; None where there is one, or quotes are needed.

    >>> from mematlas.analysis.overview import Facts, Group
    >>> backends = [Facts(pid, 0, "postgres", 70, "", 4096, 4096, 0, 0, 0, 0) for pid in range(61)]
    >>> target_text(Group(backends)), target_text(Group(backends[:1]))
    ('name:postgres', None)
    """
    is_plain = group.name.isascii() and group.name.replace("-", "").replace("_", "").replace(".", "").isalnum()
    if len(group.members) == 1 or not is_plain:
        return None
    return f"container:{group.name}" if group.container else f"name:{group.name}"


def tries(command: str, whole: str, one: str) -> Iterator[str]:
    """Yield the lines of what to type next, of a group as a whole and of one of its processes."""
    lines = (
        (f"usage {whole}", "how much, by kind"),
        (f"map {one}", "its address space, drawn"),
        ("--help", "everything else (demo: a tour)"),
    )
    width = max(len(command) + 16, *(len(command) + len(words) + 3 for words, _ in lines))
    for index, (words, text) in enumerate(lines):
        yield f"{'Try:' if index == 0 else '':<6}{f'{command} {words}':<{width}}{text}"


def estimates(groups: Sequence[Group]) -> Iterator[Note]:
    """Yield notes on what was not measured of the groups that are shown."""
    for group in groups:
        if group.measured and not group.is_measured:
            yield Note(
                "estimated",
                f"PSS and USS of {title(group)} are estimated from {len(group.measured):,} of its "
                f"{len(group.members):,} processes",
            )
    amounts = {name: [getattr(group, name) for group in groups] for name in STATUS_LINES}
    unreported = [name for name, sizes in amounts.items() if None in sizes]
    if unreported:
        lines = " or ".join(STATUS_LINES[name] for name in unreported)
        text = (
            f"{' and '.join(unreported)} unknown, and not used for ranking: /proc/PID/status has no line {lines} here"
        )
        yield Note("no-status-line", text)


def not_measured(groups: Sequence[Group]) -> list[Note]:
    """Return the note on groups of which nobody was measured."""
    names = dict.fromkeys(title(group) for group in groups if not group.measured)
    text = f"PSS and USS of {', '.join(names)} unknown: refused, ended, or too late"
    return [Note("not-measured", text)] if names else []


def rights(
    uid: int, missing: Sequence[str], refused: Sequence[int] | None, command: str, sudo: str | None
) -> Iterator[str]:
    """Yield what the reader may see, and how to see the rest."""
    who = "root" if uid == 0 else f"uid {uid}"
    if sudo is None:
        yield (
            f"You are {who} in a user namespace: you see what belongs to it, without physical addresses; "
            f"{hidden(refused)}."
        )
        yield "To see more, run as root outside it: the kernel asks for rights in the initial namespace."
    elif missing:
        seen = f"You are {who}: {hidden(refused)}"
        if uid and refused:
            others = "that of 1 other is" if len(refused) == 1 else f"those of {len(refused):,} others are"
            seen = f"You see PSS and USS of your own processes only: {others} hidden"
        yield f"{seen}. Missing: {', '.join(missing)}."
        yield f"To see all: {sudo}"
    elif refused == ():
        yield f"You are {who}: all processes are visible, with physical addresses."
    elif refused is None:
        yield f"You are {who}: the kernel may refuse some processes (why: {command} doctor)."
    else:
        them = "it" if len(refused) == 1 else "them"
        yield (
            f"You are {who}: all processes are visible but PID {first_of(refused)}: "
            f"the kernel refuses {them} (why: {command} doctor)."
        )


def hidden(refused: Sequence[int] | None) -> str:
    """Return how many processes cannot be looked at.

    >>> hidden(None), hidden([]), hidden([1])
    ('some processes may be hidden', 'no process is hidden', '1 process is hidden')
    """
    if refused is None:
        return "some processes may be hidden"
    if not refused:
        return "no process is hidden"
    return "1 process is hidden" if len(refused) == 1 else f"{len(refused):,} processes are hidden"
