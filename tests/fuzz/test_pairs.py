"""Every two options of a command go together, or are refused in words."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, cycle
from pathlib import Path

import pytest

from commands import LOOKS, Line, check, declared, run_line
from helpers import make_process, tables_unread
from mematlas.cli import session
from mematlas.cli.arguments import is_flag, is_option
from mematlas.cli.command import COMMANDS
from mematlas.kernel.procfs import ProcFS
from mematlas.observe.process import Process
from mutated_captures import RECORDED
from victim import Victim

LEFT_OUT = frozenset(("--pid", "--after", "--json", "--output", "--temporary-swap", "--watch-refaults", "--undo"))
"""About the target; what each line is tried with and without; what changes the machine, or waits, afterwards."""
SLOW = {
    "tables": frozenset(("--reader", "--bytes", "--wide", "--color", "--count")),
    "owner": frozenset(("--bytes", "--wide", "--color", "--count")),
    "ram": frozenset(
        (
            *("--by", "--verify", "--sample", "--source", "--interval", "--format"),
            *("--bytes", "--wide", "--color", "--count"),
        )
    ),
}
"""What is left out besides: loading a BPF program takes as long as twenty looks, and so do all processes and frames."""
ACTS = [name for name, (group, _) in COMMANDS.items() if group == "Act"]
SAMPLES = {
    "--perms": "rw",
    "--kind": "anon,stack",
    "--path": "/",
    "--limit": "3",
    "--max-stall": "1ms",
    "--interval": "1ms",
    "--count": "2",
    "--width": "60",
    "--cell": "64",
    "--flags": "w",
    "--range": "0+256T",
    "--level": "pmd",
    "--raw": "pte",
    "--color": "always",
    "--state": "present",
    "--coldest": "10%",
    "--passes": "2",
}
"""A value of an option; of one that is not here, each of its choices is tried."""
OTHER_SAMPLES = {"ram": {"--flags": "zero_page", "--range": "pfn:1+64"}}
"""Where an option takes something else."""
AREAS = {"pages": ["stack"], "translate": ["0x7ffcc0559000"]}
"""Where few pages are."""


def pairs(name: str) -> Iterator[list[str]]:
    """Yield every two options of a command with their values, and what has them end."""
    spelled = []
    samples = SAMPLES | OTHER_SAMPLES.get(name, {})
    for names, settings in declared(name):
        if not is_option(names) or names[-1] in LEFT_OUT | SLOW.get(name, frozenset()):
            continue
        if is_flag(settings):
            spelled.append([names[-1]])
        else:
            values = [samples[names[-1]]] if names[-1] in samples else settings["choices"]
            spelled += [[names[-1], value] for value in values if value != settings.get("default")]
    for first, second in combinations(spelled, 2):
        words = first + second
        if "--interval" in words or "--count" in words:
            words += [word for name in ("--interval", "--count") if name not in words for word in (name, SAMPLES[name])]
        if name == "tables" and "--kernel" in words and {"--list", "--raw"} & {*words}:
            words += ["--range", "0xffffffff80000000+2M"]  # else it lists all memory of the machine
        if first[0] != second[0]:
            yield words


def try_pairs(name: str, *rest: str) -> set[int]:
    """Run a command with every two of its options, in turn for people and for programs; return how it ended."""
    ends = set()
    for words, form in zip(pairs(name), cycle(((), ("--json",)))):
        line = Line([*([] if name == "overview" else [name]), *words, *form, *rest])
        ran = run_line(line)
        check(line, ran)
        ends.add(ran.code)
    return ends


@pytest.mark.parametrize("name", [name for name in LOOKS if name != "tables"])
def test_looks_at_a_capture(name: str) -> None:
    assert 0 in try_pairs(name, str(RECORDED / "whole"), *AREAS.get(name, ()))


def test_the_first_screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_process(tmp_path)
    monkeypatch.setattr(session, "ProcFS", lambda: ProcFS(str(tmp_path)))

    assert 0 in try_pairs("overview")


def test_files_in_the_page_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(3))

    assert 0 in try_pairs("cache", str(tmp_path))


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    with Victim("anon_full") as one:
        yield one


@pytest.mark.parametrize("name", ACTS)
def test_plans_of_acts(name: str, victim: Victim) -> None:
    assert 0 in try_pairs(name, "--dry-run", str(victim.pid), f"{victim['anon_full'].address:#x}+64K")


def test_page_tables(victim: Victim) -> None:
    with Process(victim.pid) as process:
        can_be_read = tables_unread(process) is None

    assert (0 in try_pairs("tables", str(victim.pid))) == can_be_read


@pytest.mark.root("CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH")
def test_frames(victim: Victim) -> None:
    with Process(victim.pid) as process:
        (place,) = process.translate([victim["anon_full"].address])

    assert 0 in try_pairs("owner", f"pfn:{place.pfn}+3")


@pytest.mark.root("CAP_DAC_READ_SEARCH")
def test_all_of_ram() -> None:
    assert 0 in try_pairs("ram")
