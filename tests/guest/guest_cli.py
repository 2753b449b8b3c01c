"""tests/guest/run: one command on another kernel, with the host's files. Its exit code is the command's."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from architectures import ARCHITECTURES, PAGE_SIZES
from cache import Unavailable, need_programs
from kernels import OFFERS, OWN, fetch
from machine import NO_RESULT, Settings, boot, end_orderly

EPILOG = """
The guest sees the host's root read-only, with a file system in memory on top: what it changes is gone afterwards,
except under /mnt/out, which is the folder of --output. Exit code 125: the guest left no result, or its kernel
complained; 124: no guest can be had here, or it cannot see the folder that this runs in.
"""
NO_GUEST = 124


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="tests/guest/run", description=__doc__, epilog=EPILOG)
    made.add_argument("--kernel", choices=(*OFFERS, OWN), default="6.12")
    made.add_argument("--arch", choices=tuple(ARCHITECTURES), default="x86-64", help="the processor")
    made.add_argument("--page-size", choices=PAGE_SIZES, default="4k", help="16k with arm64 alone")
    made.add_argument("--levels", type=int, choices=(4, 5), default=5, help="levels of page tables")
    made.add_argument("--numa", action="store_true", help="two nodes")
    made.add_argument("--pti", action="store_true", help="page-table isolation")
    made.add_argument("--lockdown", choices=("none", "integrity", "confidentiality"), default="none")
    made.add_argument("--append", action="append", default=[], metavar="WORDS", help="for the kernel's command line")
    made.add_argument("--memory", type=int, default=4096, metavar="MIB")
    made.add_argument("--timeout", type=float, default=600, metavar="SECONDS")
    made.add_argument("--output", type=Path, metavar="DIR", help="keep what the guest writes to /mnt/out, and dmesg")
    made.add_argument("command", nargs="+", metavar="COMMAND", help="the program to run, and its arguments")
    return made


def main(argv: list[str] | None = None) -> int:
    made = parser()
    args = made.parse_args(argv)
    if args.output and args.output.exists() and not args.output.is_dir():
        made.error(f"--output: {args.output} is no folder")
    settings = Settings(
        levels=args.levels,
        numa=args.numa,
        pti=args.pti,
        lockdown=args.lockdown,
        memory=args.memory,
        append=tuple(args.append),
    )
    end_orderly()
    try:
        need_programs()
        kernel = fetch(args.kernel, ARCHITECTURES[args.arch], args.page_size)
        result = boot(kernel, settings, args.command, args.timeout, args.output)
    except Unavailable as error:
        print(f"guest: {error}", file=sys.stderr)
        return NO_GUEST
    except KeyboardInterrupt:
        print("guest: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    state = "" if result.code != NO_RESULT else ", no good result"
    print(f"guest: {kernel.release} ended with {result.code} after {result.seconds:.1f} s{state}", file=sys.stderr)
    return result.code
