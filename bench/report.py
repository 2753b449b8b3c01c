"""The result as tables, for the terminal and for docs/performance.md."""

import os
import platform
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from jobs import GIB, MIB, Job, Peer
from measure import CommandError, Results, Sample, compare, median_cpu_ms, median_wall_ms
from stall import AGAIN_THROUGHPUT, BAR_P999_MS, PACED_THROUGHPUT, TARGETS, Stall

HEADER = ("job", "against", "ours", "ours, wall", "peer", "ratio", "range", "bar", "verdict")
LEGEND = (
    "ours, peer: CPU time, user and system, median of the rounds. ratio: ours to peer, median of the ratios "
    "of each round; range: the least and the greatest. ok, LOSES: against the bar; wins, loses: no bar."
)
STALL_HEADER = (
    "observer",
    "observations",
    "operations",
    "throughput",
    "p50",
    "p99",
    "p99.9",
    "worst",
    "verdict",
)
STALL_LEGEND = (
    "The target maps, touches and unmaps 64 KiB in a loop, beside {beside}; medians of the rounds, but "
    "the worst of all. Throughput is a share of that beside a loop that looks at nothing. Bars: p99.9 "
    f"under {BAR_P999_MS:g} ms or what that loop makes it, throughput above {PACED_THROUGHPUT:.0%} of single looks, "
    f"{AGAIN_THROUGHPUT:.0%} of who looks again."
)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table, as text."""

    job: str
    against: str
    verdict: str
    bar: str = "-"
    ours: str = "-"
    wall: str = "-"
    peer: str = "-"
    ratio: str = "-"
    range: str = "-"

    def cells(self) -> tuple[str, ...]:
        """Return the cells, in the order of `HEADER`."""
        return (
            self.job,
            self.against,
            self.ours,
            self.wall,
            self.peer,
            self.ratio,
            self.range,
            self.bar,
            self.verdict,
        )


def judge(job: Job, results: Results) -> list[Row]:
    """Return the lines of a job: one per peer, and one for the memory when that has a bar."""
    rows = [judge_peer(job, peer, results) for peer in job.peers]
    ours = results[job.ours.label]
    if job.peak_bar is not None and not isinstance(ours, CommandError):
        rows.append(judge_peak(job, job.peak_bar, ours))
    if job.cpu_bar_ms is not None:
        rows.append(judge_time(job, "CPU time", job.cpu_bar_ms, ours))
    if job.wall_bar_ms is not None:
        rows.append(judge_time(job, "wall time", job.wall_bar_ms, ours))
    return rows


def judge_peer(job: Job, peer: Peer, results: Results) -> Row:
    """Return the line that compares ours with a peer, or that says why it cannot be."""
    ours, theirs = results[job.ours.label], results[peer.command.label]
    if isinstance(ours, CommandError):
        return not_run(job, peer, f"{job.ours.label}: {ours}")
    if isinstance(theirs, CommandError):
        return not_run(job, peer, str(theirs))
    comparison = compare(ours, theirs)
    return Row(
        job=job.name,
        against=peer.command.label,
        ours=f"{median_cpu_ms(ours):.1f} ms",
        # The wall time of a program that repeats its work is that of all repeats.
        wall="-" if job.ours.reports else f"{median_wall_ms(ours):.0f} ms",
        peer=f"{median_cpu_ms(theirs):.1f} ms",
        ratio=f"{comparison.median:.2f}",
        range=f"{min(comparison.ratios):.2f} to {max(comparison.ratios):.2f}",
        bar=format_bar(peer),
        verdict=find_difference(ours, theirs) or judge_ratio(comparison.median, peer.bar),
    )


def judge_time(job: Job, what: str, bar: float, ours: list[Sample] | CommandError) -> Row:
    """Return the line about a time that has a bar of its own, CPU time or wall time."""
    if isinstance(ours, CommandError):
        return Row(job.name, what, f"NOT RUN: {ours}", bar=f"{bar:g} ms")
    took = median_cpu_ms(ours) if what == "CPU time" else median_wall_ms(ours)
    return Row(
        job=job.name,
        against=what,
        ours=f"{median_cpu_ms(ours):.1f} ms",
        wall="-" if job.ours.reports else f"{median_wall_ms(ours):.0f} ms",
        bar=f"{bar:g} ms",
        verdict="ok" if took <= bar else "LOSES",
    )


def not_run(job: Job, peer: Peer, reason: str) -> Row:
    """Return the line of a comparison that could not be made: never left out, never guessed."""
    return Row(job.name, peer.command.label, f"NOT RUN: {reason}", bar=format_bar(peer))


def format_bar(peer: Peer) -> str:
    """Return the bar as text."""
    return "-" if peer.bar is None else f"{peer.bar:.2f}"


def judge_ratio(ratio: float, bar: float | None) -> str:
    """Return the verdict on a ratio."""
    if bar is None:
        return "wins" if ratio < 1 else "loses"
    return "ok" if ratio <= bar else "LOSES"


def find_difference(ours: Sequence[Sample], theirs: Sequence[Sample]) -> str:
    """Return what is wrong when both counted pages and do not agree: then the times mean nothing."""
    a, b = ours[-1].nr_present, theirs[-1].nr_present
    return "" if a is None or b is None or a == b else f"WRONG: {a} pages, not {b}"


def judge_peak(job: Job, bar: int, ours: Sequence[Sample]) -> Row:
    """Return the line about memory: the greatest peak of all rounds."""
    peak = max(sample.peak for sample in ours)
    is_ours = peak > resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Row(
        job=job.name,
        against="peak memory",
        # See measure.py: a child is never counted as smaller than this harness.
        ours=f"{'' if is_ours else 'at most '}{peak / MIB:.1f} MiB",
        bar=f"{bar / MIB:.0f} MiB",
        verdict="ok" if peak < bar else "LOSES",
    )


def stall_cells(stall: Stall) -> tuple[str, ...]:
    """Return the cells of one observer, in the order of `STALL_HEADER`."""
    if not stall.rounds:
        return (stall.observer.label, *["-"] * (len(STALL_HEADER) - 2), stall.verdict)
    nr_observations = "-"
    if stall.observer.argv:
        nr_observations = f"{stall.median(lambda a_round: a_round.nr_observations):.0f}"
    return (
        stall.observer.label,
        nr_observations,
        f"{stall.median(lambda a_round: a_round.nr_operations):.0f}",
        f"{stall.median(lambda a_round: a_round.throughput):.1%}",
        f"{stall.median(lambda a_round: a_round.p50_ms):.3f} ms",
        f"{stall.median(lambda a_round: a_round.p99_ms):.3f} ms",
        f"{stall.median(lambda a_round: a_round.p999_ms):.2f} ms",
        f"{stall.worst_ms:.1f} ms",
        stall.verdict,
    )


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that one call found."""

    machine: Sequence[str]
    """Sentences that say what was measured on."""
    jobs: Sequence[Job]
    rows: Sequence[Row]
    nr_rounds: int
    stalls: Mapping[str, Sequence[Stall] | str]
    """The rows of each stall job that was asked for, or why it could not be run."""

    def verdicts(self) -> Iterator[str]:
        """Yield every verdict."""
        yield from (row.verdict for row in self.rows)
        for stalls in self.stalls.values():
            if isinstance(stalls, str):
                yield f"NOT RUN: {stalls}"
            else:
                yield from (stall.verdict for stall in stalls)

    @property
    def legend(self) -> str:
        """Return what the columns mean."""
        return f"Rounds: {self.nr_rounds}. {LEGEND}"

    def text(self) -> str:
        """Return the report for a terminal."""
        parts = ["\n".join(self.machine)]
        if self.rows:
            parts += [format_text(HEADER, [row.cells() for row in self.rows]), self.legend]
            parts.append("\n".join(f"{job.name}: {describe(job)}" for job in self.jobs))
        for name, stalls in self.stalls.items():
            if isinstance(stalls, str):
                parts.append(f"{name}: NOT RUN: {stalls}")
            else:
                cells = [stall_cells(stall) for stall in stalls]
                parts.append(format_text(STALL_HEADER, cells))
                parts.append(describe_rounds(stalls, TARGETS[name].label))
        return "\n\n".join(parts)

    def markdown(self) -> str:
        """Return the report as a section of a document."""
        parts = ["## Measured", " ".join(self.machine)]
        if self.rows:
            parts += ["### Speed"]
            parts += [format_markdown(HEADER, [row.cells() for row in self.rows]), self.legend]
            parts.append("\n".join(f"- **{job.name}**: {describe(job)}" for job in self.jobs))
        for name, stalls in self.stalls.items():
            parts.append(f"### The stall: {TARGETS[name].label}")
            if isinstance(stalls, str):
                parts.append(f"Not run: {stalls}.")
            else:
                cells = [stall_cells(stall) for stall in stalls]
                parts.append(format_markdown(STALL_HEADER, cells))
                parts.append(describe_rounds(stalls, TARGETS[name].label))
        return "\n\n".join(parts) + "\n"


def describe(job: Job) -> str:
    """Return what the job runs, on what, and what to know about it."""
    victim = f" on {job.victim.label}" if job.victim else ""
    note = f" ({job.note})" if job.note else ""
    return f"{job.ours.label}{victim}{note}."


def describe_rounds(stalls: Sequence[Stall], beside: str) -> str:
    """Return how long the target was watched, and what the table says."""
    rounds = stalls[0].rounds
    legend = STALL_LEGEND.format(beside=beside)
    return f"Rounds: {len(rounds)} of {rounds[0].seconds:.0f} s. {legend}"


def format_text(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table for the terminal."""
    lines = [header, *rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(header))]
    texts = []
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        texts.append("  ".join(cells).rstrip())
    return "\n".join(texts)


def format_markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table for a document."""
    lines = [header, ["---"] * len(header), *rows]
    texts = []
    for line in lines:
        cells = [cell.replace("|", "\\|") for cell in line]
        texts.append(f"| {' | '.join(cells)} |")
    return "\n".join(texts)


def describe_machine() -> list[str]:
    """Return what was measured on, and when: figures without that are worth nothing."""
    memory = int(find_field("/proc/meminfo", "MemTotal").split()[0]) * 1024
    day = time.strftime("%Y-%m-%d")
    processor = find_field("/proc/cpuinfo", "model name")
    load = os.getloadavg()[0]
    numpy, psutil = find_version("numpy"), find_version("psutil")
    return [
        f"{day}, on {processor}, {os.cpu_count()} processors, {memory / GIB:.0f} GiB, load {load:.2f} at the start.",
        f"Linux {platform.release()}, Python {platform.python_version()}, numpy {numpy}, psutil {psutil},"
        f" {find_pmap_version()}.",
    ]


def find_field(path: str, name: str) -> str:
    """Return the value of the first line ``name: value`` in a file of /proc."""
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"


def find_version(package: str) -> str:
    """Return the version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def find_pmap_version() -> str:
    """Return what pmap says of itself: "pmap from procps-ng 4.0.2"."""
    if shutil.which("pmap") is None:
        return "pmap not installed"
    return subprocess.run(["pmap", "-V"], capture_output=True, text=True).stdout.strip()
