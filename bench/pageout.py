"""Measure pageout against a C program that makes the same calls: ``python bench/pageout.py [--rounds N] [--mib N]``.

Each round the victim touches all its memory again, then one of the two pages it out, in turn. The C program only
advises; ours plans, advises, and compares every page before and after. Needs root, and room on a disk for a swap
file, which is taken away at the end.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import programs
from measure import Command, Sample, median_cpu_ms, median_wall_ms, run

MIB = 1 << 20
CHUNK = 2 * MIB
"""What pageout advises in one call."""
BAR_CPU = 1.10
BAR_MEASURING = 0.10

EXIT_LOSES = 10

VICTIM = """
import ctypes, mmap, sys
size = int(sys.argv[1])
area = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area.madvise(getattr(mmap, "MADV_NOHUGEPAGE", 15))
print(f"{ctypes.addressof(ctypes.c_char.from_buffer(area)):x}", flush=True)
for line in sys.stdin:
    for offset in range(0, size, mmap.PAGESIZE):
        area[offset] = 1
    print("touched", flush=True)
"""


@contextmanager
def swapping(size: int) -> Iterator[None]:
    """Have swap space for the victim, and none that is compressed or shared."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
    from mematlas.kernel.swapfile import TemporarySwap

    with TemporarySwap(size):
        yield


def measure(nr_rounds: int, size: int) -> tuple[list[Sample], list[Sample], list[float]]:
    """Return the samples of ours and of the C program, and the part of our time that was not in the calls."""
    python = [sys.executable, "-c", VICTIM, str(size)]
    ours: list[Sample] = []
    peer: list[Sample] = []
    measuring: list[float] = []
    with swapping(size + size // 4), programs.running(python) as victim:
        start = victim.read_line()
        area = f"0x{start}+{size}"
        report = Path(os.environ.get("TMPDIR", "/tmp")) / f"mematlas-bench-{os.getpid()}.json"
        code = (
            "import sys; from mematlas.cli import main; sys.stdout = open(sys.argv.pop(), 'w'); "
            "code = main(sys.argv[1:]); sys.stdout.close(); sys.exit(code)"
        )
        argv = ("{python}", "-c", code, "pageout", str(victim.pid), area, "--json", str(report))
        in_c = ("{bin}/pageout", str(victim.pid), start, str(size), str(CHUNK))
        values = {"python": sys.executable, "bin": str(programs.BIN)}
        try:
            for number in range(nr_rounds + 1):
                for command, samples in (
                    (Command("mematlas pageout", argv, is_silent=True), ours),
                    (Command("C process_madvise", in_c), peer),
                ):
                    victim.ask("touch")
                    sample = run(command, values)
                    if number:  # the round before the first fills caches
                        samples.append(sample)
                if number:
                    (row,) = json.loads(report.read_text())["rows"]
                    if row["nr_moved"] < row["nr_requested"]:
                        raise programs.ProgramError(f"not all of it moved: {row['reasons']}")
                    measuring.append(1 - row["advise_s"] / row["seconds"])
        finally:
            report.unlink(missing_ok=True)
    return ours, peer, measuring


def main() -> int:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mib", type=int, default=1024, help="size of the victim (1024)")
    parser.add_argument("--fail", action="store_true", help="exit 10 when a bar is missed")
    arguments = parser.parse_args()
    # With this variable a checkout never gets bytecode, and every start would be measured with compilation.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    programs.build()
    ours, peer, measuring = measure(arguments.rounds, arguments.mib * MIB)
    ratios = [a.cpu_ms / b.cpu_ms for a, b in zip(ours, peer, strict=True)]
    ratio, part = statistics.median(ratios), statistics.median(measuring)
    print(f"pageout of {arguments.mib} MiB, medians of {arguments.rounds} rounds, whole processes")
    for label, samples in (("mematlas pageout", ours), ("C process_madvise", peer)):
        cpu, wall = median_cpu_ms(samples), median_wall_ms(samples)
        print(f"  {label:<18} {cpu:7.0f} ms CPU  {wall:7.0f} ms wall")
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    print(f"  ratio of CPU       {ratio:.2f} ({spread}), bar {BAR_CPU:.2f}")
    print(f"  measuring          {part:.1%} of the time, bar {BAR_MEASURING:.0%}")
    wins = ratio <= BAR_CPU and part <= BAR_MEASURING
    print("  ok" if wins else "  LOSES")
    return EXIT_LOSES if arguments.fail and not wins else 0


if __name__ == "__main__":
    sys.exit(main())
