"""`make fuzz`: runs inputs by the million, keeps what fails, and runs a kept one again.

campaign.py [GROUP ...] [--inputs N] [--seconds T] [--seed S] [--keep DIR] [--workers N]
campaign.py --replay FILE
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

# Before numpy is loaded: children that are forked have no use for its threads.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

from engine import Notebook, Outcome, Subject, replay, run  # noqa: E402 (the path comes first)

OWN_PIDS = "MEMATLAS_FUZZ_OWN_PIDS"
"""Set in a PID namespace of our own."""


def parsers(live: bool) -> Sequence[Subject]:
    from parsers import all_parsers

    return all_parsers(live)


def command_lines(live: bool) -> Sequence[Subject]:
    from commands import CommandLines

    return [CommandLines()]


def captures(live: bool) -> Sequence[Subject]:
    from mutated_captures import MutatedCaptures

    return [MutatedCaptures()]


def races(live: bool) -> Sequence[Subject]:
    from races import Races

    return [Races()]


def swaps(live: bool) -> Sequence[Subject]:
    from swaps import Swaps

    return [Swaps()]


def questions(live: bool) -> Sequence[Subject]:
    from questions import Questions

    return [Questions()]


def recordings(live: bool) -> Sequence[Subject]:
    from mutated_recordings import MutatedRecordings

    return [MutatedRecordings()]


def kills(live: bool) -> Sequence[Subject]:
    from kills import Kills

    return [Kills()]


GROUPS: dict[str, tuple[int, Callable[[bool], Sequence[Subject]]]] = {
    "parsers": (10_000_000, parsers),
    "captures": (100_000, captures),
    "command-lines": (100_000, command_lines),
    "races": (10_000, races),
    "swaps": (10_000, swaps),
    "questions": (1_000_000, questions),
    "recordings": (100_000, recordings),
    "kills": (1_000, kills),
}
"""How many inputs of each group a whole run has, and what makes them."""


TIMES = {"races": 300, "swaps": 300, "kills": 30}
"""How often a kept input is run again: the moment must be met."""


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="campaign.py", description="Run made-up inputs; say which of them fail.")
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"{', '.join(GROUPS)} (all)")
    parser.add_argument("--inputs", type=int, metavar="N", help="inputs of each group")
    parser.add_argument("--seconds", type=float, metavar="T", help="stop each group after so long")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of the random numbers (1)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="one per processor")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where failing inputs go; a run there is gone on with")
    parser.add_argument(
        "--recorded", action="store_true", help="make inputs of recorded text alone, not of this kernel's"
    )
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run one kept input again")
    args = parser.parse_args(words)
    if wrong := set(args.groups) - GROUPS.keys():
        parser.error(f"no group {', '.join(sorted(wrong))}: there are {', '.join(GROUPS)}")
    return args


def replay_file(path: Path) -> int:
    """Run one kept input again, and show what happens."""
    name = path.absolute().parent.name
    subjects = [subject for _, make in GROUPS.values() for subject in make(False) if subject.name == name]
    if not subjects:
        print(f"{path}: no subject is called {name!r}: the input's directory names it")
        return 2
    fault = None
    for _ in range(TIMES.get(name, 1)):
        fault = fault or replay(path, subjects)
    print(fault.text if fault else "it does not fail")
    return 1 if fault else 0


class Progress:
    """Tells every ten seconds how far a group is, and writes it down."""

    def __init__(self, group: str, seed: int, notebook: Notebook) -> None:
        self.group, self.seed, self.notebook = group, seed, notebook
        self.last = time.monotonic()

    def __call__(self, outcome: Outcome) -> None:
        if time.monotonic() - self.last > 10:
            self.last = time.monotonic()
            self.notebook.came_to(self.group, self.seed, outcome.first)
            for fault in outcome.faults.values():
                self.notebook.keep(fault)
            print(f"{self.group}: {outcome.nr_run:,} inputs, {len(outcome.faults)} kinds of fault", flush=True)


def run_group(group: str, args: argparse.Namespace, notebook: Notebook) -> int:
    """Run one group; return how many kinds of fault it has. After Ctrl-C what was found is reported all the same."""
    nr_inputs, make = GROUPS[group]
    first = notebook.first(group, args.seed)
    numbers = range(first, max(first, args.inputs if args.inputs is not None else nr_inputs))
    print(f"{group}: inputs {numbers.start:,} to {numbers.stop:,}, seed {args.seed}", flush=True)
    outcome = run(
        make(not args.recorded), args.seed, numbers, args.workers, args.seconds, Progress(group, args.seed, notebook)
    )
    notebook.came_to(group, args.seed, outcome.first)
    for kind, fault in sorted(outcome.faults.items()):
        path = notebook.keep(fault)
        print(f"{kind}\n  again: {sys.executable} {Path(__file__)} --replay {path}")
    rate = outcome.nr_run / outcome.seconds if outcome.seconds else 0
    print(
        f"{group}: {outcome.nr_run:,} inputs in {outcome.seconds:,.0f} s ({rate:,.0f}/s), {outcome.nr_faults:,} failed"
        f" in {len(outcome.faults)} ways",
        flush=True,
    )
    if outcome.interrupted:
        raise SystemExit(130)
    return len(outcome.faults)


UNSHARE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


def can_unshare() -> bool:
    """Whether we may have a PID namespace of our own, with a /proc of it; root in a container may not."""
    if os.geteuid() != 0 or not shutil.which(UNSHARE[0]):
        return False
    return subprocess.run([*UNSHARE, "true"], stderr=subprocess.DEVNULL, check=False).returncode == 0


def in_own_pids(args: argparse.Namespace, notebook: Notebook) -> int:
    """Run the races where each victim can be given the PID of the one before it; return how we ended."""
    words = [sys.executable, str(Path(__file__)), "races", "--seed", str(args.seed), "--workers", str(args.workers)]
    words += ["--keep", str(notebook.path)]
    for name, value in (("--inputs", args.inputs), ("--seconds", args.seconds)):
        words += [] if value is None else [name, str(value)]
    return subprocess.run([*UNSHARE, *words], env=os.environ | {OWN_PIDS: "1"}, check=False).returncode


def main(words: Sequence[str] | None = None) -> int:
    args = arguments(words)
    if args.replay:
        return replay_file(args.replay)
    groups = args.groups or list(GROUPS)
    notebook = Notebook(args.keep or Path(tempfile.mkdtemp(prefix="mematlas-fuzz-")))
    with tempfile.TemporaryDirectory(prefix="mematlas-fuzz-scratch-") as scratch:
        os.chmod(scratch, 0o711)  # programs of other users are to find their place in it
        tempfile.tempdir = scratch  # of the workers too, who are ended without a chance to clear away
        nr_faults = 0
        for group in groups:
            if group == "races" and OWN_PIDS not in os.environ and can_unshare():
                nr_faults += in_own_pids(args, notebook)
            else:
                nr_faults += run_group(group, args, notebook)
    if OWN_PIDS in os.environ:
        return 1 if nr_faults else 0
    print(f"kept in {notebook.path}: --keep {notebook.path} goes on from here")
    return 1 if nr_faults else 0


if __name__ == "__main__":
    sys.exit(main())
