"""``--source tables``: as exact as smaps, with accessed and dirty bits, refused or replaced where it cannot be."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from conftest import Outcome
from helpers import mematlas, program, sparse, steadily, texts
from mematlas import Process
from mematlas.cli import main
from mematlas.errors import Error, NotSupported, PermissionDenied, ProcessGone
from mematlas.kernel.memory.memory_blocks import read_memory_blocks
from mematlas.kernel.memory.structpage import KernelFrames, StructPages
from mematlas.kernel.pagemap import ACCESSED, DIRTY, PRESENT, Block
from mematlas.model import costs
from mematlas.model.pagetables.access import open_access
from mematlas.model.pagetables.reader import PageTableReader
from mematlas.model.pagetables.walk import part_edges
from mematlas.observe.sources import Sources
from victim import Victim

MakeVictim = Callable[..., Victim]

pytestmark = pytest.mark.root("CAP_SYS_ADMIN", "CAP_SYS_PTRACE")


@pytest.fixture(autouse=True)
def tables_can_be_read() -> None:
    try:
        with Process(os.getpid()) as process:
            process.page_table_access()
    except Error as error:
        pytest.skip(f"page tables cannot be read: {error}")


@pytest.fixture
def only_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have page tables read, as where a program cannot count them in the kernel."""
    monkeypatch.setattr(Sources, "count_access", lambda self: None)


def use_of(process: Process, start: int, end: int) -> list[int | None]:
    """Return the use of each page of a range; None where there is none."""
    found: list[int | None] = []
    for _, piece in process.pages(start, end, source="tables"):
        shown = isinstance(piece, Block) and piece.use is not None
        pairs = zip(piece.states, piece.use, strict=True) if shown else [(0, 0)] * len(piece)  # type: ignore[union-attr,arg-type]
        found += [use if byte & PRESENT else None for byte, use in pairs]
    return found


# --- what pagemap does not tell


@steadily  # the kernel may age a page meanwhile (kswapd, DAMON): its accessed bit is cleared then
def test_pages_written_to_are_accessed_and_dirty(victim: MakeVictim) -> None:
    target = victim("anon")
    area = target["anon"]
    with target.stopped(), Process(target.pid) as process:
        found = use_of(process, area.address, area.end)

    assert found == [ACCESSED | DIRTY if state == "present" else None for state in area.states]


READS = """
import ctypes, json, mmap, os, sys
size, path = 53 * mmap.PAGESIZE, sys.argv[1]
file = os.open(json.loads(path), os.O_RDONLY)
area = mmap.mmap(file, size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
total = sum(area[place] for place in range(0, size, mmap.PAGESIZE))
for page in range(7):
    area[page * mmap.PAGESIZE] = 1
print(json.dumps(ctypes.addressof(ctypes.c_char.from_buffer(area))), flush=True)
"""


def test_pages_only_read_are_not_dirty(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 53 * mmap.PAGESIZE)
    with program(READS, str(path)) as running, Process(running.pid) as process:
        found = use_of(process, running.told, running.told + 53 * mmap.PAGESIZE)

    assert [use is not None and use & DIRTY != 0 for use in found] == [True] * 7 + [False] * 46
    assert None not in found


PROTECTED = """
import ctypes, json, mmap, sys
area = mmap.mmap(-1, 53 * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area.madvise(15)
for page in range(17):
    area[page * mmap.PAGESIZE] = 1
for page in range(17, 41):
    area[page * mmap.PAGESIZE]
address = ctypes.addressof(ctypes.c_char.from_buffer(area))
ctypes.CDLL(None).mprotect(ctypes.c_void_p(address), ctypes.c_size_t(len(area)), json.loads(sys.argv[1]))
print(json.dumps(address), flush=True)
"""


@pytest.mark.parametrize("rights", [mmap.PROT_READ, 0], ids=["read", "none"])
def test_pages_written_to_are_dirty_when_they_may_no_longer_be(rights: int) -> None:
    # Since Linux 6.6 x86 moves the dirty bit then. Which kernel this is, is found out by the same experiment.
    with program(PROTECTED, rights) as running, Process(running.pid) as process:
        found = use_of(process, running.told, running.told + 53 * mmap.PAGESIZE)

    assert [use is not None and use & DIRTY != 0 for use in found] == [True] * 17 + [False] * 36


@steadily  # the kernel may age a page meanwhile (kswapd, DAMON): its accessed bit is cleared then
def test_maps_counts_accessed_and_dirty_pages(victim: MakeVictim) -> None:
    target = victim("anon_full")
    area = target["anon_full"]
    with target.stopped(), Process(target.pid) as process:
        by_start = {item.vma.start: item for item in process.maps("tables").vmas}
        others = process.maps("pagemap").vmas

    item = by_start[area.address]
    assert (item.nr_accessed, item.nr_dirty) == (area.nr_pages, area.nr_pages)
    assert {(other.nr_accessed, other.nr_dirty) for other in others} == {(None, None)}


@steadily
def test_accessed_pages_are_listed_alone(victim: MakeVictim, capsys: pytest.CaptureFixture[str]) -> None:
    target = victim("anon")
    area = target["anon"]
    Path(f"/proc/{target.pid}/clear_refs").write_text("1")
    # The processor may hold the translation of a page that it has accessed before, and not say so again.
    pages = [page for page, state in enumerate(area.states) if state == "absent"][:7]
    for page in pages:
        target.touch("anon", page)
    with target.stopped():
        words = ["pages", str(target.pid), f"{area.address:#x}-{area.end:#x}", "--accessed", "--json"]
        assert main(words) == 0
        told = json.loads(capsys.readouterr().out)
        assert main([*words, "--runs"]) == 0
        runs = json.loads(capsys.readouterr().out)

    assert told["target"]["source"] == "tables"
    assert [int(row["address"], 16) for row in told["rows"]] == [area.page_address(page) for page in pages]
    assert sum(row["nr_pages"] for row in runs["rows"]) == len(pages) == 7


@pytest.mark.parametrize("source", ["pagemap", "auto"])
def test_without_page_tables_accesses_are_unknown_or_the_programs(
    source: str, as_nobody: Callable[..., Outcome]
) -> None:
    outcome = as_nobody(["pages", "self", "stack", "--accessed", "--source", source, "--json"])

    if outcome.code == 0:  # since Linux 7.3, of memory that its program tracks
        codes = {note["code"] for note in json.loads(outcome.stdout)["notes"]}
        assert "tracked-alone" in codes
        assert ("no-tables" in codes) == (source == "auto")
    else:
        assert outcome.code == (5 if source == "pagemap" else 4)
        assert ("Linux 7.3" if source == "pagemap" else "CAP_BPF") in outcome.stderr


def test_map_shows_idle_pages_and_counts(victim: MakeVictim, capsys: pytest.CaptureFixture[str]) -> None:
    target = victim("anon_full")
    area = target["anon_full"]
    # The kernel clears the accessed bits of all pages: proc_pid_clear_refs(5).
    Path(f"/proc/{target.pid}/clear_refs").write_text("1")
    with target.stopped():
        words = ["map", str(target.pid), hex(area.address), "--source", "tables"]
        assert main(words) == 0
        text = capsys.readouterr().out
        assert main([*words, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)

    assert "I" * 20 in text
    assert f"of {area.nr_pages} present pages 0 were accessed, {area.nr_pages} are dirty" in text
    assert {row["nr_accessed"] for row in rows["rows"]} == {0}
    assert sum(row["nr_dirty"] for row in rows["rows"]) == area.nr_pages
    assert (rows["target"]["source"], rows["target"]["reader"] in ("bpf", "kcore")) == ("tables", True)


def test_pages_name_the_bits(victim: MakeVictim, capsys: pytest.CaptureFixture[str]) -> None:
    target = victim("anon_full")
    area = f"{target['anon_full'].address:#x}"
    for more in ([], ["--runs"]):
        assert main(["pages", str(target.pid), area, "--source", "tables", "--json", *more]) == 0
        (row,) = json.loads(capsys.readouterr().out)["rows"]
        assert {"present", "exclusive", "accessed", "dirty"} <= set(row["flags"])


def test_pages_of_any_flags_stay_under_their_heads(victim: MakeVictim, capsys: pytest.CaptureFixture[str]) -> None:
    target = victim("shared_file")
    area = target["shared_file"]
    words = ["pages", str(target.pid), f"{area.address:#x}-{area.end:#x}", "--source", "tables"]
    with target.stopped():
        assert main(words) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    at = head.index("  FRAME")

    assert any("accessed" in line for line in lines)
    assert {line[at : at + 2] for line in lines} == {"  "}


# --- parts of a process, and frames that are known otherwise


@pytest.mark.usefixtures("only_read")
def test_a_process_in_many_parts_has_the_same_sums(victim: MakeVictim, monkeypatch: pytest.MonkeyPatch) -> None:
    target = victim("anon", "thp", "shared_anon", "private_file")
    with target.stopped(), Process(target.pid) as process:
        whole = [(item.vma, item.usage.rss, item.usage.anon, item.usage.thp) for item in process.maps("tables").vmas]
        small = partial(part_edges, nr_tables=1)
        monkeypatch.setattr("mematlas.model.pagetables.reader.part_edges", small)
        parts = [(item.vma, item.usage.rss, item.usage.anon, item.usage.thp) for item in process.maps("tables").vmas]

    assert parts == whole


@pytest.mark.usefixtures("only_read")
def test_kpagecount_stands_in_for_struct_pages(victim: MakeVictim, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(memory: object) -> StructPages:
        raise NotSupported("map counts from struct page", "CONFIG_PAGE_MAPCOUNT")

    target = victim("anon", "private_file", "thp", "shared_anon")
    with target.stopped(), Process(target.pid) as process:
        expected = process.maps("tables")
    monkeypatch.setattr("mematlas.model.pagetables.access.open_struct_pages", refuse)
    with target.stopped(), Process(target.pid) as process:
        found = process.maps("tables")
        assert isinstance(process.page_table_access().frames, KernelFrames)

    def sums(result: object) -> list[object]:
        return [(item.usage.anon, item.usage.rss, item.usage.thp) for item in result.vmas]  # type: ignore[attr-defined]

    assert sums(found) == sums(expected)
    assert any("kpagecount" in note and "CONFIG_PAGE_MAPCOUNT" in note for note in texts(found.reading.notes))


def test_hidden_frames_are_why_map_counts_come_from_kpagecount(
    victim: MakeVictim, as_nobody: Callable[..., object]
) -> None:
    if not read_memory_blocks():
        pytest.skip("needs CONFIG_MEMORY_HOTPLUG, to know where RAM is without CAP_SYS_ADMIN")
    target = victim("anon")

    def look() -> tuple[list[str], int]:
        with Process(target.pid) as process:
            result = process.maps("tables")
        found = next(item for item in result.vmas if item.vma.start == target["anon"].address)
        return [note for note in texts(result.reading.notes) if "kpagecount" in note], found.usage.nr_exclusive or 0

    outcome = as_nobody(look, caps=["CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"])
    notes, nr_exclusive = outcome.value  # type: ignore[attr-defined]
    hidden = "frame numbers of our own pages: permission denied (needs CAP_SYS_ADMIN)"
    assert notes == [f"map counts are read from kpagecount, frame by frame: {hidden}"]
    assert nr_exclusive == target["anon"].nr_exclusive


# --- when it is chosen

SHARED = """
import json, mmap, sys
area = mmap.mmap(-1, json.loads(sys.argv[1]))
for at in range(0, len(area), mmap.PAGESIZE):
    area[at] = 1
print("null", flush=True)
"""


def test_auto_takes_tables_where_smaps_would_hold_up_the_target(
    victim: MakeVictim, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = victim("anon")
    with Process(target.pid) as process:
        assert process.usage(max_stall=0).reading.source == "pagemap"  # too little for them to be worth their start
        monkeypatch.setattr(costs, "COUNT_START", -1.0)
        assert process.usage(max_stall=0).reading.source == "tables"
        assert process.usage().reading.source == "smaps"
        assert process.sources.choose("auto", 0, (0, 1 << 47)).source == "pagemap"
        monkeypatch.setattr(costs, "READ_START", -1.0)
        assert process.sources.choose("auto", 0, (0, 1 << 47)).source == "tables"
        assert process.sources.choose("auto", 0.005, (0, 1 << 47)).source == "pagemap"


def test_auto_takes_tables_where_one_looks_again(victim: MakeVictim) -> None:
    target = victim("anon")
    with Process(target.pid) as process:
        process.expect_more_looks()
        assert process.usage(max_stall=0).reading.source == "tables"
        assert process.sources.choose("auto", 0, (0, 1 << 47)).source == "tables"
    done = mematlas("usage", target.pid, "--max-stall", "0ms", "-i", "50ms", "-n", "2", "--format", "jsonl")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["target"]["source"] for line in lines if "target" in line] == ["tables", "tables"]


def test_auto_takes_tables_where_many_pages_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    with program(SHARED, 64 << 20) as target, Process(target.pid) as process:
        monkeypatch.setattr(costs, "COUNT_START", 1e-3)
        assert process.usage(max_stall=1e-4).reading.source == "tables"
        monkeypatch.setattr(costs, "SHARED_PAGE", 0.0)
        assert process.usage(max_stall=1e-4).reading.source == "pagemap"


def test_addresses_that_no_scan_passes_over_have_their_price(monkeypatch: pytest.MonkeyPatch) -> None:
    with sparse(1 << 37, [3]) as target, Process(target.pid) as process:
        with_scan = costs.costs_of(process.dir).pagemap
        monkeypatch.setattr(costs, "passes_over_holes", lambda _: False)
        without = costs.costs_of(process.dir).pagemap
    assert without - with_scan >= (1 << 37) // mmap.PAGESIZE * costs.HOLE_PAGE


def test_auto_takes_tables_where_these_are_large_and_hold_little(monkeypatch: pytest.MonkeyPatch) -> None:
    # 1,031 tables with a page each.
    with sparse(4 << 30, range(0, 1031 * 512, 512)) as target, Process(target.pid) as process:
        assert process.usage().reading.source == "pagemap"
        monkeypatch.setattr(costs, "COUNT_START", 0.0)
        assert process.usage().reading.source == "tables"
        # Which pages there are is found sooner by pagemap.
        assert process.sources.choose("auto", 0.005, (target.told, target.told + (4 << 30))).source == "pagemap"


def test_without_the_right_auto_says_so_and_reads_what_tells_all(
    as_nobody: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def look() -> tuple[str, list[str]]:
        monkeypatch.setattr(costs, "COUNT_START", -1.0)
        with Process(os.getpid()) as process:
            reading = process.usage(max_stall=0).reading
        return reading.source, texts(reading.notes)

    outcome = as_nobody(look)
    source, notes = outcome.value  # type: ignore[attr-defined]
    assert source == "smaps"  # frames are hidden from pagemap, too
    assert any("CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN" in note for note in notes)


@pytest.mark.parametrize("command", ["usage", "maps", "hist", "map", "pages"])
def test_asked_for_without_the_right_it_is_refused(command: str, as_nobody: Callable[..., object]) -> None:
    outcome = as_nobody([command, "self", "--source", "tables"])

    assert outcome.code == 4  # type: ignore[attr-defined]
    assert "CAP_" in outcome.stderr  # type: ignore[attr-defined]
    assert "sudo" in outcome.stderr  # type: ignore[attr-defined]


@pytest.mark.usefixtures("only_read")
def test_disagreement_with_kpagecount_is_refused_and_auto_goes_on(
    victim: MakeVictim, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disagree(self: StructPages, pfns: object) -> int:
        raise NotSupported("map counts from struct page (frame 0x1: 2, kpagecount 1)")

    target = victim("anon")
    monkeypatch.setattr(costs, "READ_START", -1.0)
    with Process(target.pid) as process:
        assert isinstance(process.page_table_access().frames, StructPages)
        monkeypatch.setattr(StructPages, "check", disagree)
        reading = process.usage(max_stall=0).reading
        with pytest.raises(NotSupported, match="kpagecount"):
            process.usage("tables")

    assert reading.source == "pagemap"
    assert any("kpagecount 1" in note for note in texts(reading.notes))


def test_a_capture_has_no_tables(victim: MakeVictim, tmp_path: Path) -> None:
    target = victim("anon")
    directory = tmp_path / "saved"
    assert main(["capture", str(target.pid), str(directory)]) == 0

    for words, needs in (
        (("usage", directory, "--source", "tables"), "a live system"),
        (("tables", directory), "a running process, or record --what tables"),
    ):
        run = mematlas(*words)
        assert (run.returncode, f"(needs {needs})" in run.stderr) == (5, True)


def test_usage_verify_has_three_columns(victim: MakeVictim, capsys: pytest.CaptureFixture[str]) -> None:
    target = victim("anon_full")
    with target.stopped():
        assert main(["usage", "--verify", "--json", str(target.pid)]) == 0
    rows = {row["measure"]: row for row in json.loads(capsys.readouterr().out)["rows"]}

    assert rows["rss"]["smaps"] == rows["rss"]["pagemap"] == rows["rss"]["tables"] > 0


def test_only_this_source_loads_numpy(victim: MakeVictim) -> None:
    pid = victim("anon").pid
    for words in (["usage"], ["maps"], ["hist"], ["map"], ["map", "--source", "tables"]):
        code = "import sys; from mematlas.cli import main; main(sys.argv[1:]); sys.exit('numpy' in sys.modules)"
        run = subprocess.run(
            [sys.executable, "-c", code, words[0], str(pid), *words[1:]], capture_output=True, check=False
        )
        assert run.returncode == ("tables" in words), words


# --- a target that does not stand still


RACE = """
import mmap
while True:
    with mmap.mmap(-1, 37 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE) as area:
        with mmap.mmap(-1, 3 << 20) as other:
            other[5] = 1
"""


@contextlib.contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_racing_target_is_read_within_its_bounds() -> None:
    with running(sys.executable, "-c", RACE) as target:
        time.sleep(0.3)
        end = time.monotonic() + 2
        with Process(target.pid) as process:
            while time.monotonic() < end:
                usage = process.usage("tables").usage
                assert usage.rss is not None
                assert 0 < usage.rss < 128 << 20
                assert usage.uss is None or usage.uss <= usage.rss


def test_a_target_that_ends_is_reported(victim: MakeVictim) -> None:
    target = victim("anon")
    with Process(target.pid) as process:
        access = process.page_table_access()
        vma = process.address_space().vmas[0]

        def end_meanwhile() -> None:
            with PageTableReader(process.dir, access) as reader:
                target.exit()
                reader.count(vma)

        with pytest.raises(ProcessGone):
            end_meanwhile()


def test_a_target_that_starts_another_program_is_reported() -> None:
    program = "import os, sys; print(flush=True); sys.stdin.read(1); os.execvp('sleep', ['sleep', '60'])"
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        with Process(process.pid) as target:
            access = target.page_table_access()

            def replace_meanwhile() -> None:
                with PageTableReader(target.dir, access):
                    process.stdin.write(b"x")  # type: ignore[union-attr]
                    process.stdin.flush()  # type: ignore[union-attr]
                    while target.address_space().vmas[0].path.endswith("python") or "python" in os.readlink(
                        f"/proc/{process.pid}/exe"
                    ):
                        time.sleep(0.01)

            with pytest.raises(ProcessGone, match="another program"):
                replace_meanwhile()
    finally:
        process.kill()
        process.communicate()


def test_a_reader_that_is_not_there_is_named() -> None:
    # No machine has both out of the box.
    name, needs = ("module", "mematlas module") if os.path.exists("/proc/kcore") else ("kcore", "CONFIG_PROC_KCORE")
    with Process(os.getpid()) as process, pytest.raises((NotSupported, PermissionDenied), match=needs):
        open_access(process.procfs, name)
