"""Groups as one: what they have is what sets of their frames and slots come to, by kernel files read here once more."""

from __future__ import annotations

import json
import os
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from conftest import NOBODY, Outcome
from helpers import PAGE, mematlas, program, steadily, texts
from mematlas import Process, ProcessSet
from mematlas.analysis.set_usage import SetUsage
from mematlas.cli import main
from mematlas.errors import PermissionDenied, ProcessGone, TargetNotFound
from mematlas.kernel.backing import has_cachestat
from mematlas.kernel.procfs import ProcFS
from mematlas.kernel.rights import user_name
from mematlas.model.target import open_process
from victim import Victim, process_state, wait_until

pytestmark = pytest.mark.root("CAP_SYS_ADMIN")

ZERO_PAGE = 1 << 24
FRAME = (1 << 55) - 1
FILE, SWAPPED, PRESENT = 1 << 61, 1 << 62, 1 << 63


# --- the oracle: pagemap, maps, kpagecount and kpageflags


@dataclass
class Truth:
    """Frames by how often the processes of a group map them, and slots; hugetlb pages apart."""

    anon: Counter[int] = field(default_factory=Counter)
    file: Counter[int] = field(default_factory=Counter)
    huge: Counter[int] = field(default_factory=Counter)
    slots: set[int] = field(default_factory=set)

    def add(self, pid: int) -> None:
        with open(f"/proc/{pid}/pagemap", "rb", 0) as pagemap:
            for vma in smaps_of(pid):
                size = vma.end - vma.start
                words = os.pread(pagemap.fileno(), size // PAGE * 8, vma.start // PAGE * 8)
                for (entry,) in struct.iter_unpack("=Q", words):
                    if entry & PRESENT:
                        frames = self.huge if vma.is_huge else self.file if entry & FILE else self.anon
                        frames[entry & FRAME] += 1
                    elif entry & SWAPPED and entry & FRAME:
                        self.slots.add(entry & FRAME)

    @property
    def mapped(self) -> Counter[int]:
        return self.anon + self.file


@dataclass
class SmapsVma:
    start: int
    end: int
    is_huge: bool


def smaps_of(pid: int) -> list[SmapsVma]:
    vmas: list[SmapsVma] = []
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        head = line.split()[0]
        if "-" in head and not head.endswith(":"):
            start, end = (int(word, 16) for word in head.split("-"))
            vmas.append(SmapsVma(start, end, is_huge=False))
        elif head == "VmFlags:" and " ht" in line:
            vmas[-1].is_huge = True
    return [vma for vma in vmas if vma.start >> 63 == 0]  # not [vsyscall], which is of the kernel


def truth_of(pids: list[int]) -> Truth:
    truth = Truth()
    for pid in pids:
        truth.add(pid)
    with open("/proc/kpageflags", "rb", 0) as flags:
        for frames in (truth.anon, truth.file):
            for pfn in [pfn for pfn in frames if word_of(flags, pfn) & ZERO_PAGE]:
                del frames[pfn]
    return truth


def word_of(file: Any, pfn: int) -> int:
    return int.from_bytes(os.pread(file.fileno(), 8, pfn * 8), "little")


def counts_of(frames: Iterable[int]) -> dict[int, int]:
    with open("/proc/kpagecount", "rb", 0) as file:
        return {pfn: word_of(file, pfn) for pfn in frames}


def checked(pids: list[int], *targets: int | str) -> tuple[SetUsage, Truth]:
    """Return what a group has, compared with set arithmetic over the frames of its processes.

    Pages of libraries are others' too, who come and go: their counts are read before and after.
    """
    truth = truth_of(pids)
    before = counts_of(truth.mapped)
    usage = usage_of(*(targets or pids))
    after = counts_of(truth.mapped)
    assert truth_of(pids) == truth
    mapped = {pfn: times for pfn, times in truth.mapped.items() if before[pfn] and after[pfn]}
    assert usage.rss == len(mapped) * PAGE
    assert usage.anon == sum(pfn in mapped for pfn in truth.anon) * PAGE
    assert usage.rss_sum == sum(mapped.values()) * PAGE
    assert usage.hugetlb == len(truth.huge) * PAGE
    few = {pfn: min(before[pfn], after[pfn]) for pfn in mapped}
    many = {pfn: max(before[pfn], after[pfn]) for pfn in mapped}
    least, most = (sum(counts[pfn] <= mapped[pfn] for pfn in mapped) for counts in (many, few))
    assert usage.uss is not None
    assert least * PAGE <= usage.uss <= most * PAGE
    low, high = (sum(mapped[pfn] / counts[pfn] for pfn in mapped) for counts in (many, few))
    assert usage.pss is not None
    assert low * PAGE - 1 <= usage.pss <= high * PAGE + 1
    return usage, truth


def usage_of(*targets: int | str) -> SetUsage:
    with ProcessSet(targets) as group:
        return group.usage()


# --- workloads

FAMILY = """
import ctypes, json, mmap, os, signal, sys, time
libc = ctypes.CDLL(None, use_errno=True)
kind, nr_pages, nr_children, nr_rewritten, is_out = json.loads(sys.argv[-1])
PAGE, size = mmap.PAGESIZE, nr_pages * mmap.PAGESIZE
def touched(area):
    for at in range(0, size, PAGE):
        area[at:at + 8] = at.to_bytes(8, "little")
    return area
if kind == "file":
    name = os.path.join(os.environ.get("TMPDIR", "/var/tmp"), f"mematlas-{os.getpid()}")
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.unlink(name)
    os.write(fd, bytes(size))
    os.fsync(fd)
    area = mmap.mmap(fd, size, mmap.MAP_SHARED)
elif kind == "memfd":
    fd = os.memfd_create("shared")
    os.ftruncate(fd, size)
    area = touched(mmap.mmap(fd, size, mmap.MAP_SHARED))
elif kind == "sysv":
    libc.shmat.restype = ctypes.c_void_p
    shm = libc.shmget(0, ctypes.c_size_t(size), 0o1600)
    at = libc.shmat(shm, None, 0)
    libc.shmctl(shm, 0, None)  # IPC_RMID: gone with the last of us
    area = touched((ctypes.c_char * size).from_address(at))
elif kind == "shmem":
    area = touched(mmap.mmap(-1, size, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS))
elif kind == "hugetlb":
    area = touched(mmap.mmap(-1, size, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | 0x40000))
else:
    area = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(getattr(mmap, "MADV_NOHUGEPAGE", 15))
    touched(area)
def mapped():
    at = ctypes.addressof(ctypes.c_char.from_buffer(area))
    with open("/proc/self/pagemap", "rb", 0) as file:
        entries = os.pread(file.fileno(), nr_pages * 8, at // PAGE * 8)
    return sum(byte >> 7 for byte in entries[7::8])
for _ in range(1000 if is_out else 0):
    area.madvise(21)  # MADV_PAGEOUT
    if not mapped():
        break
    time.sleep(0.01)
heard, say = os.pipe()
children = []
for number in range(nr_children):
    pid = os.fork()
    if pid == 0:
        libc.prctl(1, 9)  # PR_SET_PDEATHSIG
        for at in range(0, 0 if is_out else size, PAGE):
            area[at]
        for page in range(nr_rewritten):
            area[page * PAGE:page * PAGE + 1] = b"x"
        os.write(say, b".")
        signal.pause()
    children.append(pid)
for _ in children:
    os.read(heard, 1)
print(json.dumps(children), flush=True)
"""


@contextmanager
def family(
    kind: str, nr_pages: int, nr_children: int, nr_rewritten: int = 0, is_out: bool = False
) -> Iterator[list[int]]:
    """A process and its children, with an area of memory that all of them have touched, or that is in swap."""
    with program(FAMILY, [kind, nr_pages, nr_children, nr_rewritten, is_out]) as running:
        pids = [running.pid, *running.told]
        # On their way to where they wait for their end they write to memory that they share as yet.
        wait_until(lambda: all(process_state(pid) == "S" for pid in pids), "all of them rest")
        yield pids


@steadily
def test_sixty_one_processes_that_share_a_file_have_it_once() -> None:
    with family("file", 1009, 60) as pids:
        usage, _ = checked(pids, f"tree:{pids[0]}")

        assert usage.pids == tuple(sorted(pids))
        assert usage.file is not None
        assert 1009 * PAGE <= usage.file < 61 * 1009 * PAGE


@steadily
def test_family_of_which_half_was_rewritten_has_each_copy_once() -> None:
    with family("anon", 1009, 4, nr_rewritten=503) as pids:
        _, truth = checked(pids)

    assert len(truth.anon) >= 1009 + 4 * 503


@pytest.mark.parametrize("kind", ["memfd", "sysv", "shmem"])
@steadily
def test_shared_memory_is_there_once(kind: str) -> None:
    with family(kind, 307, 6) as pids:
        usage, _ = checked(pids)

        assert usage.shmem == 307 * PAGE


@steadily
def test_hugetlb_pages_that_several_have_count_once(hugetlb_pages: int) -> None:
    nr_pages = hugetlb_pages * PAGE // 8
    with family("hugetlb", nr_pages, 5) as pids:
        usage, _ = checked(pids)

        assert usage.hugetlb == nr_pages * PAGE


@steadily
def test_merged_pages_count_once(ksm: None) -> None:
    with Victim("ksm") as one, Victim("ksm") as other:
        _, truth = checked([one.pid, other.pid])

    assert max(truth.anon.values()) > 2


@pytest.mark.parametrize("kind", ["anon", "shmem", "memfd"])
@steadily
def test_slots_that_forks_share_count_once(kind: str, swap: Path) -> None:
    if kind != "anon" and not has_cachestat():
        pytest.skip("needs cachestat, Linux 6.5")
    with family(kind, 307, 4, is_out=True) as pids:
        usage, truth = checked(pids)

        assert usage.swap is not None
        nr_shared = 0 if kind == "anon" else 307  # of shared memory no entry holds the slot
        assert usage.swap == (len(truth.slots) + nr_shared) * PAGE
        assert usage.swap >= 307 * PAGE


CLONE = """
import ctypes, mmap, signal, sys
libc = ctypes.CDLL(None)
area = mmap.mmap(-1, 307 * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area.write(b"x" * len(area))
stack = mmap.mmap(-1, 1 << 16, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
top = ctypes.addressof(ctypes.c_char.from_buffer(stack)) + (1 << 16) - 64
body = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(("pause", libc))
print(libc.clone(body, ctypes.c_void_p(top), 0x100 | signal.SIGCHLD, None), flush=True)  # CLONE_VM
"""


@steadily
def test_processes_of_one_address_space_count_once() -> None:
    with program(CLONE) as one:
        try:
            alone, both = usage_of(one.pid), usage_of(one.pid, one.told)
            again = usage_of(one.told)
        finally:
            os.kill(one.told, 9)

    assert both.same_memory == {one.told: one.pid}
    assert (both.rss, both.pss, both.uss, both.tables) == (alone.rss, alone.pss, alone.uss, alone.tables)
    assert both.rss_sum == 2 * (alone.rss_sum or 0)
    assert (again.rss, again.same_memory) == (alone.rss, {})


def test_a_parent_that_could_not_be_looked_at_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = 0

    def open_later(pid: int, procfs: ProcFS) -> Any:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise TargetNotFound("just now")
        return open_process(pid, procfs)

    monkeypatch.setattr("mematlas.model.shared_mm.open_process", open_later)
    with program(CLONE) as one:
        try:
            with Process(one.told) as process:
                assert [process.sharing_memory() for _ in range(3)] == [[], [one.pid], [one.pid]]
        finally:
            os.kill(one.told, 9)


def test_a_parent_with_memory_of_its_own_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []

    def open_and_note(pid: int, procfs: ProcFS) -> Any:
        opened.append(pid)
        return open_process(pid, procfs)

    monkeypatch.setattr("mematlas.model.shared_mm.open_process", open_and_note)
    with program("import sys; print(0, flush=True)") as one, Process(one.pid) as process:
        assert [process.sharing_memory() for _ in range(3)] == [[], [], []]
    assert opened == [os.getpid()]


@steadily
def test_sets_of_the_same_processes_are_measured_together() -> None:
    with family("anon", 307, 2) as pids:
        run = mematlas("usage", f"tree:{pids[0]}", f"tree:{pids[1]}", pids[2], "--json")
    result = json.loads(run.stdout)
    whole, *parts = result["rows"]

    assert [row["nr_processes"] for row in result["rows"]] == [3, 1, 1]
    assert result["total"]["rss"] == whole["rss"]
    assert result["total"]["nr_processes"] == 3
    assert whole["rss"] < sum(row["rss"] for row in parts) < whole["rss_sum"]


@steadily
def test_page_tables_give_the_same_as_pagemap() -> None:
    with family("shmem", 307, 2) as pids, ProcessSet(pids) as group:
        if (why := group.processes[0].why_no_tables()) is not None:
            pytest.skip(why.text)
        by_tables, by_pagemap = group.usage("tables"), group.usage("pagemap")

    assert (by_tables.reading.source, by_pagemap.reading.source) == ("tables", "pagemap")
    for name in ("rss", "anon", "file", "shmem", "uss", "swap", "hugetlb", "tables", "rss_sum"):
        assert getattr(by_tables, name) == getattr(by_pagemap, name), name


# --- without frames


@steadily
def test_without_frames_the_shares_are_added_up_and_said_to_be() -> None:
    with family("shmem", 307, 3) as pids, ProcessSet(pids) as group:
        by_smaps, by_frames = group.usage("smaps"), group.usage()

    assert (by_smaps.rss, by_smaps.uss, by_smaps.shmem) == (None, None, None)
    assert by_smaps.rss_sum == by_frames.rss_sum
    assert by_smaps.tables == by_frames.tables
    assert by_smaps.pss is not None
    assert by_frames.pss is not None
    assert abs(by_smaps.pss - by_frames.pss) < 64 * PAGE  # the kernel rounds each VMA down
    assert any(text.startswith("only PSS can be added up") for text in texts(by_smaps.reading.notes))


def test_unprivileged_the_rest_is_counted_and_named(as_nobody: Callable[..., Outcome]) -> None:
    with Victim("anon", uid=NOBODY) as ours, Victim("anon") as theirs:

        def look() -> SetUsage:
            with ProcessSet([ours.pid, theirs.pid]) as group:
                return group.usage()

        usage: SetUsage = as_nobody(look).value
        refused = as_nobody(["usage", f"tree:{theirs.pid}"])

    assert (usage.pids, usage.unseen) == ((ours.pid, theirs.pid), (theirs.pid,))
    assert usage.pss is not None
    assert usage.pss >= ours["anon"].nr_exclusive * PAGE
    assert f"1 process could not be looked at (needs CAP_SYS_PTRACE): PID {theirs.pid}" in texts(usage.reading.notes)
    assert (refused.code, refused.stdout) == (PermissionDenied.exit_code, "")


# --- the command


@pytest.mark.parametrize("command", ["maps", "map", "pages", "hist", "tables", "translate", "capture"])
def test_commands_about_one_process_list_those_of_a_group(command: str) -> None:
    with family("anon", 3, 1) as pids:
        more = {"translate": ["0x1000"], "capture": ["nowhere"]}.get(command, [])
        run = mematlas(command, f"tree:{pids[0]}", *more)

    assert (run.returncode, run.stdout) == (TargetNotFound.exit_code, "")
    head, heading, *rows = run.stderr.splitlines()
    assert head == f"mematlas: 'tree:{pids[0]}' names 2 processes; give one PID:"
    assert heading.split() == ["PID", "USER", "RSS", "COMMAND"]
    assert [row.split()[:2] for row in rows[:2]] == [[str(pid), user_name(0)] for pid in sorted(pids)]


def test_group_is_found_anew_at_each_look() -> None:
    with family("anon", 3, 2) as pids:
        with ProcessSet(f"tree:{pids[0]}") as before:
            os.kill(pids[1], 9)
            os.kill(pids[2], 0)
            usage = before.usage()
        with ProcessSet(f"tree:{pids[0]}") as after:
            assert len(after) == 2

    assert usage.nr_processes == 3
    assert any(str(pids[1]) in text for text in texts(usage.reading.notes))


@pytest.mark.parametrize("form", ["csv", "json", "table"])
def test_group_is_one_row_in_every_form(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    with family("anon", 3, 1) as pids:
        assert main(["usage", f"tree:{pids[0]}", "--format", form]) == 0
    out = capsys.readouterr().out

    if form == "csv":
        head, row = out.splitlines()
        assert head.startswith("group,nr_processes,rss,")
        assert row.startswith(f"tree:{pids[0]},2,")
    elif form == "json":
        assert json.loads(out)["target"]["pids"] == sorted(pids)
    else:
        assert out.splitlines()[0].startswith(f"tree:{pids[0]}, 2 processes, from pagemap in ")
        assert out.splitlines()[-1].startswith("sum of RSS")


def test_options_about_single_processes_ask_for_each() -> None:
    run = mematlas("usage", "tree:1", "--numa")

    assert run.returncode == 2
    assert "--numa and --folios are about single processes: add --each" in run.stderr


def test_set_of_nothing_is_refused() -> None:
    with pytest.raises(TargetNotFound):
        ProcessSet(["name:a name that nobody has"], ProcFS())


def test_looks_in_a_row_show_what_changed() -> None:
    with family("anon", 3, 1) as pids:
        run = mematlas("usage", f"tree:{pids[0]}", "-i", "50ms", "-n", "2", "--format", "jsonl")
        lines = mematlas("usage", f"tree:{pids[0]}", "-i", "50ms", "-n", "2")

    rows = [row for row in map(json.loads, run.stdout.splitlines()) if "group" in row]
    assert [row["nr_processes"] for row in rows] == [2, 2]
    assert lines.stdout.count("CHANGE") == 2


@steadily
def test_capture_of_a_process_is_a_set_of_one(tmp_path: Path) -> None:
    with family("shmem", 307, 0) as pids, Process(pids[0]) as process:
        live = process.usage()  # of a capture no frame is known that is mapped twice
        directory = tmp_path / str(pids[0])
        assert mematlas("capture", pids[0], directory).returncode == 0
    saved = usage_of(str(directory))

    assert saved.pids == tuple(pids)
    for name in ("rss", "anon", "file", "shmem", "swap", "hugetlb", "tables"):
        assert getattr(saved, name) == getattr(live, name), name
    assert saved.rss_sum == live.rss


def test_set_of_which_all_have_ended_is_an_error() -> None:
    with family("anon", 3, 0) as pids, ProcessSet(pids) as group:
        os.kill(pids[0], 9)
        os.waitpid(pids[0], 0)
        with pytest.raises(ProcessGone):
            group.usage()
        with pytest.raises(ProcessGone):
            group.usage("smaps")


def test_what_ending_would_free_is_said_to_be_of_each_alone() -> None:
    with program("import sys; print(1, flush=True)") as one, program("import sys; print(1, flush=True)") as other:
        of_both = json.loads(mematlas("usage", one.pid, other.pid, "--if-ended", "--json").stdout)
        of_one = json.loads(mematlas("usage", one.pid, "--if-ended", "--json").stdout)

    has_note = ["each-alone" in [note["code"] for note in told["notes"]] for told in (of_both, of_one)]
    assert has_note == [True, False]
