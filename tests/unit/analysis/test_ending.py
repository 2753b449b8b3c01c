"""What ending a process would do: the arithmetic, the frames counted once, and the search for who holds a file."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import mematlas, program, texts
from mematlas.analysis.ending import FATES, KINDS, REASONS, EndingPart, EndingResult, private_slots
from mematlas.analysis.results import Reading
from mematlas.cli import main
from mematlas.errors import FormatError, NotSupported, PermissionDenied, ProcessGone
from mematlas.frozen import replace
from mematlas.kernel.kcmp import GREATER, LESS, SAME, compare_memory
from mematlas.kernel.kpage import KPF_ANON_EXCLUSIVE, KPF_COMPOUND_HEAD, KPF_COMPOUND_TAIL, KPF_SWAPCACHE, KPF_ZERO_PAGE
from mematlas.kernel.maps import Vma
from mematlas.kernel.pagemap import Block
from mematlas.kernel.procfs import ProcessDir, ProcFS
from mematlas.kernel.status import read_memory_status
from mematlas.kernel.sysvipc import parse_segments
from mematlas.kernel.vmfile import memory_devices
from mematlas.model import holders, shared_mm
from mematlas.model.frames import ANON, FrameCounter, FrameKeys, FrameSums
from mematlas.model.holders import find_holders, held_by, held_files
from mematlas.model.processes import Processes
from mematlas.notes import Notes
from mematlas.observe import ending, ranking
from mematlas.observe.ending import is_secret
from mematlas.observe.machine import Machine as WholeMachine
from mematlas.observe.process import Process
from mematlas.views.ending import FATES as SHOWN_FATES
from mematlas.views.ending import REASONS as TEXTS
from mematlas.views.ending import ending_table
from mematlas.views.usage import Subject
from stuck import WAYS, stuck
from victim import process_state, wait_until

PAGE = os.sysconf("SC_PAGESIZE")
PRESENT, OF_FILE, ZERO = 0x80, 0xA0, 0x88
PRESENT_BIT = 1 << 63
FILE = 7
NR_OWNERS = 8


# --- swap slots


@given(st.lists(st.integers(1, 9), max_size=60))
def test_bounds_of_private_slots_hold_whatever_others_share(users: list[int]) -> None:
    # fs/proc/task_mmu.c: a slot of n users counts as a page divided by n, in 1/4096 of a byte; smaps drops what is
    # less than 1 KiB.
    swap_pss = sum((PAGE << 12) // nr_users for nr_users in users) >> 12 >> 10 << 10
    least, most = private_slots(len(users), swap_pss, PAGE)

    assert 0 <= least <= users.count(1) <= most <= len(users)


@given(st.integers(0, 10_000))
def test_slots_that_nobody_shares_are_all_private(nr_slots: int) -> None:
    assert private_slots(nr_slots, nr_slots * PAGE, PAGE) == (nr_slots, nr_slots)


# --- frames


class Machine:
    """A machine of few frames: a stand-in for a ProcFS, with the words of kpagecount and kpageflags."""

    page_size = PAGE

    def __init__(self, counts: dict[int, int], flags: dict[int, int] | None = None) -> None:
        self.words = {"kpagecount": counts, "kpageflags": flags or {}}

    def open(self, name: str) -> Any:
        words = self.words[name]

        class File:
            def read_into(self, buffer: memoryview, offset: int) -> int:
                buffer.cast("Q")[:] = memoryview(
                    b"".join(words.get(offset // 8 + i, 0).to_bytes(8, "little") for i in range(len(buffer) // 8))
                ).cast("Q")
                return len(buffer)

            def close(self) -> None: ...

        return File()


def block(*pages: tuple[int, int]) -> Block:
    """Return pages, each a frame and a state byte."""
    raw = bytearray(b"".join((frame | PRESENT_BIT).to_bytes(8, "little") for frame, _ in pages))
    return Block(0, memoryview(raw), bytes(byte for _, byte in pages))


def count(machine: Machine, *pages: tuple[int, int]) -> FrameSums:
    keys = FrameKeys()
    keys.add(block(*pages), FILE)
    with FrameCounter(machine, NR_OWNERS) as counter:  # type: ignore[arg-type]
        return counter.count(keys.take())


def test_frame_mapped_as_often_by_us_as_by_all_is_ours_alone() -> None:
    sums = count(Machine({5: 3, 6: 3, 9: 1}), (5, OF_FILE), (6, OF_FILE), (5, OF_FILE), (9, PRESENT), (5, OF_FILE))

    assert (sums.mapped[FILE], sums.alone[FILE]) == (2, 1)
    assert (sums.mapped[ANON], sums.alone[ANON]) == (1, 1)


def test_zero_page_and_frames_that_nobody_maps_are_none() -> None:
    machine = Machine({5: 0, 6: 1, 7: 1}, {6: KPF_ZERO_PAGE})

    assert count(machine, (5, PRESENT), (6, PRESENT), (7, ZERO)).mapped[ANON] == 0


def test_hidden_frames_are_refused_and_absurd_ones_too() -> None:
    with pytest.raises(PermissionDenied, match="CAP_SYS_ADMIN"):
        count(Machine({}), (0, PRESENT))
    with pytest.raises(FormatError):
        count(Machine({}), (1 << 50, PRESENT))


HUGE = PAGE // 8
FOLIO = {HUGE: KPF_COMPOUND_HEAD} | {HUGE + i: KPF_COMPOUND_TAIL for i in range(1, 16)}
"""A folio of 16 frames."""


def test_folio_of_which_others_map_another_part_is_bound() -> None:
    machine = Machine({HUGE: 1, HUGE + 1: 1, HUGE + 2: 1}, FOLIO)
    sums = count(machine, (HUGE, PRESENT), (HUGE + 1, PRESENT))

    assert (sums.alone[ANON], sums.nr_bound, sums.nr_unmapped) == (2, 2, 0)


def test_what_nobody_maps_of_our_folio_goes_with_it() -> None:
    sums = count(Machine({HUGE: 1, HUGE + 1: 1}, FOLIO), (HUGE, PRESENT), (HUGE + 1, PRESENT))

    assert (sums.alone[ANON], sums.nr_bound, sums.nr_unmapped) == (2, 0, 14)


def test_frame_in_swap_too_is_sure_only_where_it_is_exclusive() -> None:
    flags = {5: KPF_SWAPCACHE, 6: KPF_SWAPCACHE | KPF_ANON_EXCLUSIVE, 7: 0}
    sums = count(Machine({5: 1, 6: 1, 7: 1}, flags), (5, PRESENT), (6, PRESENT), (7, PRESENT))

    assert (sums.alone[ANON], sums.nr_slots_unsure) == (3, 1)


@given(st.dictionaries(st.integers(1, 40_000), st.tuples(st.integers(0, 3), st.integers(1, 3)), max_size=80))
def test_counting_agrees_with_the_plain_way(frames: dict[int, tuple[int, int]]) -> None:
    pages = [(frame, PRESENT) for frame, (_, times) in frames.items() for _ in range(times)]
    sums = count(Machine({frame: counted for frame, (counted, _) in frames.items()}), *pages)

    assert sums.mapped[ANON] == sum(counted > 0 for counted, _ in frames.values())
    assert sums.alone[ANON] == sum(0 < counted <= times for counted, times in frames.values())


# --- who holds a file

HOLD = """
import json, mmap, os, sys
fd = os.memfd_create("a name: 00:01 77 ")
os.ftruncate(fd, 1 << 20)
what = json.loads(sys.argv[1])
area = mmap.mmap(fd, 1 << 20) if what == "map" else None
if what == "map":
    os.close(fd)
print("null", flush=True)
"""


def own_file(pid: int) -> holders.File:
    """Return the memfd that a program maps, or has open."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        if "memfd:" in line:
            return line.split()[3], int(line.split()[4])
    with ProcFS().process(pid) as process:
        return next(
            file for number, file, _ in holders.removed_files(process) if "memfd:" in process.readlink(f"fd/{number}")
        )


@pytest.mark.parametrize("how", ["map", "open"])
def test_mapping_and_descriptor_are_found(how: str) -> None:
    with program(HOLD, how) as running, ProcFS().process(os.getpid()) as us:
        file = own_file(running.pid)
        found = find_holders(us, [file, ("00:01", 77)])

        assert found.pids == {file: (running.pid,)}
        with ProcFS().process(running.pid) as process:
            assert find_holders(process, [file]).pids == {}


def test_name_that_looks_like_a_file_is_not_taken_for_it() -> None:
    with program(HOLD, "map") as running:
        assert held_by(Processes(ProcFS()), running.pid, [("00:01", 77)], held_files) == ()


def test_without_files_nobody_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holders, "held_by", None)
    with ProcFS().process(os.getpid()) as us:
        assert find_holders(us, []).pids == {}


@pytest.mark.root("CAP_SYS_ADMIN")
def test_process_that_may_not_be_looked_at_is_counted(as_nobody: Callable[..., Any]) -> None:
    def look() -> tuple[int, int]:
        with ProcFS().process(os.getpid()) as us:
            found = find_holders(us, [("00:01", 77)])
        return len(found.refused), len(found.silent)

    refused, silent = as_nobody(look).value
    assert refused > 0 == silent


def test_program_is_traced_to_the_process_that_started_it() -> None:
    code = "import json, os, sys\npid = os.fork()\nprint(json.dumps(pid), flush=True) if pid else None\n"
    with program(code) as running:
        with ProcFS().process(running.told) as child, ProcFS().process(running.pid) as parent:
            assert holders.first_of_program(child) == holders.first_of_program(parent) > 0
        os.kill(running.told, signal.SIGKILL)


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("way", WAYS)
def test_process_that_cannot_be_read_is_left_out_in_time(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait_for_lock(process: ProcessDir, wanted: set[holders.File]) -> Iterator[holders.File]:
        # Newer kernels read maps without the lock of the whole address space (6.17), the command line never.
        process.read("cmdline")
        yield from ()

    monkeypatch.setattr(holders, "mapped_files", wait_for_lock)
    with stuck(way, tmp_path) as pid, program(HOLD, "open") as running, ProcFS().process(os.getpid()) as us:
        found = find_holders(us, [file := own_file(running.pid)])

    assert found.pids == {file: (running.pid,)}
    assert pid in {one.pid for one in found.silent}


def test_many_descriptors_are_found_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holders, "NR_DESCRIPTORS", 3)
    code = """
import json, os, sys
fds = [os.memfd_create(str(size)) for size in range(1, 12)]
for size, fd in enumerate(fds, 1):
    os.write(fd, bytes(size * os.sysconf("SC_PAGESIZE")))
print("null", flush=True)
"""
    with program(code) as running, Process(running.pid) as process:
        files = holders.open_memory_files(process.dir, memory_devices(process.dir))

    assert files is not None
    # Where /tmp is in memory, so is the file that pytest keeps standard error in.
    assert {file.size // PAGE for file in files} >= set(range(1, 12))


@pytest.mark.root("CAP_SYS_ADMIN")
def test_file_that_is_let_go_meanwhile_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = holders.OpenFile(("00:01", 7), 9_999, PAGE)
    monkeypatch.setattr(ending, "open_memory_files", lambda process, devices: [closed])
    with program(HOLD, "map") as running, Process(running.pid) as process:
        accounts = ending.Accounts(process.address_space().vmas)
        for key, file in accounts.files.items():
            accounts.files[key] = replace(file, link="map_files/1000-2000")
        looked = ending.Ending(process.dir, accounts)
        looked.look_around()

    (file,) = accounts.files.values()
    assert texts(looked.notes) == [f"memory-backed files unknown: {file.path} was unmapped or closed meanwhile"]


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("sharing", [[], [1]])
def test_page_tables_that_are_not_reported_are_said_to_be_unknown(
    sharing: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def less(process: ProcessDir) -> dict[str, str]:
        return {name: value for name, value in read_memory_status(process).items() if name != "VmPTE"}

    monkeypatch.setattr(Process, "sharing_memory", lambda self, everywhere: sharing)
    with program(HOLD, "map") as running, Process(running.pid) as process:
        whole = process.if_ended()
        monkeypatch.setattr(ending, "read_memory_status", less)
        result = process.if_ended()

    assert [note for note in result.reading.notes if note.code == "tables-unknown"]
    assert not [note for note in whole.reading.notes if note.code == "tables-unknown"]
    assert "tables" not in {part.kind for part in result.parts}
    assert sum(part.size for part in result.parts) < sum(part.size for part in whole.parts)


@pytest.mark.root("CAP_SYS_ADMIN")
def test_address_space_that_others_may_run_in_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_mm, "counts_as_we_do", lambda procfs: False)
    with program(HOLD, "map") as running, Process(running.pid) as process:
        notes = process.if_ended().reading.notes

    assert ending.SHARING_UNKNOWN in notes


@pytest.mark.parametrize("line", [b"x", b"0 1 2", b"0 1 9 0 0 0 0", b"0 a 600 0 0 0 0"])
def test_strange_segments_are_our_error(line: bytes) -> None:
    with pytest.raises(FormatError):
        parse_segments(b"head\n" + line + b"\n")


NAMED = """
import json, mmap, os, sys
path = json.loads(sys.argv[1])
with open(path, "w+b") as file:
    file.truncate(23 * mmap.PAGESIZE)
    area = mmap.mmap(file.fileno(), 23 * mmap.PAGESIZE)
for page in range(23):
    area[page * mmap.PAGESIZE] = 1
print("null", flush=True)
"""


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("name", ["secretmem", "SYSV00000000", "zero", "memfd:x (deleted)", "x (deleted)"])
def test_file_with_a_strange_name_stays(name: str) -> None:
    path = f"/dev/shm/{name}"
    with program(NAMED, path) as running:
        try:
            with Process(running.pid) as process:
                result = process.if_ended()
        finally:
            os.unlink(path)

    (part,) = (part for part in result.parts if part.kind == "shmem")
    assert (part.fate, part.reason, part.size) == ("stays", "named", 23 * PAGE)


def test_only_what_the_kernel_calls_special_is_secret_memory() -> None:
    vma = Vma(
        start=0, end=PAGE, perms="rw-s", offset=0, dev="00:2a", inode=7, path="/secretmem (deleted)", kind="special"
    )

    assert is_secret(vma)
    assert not is_secret(replace(vma, kind="file"))


# --- one address space

CLONE = """
import ctypes, json, mmap, signal, sys
libc = ctypes.CDLL(None)
stack = mmap.mmap(-1, 1 << 16)
body = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(("pause", libc))
top = ctypes.addressof(ctypes.c_char.from_buffer(stack)) + (1 << 16) - 64
print(json.dumps(libc.clone(body, ctypes.c_void_p(top), 0x100 | signal.SIGCHLD, None)), flush=True)
"""


@pytest.fixture
def twins() -> Iterator[tuple[int, int]]:
    """Two processes with one address space."""
    with program(CLONE) as running:
        try:
            yield running.pid, running.told
        finally:
            os.kill(running.told, signal.SIGKILL)


def test_process_with_the_same_address_space_is_found_from_either(twins: tuple[int, int]) -> None:
    for one, other in (twins, twins[::-1]):
        with Process(one) as process:
            assert process.sharing_memory() == process.sharing_memory(everywhere=True) == [other]


def test_fork_does_not_share_the_address_space() -> None:
    with program("import os, sys\nprint(os.fork() or os.getpid(), flush=True)") as running, Process(running.pid) as one:
        assert one.sharing_memory() == []


def test_usage_of_several_processes_has_each_address_space_once(twins: tuple[int, int]) -> None:
    with ProcFS().process(twins[0]) as one, ProcFS().process(twins[1]) as other:
        spaces = shared_mm.AddressSpaces(one.procfs)
        assert [spaces.is_met_again(each) for each in (one, other)] == [False, True]
        assert spaces.earlier == {twins[1]: twins[0]}
    told = mematlas("usage", twins[1])
    assert f"PID {twins[0]} runs in the address space of {twins[1]}" in told.stderr


def test_thousands_of_forks_take_few_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def compare(process: ProcessDir, other: int) -> int:
        asked.append(process.tid)
        return SAME if process.tid == other else LESS if process.tid < other else GREATER

    monkeypatch.setattr("mematlas.kernel.kcmp.compare_memory", compare)
    monkeypatch.setattr(shared_mm, "layout_of", lambda _: (b"1",))
    procfs = ProcFS()
    spaces = shared_mm.AddressSpaces(procfs)
    processes = [SimpleNamespace(pid=pid, tid=pid * 7 % 499, procfs=procfs) for pid in range(997)]
    met = [spaces.is_met_again(process) for process in processes]  # type: ignore[arg-type]
    assert met.count(True) == 997 - 499
    assert len(asked) < 10 * 997


def test_order_of_address_spaces_is_the_same_from_both_sides() -> None:
    with (
        program("import os, sys\nprint(os.fork() or os.getpid(), flush=True)") as running,
        ProcFS().process(running.pid) as one,
        ProcFS().process(os.getpid()) as other,
    ):
        orders = {compare_memory(one, other.pid), compare_memory(other, one.pid)}
    assert orders == {LESS, GREATER}


def test_first_screen_has_each_address_space_once(twins: tuple[int, int]) -> None:
    """Counters are compared, which differ where they run between two readings."""
    wait_until(lambda: {process_state(pid) for pid in twins} == {"S"}, "both stand still")
    facts = [each for each in WholeMachine().census() if each.pid in twins]

    assert len(facts) == 2
    assert ranking.in_shared_memory(facts, ProcFS(), float("inf")) == {twins[1]: twins[0]}


def test_without_kcmp_it_is_not_known(twins: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(process: ProcessDir, other: int) -> int:
        raise NotSupported("kcmp", "CONFIG_KCMP")

    monkeypatch.setattr("mematlas.kernel.kcmp.compare_memory", refuse)
    with Process(twins[0]) as process:
        assert process.sharing_memory() is None


# --- shown


def test_every_fate_and_reason_has_its_words() -> None:
    assert [fate for fate, _ in SHOWN_FATES] == list(FATES)
    assert {kind for kind, _ in TEXTS} == set(KINDS)
    assert {reason for _, reason in TEXTS} == set(REASONS)


def test_parts_add_up_and_name_who_is_the_reason() -> None:
    parts = (
        EndingPart("freed", "anon", "alone", 3 << 20),
        EndingPart("freed", "tables", "alone", 1 << 20),
        EndingPart("stays", "shmem", "held", 2 << 20, (11, 12, 13, 14), ("/memfd:a",)),
    )
    result = EndingResult(parts, 5 << 20, 0, Reading("pagemap", 0.01, False, ()))
    lines = list(ending_table([Subject({"pid": 7, "name": "shop"}, result)], Notes()).lines())

    assert (result.freed, result.stays, result.reclaimable, result.unknown, result.pool) == (4 << 20, 2 << 20, 0, 0, 0)
    assert lines == [
        "shop, PID 7: if it ended now, from pagemap in 10 ms",
        "WHAT          SIZE  WHY",
        "freed        4 MiB  at once, if it ended now",
        "  anon       3 MiB  anonymous memory that it alone maps",
        "  tables     1 MiB  page tables",
        "reclaimable      0  no longer mapped: reclaimed when memory is short",
        "stays        2 MiB  in use elsewhere, or in a file with a name",
        "  shmem      2 MiB  shared memory that other processes hold: PID 11, 12, 13 and 1 more",
        "unknown          0  freed, unless a process that we cannot see uses it",
        "distinct     5 MiB  resident now, each frame counted once",
    ]


@pytest.mark.parametrize("more", [["--verify"], ["--numa"], ["--distinct"], ["--source", "smaps"]])
def test_what_makes_no_sense_together_is_refused(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["usage", str(os.getpid()), "--if-ended", *more]) == 2


@pytest.mark.root("CAP_SYS_ADMIN")
def test_without_rights_ending_is_refused_and_distinct_is_unknown(as_nobody: Callable[..., Any]) -> None:
    refused = as_nobody(["usage", "self", "--if-ended"])
    assert refused.code == 4
    assert "needs CAP_DAC_READ_SEARCH" in refused.stderr

    told = as_nobody(["usage", "self", "--distinct", "--json"])
    assert '"distinct": null' in told.stdout
    assert "distinct frames unknown: " in told.stdout


@pytest.mark.root("CAP_SYS_ADMIN")
def test_distinct_is_there_only_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["usage", str(os.getpid()), "--json"]) == 0
    assert "distinct" not in capsys.readouterr().out


@pytest.mark.root("CAP_SYS_ADMIN")
def test_files_of_memory_are_unknown_in_a_capture(tmp_path: Path) -> None:
    with program(HOLD, "map") as running:
        assert mematlas("capture", running.pid, tmp_path / "saved").returncode == 0
        with Process(running.pid, ProcFS(str(tmp_path / "saved"))) as saved, Process(running.pid) as live:
            result, now = saved.if_ended(), live.if_ended()

    assert any(part.reason == "unseen" for part in result.parts) == bool(result.unknown)
    assert ending.CAPTURED in result.reading.notes
    assert result.total("freed") <= now.total("freed")


@pytest.mark.root("CAP_SYS_ADMIN")
def test_process_that_ends_meanwhile_is_gone() -> None:
    one = subprocess.Popen(["/bin/sleep", "100"])
    try:
        with Process(one.pid) as process:
            one.kill()
            one.wait()
            with pytest.raises(ProcessGone):
                process.if_ended()
    finally:
        one.kill()
