"""What works here and what does not, in words: a summary, then what is missing and what to type, then the rest."""

from __future__ import annotations

from mematlas.doctor.bench import MISSING, NEEDED, UNTRIED, WORKS
from mematlas.kernel.hugepage import THP
from mematlas.kernel.procfs import WHOLE_PROC
from mematlas.notes import Note
from mematlas.views.format import fold_message, fold_words, format_size
from mematlas.views.swap import swap_file_line
from mematlas.views.table import Column, Drawn
from mematlas.views.terminal import paint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from mematlas.doctor.bench import Reason
    from mematlas.doctor.features import Feature

NAMES = {
    "maps": ("/proc/PID/maps", "the VMAs"),
    "smaps": ("/proc/PID/smaps", "RSS, PSS, USS, swap of each VMA"),
    "smaps-rollup": ("/proc/PID/smaps_rollup", "their sums"),
    "status-vmpte": ("/proc/PID/status VmPTE", "bytes of page tables"),
    "numa-maps": ("/proc/PID/numa_maps", "pages by NUMA node"),
    "pagemap": ("/proc/PID/pagemap", "the state of every page"),
    "frame-numbers": ("frame numbers", "physical addresses"),
    "scan": ("PAGEMAP_SCAN", "finding pages without reading holes"),
    "scan-wpallowed": ("PAGEMAP_SCAN WPALLOWED", "pages tracked for writes"),
    "scan-written": ("PAGEMAP_SCAN WRITTEN", "tracked pages written to"),
    "scan-file": ("PAGEMAP_SCAN FILE", "pages of files"),
    "scan-present": ("PAGEMAP_SCAN PRESENT", "present pages"),
    "scan-swapped": ("PAGEMAP_SCAN SWAPPED", "pages in swap"),
    "scan-pfnzero": ("PAGEMAP_SCAN PFNZERO", "zero pages"),
    "scan-huge": ("PAGEMAP_SCAN HUGE", "huge entries"),
    "scan-soft-dirty": ("PAGEMAP_SCAN SOFT_DIRTY", "soft-dirty pages"),
    "scan-guard": ("PAGEMAP_SCAN GUARD", "guard regions"),
    "scan-accessed": ("PAGEMAP_SCAN ACCESSED", "tracked pages accessed"),
    "procmap-query": ("PROCMAP_QUERY", "one VMA without reading all"),
    "soft-dirty": ("soft-dirty bits", "pages written since a moment"),
    "guard": ("guard regions", "madvise(2), MADV_GUARD_INSTALL"),
    "guard-bit": ("guard bit in pagemap", "guard regions, apart from swap"),
    "anon-names": ("names of anonymous VMAs", "[anon:NAME] in maps"),
    "map-files": ("/proc/PID/map_files", "shared memory that was swapped out"),
    "cachestat": ("cachestat", "file pages in RAM and in swap"),
    "mincore": ("mincore", "file pages in RAM"),
    "first-process": ("PID 1", "the memory of the first process"),
    "other-users": ("other users' processes", "the memory of any process"),
    "ptrace": ("ptrace of one's own", "/proc/PID/mem, debuggers"),
    "madvise-cold": ("process_madvise COLD", "pageout and cold of any process"),
    "madvise-willneed": ("process_madvise WILLNEED", "willneed of any process"),
    "madvise-collapse": ("MADV_COLLAPSE", "collapse to huge pages"),
    "kpagecount": ("kpagecount", "how often a frame is mapped"),
    "kpageflags": ("kpageflags", "what a frame is used for"),
    "kpagecgroup": ("kpagecgroup", "who pays for a frame"),
    "idle-pages": ("idle page bitmap", "frames not used since a moment"),
    "swap": ("swap areas", "room for pages that are paged out"),
    "zram": ("zram", "swap in compressed RAM"),
    "zswap": ("zswap", "a compressed cache before swap"),
    "hugetlb": ("hugetlb pools", "huge pages set aside"),
    "thp": ("transparent huge pages", "anonymous memory by huge entries"),
    "ksm": ("KSM", "equal pages merged"),
    "userfaultfd": ("userfaultfd", "page faults handled by a program"),
    "write-tracking": ("userfaultfd WP_ASYNC", "writes tracked without stopping"),
    "access-faults": ("userfaultfd RWP", "accesses handled by a program"),
    "access-tracking": ("userfaultfd RWP_ASYNC", "accesses tracked without stopping"),
    "perf-faults": ("perf page faults", "faults of one's own"),
    "perf-faults-all": ("perf page faults, all", "faults of every process"),
    "bpf": ("BPF", "raw page-table entries"),
    "btf": ("BTF", "the kernel's own types, for BPF"),
    "kcore": ("/proc/kcore", "kernel memory, without BPF"),
    "module": ("mematlas module", "page tables without BPF and kcore"),
    "lockdown": ("lockdown", "whether kernel memory may be read"),
}
"""What each interface is called, and what it is good for."""

TO_TYPE = {
    "debugfs": "sudo mount -t debugfs debugfs /sys/kernel/debug",
    "hugetlb": "sudo sysctl vm.nr_hugepages=2",
    "ksm": "echo 1 | sudo tee /sys/kernel/mm/ksm/run",
    "module": "sudo insmod mematlas.ko, from native/kmod of the source",
    "perf": "sudo sysctl kernel.perf_event_paranoid=2",
    "perf-all": "sudo sysctl kernel.perf_event_paranoid=0",
    "securityfs": "sudo mount -t securityfs securityfs /sys/kernel/security",
    "swap": f"sudo sh -c '{swap_file_line(1024)}'",
    "sysfs": "/sys is not mounted: sudo mount -t sysfs sysfs /sys",
    "thp": f"echo madvise | sudo tee {THP}/enabled",
    "userfaultfd": "sudo sysctl vm.unprivileged_userfaultfd=1",
    "yama": "sudo sysctl kernel.yama.ptrace_scope=0",
    "zram": "sudo modprobe zram",
    "zswap": "echo Y | sudo tee /sys/module/zswap/parameters/enabled",
}
"""The line that switches something on, by its code."""

REASONS: dict[str, str | Callable[..., str]] = {
    "all-accessed": "accepted, but it reports every page as accessed",
    "all-written": "accepted, but it reports every page as written",
    "alone": "there is no other process here",
    "another-vma": "it returns another VMA",
    "cache-unseen": "it does not see a page that is in RAM",
    "empty": "the file is empty",
    "files": lambda refused, opened: f"for {', '.join(refused)}" + though_not(opened),
    "finds-nothing": "accepted, but it does not find such a page",
    "held": "held, yet refused: by a security module, a namespace or a seccomp filter",
    "kernel": lambda *options: ", ".join(options),
    "locked-down": lambda mode: f"in the way: a kernel not locked down to {mode} is needed",
    "lockdown": lambda mode: f"not in the way ({mode})",
    "no-lockdown": "not in the way: this kernel has none",
    "no-number": lambda machine: f"not tried: the number of the system call on {machine} is not known here",
    "no-tables": lambda machine: f"works, but page tables of {machine} are not read yet: x86-64 alone",
    "no-thp": "accepted, not seen: this kernel has no transparent huge pages",
    "no-yama": "no Yama in this kernel",
    "nodes": lambda nr: f"{nr} node{'s' * (nr != 1)}",
    "none-huge": "accepted, not seen: no huge page of ours could be made just now",
    "none-swapped": "accepted, not seen: no page of ours goes to swap here",
    "none-tracked": "accepted, not seen: it needs userfaultfd WP_ASYNC",
    "none-tracked-rw": "accepted, not seen: it needs userfaultfd RWP_ASYNC",
    "not-understood": lambda error: error,
    "not-present": "the entry of a page just written to is not present",
    "pools": lambda *pools: ", ".join(f"{nr} of {size}" for nr, size in pools),
    "root": "root",
    "scattered": lambda size: f"no {format_size(size)} of contiguous RAM is free just now",
    "swap-areas": lambda nr, size: f"{nr} in use, {format_size(size)}",
    "thp": lambda mode: mode,
    "thp-scattered": lambda mode, size: f"{mode}; no {format_size(size)} of contiguous RAM is free just now",
    "tried-on": lambda pid: f"tried on {pid}",
    "tried-on-own": lambda pid: f"tried on {pid}: no other user has a process here",
    "type": lambda setting: TO_TYPE[setting],
    "unknown-categories": lambda *bits: unknown_bits("category", "categories", bits),
    "unknown-flags": lambda *bits: unknown_bits("flag", "flags", bits),
    "uncounted": "it does not count a fault that happened",
    "unsigned": lambda mode: f"lockdown={mode}: an unsigned module is refused",
    "user-mode": f"faults in user mode only; for all: {TO_TYPE['userfaultfd']}",
    "whole-proc": WHOLE_PROC,
    "yama": lambda scope: f"kernel.yama.ptrace_scope={scope}",
    "yama-for-good": "kernel.yama.ptrace_scope=3, until the machine is booted without it",
}
"""The words for each reason, with its values."""

INDENT = " " * 6
"""Before what stands below an interface."""
SECTIONS = {
    NEEDED: "Needs a right or a setting:",
    UNTRIED: "Cannot be tried as things are:",
    MISSING: "Missing from this kernel:",
    WORKS: "Works:",
}
"""What stands over the interfaces of each status, in this order."""
IN_SUMMARY = {NEEDED: "Need a right or a setting", UNTRIED: "Cannot be tried", MISSING: "Missing"}


def doctor_view(features: Iterable[Feature], held: frozenset[str], command: str, ids: tuple[int, int]) -> Drawn:
    """Return the features, those that do not work first, and the lines that give the rights we lack.

    ``command`` is how mematlas is started, ``ids`` are our user and group.
    """
    features = sorted(features, key=lambda feature: list(SECTIONS).index(feature.status))
    needed: set[str] = set()
    for feature in features:
        if feature.status == NEEDED:
            needed.update(feature.needs)
    ways = ways_to_rights(sorted(needed - held), command, *ids)

    def draw(in_bytes: bool, colour: bool, width: int) -> Iterator[str]:
        for line in draw_features(features, ways, width):
            yield paint(line, "title" if line in SECTIONS.values() else None, colour)

    return Drawn("doctor/2", COLUMNS, features, draw=draw, fine_print=ways)


def detail_of(feature: Feature) -> str | None:
    """Return what would do, why it is missing, or what more is known; None where there is nothing to say."""
    reason = feature.reason
    said = None if reason is None else words_of(reason)
    if not feature.needs:
        return said
    rights = " and ".join(feature.needs)
    if reason is None:
        return rights
    return f"{rights}, or: {said}" if reason.code == "type" else f"{rights} {said}"


COLUMNS: tuple[Column[Feature], ...] = (
    Column("code", "CODE"),
    Column("interface", "INTERFACE", value=lambda feature: NAMES[feature.code][0]),
    Column("status", "STATUS"),
    Column("gives", "GIVES", value=lambda feature: NAMES[feature.code][1]),
    Column("needs", "NEEDS", "list"),
    Column("detail", "DETAIL", value=detail_of),
)


def words_of(reason: Reason) -> str:
    """Return the words for a reason."""
    words = REASONS[reason.code]
    return words if isinstance(words, str) else words(*reason.values)


def unknown_bits(one: str, many: str, bits: Sequence[int]) -> str:
    """Return what is said of bits that the kernel has and that have no name here.

    >>> unknown_bits("category", "categories", (10,)), unknown_bits("flag", "flags", (43, 44))
    ('and a category that mematlas does not know: bit 10', 'and 2 flags that mematlas does not know: bits 43, 44')
    """
    what, where = (f"a {one}", "bit") if len(bits) == 1 else (f"{len(bits)} {many}", "bits")
    return f"and {what} that mematlas does not know: {where} {', '.join(map(str, bits))}"


def though_not(opened: Sequence[str]) -> str:
    """Return what is said of files that opened, where others did not."""
    return f", though not {' and '.join(opened)}" if opened else ""


def draw_features(features: Sequence[Feature], ways: Sequence[Note], width: int) -> Iterator[str]:
    """Yield the text: the summary, then each status under its heading."""
    yield from summary(features, width)
    name_width, gives_width = (max(map(len, words)) for words in zip(*NAMES.values(), strict=True))

    def head(feature: Feature) -> str:
        name, gives = NAMES[feature.code]
        return f"  {name:<{name_width}}  {gives:<{gives_width}}"

    for status, heading in SECTIONS.items():
        chosen = [feature for feature in features if feature.status == status]
        rows = [(head(feature), detail_of(feature) or "") for feature in chosen]
        if rows:
            yield ""
            yield heading
            yield from section(rows, width)
        if status == NEEDED:
            for way in ways:
                yield from way_lines(way.text, width)


def summary(features: Sequence[Feature], width: int) -> Iterator[str]:
    """Yield how many interfaces work, and the names of those that do not."""
    nr_work = sum(feature.status == WORKS for feature in features)
    yield f"{nr_work} of {len(features)} interfaces work here."
    for status, words in IN_SUMMARY.items():
        if names := [NAMES[feature.code][0] for feature in features if feature.status == status]:
            text = f"{words} ({len(names)}): {', '.join(names)}"
            first, *others = fold_words(text, width - len(INDENT)) if width else [text]
            yield first
            yield from (INDENT + line for line in others)


def section(rows: Sequence[tuple[str, str]], width: int) -> Iterator[str]:
    """Yield interfaces, and what is said of each: beside it where there is room for all, else below it."""
    if not width or all(len(head) + 2 + len(detail) <= width for head, detail in rows):
        yield from (f"{head}  {detail}".rstrip() for head, detail in rows)
        return
    for head, detail in rows:
        yield from fold_message(head.rstrip(), width)
        if detail in TO_TYPE.values() and " && " not in detail:
            yield INDENT + detail
        elif detail:
            yield from fold_message(INDENT + detail, width)


def way_lines(text: str, width: int) -> Iterator[str]:
    """Yield one way to get rights: what it is, and below it the line to type, whole."""
    what, _, line = text.partition(": ")
    if not width or len(text) + 2 <= width:
        yield f"  {text}"
    else:
        yield f"  {what}:"
        yield INDENT + line


def ways_to_rights(missing: list[str], command: str, uid: int, gid: int) -> list[Note]:
    """Return how to get these capabilities, as notes: all rights at once, or these alone."""
    if not missing:
        return []
    options = " ".join(f"--cap-add {name.removeprefix('CAP_')}" for name in missing)
    container = f"docker run {options} --pid host"
    if uid == 0:
        text = f"root without rights, as in a container or a user namespace; to give them: {container}"
        return [Note("rights-of-root", text)]
    single = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in missing)
    setpriv = f"sudo setpriv --reuid={uid} --regid={gid} --init-groups --inh-caps={single} --ambient-caps={single}"
    return [
        Note("all-rights", f"all rights, for any command: sudo -- {command} COMMAND"),
        Note("these-rights", f"only these rights: {setpriv} -- {command} COMMAND"),
        Note("rights-of-service", f"in a systemd service: AmbientCapabilities={' '.join(missing)}"),
        Note("rights-of-container", f"in a container (or podman run): {container}"),
    ]
