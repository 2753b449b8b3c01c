"""CPU time of commands, run in turn, compared round by round.

A shared machine changes its speed from second to second, so a time alone says little. Commands are run
A B C A B C, each round gives one ratio, and the median of the ratios is what we quote.

CPU time is user plus system time of the child as the kernel counts it (``wait4``). The peak is its
``ru_maxrss``, into which the kernel folds the size of the process that started it: it is never too small,
and exact when it is larger than this harness. That is why nothing here imports numpy.
"""

import json
import os
import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec


class CommandError(Exception):
    """A command cannot be measured; the text says why."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command line to measure. Its words may hold fields such as ``{pid}``."""

    label: str
    argv: tuple[str, ...]
    module: str | None = None
    """A Python module that it needs, and that may be missing."""
    reports: bool = False
    """It measures itself, and prints ``nr_present`` and ``cpu_ns`` as JSON."""
    is_silent: bool = False
    """It prints nothing. From all others an empty output is a failure."""
    says: str = ""
    """What it must print: without it, it has not done all of its work."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run of a command took."""

    cpu_ms: float
    wall_ms: float
    peak: int
    nr_present: int | None = None
    """The pages it found, when it reports them."""


Results = dict[str, list[Sample] | CommandError]
"""By label of the command: a sample for each round, or why there is none."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Ratios of ours to a peer, one per round."""

    ratios: tuple[float, ...]

    @property
    def median(self) -> float:
        """Return the ratio to quote."""
        return statistics.median(self.ratios)


def find_argv(command: Command, values: Mapping[str, str]) -> list[str]:
    """Return the words to execute, or say what is missing."""
    argv = [word.format_map(values) for word in command.argv]
    program = shutil.which(argv[0])
    if program is None:
        raise CommandError(f"{os.path.basename(argv[0])} is not installed")
    if command.module is not None and find_spec(command.module) is None:
        raise CommandError(f"{command.module} is not installed")
    return [program, *argv[1:]]


def run(command: Command, values: Mapping[str, str]) -> Sample:
    """Run a command once. One that fails or says nothing is an error: it would look fast."""
    argv = find_argv(command, values)
    stdout, stderr = os.memfd_create("stdout"), os.memfd_create("stderr")
    try:
        status, sample = spawn(argv, stdout, stderr)
        if status != 0:
            raise CommandError(f"failed: {last_line(read_all(stderr)) or f'exit status {status}'}")
        if not os.fstat(stdout).st_size and not command.is_silent:
            raise CommandError("printed nothing")
        if command.says and command.says.encode() not in read_all(stdout):
            raise CommandError(f"did not print {command.says!r}")
        # No other output is read: it may be large, and would count as the peak of whatever is started after it.
        return parse_report(read_all(stdout), sample) if command.reports else sample
    finally:
        os.close(stdout)
        os.close(stderr)


def spawn(argv: list[str], stdout: int, stderr: int) -> tuple[int, Sample]:
    """Run a program to its end; return its exit code and what it took."""
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, stdout, 1),
        (os.POSIX_SPAWN_DUP2, stderr, 2),
    ]
    before = time.perf_counter()
    pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=actions)
    _, status, usage = os.wait4(pid, 0)
    wall_ms = (time.perf_counter() - before) * 1e3
    cpu_ms = (usage.ru_utime + usage.ru_stime) * 1e3
    return os.waitstatus_to_exitcode(status), Sample(cpu_ms, wall_ms, usage.ru_maxrss * 1024)


def parse_report(output: bytes, sample: Sample) -> Sample:
    """Return the sample with the times that the command measured itself, without its start."""
    report = json.loads(output)
    cpu_ms = statistics.median(report["cpu_ns"]) / 1e6
    return Sample(cpu_ms, sample.wall_ms, sample.peak, report["nr_present"])


def read_all(fd: int) -> bytes:
    """Return what a child wrote into a memory file."""
    return os.pread(fd, os.fstat(fd).st_size, 0)


def last_line(text: bytes) -> str:
    """Return the last line, where programs name the error."""
    lines = text.decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def measure(commands: Sequence[Command], values: Mapping[str, str], nr_rounds: int) -> Results:
    """Run commands in turn and return what each took.

    The round before the first is not counted: it fills caches, and shows which commands cannot run.
    """
    results: Results = {}
    for command in commands:
        try:
            run(command, values)
            results[command.label] = []
        except CommandError as error:
            results[command.label] = error
    for _ in range(nr_rounds):
        for command in commands:
            add_sample(results, command, values)
    return results


def add_sample(results: Results, command: Command, values: Mapping[str, str]) -> None:
    """Add one round of a command; a failure in any round counts for all."""
    samples = results[command.label]
    if isinstance(samples, CommandError):
        return
    try:
        samples.append(run(command, values))
    except CommandError as error:
        results[command.label] = error


def compare(ours: Sequence[Sample], peer: Sequence[Sample]) -> Comparison:
    """Return the ratio of CPU times of each round."""
    return Comparison(tuple(a.cpu_ms / b.cpu_ms for a, b in zip(ours, peer, strict=True)))


def median_cpu_ms(samples: Sequence[Sample]) -> float:
    """Return the median CPU time."""
    return statistics.median(sample.cpu_ms for sample in samples)


def median_wall_ms(samples: Sequence[Sample]) -> float:
    """Return the median time from start to end."""
    return statistics.median(sample.wall_ms for sample in samples)
