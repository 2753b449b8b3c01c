"""Two nodes: which page is on which, by every way to ask, compared with the policy that put it there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import Outcome
from helpers import PAGE, Program, program
from inside import Facts
from mematlas import Process
from mematlas.analysis.results import MapsResult
from mematlas.cli import main
from mematlas.words import Source

pytestmark = pytest.mark.guest

HUGE = 2 << 20
POOL = Path("/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages")

PLACER = """
import ctypes, json, mmap, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
PAGE, HUGE, BIND, INTERLEAVE, MBIND, SET_MEMPOLICY = 4096, 2 << 20, 2, 3, 237, 238
def check(result):
    assert result == 0, os.strerror(ctypes.get_errno())
def make(size, flags=0, huge=False):
    address = libc.mmap(None, size + HUGE * huge, 3, 0x22 | flags, -1, 0)
    assert address != 2 ** 64 - 1, os.strerror(ctypes.get_errno())
    address = -(-address // HUGE) * HUGE if huge else address
    if not flags:
        check(libc.madvise(address, size, 14 if huge else 15))
    return address
def mask(nodes):
    return ctypes.byref(ctypes.c_ulong(sum(1 << node for node in nodes)))
def bind(address, size, mode, nodes):
    check(libc.syscall(MBIND, ctypes.c_ulong(address), ctypes.c_ulong(size), mode, mask(nodes), ctypes.c_ulong(8), 0))
def policy(mode, nodes):
    check(libc.syscall(SET_MEMPOLICY, mode, mask(nodes), ctypes.c_ulong(8)))
def touch(address, pages):
    for page in pages:
        ctypes.memset(address + page * PAGE, 1, 1)

found = {}
found["bound"] = address = make(53 * PAGE)
bind(address, 53 * PAGE, BIND, [1])
touch(address, range(0, 53))
found["mixed"] = address = make(101 * PAGE)
policy(BIND, [1])
touch(address, range(7, 30))
policy(BIND, [0])
touch(address, range(60, 101))
policy(0, [])
found["interleaved"] = address = make(67 * PAGE)
bind(address, 67 * PAGE, INTERLEAVE, [0, 1])
touch(address, range(67))
found["zero"] = address = make(31 * PAGE)
bind(address, 31 * PAGE, BIND, [1])
for page in range(31):
    ctypes.string_at(address + page * PAGE, 1)
found["huge"] = address = make(HUGE, huge=True)
bind(address, HUGE, BIND, [1])
touch(address, [0])
found["hugetlb"] = address = make(3 * HUGE, 0x40000 | 21 << 26)
bind(address, 3 * HUGE, BIND, [1])
touch(address, range(0, 3 * HUGE // PAGE, 512))
if "uid" in (settings := json.loads(sys.argv[1]) or {}):
    check(libc.setresgid(*[settings["uid"]] * 3))
    check(libc.setresuid(*[settings["uid"]] * 3))
    check(libc.prctl(4, 1, 0, 0, 0))
print(json.dumps(found), flush=True)
"""


@pytest.fixture(scope="module")
def pool(facts: Facts) -> Iterator[None]:
    if not facts.numa:
        pytest.skip("needs two nodes")
    POOL.write_text("6")
    assert int(POOL.read_text()) == 6
    yield
    POOL.write_text("0")


@pytest.fixture(scope="module")
def placer(pool: None) -> Iterator[Program]:
    with program(PLACER) as running:
        yield running


def expected(counts: dict[str, Any]) -> dict[str, dict[int, int]]:
    """Return the bytes by node of each area, with what of the interleaved one came to which node."""
    alternating = counts["interleaved"]
    assert sorted(alternating.values()) == [33 * PAGE, 34 * PAGE]
    return {
        "bound": {1: 53 * PAGE},
        "mixed": {0: 41 * PAGE, 1: 23 * PAGE},
        "interleaved": alternating,
        "zero": {},
        "huge": {1: HUGE},
        "hugetlb": {1: 3 * HUGE},
    }


def kernels_counts(pid: int) -> dict[int, dict[int, int]]:
    """Return what numa_maps says, in bytes, by the start of each VMA."""
    found = {}
    for line in Path(f"/proc/{pid}/numa_maps").read_text().splitlines():
        words = dict(word.split("=", 1) for word in line.split() if "=" in word)
        size = int(words.get("kernelpagesize_kB", 0)) * 1024
        found[int(line.split()[0], 16)] = {n: int(words[f"N{n}"]) * size for n in (0, 1) if f"N{n}" in words}
    return found


def by_area(result: MapsResult, areas: dict[str, int]) -> dict[str, Any]:
    found = {item.vma.start: item.nodes for item in result.vmas}
    return {name: found[address] for name, address in areas.items()}


def sources(facts: Facts) -> list[Source]:
    found: list[Source] = ["smaps", "pagemap"]
    return found if facts.lockdown == "confidentiality" else [*found, "tables"]


def test_each_source_finds_the_pages_where_the_policy_put_them(placer: Program, facts: Facts) -> None:
    told = kernels_counts(placer.pid)
    with Process(placer.pid) as process:
        for source in sources(facts):
            result = process.maps(source, numa=True)
            counts = by_area(result, placer.told)
            assert counts == expected(counts), source
            assert counts == {name: told[address] for name, address in placer.told.items()}, source
            assert result.nodes == (0, 1)


def test_nodes_add_up_to_what_is_resident_in_every_vma(placer: Program, facts: Facts) -> None:
    told = kernels_counts(placer.pid)
    with Process(placer.pid) as process:
        for source in sources(facts):
            for item in process.maps(source, numa=True).vmas:
                assert item.nodes is not None
                assert item.usage.rss is not None
                assert sum(item.nodes.values()) == item.usage.rss + (item.usage.hugetlb or 0), (source, item)
                assert None not in item.nodes
                if item.vma.kind not in ("vdso", "vsyscall"):  # of which numa_maps says nothing
                    assert item.nodes == told[item.vma.start], (source, item)


def test_each_page_is_on_the_node_of_its_policy(placer: Program, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pages", str(placer.pid), f"{placer.told['mixed']:#x}+{101 * PAGE}", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    nodes = [row["node"] for row in rows]
    assert nodes == [None] * 7 + [1] * 23 + [None] * 30 + [0] * 41


def test_runs_are_cut_where_the_node_changes(placer: Program, capsys: pytest.CaptureFixture[str]) -> None:
    start = placer.told["interleaved"]
    assert main(["pages", str(placer.pid), f"{start:#x}+{67 * PAGE}", "--runs", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["nr_pages"] for row in rows] == [1] * 67
    assert {tuple(row["node"] for row in rows[place : place + 2]) for place in range(0, 66, 2)} <= {(0, 1), (1, 0)}
    assert main(["pages", str(placer.pid), f"{placer.told['huge']:#x}+{HUGE}", "--runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "NODE" in lines[0].split()
    assert len(lines) == 2


def test_without_frame_numbers_the_answers_are_the_same(pool: None, as_nobody: Callable[..., Outcome]) -> None:
    with program(PLACER, {"uid": 65534}) as placer:
        with Process(placer.pid) as process:
            by_frame = by_area(process.maps("pagemap", numa=True), placer.told)

        def look() -> Any:
            with Process(placer.pid) as process:
                nodes = process.page_nodes()
                result = process.maps("pagemap", numa=True)
                pages = [
                    nodes.of(piece)  # type: ignore[arg-type]
                    for vma, piece in process.pages(placer.told["mixed"] + 7 * PAGE, placer.told["mixed"] + 30 * PAGE)
                ]
            return by_area(result, placer.told), pages, [vma.phys for vma in result.vmas]

        counts, pages, frames = as_nobody(look).value
    assert set(frames) == {None}
    assert counts == by_frame == expected(counts)
    assert [node for piece in pages for node in piece] == [1] * 23


def test_usage_splits_all_of_it(placer: Program, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["usage", str(placer.pid), "--numa", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["n0"] + row["n1"] == row["rss"] + row["hugetlb"]
    assert row["n1"] >= 3 * HUGE + HUGE + (53 + 23 + 33) * PAGE
    assert row["n_unknown"] == 0
    assert main(["usage", str(placer.pid), "--numa"]) == 0
    titles = [line[:8].strip() for line in capsys.readouterr().out.splitlines()]
    assert titles[-2:] == ["node 0", "node 1"]


def test_maps_has_a_column_for_each_node(placer: Program, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["maps", str(placer.pid), hex(placer.told["mixed"]), "--numa", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["n0"], row["n1"], row["n_unknown"]) == (41 * PAGE, 23 * PAGE, 0)
    assert main(["maps", str(placer.pid), hex(placer.told["mixed"]), "--numa"]) == 0
    title, line = capsys.readouterr().out.splitlines()
    assert {"N0", "N1"} < set(title.split())
    assert "N?" not in title
    assert "164 KiB" in line


def test_a_capture_keeps_the_nodes(placer: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["capture", str(placer.pid), str(tmp_path / "saved")]) == 0
    capsys.readouterr()
    assert main(["maps", str(tmp_path / "saved"), "--numa", "--json"]) == 0
    saved = json.loads(capsys.readouterr().out)["rows"]
    assert main(["maps", str(placer.pid), "--numa", "--json"]) == 0
    live = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["n0"], row["n1"]) for row in saved] == [(row["n0"], row["n1"]) for row in live]


def test_a_moved_page_is_shown_where_it_is_now(placer: Program) -> None:
    import ctypes

    start, nr_pages = placer.told["bound"], 11
    pages = (ctypes.c_void_p * nr_pages)(*range(start, start + nr_pages * PAGE, PAGE))
    nodes, status = (ctypes.c_int * nr_pages)(), (ctypes.c_int * nr_pages)()
    libc = ctypes.CDLL(None, use_errno=True)
    assert os.uname().machine == "x86_64"
    assert libc.syscall(279, placer.pid, ctypes.c_ulong(nr_pages), pages, nodes, status, 2) == 0
    with Process(placer.pid) as process:
        assert by_area(process.maps("smaps", numa=True), placer.told)["bound"] == {0: 11 * PAGE, 1: 42 * PAGE}
        assert by_area(process.maps("pagemap", numa=True), placer.told)["bound"] == {0: 11 * PAGE, 1: 42 * PAGE}
