"""stat, status, swaps and meminfo, with names that programs choose to confuse us."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import helpers  # noqa: F401  (the settings of hypothesis)
from conftest import run_as
from mematlas.errors import FormatError
from mematlas.kernel.meminfo import parse_meminfo
from mematlas.kernel.procfs import ProcFS
from mematlas.kernel.rights import CAPABILITIES, effective_capabilities
from mematlas.kernel.status import (
    PF_KTHREAD,
    counts_as_we_do,
    own_numbers,
    parse_memory_counters,
    parse_stat,
    parse_status,
    read_stat,
    read_status,
    status_bytes,
)
from mematlas.kernel.swaps import parse_swaps

PR_SET_NAME = 15
FIELDS = b" S 12 1 1 0 -1 %d 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0\n"


def stat_line(pid: int, name: bytes, flags: int = 0) -> bytes:
    return b"%d (%s)" % (pid, name) + FIELDS % flags


@given(st.integers(1, 1 << 22), st.binary(max_size=15))
def test_name_may_hold_anything(pid: int, name: bytes) -> None:
    stat = parse_stat(stat_line(pid, name))

    assert (stat.pid, os.fsencode(stat.name), stat.state, stat.parent) == (pid, name, "S", 12)
    assert stat.start_time == 4711


def test_kernel_threads_and_zombies_are_known_by_stat() -> None:
    assert parse_stat(stat_line(2, b"kthreadd", PF_KTHREAD)).is_kernel_thread
    assert parse_stat(stat_line(2, b"x").replace(b" S ", b" Z ", 1)).is_zombie
    assert not parse_stat(stat_line(2, b"x")).is_zombie


@pytest.mark.parametrize("text", [b"", b"12", b"12 (x) S 1", b"x (y)" + FIELDS % 0])
def test_stat_that_is_cut_short_is_an_error(text: bytes) -> None:
    with pytest.raises(FormatError, match="stat"):
        parse_stat(text)


@pytest.mark.parametrize(
    ("text", "numbers", "ours"),
    [
        ("Tgid:\t{pid}\nNStgid:\t{pid}\n", "{pid}", True),
        # Of a namespace below: that the numbers are equal is chance.
        ("Tgid:\t{pid}\nNStgid:\t{pid}\t{pid}\n", "{pid} {pid}", False),
        ("Tgid:\t4711\nNStgid:\t4711\t{pid}\n", "4711 {pid}", False),
        ("Tgid:\t4711\nNStgid:\t4711\n", "4711", False),
        # Without CONFIG_PID_NS there is one namespace.
        ("Tgid:\t{pid}\n", "{pid}", True),
        ("Tgid:\t4711\n", "4711", False),
        ("Tgid:\tx\n", "", False),
        (None, "", False),
    ],
)
def test_numbers_are_ours_in_our_own_namespace(text: str | None, numbers: str, ours: bool, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "self").mkdir()
        (tmp_path / "self/status").write_text(text.format(pid=os.getpid()))
    procfs = ProcFS(str(tmp_path), 4096)
    assert own_numbers(procfs) == list(map(int, numbers.format(pid=os.getpid()).split()))
    assert counts_as_we_do(procfs) == ours


def test_name_with_a_newline_does_not_add_lines() -> None:
    def look() -> tuple[str, str, bool]:
        ctypes.CDLL(None).prctl(PR_SET_NAME, b"a) R 1\nVmRSS: 1 ", 0, 0, 0)
        with ProcFS().process(os.getpid()) as process:
            stat, status = read_stat(process), read_status(process)
            return stat.name, status["Name"], (status_bytes(status, "VmRSS") or 0) > 1024

    name, escaped, has_memory = run_as(look).value if os.geteuid() == 0 else ("a) R 1\nVmRSS: 1", "", True)
    assert (name, has_memory) == ("a) R 1\nVmRSS: 1", True)
    assert "\n" not in escaped


def test_status_amounts_are_bytes_and_missing_ones_unknown() -> None:
    status = parse_status(b"Name:\tx: y\nVmPTE:\t      44 kB\nThreads:\t1\n")

    assert (status["Name"], status_bytes(status, "VmPTE")) == ("x: y", 44 * 1024)
    assert (status_bytes(status, "VmRSS"), status_bytes(status, "Threads")) == (None, None)


def test_counters_alone_are_those_of_the_whole_file() -> None:
    with ProcFS().process(os.getpid()) as process:
        data = process.read("status")
    status, counters = parse_status(data), parse_memory_counters(data)

    assert counters.uid == os.getuid()
    names = ("VmRSS", "RssAnon", "RssFile", "RssShmem", "VmSwap", "HugetlbPages")
    found = (counters.rss, counters.anon, counters.file, counters.shmem, counters.swap, counters.hugetlb)
    assert found == tuple(status_bytes(status, name) for name in names)
    assert counters.rss


def test_counters_that_are_missing_are_unknown_and_others_must_be_amounts() -> None:
    counters = parse_memory_counters(b"Name:\tVmRSS:\nUid:\t4294967295\t0\t0\t0\nVmSwap:\t       0 kB\n")
    assert (counters.uid, counters.rss, counters.swap) == (None, None, 0)

    for value in (b"4 MB", b"-4 kB", b"4", b"9" * 18 + b" kB"):
        with pytest.raises(FormatError, match="VmRSS"):
            parse_memory_counters(b"Name:\tx\nVmRSS:\t" + value + b"\n")


def test_swap_paths_have_their_blanks_back() -> None:
    text = (
        b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
        b"/a\\040b\\011c\\012d\\134040                file\t\t65532\t\t1024\t\t-2\n"
        b"/dev/zram0                              partition\t8\t\t0\t\t100\n"
    )
    first, second = parse_swaps(text)

    assert (first.path, first.kind, first.size, first.used, first.priority) == (
        "/a b\tc\nd\\040",
        "file",
        65532 * 1024,
        1 << 20,
        -2,
    )
    assert second.path == "/dev/zram0"


def test_swaps_line_that_is_not_understood_is_shown() -> None:
    with pytest.raises(FormatError, match="three words here"):
        parse_swaps(b"Filename\nthree words here\n")


def test_meminfo_leaves_counts_out() -> None:
    assert parse_meminfo(b"MemTotal:  16 kB\nHugePages_Total:  3\n") == {"MemTotal": 16384}


def test_capabilities_are_those_that_status_shows() -> None:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    bits = int(line.split()[1], 16)

    assert effective_capabilities() == {name for name, bit in CAPABILITIES.items() if bits >> bit & 1}


def test_amount_that_is_none_is_an_error_that_shows_it() -> None:
    with pytest.raises(FormatError, match="plenty"):
        parse_meminfo(b"MemTotal:  plenty kB\n")
