"""Measure mematlas against its peers: ``python bench/run.py [--quick] [JOB...]``.

The interpreter that runs this decides what is measured: the ``mematlas`` beside it, and its psutil.
"""

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

import programs
import report
import stall
from jobs import GIB, JOBS, Job, Victim
from measure import measure

QUICK = {"rounds": 3, "stall_rounds": 1, "seconds": 1.0}
FULL = {"rounds": 9, "stall_rounds": 3, "seconds": 5.0}
QUICK_NOTE = "A quick run: it shows that everything works. Do not quote its figures."

EXIT_NOT_RUN = 1
EXIT_LOSES = 10


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [*(job.name for job in JOBS), *stall.TARGETS]
    which = f"all, or some of: {', '.join(names)}"
    parser.add_argument("jobs", nargs="*", metavar="JOB", help=which)
    parser.add_argument("--quick", action="store_true", help="few short rounds, to see that it works")
    parser.add_argument("--rounds", type=int, help="rounds of each job (default 9)")
    parser.add_argument("--stall-rounds", type=int, help="rounds of the stall jobs (default 3)")
    parser.add_argument("--seconds", type=float, help="length of one round of the stall jobs (default 5)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the result as markdown too")
    parser.add_argument("--fail", action="store_true", help="exit 10 when a bar is missed")
    arguments = parser.parse_args()
    for name in arguments.jobs:
        if name not in names:
            parser.error(f"no such job: {name} (there are: {', '.join(names)})")
    for name, value in (QUICK if arguments.quick else FULL).items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
        if getattr(arguments, name) <= 0:
            parser.error(f"--{name.replace('_', '-')} must be more than 0")
    return arguments


def find_values() -> dict[str, str]:
    """Return what the words of a command may stand for."""
    # Not resolved: a virtual environment's interpreter is a link out of it.
    python = Path(sys.executable)
    return {
        "python": str(python),
        "mematlas": str(python.parent / "mematlas"),
        "bin": str(programs.BIN),
        "bench": str(Path(__file__).resolve().parent),
        "pid": "",
    }


def find_available() -> int:
    """Return the bytes that can be had without pushing others out."""
    return int(report.find_field("/proc/meminfo", "MemAvailable").split()[0]) * 1024


def check_memory(needs: int) -> None:
    """Refuse a victim that would push others out of memory."""
    # An eighth more: page tables, and the reading programs.
    if find_available() < needs + needs // 8:
        raise programs.ProgramError(f"needs {needs / GIB:.0f} GiB of free memory")


@contextmanager
def victim_running(victim: Victim | None) -> Iterator[str]:
    """Run a victim, if any, for the length of a block; yield its pid."""
    if victim is None:
        yield ""
        return
    check_memory(victim.needs)
    with programs.running([str(programs.BIN / "victim"), *victim.arguments]) as child:
        child.wait_until_ready()
        if victim.has_thp:
            check_thp(child.pid, victim.needs)
        yield str(child.pid)


def check_thp(pid: int, size: int) -> None:
    """Refuse a victim that the kernel did not give the huge pages it asked for."""
    huge = int(report.find_field(f"/proc/{pid}/smaps_rollup", "AnonHugePages").split()[0]) * 1024
    if huge < size * 0.95:
        raise programs.ProgramError(f"only {huge / size:.0%} of the victim are huge pages")


def run_jobs(jobs: Sequence[Job], values: Mapping[str, str], nr_rounds: int) -> list[report.Row]:
    """Run the jobs, those of one victim together: filling 4 GiB takes longer than measuring them."""
    rows = []
    for victim, of_victim in groupby(jobs, key=lambda job: job.victim):
        group = list(of_victim)
        try:
            with victim_running(victim) as pid:
                for job in group:
                    print(f"{job.name}: {nr_rounds} rounds", file=sys.stderr)
                    commands = [job.ours, *(peer.command for peer in job.peers)]
                    rows += report.judge(job, measure(commands, {**values, "pid": pid}, nr_rounds))
        except programs.ProgramError as error:
            rows += [report.not_run(job, peer, str(error)) for job in group for peer in job.peers]
    return rows


def run_stall(what: stall.Target, values: Mapping[str, str], nr_rounds: int, seconds: float) -> list[stall.Stall] | str:
    """Run a stall job, or return why it cannot be run."""
    try:
        check_memory(what.needs)
        return stall.measure_stall(values, nr_rounds, seconds, what)
    except programs.ProgramError as error:
        return str(error)


def main() -> int:
    """Run as a program."""
    arguments = parse_arguments()
    # What is installed has its bytecode beside it. With this variable a checkout never gets any, and every
    # start would be measured with compilation. With the other each line that is printed is a write.
    for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"):
        os.environ.pop(name, None)
    values = find_values()
    machine = [QUICK_NOTE] * arguments.quick + report.describe_machine()
    try:
        programs.build()
    except programs.ProgramError as error:
        print(f"bench: {error}", file=sys.stderr)
        return EXIT_NOT_RUN
    wanted = [job for job in JOBS if not arguments.jobs or job.name in arguments.jobs]
    rows = run_jobs(wanted, values, arguments.rounds)
    stalls = {
        name: run_stall(what, values, arguments.stall_rounds, arguments.seconds)
        for name, what in stall.TARGETS.items()
        if not arguments.jobs or name in arguments.jobs
    }
    result = report.Report(machine, wanted, rows, arguments.rounds, stalls)
    print(result.text())
    if arguments.markdown:
        arguments.markdown.parent.mkdir(parents=True, exist_ok=True)
        arguments.markdown.write_text(result.markdown())
    return exit_code(result, arguments.fail)


def exit_code(result: report.Report, fail: bool) -> int:
    """Return 1 when something could not be measured, 10 when a bar is missed and that was asked for."""
    if any(verdict.startswith(("NOT RUN", "WRONG")) for verdict in result.verdicts()):
        return EXIT_NOT_RUN
    if fail and any(verdict.startswith("LOSES") for verdict in result.verdicts()):
        return EXIT_LOSES
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
