"""NUMA nodes: frames to nodes on made-up machines, the kernel's counts, and every source on this one."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import Outcome
from helpers import PAGE, keyed_rows, make_process, mematlas, read_smaps, skip_without_tables, steadily, texts
from mematlas import NotSupported, Process
from mematlas.analysis.results import Reading, UsageResult
from mematlas.analysis.usage import total
from mematlas.cli import main
from mematlas.errors import FormatError, PermissionDenied
from mematlas.kernel import nodes as sysfs
from mematlas.kernel.maps import Vma
from mematlas.kernel.move_pages import read_page_nodes
from mematlas.kernel.nodes import UNREPORTED, NodeMap, parse_list, read_nodes
from mematlas.kernel.numa_maps import parse_numa_maps, read_numa_maps
from mematlas.kernel.pagemap import Block
from mematlas.kernel.procfs import ProcFS
from mematlas.kernel.zoneinfo import parse_zone_spans
from mematlas.model import nodes as model
from mematlas.model.nodes import PageNodes
from mematlas.model.pages import Hole
from mematlas.notes import Notes
from mematlas.views.usage import Subject, usage_table
from mematlas.words import Source
from victim import Victim

Start = Callable[..., Victim]
BLOCK = 0x8000
"""Frames in a block of 128 MiB."""
ZONE = "Node {}, zone   Normal\n  pages free     5\n        spanned  {}\n  start_pfn:           {}\n"


def make_machine(
    root: Path, blocks: dict[int, Sequence[int]], *, without_memory: Sequence[int] = (), zones: str = ""
) -> tuple[ProcFS, str]:
    """Make the files of a machine with these blocks on each node; return its /proc and its /sys/devices/system."""
    system, proc = root / "system", root / "proc"
    online = sorted([*blocks, *without_memory])
    for node in online:
        directory = system / "node" / f"node{node}"
        directory.mkdir(parents=True)
        for name in (*(f"memory{block}" for block in blocks.get(node, ())), "memory_side_cache", "meminfo"):
            (directory / name).touch()
    (system / "node" / "online").write_text(",".join(map(str, online)) + "\n")
    (system / "node" / "has_memory").write_text(",".join(map(str, sorted(blocks))) + "\n")
    (system / "memory").mkdir()
    (system / "memory" / "block_size_bytes").write_text(f"{BLOCK * 4096:x}\n")
    proc.mkdir()
    (proc / "zoneinfo").write_text(zones)
    return ProcFS(str(proc), 4096), str(system)


# --- from frames to nodes


def test_frames_are_on_the_node_of_their_block(tmp_path: Path) -> None:
    nodes = read_nodes(*make_machine(tmp_path, {0: [0, 1], 2: [2, 3]}))

    assert nodes.with_memory == (0, 2)
    frames = (0, 2 * BLOCK - 1, 2 * BLOCK, 4 * BLOCK - 1, 4 * BLOCK)
    assert [nodes.of_frame(frame) for frame in frames] == [0, 0, 2, 2, None]
    assert len(nodes.spans) == 2


def test_frames_in_a_hole_between_blocks_are_on_no_node(tmp_path: Path) -> None:
    nodes = read_nodes(*make_machine(tmp_path, {0: [0, 5], 1: [3]}))

    assert [nodes.of_frame(block * BLOCK) for block in range(7)] == [0, None, None, 1, None, 0, None]


def test_node_without_memory_owns_no_frame(tmp_path: Path) -> None:
    nodes = read_nodes(*make_machine(tmp_path, {1: [0, 1]}, without_memory=[0]))

    assert (nodes.with_memory, nodes.only) == ((1,), None)
    assert nodes.of_frame(BLOCK) == 1


def test_every_frame_of_a_machine_with_one_node_is_on_it(tmp_path: Path) -> None:
    nodes = read_nodes(*make_machine(tmp_path, {0: [0]}))

    assert [nodes.of_frame(frame) for frame in (0, BLOCK, 1 << 50)] == [0, 0, 0]


def test_zones_divide_a_block_that_two_nodes_share(tmp_path: Path) -> None:
    zones = ZONE.format(0, BLOCK + 100, 0) + ZONE.format(1, BLOCK - 100, BLOCK + 100)
    nodes = read_nodes(*make_machine(tmp_path, {0: [0, 1], 1: [1]}, zones=zones))

    assert [nodes.of_frame(frame) for frame in (BLOCK, BLOCK + 99, BLOCK + 100, 2 * BLOCK - 1)] == [0, 0, 1, 1]


def test_frames_of_a_shared_block_in_zones_that_overlap_are_unknown(tmp_path: Path) -> None:
    zones = ZONE.format(0, BLOCK + 100, 0) + ZONE.format(1, BLOCK, BLOCK + 50)
    nodes = read_nodes(*make_machine(tmp_path, {0: [0, 1], 1: [1]}, zones=zones))

    frames = (BLOCK + 49, BLOCK + 50, BLOCK + 99, BLOCK + 100)
    assert [nodes.of_frame(frame) for frame in frames] == [0, None, None, 1]


def test_without_blocks_zones_tell(tmp_path: Path) -> None:
    zones = ZONE.format(0, 1000, 0) + ZONE.format(2, 1000, 1000)
    procfs, system = make_machine(tmp_path, {0: [], 2: []}, zones=zones)
    Path(system, "memory", "block_size_bytes").unlink()
    nodes = read_nodes(procfs, system)

    assert [nodes.of_frame(frame) for frame in (999, 1000, 2000)] == [0, 2, None]


def test_kernel_without_numa_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotSupported, match="CONFIG_NUMA"):
        read_nodes(ProcFS(str(tmp_path), PAGE), str(tmp_path))


@pytest.mark.parametrize(("text", "numbers"), [("", []), ("0", [0]), ("0-2", [0, 1, 2]), ("0,2-3,9", [0, 2, 3, 9])])
def test_lists_of_nodes(text: str, numbers: list[int]) -> None:
    assert parse_list(text) == numbers


@pytest.mark.parametrize("text", ["all of them", "0-4294967295", "3-1", "0-99999999999999999999999", "-1"])
def test_list_that_is_none_is_an_error_that_shows_it(text: str) -> None:
    with pytest.raises(FormatError, match=text):
        parse_list(text)


@pytest.mark.parametrize("line", ["Node ", "Node one, zone DMA", "  spanned many", "  spanned 1\n  start_pfn: first"])
def test_zone_that_is_none_is_an_error(line: str) -> None:
    with pytest.raises(FormatError, match="zoneinfo"):
        parse_zone_spans(line.encode())


def test_zones_without_memory_span_nothing() -> None:
    empty = "Node 1, zone  Movable\n        spanned  0\n"
    text = ZONE.format(0, 7, 5) + empty + ZONE.format(1, 3, 20)

    assert parse_zone_spans(text.encode()) == [(5, 12, 0), (20, 23, 1)]


def test_this_machine_has_nodes() -> None:
    nodes = read_nodes(ProcFS())

    assert nodes.with_memory
    assert nodes.with_memory == tuple(parse_list(Path("/sys/devices/system/node/has_memory").read_text().strip()))


# --- the kernel's counts


def test_counts_are_bytes_of_the_vmas_own_page_size() -> None:
    text = b"1000 bind:1 huge anon=3 N1=3 kernelpagesize_kB=2048\n2000 default anon=5 N0=2 N12=3 kernelpagesize_kB=64\n"
    assert parse_numa_maps(text.split(b"\n")) == {0x1000: {1: 6 << 20}, 0x2000: {0: 2 << 16, 12: 3 << 16}}


def test_policies_and_files_are_no_counts() -> None:
    text = b"1000 prefer (many):0-1 file=/tmp/N1\\0758\\040N2 N0=1 kernelpagesize_kB=4\n2000 weighted interleave:0-1\n"
    assert parse_numa_maps(text.split(b"\n")) == {0x1000: {0: 4096}, 0x2000: {}}


@pytest.mark.parametrize("line", ["1000 default N0=many kernelpagesize_kB=4", "1000 default N0=3", "here default"])
def test_line_that_is_none_is_an_error_that_shows_it(line: str) -> None:
    with pytest.raises(FormatError, match=line.split()[0]):
        parse_numa_maps([line.encode()])


def test_process_without_numa_maps_names_the_option(tmp_path: Path) -> None:
    make_process(tmp_path)
    with ProcFS(str(tmp_path), PAGE).process(7) as process, pytest.raises(NotSupported, match="CONFIG_NUMA"):
        read_numa_maps(process)


def test_move_pages_is_not_called_with_the_pids_of_another_proc(tmp_path: Path) -> None:
    make_process(tmp_path)
    with ProcFS(str(tmp_path), PAGE).process(7) as process, pytest.raises(NotSupported, match="PID namespace"):
        read_page_nodes(process, [0])


# --- pages to nodes

TWO = NodeMap((0, 2), [(0, 200, 0), (300, 400, 2)])


def test_many_frames_are_on_the_node_that_each_is_on() -> None:
    pfns = [0, 1, 199, 200, 299, 300, 399, 400, 1 << 52]
    for nodes in (TWO, NodeMap((1,), (), only=1), NodeMap((0, 1), ()), NodeMap((7,), [(5, 6, 7)])):
        found = [None if node == UNREPORTED else node for node in nodes.of_frames(np.array(pfns, np.uint64)).tolist()]
        assert found == [nodes.of_frame(pfn) for pfn in pfns]


STATES = (0x81, 0xA0, 0x88, 0x40, 0x10, 0x00)


def make_block(pages: Sequence[tuple[int, int]]) -> Block:
    words = bytearray(8 * len(pages))
    for place, (byte, frame) in enumerate(pages):
        words[place * 8 : place * 8 + 8] = (byte << 56 | frame if byte else 0).to_bytes(8, "little")
    return Block(0x10000, memoryview(words), bytes(byte for byte, _ in pages))


@given(st.lists(st.tuples(st.sampled_from(STATES), st.integers(1, 500)), min_size=1))
def test_arrays_and_lists_and_counts_agree(pages: list[tuple[int, int]]) -> None:
    block = make_block(pages)
    with ProcFS().process(1) as process:
        nodes = PageNodes(process, nodes=TWO)
        found, array, counts = nodes.of(block), nodes.array(block), nodes.count(block)

    assert found == [TWO.of_frame(frame) if byte in (0x81, 0xA0) else None for byte, frame in pages]
    assert [node if node >= 0 else None for node in array.tolist()] == found
    present = [node for node, (byte, _) in zip(found, pages, strict=True) if byte in (0x81, 0xA0)]
    assert counts == {node: present.count(node) for node in set(present)}
    assert (nodes.why is not None) == (None in present)


def test_hidden_frames_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def answer(process: object, addresses: Sequence[int]) -> list[int]:
        asked.extend(addresses)
        return [2, 0, -errno.EFAULT, -errno.ENOENT][: len(addresses)]

    monkeypatch.setattr("mematlas.kernel.move_pages.read_page_nodes", answer)
    block = make_block([(0x81, 0), (0x40, 0), (0x81, 150), (0x81, 0), (0x80, 0), (0x81, 0)])
    with ProcFS().process(1) as process:
        nodes = PageNodes(process, nodes=TWO)
        assert nodes.of(block) == [2, None, 0, 0, None, None]
        assert asked == [0x10000 + place * PAGE for place in (0, 3, 4, 5)]
        # What is the zero page is no memory; what went away since was somewhere.
        assert nodes.count(block) == {2: 1, 0: 2, None: 1}


def test_refusal_leaves_nodes_unknown_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(process: object, addresses: Sequence[int]) -> list[int]:
        raise PermissionDenied("move_pages(2) of 7", "CAP_SYS_PTRACE")

    monkeypatch.setattr("mematlas.kernel.move_pages.read_page_nodes", refuse)
    block = make_block([(0x81, 0), (0x81, 350), (0x00, 0)])
    with ProcFS().process(1) as process:
        nodes = PageNodes(process, nodes=TWO)
        assert nodes.of(block) == [None, 2, None]
        assert nodes.count(block) == {None: 1, 2: 1}
        assert "CAP_SYS_PTRACE" in (nodes.why or "")


def test_what_numa_maps_no_longer_tells_is_of_no_known_node(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {0x1000: {0: 3 * PAGE, 2: PAGE}, 0x8000: {2: 4 * PAGE}}
    monkeypatch.setattr("mematlas.kernel.numa_maps.read_numa_maps", lambda process: told)
    vmas = [
        Vma(start=start, end=start + 0x6000, perms="rw-p", offset=0, dev="00:00", inode=0, path="", kind="anon")
        for start in (0x1000, 0x8000, 0x10000)
    ]
    with ProcFS().process(1) as process:
        nodes = PageNodes(process, nodes=TWO)
        found = nodes.of_sizes(None, zip(vmas, [6 * PAGE, 4 * PAGE, PAGE], strict=True))
        assert found == [{0: 3 * PAGE, 2: PAGE, None: 2 * PAGE}, {2: 4 * PAGE}, {None: PAGE}]
        assert "changed" in (nodes.why or "")
        only = PageNodes(process, nodes=NodeMap((0,), (), only=0))
        assert only.of_sizes(None, [(vmas[0], 6 * PAGE)]) == [{0: 5 * PAGE, 2: PAGE}]
    # The kernel's table is left as it was told.
    assert told[0x1000] == {0: 3 * PAGE, 2: PAGE}


# --- on this machine

KINDS = ("anon", "private_file", "shared_file", "shared_anon", "tmpfs", "memfd", "zero", "prot_none", "forked")


def amounts(pid: int, source: Source) -> tuple[dict[int, dict[int | None, int]], dict[int, int]]:
    """Return the bytes by node, and what is resident or hugetlb, by the start of each VMA."""
    with Process(pid) as process:
        if source == "tables":
            skip_without_tables(process)
        result = process.maps(source, numa=True)
    nodes = {item.vma.start: item.nodes or {} for item in result.vmas}
    return nodes, {item.vma.start: (item.usage.rss or 0) + (item.usage.hugetlb or 0) for item in result.vmas}


@pytest.mark.parametrize("source", ["smaps", "pagemap", "tables"])
@pytest.mark.root("CAP_SYS_ADMIN")
@steadily
def test_nodes_add_up_and_are_those_of_numa_maps(source: Source, victim: Start) -> None:
    target = victim(*KINDS, "thp")
    with target.stopped():
        nodes, resident = amounts(target.pid, source)
        with ProcFS().process(target.pid) as process:
            told = read_numa_maps(process)
        vdso = [start for start in nodes if start not in told or (not told[start] and nodes[start])]
        assert {start: sum(sizes.values()) for start, sizes in nodes.items()} == resident
        assert {start: sizes for start, sizes in nodes.items() if start not in vdso} == {
            start: sizes for start, sizes in told.items() if start not in vdso
        }
        assert len(vdso) <= 2


@steadily
def test_hugetlb_pages_count_whole(hugetlb_pages: int, victim: Start) -> None:
    target = victim("hugetlb")
    area = target["hugetlb"]
    with target.stopped():
        for source in ("smaps", "pagemap"):
            nodes, resident = amounts(target.pid, source)
            assert sum(nodes[area.address].values()) == resident[area.address] == area.nr_hugetlb * PAGE > 0


def test_swapped_pages_are_on_no_node(swap: Path, victim: Start) -> None:
    area = victim("swapped")["swapped"]
    with Process(area.pid) as process:
        nodes = process.page_nodes()
        found: list[int | None] = []
        for _, piece in process.pages(area.address, area.end):
            found += [None] * len(piece) if isinstance(piece, Hole) else nodes.of(piece)
    assert [node is None for node in found] == [state != "present" for state in area.states]
    assert area.nr_swapped > 0


def two_halves(pfns: list[int]) -> NodeMap:
    """Return a machine whose frames alternate between nodes 3 and 8, in pieces of four."""
    last = max(pfns) + 4
    return NodeMap((3, 8), ((low, low + 4, 3 if low % 8 else 8) for low in range(0, last, 4) if low in near(pfns)))


def near(pfns: list[int]) -> set[int]:
    return {pfn - pfn % 4 for pfn in pfns}


@pytest.mark.root("CAP_SYS_ADMIN")
def test_pages_shows_the_node_of_each_frame(
    victim: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    area = victim("anon")["anon"]
    span = f"{area.address:#x}+{area.size}"

    def rows(*more: str) -> list[dict[str, Any]]:
        assert main(["pages", str(area.pid), span, "--json", *more]) == 0
        found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["rows"]
        return found

    pfns = [row["pfn"] for row in rows() if row["pfn"]]
    machine = two_halves(pfns)
    monkeypatch.setattr(model, "read_nodes", lambda procfs: machine)
    pages = rows()
    assert [row["node"] for row in pages] == [row["pfn"] and (3 if row["pfn"] & 4 else 8) for row in pages]
    at = 0
    for run in rows("--runs"):
        assert {row["node"] for row in pages[at : at + run["nr_pages"]]} == {run["node"]}
        at += run["nr_pages"]
    assert main(["pages", str(area.pid), span]) == 0
    assert "NODE" in capsys.readouterr().out.splitlines()[0].split()


@pytest.mark.root("CAP_SYS_ADMIN")
def test_maps_shows_nodes_whose_numbers_have_gaps(
    victim: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    area = victim("anon")["anon"]
    with Process(area.pid) as process:
        pfns = [found.pfn for found in process.translate(map(area.page_address, range(area.nr_pages))) if found.pfn]
    machine = two_halves(pfns)
    monkeypatch.setattr(model, "read_nodes", lambda procfs: machine)
    nr_low = sum(1 for pfn in pfns if pfn & 4)

    assert main(["maps", str(area.pid), hex(area.address), "--numa", "--source", "pagemap", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["n3"], row["n8"], row["n_unknown"]) == (nr_low * PAGE, (len(pfns) - nr_low) * PAGE, 0)


def test_text_has_a_line_or_a_column_for_each_node(
    victim: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = victim("anon")
    real = read_nodes(ProcFS())
    nodes = (*real.with_memory, real.with_memory[-1] + 2)
    monkeypatch.setattr(model, "read_nodes", lambda procfs: NodeMap(nodes, real.spans, real.only))

    assert main(["usage", str(target.pid), "--numa", "--source", "smaps", "--bytes"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    told = rows[-len(nodes) :]
    assert [row[:2] for row in told] == [["node", str(node)] for node in nodes]
    assert sum(int(row[2]) for row in told) == int(rows[2][1])
    assert told[-1][2] == "0"
    assert main(["maps", str(target.pid), "--numa", "--gaps", "--source", "smaps"]) == 0
    title = capsys.readouterr().out.splitlines()[0].split()
    assert title[title.index("USS") + 1 :][: len(nodes)] == [f"N{node}" for node in nodes]


def test_without_the_option_nothing_is_said_of_nodes(victim: Start, capsys: pytest.CaptureFixture[str]) -> None:
    target = victim("anon")
    for command in ("maps", "usage"):
        assert main([command, str(target.pid), "--json"]) == 0
        assert not {key for row in json.loads(capsys.readouterr().out)["rows"] for key in row if key.startswith("n0")}


@pytest.mark.root
def test_everybody_may_ask_about_processes_of_their_own(victim: Start, as_nobody: Callable[..., Outcome]) -> None:
    target = victim("anon", uid=65534)
    area = target["anon"]
    outcome = as_nobody(["maps", str(target.pid), hex(area.address), "--numa", "--json"])

    assert outcome.code == 0, outcome.stderr
    (row,) = json.loads(outcome.stdout)["rows"]
    (node, *_) = read_nodes(ProcFS()).with_memory
    assert row["n_unknown"] == 0
    assert row[f"n{node}"] <= row["rss"] == read_smaps(target.pid)[area.address]["Rss"]


def test_kernel_without_numa_ends_with_its_own_code(
    victim: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    target = victim("anon")

    def read(procfs: ProcFS) -> NodeMap:
        return sysfs.read_nodes(procfs, str(tmp_path))

    monkeypatch.setattr(model, "read_nodes", read)
    for command in ("maps", "usage"):
        assert main([command, str(target.pid), "--numa"]) == 5
        assert "CONFIG_NUMA" in capsys.readouterr().err
    assert main(["pages", str(target.pid), "stack", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {row["node"] for row in told["rows"]} == {None}
    assert any("CONFIG_NUMA" in note for note in texts(told["notes"]))


def test_verification_knows_no_nodes(victim: Start) -> None:
    run = mematlas("usage", victim("anon").pid, "--verify", "--numa")
    assert (run.returncode, run.stdout) == (2, "")
    assert "--numa" in run.stderr


# --- captures


@pytest.mark.root("CAP_SYS_ADMIN")
def test_capture_has_the_nodes_of_its_machine(
    victim: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    target = victim("anon")
    area = target["anon"]
    with Process(area.pid) as process:
        pfns = [found.pfn for found in process.translate(map(area.page_address, range(area.nr_pages))) if found.pfn]
    machine = two_halves(pfns)
    with monkeypatch.context() as patch:
        patch.setattr(sysfs, "read_nodes", lambda procfs: machine)
        assert main(["capture", str(target.pid), str(tmp_path / "saved")]) == 0
    capsys.readouterr()
    assert main(["maps", str(tmp_path / "saved"), hex(area.address), "--numa", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    nr_low = sum(1 for pfn in pfns if pfn & 4)
    assert (row["n3"], row["n8"], row["n_unknown"]) == (nr_low * PAGE, (len(pfns) - nr_low) * PAGE, 0)


def test_capture_without_nodes_says_so(victim: Start, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    assert main(["capture", str(victim("anon").pid), str(saved)]) == 0
    path = saved / "machine.json"
    machine = json.loads(path.read_text())
    del machine["nodes"]
    path.write_text(json.dumps(machine))
    capsys.readouterr()
    assert main(["usage", str(saved), "--numa"]) == 5
    assert "the capture does not hold" in capsys.readouterr().err


@pytest.mark.parametrize(
    "nodes",
    [7, {}, {"with_memory": [0], "spans": [[1, 2]], "only": None}, {"with_memory": [0], "spans": [], "only": "0"}],
)
def test_nodes_of_a_stranger_are_checked(nodes: object, tmp_path: Path) -> None:
    (tmp_path / "machine.json").write_text(json.dumps({"page_size": PAGE, "nodes": nodes}))
    with pytest.raises(FormatError, match="nodes"):
        read_nodes(ProcFS(str(tmp_path)))


def test_processes_on_different_nodes_share_their_columns() -> None:
    reading = Reading("smaps", 0.0, False, ())
    usage = total([])
    amounts: list[dict[int | None, int]] = [{0: 8 * PAGE, 4: 0}, {0: 0, 4: 3 * PAGE, None: 5 * PAGE}]
    results = [Subject({"pid": 1, "name": "x"}, UsageResult(usage, 0, reading, nodes)) for nodes in amounts]
    rows = keyed_rows(usage_table(results, Notes()))
    assert [(row["n0"], row["n4"], row["n_unknown"]) for row in rows] == [
        (8 * PAGE, 0, 0),
        (0, 3 * PAGE, 5 * PAGE),
    ]
