"""``mematlas tables``: what it prints, for constructed tables and for real ones, and how it refuses."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import mematlas, steadily
from mematlas import Process
from mematlas.cli import main
from mematlas.errors import Error
from mematlas.model.pagetables.entries import SpecialSwap
from mematlas.model.pagetables.modes import x86_64
from mematlas.views.format import format_size
from victim import Victim

MakeVictim = Callable[..., Victim]
Say = Callable[..., str]

MODE = x86_64(special_swap=SpecialSwap(nr_device=0, nr_migration=3, nr_hwpoison=1, pfn_bits=34))
PATH = [0x1000, 0x2000, 0x3000, 0x4000]
NX = 1 << 63


# --- of real processes


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Return a function that runs ``mematlas tables`` and returns what it prints."""
    try:
        with Process(os.getpid()) as process:
            process.page_table_access()
    except Error as error:
        pytest.skip(f"page tables cannot be read: {error}")

    def run(*words: object, code: int = 0) -> str:
        capsys.readouterr()
        assert main(["tables", *map(str, words)]) == code
        return capsys.readouterr().out

    return run


root = pytest.mark.root("CAP_SYS_ADMIN", "CAP_SYS_PTRACE")


@root
@steadily  # khugepaged may work between two looks, on a stopped process too
def test_the_summary_adds_up(say: Say, victim: MakeVictim) -> None:
    target = victim("anon_full", "thp")
    with target.stopped():
        text = say(target.pid)
        result = json.loads(say(target.pid, "--json"))
        status = Path(f"/proc/{target.pid}/status").read_text().splitlines()
    *levels, whole = result["rows"]

    assert result["schema"] == "mematlas.tables-summary/1"
    assert {"reader", "duration_s", "torn", "pgd", "paging"} <= set(result["target"])
    assert sum(row["size"] for row in levels) == whole["size"]
    # VmPTE has the last three levels, and a table in reserve for each huge page of anonymous memory.
    nr_huge = next(row["nr_leaves"] for row in levels if row["level"] == "pmd")
    (told,) = (int(line.split()[1]) * 1024 for line in status if line.startswith("VmPTE"))
    assert sum(row["size"] for row in levels[-3:]) + 4096 * nr_huge == told
    assert result["target"]["reserve"] == 4096 * nr_huge
    assert f"{format_size(4096 * nr_huge)} more in reserve" in text
    assert f"{whole['nr_tables']} tables are nearly empty" in text
    for word in ("writable", "nx", "bytes for each MiB mapped", "read with", "entries that map nothing"):
        assert word in text


@root
def test_an_address_is_walked_beside_pagemap(say: Say, victim: MakeVictim) -> None:
    target = victim("anon_full")
    address = target["anon_full"].address + 0x1234
    with target.stopped():
        rows = json.loads(say(target.pid, f"{address:x}", "--json"))["rows"]
        text = say(target.pid, hex(address))

    assert {"level", "index", "address", "entry", "phys", "leaf", "flags"} <= set(rows[0])
    assert [row["leaf"] for row in rows] == [False] * (len(rows) - 1) + [True]
    assert rows[-1]["agrees"] is True
    assert int(rows[-1]["phys"], 16) == (int(rows[-1]["pagemap"], 16) & (1 << 55) - 1) * 4096 + 0x234
    assert "byte 0x234 of a 4 KiB page" in text
    assert text.rstrip().endswith("the same")


@root
def test_an_address_of_nothing_ends_early(say: Say) -> None:
    assert "ends at the " in say(os.getpid(), "0x1000")


@root
def test_a_list_streams_the_pages_of_pagemap(say: Say, victim: MakeVictim) -> None:
    target = victim("anon", "zero", "guard", "prot_none", "thp")
    area = target["anon"]
    with target.stopped():
        span = f"{area.address:#x}-{area.end:#x}"
        text = say(target.pid, "--list", "--range", span, "--level", "pte", "--format", "csv")
        whole = say(target.pid, "--list")
        guards = say(target.pid, "--list", "--flags", "guard", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(text)))

    pages = [(int(row["address"], 16) - area.address) // area.page_size for row in rows]
    assert pages == [page for page, state in enumerate(area.states) if state == "present"]
    assert {row["leaf"] for row in rows} == {"True"}
    assert whole.splitlines()[1].startswith("pgd ")
    assert "\n      pte " in whole
    assert "\n    pmd " in whole
    assert len(list(csv.DictReader(io.StringIO(guards)))) == target["guard"].nr_guard


@root
def test_runs_are_fewer(say: Say, victim: MakeVictim) -> None:
    target = victim("anon_full")
    area = target["anon_full"]
    with target.stopped():
        words = (target.pid, "--list", "--runs", "--range", f"{area.address:#x}-{area.end:#x}", "--flags", "!table,w")
        rows = json.loads(say(*words, "--json"))["rows"]

    assert [(row["nr_entries"], row["nr_dirty"]) for row in rows] == [(area.nr_pages, area.nr_pages)]


@root
def test_raw_tables_are_the_same_in_text_and_bytes(say: Say, victim: MakeVictim) -> None:
    target = victim("anon_full")
    address = target["anon_full"].address
    with target.stopped():
        run = subprocess.run(
            [sys.executable, "-m", "mematlas", "tables", str(target.pid), "--raw", "pte", hex(address), "--binary"],
            capture_output=True,
            check=True,
        )
        text = say(target.pid, "--raw", "pte", hex(address))
        rows = json.loads(say(target.pid, "--raw", "pte", hex(address), "--json"))["rows"]
        every = say(target.pid, "--raw", "pmd")
    words = np.frombuffer(run.stdout, np.uint64).tolist()

    assert len(words) == len(rows) == 512
    assert [int(word, 16) for line in text.splitlines()[1:-1] for word in line.split()[1:]] == words
    assert [int(row["entry"], 16) for row in rows] == words
    assert every.startswith("pmd table 0 at 0x")


@root
def test_the_tree_is_folded_at_a_level(say: Say, victim: MakeVictim) -> None:
    pid = victim("anon").pid
    text = say(pid, "--tree")

    levels = [line.split()[0] for line in text.splitlines()[2:]]
    assert set(levels) - {"p4d"} == {"pgd", "pud", "pmd", "pte"}
    folded = {line.split()[0] for line in say(pid, "--tree", "--level", "pud").splitlines()[2:]}
    assert folded == set(levels) - {"pmd", "pte"}


@root
def test_the_kernel_half_has_its_regions_and_all_ram(say: Say) -> None:
    text = say("--kernel")
    result = json.loads(say("--kernel", "--json"))

    for name in ("direct map", "vmalloc", "vmemmap", "kernel text", "modules", "fixmap"):
        assert name in text
    assert "System RAM" in text
    assert result["target"]["direct_map"] >= result["target"]["ram"]
    assert result["target"]["unmapped_ram"] == 0


@root
@pytest.mark.parametrize("form", ["{:#x}", "{:x}", "0X{:X}", "{:X}"])
def test_a_kernel_address_names_its_region(form: str, say: Say) -> None:
    base = json.loads(say("--kernel", "--json"))["rows"]
    start = next(row["start"] for row in base if row["region"] == "direct map")
    text = say("--kernel", form.format(int(start, 16) + 0x100000))

    assert "in direct map" in text
    assert ", kernel half, " in text


@root
def test_a_walk_names_the_halves_of_its_addresses(say: Say) -> None:
    assert ", user half, " in say(os.getpid(), "0x1000")
    assert ", user and kernel half, " in say(os.getpid(), "0xffffffff81000000", "0x1000")


@root
@steadily  # the kernel maps and unmaps meanwhile
def test_the_kernel_half_in_json_has_the_levels_too(say: Say) -> None:
    rows = json.loads(say("--kernel", "--json"))["rows"]
    regions = [row for row in rows if row["region"]]
    levels = [row for row in rows if row["level"]]

    assert len(regions) + len(levels) == len(rows)
    assert [row["level"] for row in levels] == [row["level"] for row in json.loads(say("self", "--json"))["rows"]]
    assert levels[-1]["nr_tables"] == sum(row["nr_tables"] for row in levels[:-1]) > 4
    assert levels[-1]["mapped"] == sum(row["mapped"] for row in regions)
    assert levels[-1]["nr_writable"] > 0
    assert {tuple(row) for row in rows} == {tuple(rows[0])}


@root
def test_digits_that_no_number_of_a_table_has_are_an_address(say: Say, capsys: pytest.CaptureFixture[str]) -> None:
    say(os.getpid(), "--raw", "pgd", "0558800000000")
    assert main(["tables", str(os.getpid()), "--raw", "pte", "400000"]) == 2
    assert "an address begins with 0x" in capsys.readouterr().err


@root
def test_the_top_table_translates_both_halves(say: Say) -> None:
    head = say(os.getpid(), "--raw", "pgd").splitlines()[0]
    end = MODE.user_end if "0x7fffffffffff" in head else 1 << 56

    assert f"translates 0x000000000000-{end - 1:#x} and {-end & (1 << 64) - 1:#x}-0xffffffffffffffff" in head


@root
def test_an_empty_entry_has_no_flags(say: Say) -> None:
    rows = json.loads(say(os.getpid(), "--raw", "pgd", "--json"))["rows"]

    assert {tuple(row["flags"]) for row in rows if row["state"] == "empty"} == {()}


SCATTERED = """
import mmap, os, sys
fd = os.memfd_create("scattered")
os.ftruncate(fd, 101 << 12)
one = mmap.mmap(fd, 101 << 12)
for page in sorted(range(101), key=lambda page: page * 37 % 101):
    one[page << 12] = 1
two = mmap.mmap(fd, 101 << 12, prot=mmap.PROT_READ)
sum(two[page << 12] for page in range(101))
print("null", flush=True)
"""


@root
def test_an_alias_of_scattered_pages_is_one_finding(say: Say) -> None:
    from helpers import program

    with program(SCATTERED) as running:
        rows = json.loads(say(running.pid, "--audit", "--json"))["rows"]

    (row,) = (row for row in rows if "scattered" in row["where"])
    assert (row["kind"], row["size"], {row["rights"], row["other_rights"]}) == ("alias", 101 << 12, {"--u", "w-u"})


WRITABLE_CODE = """
import mmap, sys
area = mmap.mmap(-1, 7 * mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
area[:] = bytes(7 * mmap.PAGESIZE)
print("null", flush=True)
"""


@root
def test_the_audit_finds_and_fails_when_asked(say: Say, victim: MakeVictim) -> None:
    from helpers import program

    with program(WRITABLE_CODE) as running:
        text = say(running.pid, "--audit")
        say(running.pid, "--audit", "--fail", code=10)
        rows = json.loads(say(running.pid, "--audit", "--json"))["rows"]
    say(victim("anon").pid, "--audit", "--fail")

    assert "writable and executable" in text
    (row,) = (row for row in rows if row["kind"] == "writable-executable")
    assert (row["size"], row["rights"], row["harmless"]) == (7 * 4096, "wxu", False)


@root
@pytest.mark.parametrize("kind", ["anon", "thp", "huge_zero", "guard", "prot_none", "shared_anon", "tmpfs"])
def test_everything_agrees_with_the_kernels_numbers(kind: str, say: Say, victim: MakeVictim) -> None:
    target = victim(kind)
    with target.stopped():
        rows = json.loads(say(target.pid, "--verify", "--json"))["rows"]

    assert {row["what"] for row in rows} >= {"pages", "table bytes", "thp", "hugetlb"}
    assert [row for row in rows if row["explained"] is not True] == []
    assert {row["reason"] for row in rows if row["what"] == "page"} <= {
        "vvar or device memory, which pagemap does not show"
    }


@root
def test_swap_and_hugetlb_agree_too(say: Say, victim: MakeVictim, swap: object, hugetlb_pages: int) -> None:
    target = victim("swapped", "hugetlb")
    with target.stopped():
        rows = {row["what"]: row for row in json.loads(say(target.pid, "--verify", "--json"))["rows"]}
        listed = say(target.pid, "--list", "--flags", "swap", "--format", "csv")

    assert {row["explained"] for row in rows.values()} == {True}
    assert rows["hugetlb"]["tables"] == target["hugetlb"].nr_present * target["hugetlb"].page_size
    assert len(list(csv.DictReader(io.StringIO(listed)))) == target["swapped"].nr_swapped


# --- on a screen


def on_screen(width: int, *words: object) -> list[str]:
    """Return the lines that ``mematlas tables`` writes to a terminal so wide."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 50, width, 0, 0))
    command = [sys.executable, "-m", "mematlas", "tables", *map(str, words), "--color", "never"]
    with subprocess.Popen(command, stdout=theirs) as running:
        os.close(theirs)
        said = b""
        try:
            while part := os.read(ours, 1 << 16):
                said += part
        except OSError:  # EIO: the other end is closed
            pass
    os.close(ours)
    assert running.returncode == 0
    return said.decode().splitlines()


@root
@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("mode", ["", "walk", "--list", "--runs", "--audit", "--tree", "--raw", "--verify", "--kernel"])
def test_lines_fit_the_screen(mode: str, width: int, say: Say, victim: MakeVictim) -> None:
    target = victim("anon_full", "guard", "thp", "prot_none")
    address = hex(target["anon_full"].address)
    with target.stopped():
        words = {"walk": [address, "0xffffffff81000000"], "--runs": ["--list", "--runs"], "--raw": ["--raw", "pgd"]}
        lines = on_screen(width, target.pid, *words.get(mode, [mode] if mode else []))

    assert len(lines) > 5
    # The path of a file is as long as it is.
    assert [line for line in lines if len(line) > width and "/" not in line] == []


# --- how it refuses


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["self", "zz"],
        ["self", "--list", "--tree"],
        ["self", "--runs"],
        ["self", "--flags", "w"],
        ["self", "--binary"],
        ["self", "--fail"],
        ["self", "--level", "pte"],
        ["--kernel", "--verify"],
        ["self", "--flags", ""],
        ["self", "0x1000", "--range", "0x1000"],
        ["self", "--raw", "pte", "0x1000", "--range", "0x1000"],
        ["self", "--raw", "pte", "558800000000", "--range", "0x1000"],
        ["self", "--list", "--runs", "--flags", "w,table"],
        ["self", "--raw", "pgd", "--binary", "--json"],
        ["self", "--raw", "pgd", "--binary", "--format", "csv"],
        ["self", "--raw", "pgd", "--binary", "--bytes"],
        ["self", "--raw", "pgd", "--binary", "-i", "1"],
        ["self", "--raw", "pgd", "--binary", "-n", "2"],
    ],
)
def test_words_that_say_nothing_are_refused(words: list[str]) -> None:
    run = mematlas("tables", *words)
    assert (run.returncode, run.stdout) == (2, ""), run.stderr
    assert run.stderr.count("\n") == 1


@root
@pytest.mark.parametrize(
    "words",
    [
        ["0x0100000000000000"],
        ["--list", "--flags", "foo"],
        ["--list", "--range", "0-ffffffffffffffff"],
        ["--list", "--range", "zz"],
        ["--list", "0x1000"],
        ["--raw", "pte", "99999"],
        ["--raw", "pte", "1", "2"],
        ["--raw", "pte", "0x1000"],
        ["--raw", "pte", "0xffff888000000000"],
        ["--list", "--flags", ""],
        ["--kernel", "0x1000"],
        ["--kernel", "--raw", "pte", "0x1000"],
    ],
)
def test_what_is_not_there_is_refused(words: list[str], say: Say) -> None:
    say(os.getpid(), *words, code=2)


@root
def test_an_address_beside_a_mode_is_refused_and_the_range_named(say: Say, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tables", "--kernel", "--audit", "0xffff888000000000"]) == 2
    assert "--audit takes no address; to see a part, use --range" in capsys.readouterr().err


@root
def test_without_page_table_isolation_there_is_no_copy(say: Say) -> None:
    if " pti " in Path("/proc/cpuinfo").read_text():
        pytest.skip("needs a kernel without page-table isolation")
    say(os.getpid(), "--user-pgd", code=5)


def test_nobody_is_told_what_is_missing(as_nobody: Callable[..., Any]) -> None:
    outcome = as_nobody(["tables", "self"])

    assert outcome.code == 4
    assert "CAP_SYS_ADMIN" in outcome.stderr
    assert "sudo" in outcome.stderr


@root
def test_four_capabilities_are_enough(as_nobody: Callable[..., Any], say: Say, victim: MakeVictim) -> None:
    from mematlas.kernel.memory.memory_blocks import read_memory_blocks

    if not read_memory_blocks():
        pytest.skip("needs CONFIG_MEMORY_HOTPLUG, to know where RAM is without CAP_SYS_ADMIN")
    caps = ["CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"]
    line = ["tables", str(victim("anon").pid)]
    outcome = as_nobody(line, caps=caps)
    if "needs before Linux 5.11 CAP_SYS_RESOURCE too" in outcome.stderr:
        outcome = as_nobody(line, caps=[*caps, "CAP_SYS_RESOURCE"])

    assert outcome.code == 0, outcome.stderr
    assert "bytes for each MiB mapped" in outcome.stdout


@root
def test_a_kernel_thread_has_none(say: Say) -> None:
    comm = Path("/proc/2/comm")
    if not comm.exists() or comm.read_text() != "kthreadd\n":
        pytest.skip("needs the initial PID namespace")
    say(2, code=3)


@root
def test_a_process_that_ended_is_reported(say: Say, victim: MakeVictim) -> None:
    target = victim("anon")
    target.exit()
    say(target.pid, code=3)


@root
def test_a_pipe_that_closes_early_ends_quietly(say: Say) -> None:
    line = f"{sys.executable} -m mematlas tables {os.getpid()} --list | head -n 3"
    run = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, check=False)

    assert (run.returncode, run.stderr, run.stdout.count("\n")) == (0, "", 3)


@root
def test_bytes_are_not_for_a_terminal(say: Say) -> None:
    ours, theirs = pty.openpty()
    try:
        words = [sys.executable, "-m", "mematlas", "tables", "self", "--raw", "pgd", "--binary"]
        run = subprocess.run(words, stdout=theirs, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(ours)
        os.close(theirs)

    assert (run.returncode, "not writing bytes to a terminal" in run.stderr) == (2, True)


@root
@pytest.mark.parametrize("more", [[], ["--runs"], ["--level", "pte"]], ids=" ".join)
@steadily  # the kernel clears accessed bits meanwhile
def test_a_limit_gives_the_first_lines_of_a_list(say: Say, more: list[str], victim: Callable[..., Victim]) -> None:
    line = [victim("anon_full").pid, "--list", *more, "--format", "csv"]
    whole = say(*line).splitlines()

    assert say(*line, "--limit", "7").splitlines() == whole[: 1 + 7]
    assert say(*line, "--limit", str(len(whole))).splitlines() == whole


def test_a_limit_is_of_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tables", "self", "--limit", "7"]) == 2
    assert capsys.readouterr().err == "mematlas: --limit needs --list\n"
