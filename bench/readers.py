"""Measure what walking page tables does to the target, by each reader there is: ``python bench/readers.py``.

The module and kcore are in kernels that this machine may not run: bench/README.md says how to ask a guest.
"""

import argparse
import sys

import programs
import report
from jobs import SMALL
from mematlas.errors import Error
from mematlas.kernel.memory.readers import open_kernel_memory
from run import EXIT_NOT_RUN, check_memory, find_values
from stall import AGAIN_THROUGHPUT, NOTHING, OBSERVERS, Target, measure_stall, observer_of_ours

MIB = 1 << 20
READERS = ("bpf", "kcore", "module")


def main() -> int:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one round")
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="memory of the target")
    arguments = parser.parse_args()
    observers = [observer for observer in OBSERVERS if not observer.argv or observer.label == NOTHING]
    missing: dict[str, str] = {}
    for reader in READERS:
        why = why_not(reader)
        if why:
            missing[reader] = why
        else:
            observers.append(observer_of_ours(f"walk by {reader}", f"walk-{reader}", AGAIN_THROUGHPUT))
    try:
        programs.build()
        check_memory(arguments.size * MIB)
        size = arguments.size * MIB
        label = f"{arguments.size} MiB of touched {SMALL}"
        what = Target(label, size, size, observers=tuple(observers))
        stalls = measure_stall(find_values(), arguments.rounds, arguments.seconds, what)
    except programs.ProgramError as error:
        print(f"bench: {error}", file=sys.stderr)
        return EXIT_NOT_RUN
    print("\n".join(report.describe_machine()))
    print(report.format_text(report.STALL_HEADER, [report.stall_cells(stall) for stall in stalls]))
    print(report.describe_rounds(stalls, what.label))
    for reader, why in missing.items():
        print(f"walk by {reader}: NOT RUN: {why}")
    return EXIT_NOT_RUN if missing or any(stall.error for stall in stalls) else 0


def why_not(reader: str) -> str | None:
    """Return why there is no such reader here."""
    try:
        open_kernel_memory(reader).close()
    except Error as error:
        return str(error)
    return None


if __name__ == "__main__":
    sys.exit(main())
