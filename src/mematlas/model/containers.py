"""Where a process runs, as its cgroup's path tells: in which container and pod, as part of which unit of systemd.

Nobody is asked for it: each runtime names a container's cgroup by a scheme of its own, in version 1 and 2 of the
hierarchy, by its "cgroupfs" and its "systemd" driver. A path of another shape tells nothing.
Format: Documentation/admin-guide/cgroup-v2.rst, /proc/PID/cgroup; systemd.unit(5), systemd-cgls(1).
"""

from __future__ import annotations

from mematlas.frozen import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    Found = tuple[str, str | None]
    """A name, and who made what has it."""

CONTAINER, POD, UNIT, SLICE = "container", "pod", "unit", "slice"
HEX = "0123456789abcdef"
ID_LENGTH = 64
"""Digits of the ID of a container, which are those of a SHA-256."""
SHORT_ID = 12
"""Digits of it that its own tools show."""
UID_LENGTHS = (8, 4, 4, 4, 12)
"""Digits of the parts of a pod's UID; that of a static pod is all of them in one, the hash of its manifest."""
RUNTIMES = {
    "docker": "docker",
    "cri-containerd": "containerd",
    "nerdctl": "containerd",
    "crio": "cri-o",
    "libpod": "podman",
    "libpod-payload": "podman",  # below the unit that runs it: podman run --cgroups=split, Quadlet
}
"""What stands before the ID of a container, and who made it. A prefix with "conmon" is of what watches over one."""
KUBERNETES = "kubernetes"
"""Who made a container of which the path just tells that it is in a pod."""
LXC = "lxc.payload."
NSPAWN, MACHINE = "systemd-nspawn@", "machine-"
UNIT_SUFFIXES = (".service", ".scope", ".socket", ".mount", ".swap")
DELETED = " (deleted)"


@record
class Level:
    """One of the cgroups that a process is in, and what it is."""

    name: str
    """The whole ID of a container, or its name where it has no ID; the UID of a pod; the name of a unit as systemctl
    has it."""
    path: str
    """The cgroup, as /proc/PID/cgroup has it."""
    controllers: str | None
    """Of the hierarchy: empty in version 2, ``memory`` or ``name=systemd`` in version 1; None where any is meant."""
    runtime: str | None = None
    """Who made the container or pod, where the path tells."""

    @property
    def short(self) -> str:
        """Its name; of the ID of a container, as much as its own tools show."""
        return self.name[:SHORT_ID] if is_identifier(self.name) else self.name


@record
class Place:
    """Where a process runs. Of each kind of cgroup it may be in several, the outermost first."""

    path: str
    """Its cgroup in the hierarchy that charges memory, as /proc/PID/cgroup has it."""
    containers: tuple[Level, ...] = ()
    pods: tuple[Level, ...] = ()
    units: tuple[Level, ...] = ()
    slices: tuple[Level, ...] = ()

    @property
    def container(self) -> str | None:
        """The ID of the innermost container, or its name."""
        return self.containers[-1].name if self.containers else None

    @property
    def runtime(self) -> str | None:
        """Who made that container."""
        return self.containers[-1].runtime if self.containers else None

    @property
    def pod(self) -> str | None:
        """The UID of the pod; of one of Podman's, its ID."""
        return self.pods[-1].name if self.pods else None

    @property
    def unit(self) -> str | None:
        """The innermost unit of systemd that is no slice."""
        return self.units[-1].name if self.units else None

    @property
    def slice(self) -> str | None:
        """The innermost slice of systemd."""
        return self.slices[-1].name if self.slices else None

    @property
    def user(self) -> int | None:
        """The user whose sessions and services systemd keeps here."""
        for level in self.slices:
            number = level.name.removeprefix("user-").removesuffix(".slice")
            if level.name.startswith("user-") and number.isascii() and number.isdigit():
                return int(number)
        return None


def place_of(text: str) -> Place:
    """Return what /proc/PID/cgroup tells of where a process runs.

    >>> place_of("0::/user.slice/user-1000.slice/session-3.scope\\n").unit
    'session-3.scope'
    >>> place_of("0::/lxc.payload.web/system.slice/ssh.service\\n").container
    'web'
    """
    hierarchies = hierarchies_of(text)
    charged = sorted(hierarchies, key=lambda pair: charging_rank(pair[0]))
    named = sorted(hierarchies, key=lambda pair: naming_rank(pair[0]))
    boxes = first_telling(charged, (CONTAINER, POD))
    units = first_telling(named, (UNIT, SLICE))
    return Place(
        path=charged[0][1] if charged else "",
        containers=tuple(level for kind, level in boxes if kind == CONTAINER),
        pods=tuple(level for kind, level in boxes if kind == POD),
        units=tuple(level for kind, level in units if kind == UNIT),
        slices=tuple(level for kind, level in units if kind == SLICE),
    )


def hierarchies_of(text: str) -> list[tuple[str, str]]:
    """Return the controllers of each hierarchy in /proc/PID/cgroup, and the path of the process's cgroup there.

    >>> hierarchies_of("4:memory:/docker/a:b\\n0::/x (deleted)\\n")
    [('memory', '/docker/a:b'), ('', '/x')]
    """
    # No cgroup has a line's end in its name: since Linux 3.17, commit 71b1fb5c4473, nobody can make one.
    lines = [line.split(":", 2) for line in text.split("\n")]
    return [(fields[1], fields[2].removesuffix(DELETED)) for fields in lines if len(fields) == 3]


def charging_rank(controllers: str) -> int:
    """Return how near a hierarchy is to the one that charges memory: 0 for that in version 1, then 2, then the rest."""
    if "memory" in controllers.split(","):
        return 0
    return 1 if not controllers else 2


def naming_rank(controllers: str) -> int:
    """Return how near a hierarchy is to the one that systemd keeps its units in: each has a cgroup only there.

    In version 1 those of users, for one, are charged to the service that is their manager.
    """
    if controllers == "name=systemd":
        return 0
    return 1 if not controllers else 2


def first_telling(hierarchies: list[tuple[str, str]], kinds: tuple[str, ...]) -> list[tuple[str, Level]]:
    """Return the levels of some kinds in the first of several hierarchies that has any."""
    for controllers, path in hierarchies:
        found = [(kind, level) for kind, level in levels_of(path, controllers) if kind in kinds]
        if found:
            return found
    return []


def levels_of(path: str, controllers: str = "") -> Iterator[tuple[str, Level]]:
    """Yield what the cgroups of a path are, each as its kind and itself, from the outermost.

    >>> [(kind, level.name) for kind, level in levels_of("/system.slice/ssh.service")]
    [('slice', 'system.slice'), ('unit', 'ssh.service')]
    """
    parts = path.split("/")
    for index, part in enumerate(parts):
        before = parts[index - 1] if index else ""
        after = parts[index + 1] if index + 1 < len(parts) else ""
        for kind, found in (
            (POD, pod_in(part, before)),
            (CONTAINER, container_in(part, before, after)),
            (UNIT, unit_in(part, UNIT_SUFFIXES)),
            (SLICE, unit_in(part, (".slice",))),
        ):
            if found:
                name, runtime = found
                yield kind, Level(name, "/".join(parts[: index + 1]), controllers, runtime)


def container_in(part: str, before: str, after: str) -> Found | None:
    """Return the ID of the container that a cgroup is, or its name, and who made it; None where it is none.

    What watches over a container (conmon, lxc-monitor, systemd-nspawn itself) is not in it.
    """
    if part and before in ("lxc", LXC[:-1]):  # before LXC 4, and on Proxmox
        return part, "lxc"
    if part.startswith(LXC) and part != LXC:
        return part.removeprefix(LXC), "lxc"
    if after != "supervisor" and (machine := machine_in(part)):
        return machine
    name = part.removesuffix(".scope")
    # runc makes a cgroup of SLICE:PREFIX:ID where kubelet speaks of systemd, and containerd does not.
    prefix, separator, identifier = name.rpartition(":") if ":" in name else name.rpartition("-")
    if not is_identifier(identifier):
        return None
    if separator:
        runtime = RUNTIMES.get(prefix.rpartition(":")[2])
        return (identifier, runtime) if runtime else None
    if before == "libpod_parent":
        return None  # a pod
    if before == "docker":
        return identifier, "docker"
    return identifier, KUBERNETES if pod_in(before, "") else None


def machine_in(part: str) -> Found | None:
    """Return the name of the machine that a cgroup is, as systemd-machined has it, and who made it."""
    for prefix, suffix in ((NSPAWN, ".service"), (MACHINE, ".scope")):
        name = unescaped(part.removeprefix(prefix).removesuffix(suffix))
        if part.startswith(prefix) and part.endswith(suffix) and name:
            is_virtual = prefix == MACHINE and name.startswith(("qemu-", "lxc-"))
            return name, "libvirt" if is_virtual else "nspawn"
    return None


def pod_in(part: str, before: str) -> Found | None:
    """Return the UID of the pod that a cgroup is, or its ID, and who made it; None where it is none.

    >>> pod_in("kubepods-besteffort-pod6f4b9e12_03a1_4c55_9d0a_1f2e3d4c5b6a.slice", "kubepods-besteffort.slice")
    ('6f4b9e12-03a1-4c55-9d0a-1f2e3d4c5b6a', 'kubernetes')
    """
    if before == "libpod_parent" and is_identifier(part):
        return part, "podman"
    name, colon, _ = part.partition(".slice:")
    is_slice = bool(colon) or part.endswith(".slice")
    name = name.removesuffix(".slice")
    if is_slice and "libpod_pod_" in name:
        identifier = name.rpartition("libpod_pod_")[2]
        return (identifier, "podman") if is_identifier(identifier) else None
    head, found, uid = name.rpartition("pod")
    uid = uid.replace("_", "-")
    if not found or not is_uid(uid) or (is_slice and "kubepods" not in head) or (head and not is_slice):
        return None
    return uid, KUBERNETES


def unit_in(part: str, suffixes: tuple[str, ...]) -> Found | None:
    """Return the name of the unit that a cgroup is; None where it is none.

    >>> unit_in("_cpu.service", UNIT_SUFFIXES), unit_in("payload", UNIT_SUFFIXES)
    (('cpu.service', None), None)
    """
    # systemd puts a "_" before a name that could be a file of the kernel (src/basic/cgroup-util.c, cg_escape()).
    return (part.removeprefix("_"), None) if part.endswith(suffixes) and not part.startswith(".") else None


def unescaped(name: str) -> str:
    r"""Return a name in which systemd has written bytes as hexadecimal numbers.

    >>> unescaped(r"my\x2dmachine"), unescaped(r"a\x2"), unescaped("plain")
    ('my-machine', 'a\\x2', 'plain')
    """
    first, *rest = name.split("\\x")
    result = first.encode(errors="surrogateescape")
    for part in rest:
        is_byte = len(part) > 1 and not part[:2].lower().strip(HEX)
        result += bytes.fromhex(part[:2]) if is_byte else b"\\x" + part[:2].encode(errors="surrogateescape")
        result += part[2:].encode(errors="surrogateescape")
    return result.decode(errors="surrogateescape")


def is_identifier(text: str) -> bool:
    """Whether a text is the ID of a container."""
    return len(text) == ID_LENGTH and not text.strip(HEX)


def is_uid(text: str) -> bool:
    """Whether a text is the UID of a pod.

    >>> is_uid("6f4b9e12-03a1-4c55-9d0a-1f2e3d4c5b6a"), is_uid("6f4b9e1203a14c559d0a1f2e3d4c5b6a"), is_uid("man")
    (True, True, False)
    """
    parts = text.split("-")
    lengths = tuple(map(len, parts))
    return lengths in (UID_LENGTHS, (sum(UID_LENGTHS),)) and not "".join(parts).strip(HEX)
