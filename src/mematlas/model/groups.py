"""Which processes a group has: those of a name, a user, a cgroup, a container; or a process with its descendants.

A table says for each prefix how its processes are known. Looking for them is `mematlas.model.search`.
"""

from __future__ import annotations

import os

from mematlas.errors import BadInput, TargetAmbiguous, TargetNotFound
from mematlas.frozen import record
from mematlas.kernel.cgroups import hierarchy_path, read_cgroups
from mematlas.kernel.cmdline import read_command
from mematlas.kernel.rights import ids_of, parse_id, user_name
from mematlas.kernel.status import read_status
from mematlas.model.containers import CONTAINER, POD, UNIT, Level, hierarchies_of, place_of, unescaped
from mematlas.model.nearness import nearest
from mematlas.model.processes import SKIPPED, Processes, first_of, ourselves
from mematlas.model.target import GROUPS, PID, own_pid, parse_pid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from mematlas.kernel.procfs import ProcessDir, ProcFS
    from mematlas.kernel.status import Stat
    from mematlas.model.containers import Place

    Matches = Callable[[ProcessDir, Stat], bool]

COMM_LENGTH = 15  # include/linux/sched.h, TASK_COMM_LEN less the ending zero
NR_NAMED = 8
"""Groups that a message names."""
LONGEST = 255
"""Characters of each: paths that anybody made may take thousands."""
SERVICE = ".service"


@record
class Wanted:
    """Which processes a group has."""

    matches: Matches
    nothing: str
    """What is to be said where there is none."""
    hint: Callable[[], str]
    """Finds out what may have been meant, or what there is."""
    may_wait: bool = False
    """Whether what is read for a match may be held up for ever."""
    pids: Collection[int] | None = None
    """The only processes that can match; None for any."""
    level: Level | None = None
    """The one cgroup that the group is."""


def wanted_by(text: str, procfs: ProcFS) -> Wanted:
    """Return which processes a text means that begins with one of the prefixes of groups.

    Raises:
        BadInput: nothing follows the prefix.
        TargetNotFound: there is no such user, container, pod or unit.
        TargetAmbiguous: there are several such containers, pods or units.
    """
    prefix = text[: text.index(":") + 1]
    rest = text.removeprefix(prefix)
    if not rest:
        raise BadInput(f"{prefix} needs more: {prefix}{GROUPS[prefix]}")
    return MAKERS[prefix](rest, procfs)


# Names and users


def by_name(name: str, procfs: ProcFS) -> Wanted:
    """Return what is wanted of the processes whose command name is this."""

    def hint() -> str:
        prefix, colon, rest = name.partition(":")
        groups = [group + rest for group in nearest(prefix + colon, GROUPS)] if colon else []
        return did_you_mean(near_names(name, procfs) or groups) or f" (cmdline:{name} searches command lines)"

    whole = os.fsencode(name)

    # The kernel keeps 15 bytes of a name; the command line has the rest.
    def matches_whole(process: ProcessDir, stat: Stat) -> bool:
        if os.fsencode(stat.name) != whole[:COMM_LENGTH]:
            return False
        program, _, _ = read_command(process).partition("\0")
        return os.path.basename(program) == name

    nothing = f"no process is called {name!r}"
    if len(whole) > COMM_LENGTH:
        return Wanted(matches_whole, nothing, hint, may_wait=True)
    return Wanted(lambda _, stat: stat.name == name, nothing, hint)


def near_names(name: str, procfs: ProcFS) -> list[str]:
    """Return the names of processes that were perhaps meant. They are to be suggested, never acted on."""
    return nearest(name, (stat.name for _, stat in Processes(procfs)))


def by_user(text: str, procfs: ProcFS) -> Wanted:
    """Return what is wanted of the processes of a user, by name or number."""

    def hint() -> str:
        uids = {uid_of(process) for process, _ in Processes(procfs)}
        names = [user_name(uid) for uid in uids if uid is not None]
        return did_you_mean(nearest(text, names)) or there_are("processes of", names)

    uid = parse_id(text)
    if uid is None:
        ids = ids_of(text)
        if ids is None:
            raise TargetNotFound(f"no user {text!r} here{hint()}")
        uid = ids[0]
    return Wanted(lambda process, _: uid_of(process) == uid, f"no process of user {text}", hint)


def uid_of(process: ProcessDir) -> int | None:
    """Return the user who runs a process: the real one."""
    try:
        return parse_id(read_status(process).get("Uid", "").split("\t", 1)[0])
    except SKIPPED:
        return None


# Descendants


def by_tree(text: str, procfs: ProcFS) -> Wanted:
    """Return what is wanted of a process, by PID or name, and of all that it started, and these, and so on."""
    stats = {stat.pid: stat for _, stat in Processes(procfs, without=())}
    pid = own_pid(procfs) if text == "self" else parse_pid(text.removeprefix(PID))
    roots = [stat.pid for stat in stats.values() if (stat.name == text if pid is None else stat.pid == pid)]
    members = descendants(roots, stats)
    nothing = f"no process {pid} to begin with" if pid is not None else f"no process is called {text!r}"
    if roots:
        nothing = f"nobody but us is below {text}"

    def hint() -> str:
        return did_you_mean(nearest(text, (stat.name for stat in stats.values()))) if pid is None else ""

    def matches(_: ProcessDir, stat: Stat) -> bool:
        known = stats.get(stat.pid)
        return known is not None and known.start_time == stat.start_time

    return Wanted(matches, nothing, hint, pids=members)


def descendants(roots: Iterable[int], stats: dict[int, Stat]) -> list[int]:
    """Return some processes and all below them, ascending."""
    children: dict[int, list[int]] = {}
    for stat in stats.values():
        children.setdefault(stat.parent, []).append(stat.pid)
    found: set[int] = set()
    todo = list(roots)
    while todo:
        pid = todo.pop()
        if pid not in found:
            found.add(pid)
            todo += children.get(pid, ())
    return sorted(found)


# Cgroups, and what they are


def by_cgroup(text: str, procfs: ProcFS) -> Wanted:
    """Return what is wanted of the processes in a cgroup and the groups below it.

    It is a path in any hierarchy, or the directory of one.
    """
    path, controllers = hierarchy_path(text)
    inside = path.rstrip("/") + "/"

    def matches(process: ProcessDir, _: Stat) -> bool:
        hierarchies = hierarchies_of(read_cgroups(process) or "")
        paths = [group for theirs, group in hierarchies if controllers is None or theirs == controllers]
        return any(group == path or group.startswith(inside) for group in paths)

    def hint() -> str:
        paths = {place.path for _, place in places(procfs)}
        return did_you_mean(nearest(path, paths)) or there_are("processes in", paths)

    return Wanted(matches, f"no process in cgroup {path}", hint, level=Level(path, path, controllers))


def by_container(text: str, procfs: ProcFS) -> Wanted:
    """Return what is wanted of the processes in a container, and in those within it, by the start of its ID."""
    return by_level(CONTAINER, text.rpartition("://")[2], procfs)  # kubectl has containerd://ID


def by_pod(text: str, procfs: ProcFS) -> Wanted:
    """Return what is wanted of the processes in a pod, by the start of its UID."""
    return by_level(POD, text.replace("_", "-"), procfs)


def by_unit(text: str, procfs: ProcFS) -> Wanted:
    """Return what is wanted of the processes of a unit of systemd, which is a service unless its name says else."""
    return by_level(UNIT, text, procfs)


def by_level(kind: str, text: str, procfs: ProcFS) -> Wanted:
    """Return what is wanted of the processes in the one container, pod or unit that is called so.

    Raises:
        TargetNotFound: there is none, or no process in it.
        TargetAmbiguous: there are several.
    """
    members: dict[Level, list[int]] = {}
    for pid, place in places(procfs):
        for level in levels_of_kind(place, kind):
            members.setdefault(level, []).append(pid)
    chosen = named_so(kind, text, members)
    if not chosen:
        raise TargetNotFound(f"no {kind} {text!r}{what_there_is(kind, text, members)}")
    if len(chosen) > 1 and not (kind == POD and are_one_pod(chosen)):
        raise TargetAmbiguous(
            f"{kind}:{text}", (), text=f"{text!r} is {len(chosen)} {kind}s; give one: {choices(chosen)}"
        )

    def matches(process: ProcessDir, _: Stat) -> bool:
        return not chosen.isdisjoint(levels_of_kind(place_of(read_cgroups(process) or ""), kind))

    only = next(iter(chosen)) if len(chosen) == 1 else None
    pids = sorted({pid for level in chosen for pid in members[level]})
    return Wanted(matches, f"nobody but us is in {kind} {text!r}", lambda: "", pids=pids, level=only)


def are_one_pod(levels: Collection[Level]) -> bool:
    """Whether cgroups are those of one pod, side by side, as runc names them; elsewhere anybody may have made one."""
    return len({(level.name, os.path.dirname(level.path)) for level in levels}) == 1


def levels_of_kind(place: Place, kind: str) -> tuple[Level, ...]:
    """Return the containers, the pods or the units, slices too, that a process is in."""
    return {CONTAINER: place.containers, POD: place.pods, UNIT: place.units + place.slices}[kind]


def named_so(kind: str, text: str, levels: Iterable[Level]) -> set[Level]:
    """Return the containers, pods or units that a text names: whole, or by the start of an ID."""
    if kind == UNIT:
        wanted = {text, text + SERVICE}
        return {level for level in levels if level.name in wanted or unescaped(level.name) in wanted}
    whole = {level for level in levels if level.name == text}
    return whole or {level for level in levels if level.name.startswith(text)}


def what_there_is(kind: str, text: str, levels: Collection[Level]) -> str:
    """Return the end of a message: which containers, pods or units there are instead, if any."""
    if not levels:
        return f": no process here is in a {kind}, as far as paths of cgroups show"
    if kind == UNIT:
        near = did_you_mean(nearest(text, {level.name for level in levels}))
        services = [level for level in levels if level.name.endswith(SERVICE)]
        return near or f" (there are: {listed(map(in_words, services or levels))})"
    return f" (there are: {listed(map(in_words, levels))})"


def choices(levels: Collection[Level]) -> str:
    """Return how each of some cgroups can be given: by its name, or where several have that, by its path."""
    names = list(map(in_words, levels))
    return listed(names if len(set(names)) == len(names) else [f"cgroup:{level.path}" for level in levels])


def in_words(level: Level) -> str:
    """Return the name of a container, pod or unit, and who made it, where that is known.

    >>> in_words(Level("0123456789ab" + "0" * 52, "/docker/x", "", "docker")), in_words(Level("a.service", "/a", ""))
    ('0123456789ab (docker)', 'a.service')
    """
    return f"{level.short} ({level.runtime})" if level.runtime else level.short


def places(procfs: ProcFS) -> Iterator[tuple[int, Place]]:
    """Yield each process but us with where it runs."""
    known: dict[str, Place] = {}
    for process, _ in Processes(procfs, without=ourselves(procfs)):
        try:
            text = read_cgroups(process)
        except SKIPPED:
            continue
        if text is None:
            continue
        if text not in known:
            known[text] = place_of(text)
        yield process.pid, known[text]


# In words


def did_you_mean(names: list[str]) -> str:
    """Return what some names suggest; nothing for none."""
    return f" (did you mean {' or '.join(map(repr, names))}?)" if names else ""


def there_are(what: str, names: Iterable[str]) -> str:
    """Return the end of a message: what there is instead.

    >>> there_are("processes of", ["root", "postgres"]), there_are("processes of", [])
    (' (there are processes of postgres, root)', '')
    """
    text = listed(names)
    return f" (there are {what} {text})" if text else ""


def listed(names: Iterable[str]) -> str:
    """Return the first of some names in order, and how many more there are."""
    short = [name if len(name) <= LONGEST else name[:LONGEST] + "..." for name in sorted(set(names))]
    return first_of(short, NR_NAMED)


MAKERS: dict[str, Callable[[str, ProcFS], Wanted]] = {
    "name:": by_name,
    "user:": by_user,
    "tree:": by_tree,
    "cgroup:": by_cgroup,
    "container:": by_container,
    "pod:": by_pod,
    "unit:": by_unit,
}
"""How the processes of a group are known, by what it begins with: one of `GROUPS`."""
