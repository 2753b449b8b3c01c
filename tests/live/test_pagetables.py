"""The tables of real processes and of the running kernel, against pagemap, status and iomem."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from helpers import program, steadily
from mematlas.analysis.pagetables.audit import aliases, audit
from mematlas.analysis.pagetables.compare import Disagreement, differing_pages
from mematlas.analysis.pagetables.regions import kernel_regions, region_sizes
from mematlas.analysis.pagetables.summary import summarize
from mematlas.errors import BadInput, Error, NoAddressSpace, PermissionDenied, ProcessGone, TargetNotFound
from mematlas.kernel.memory.memory import KernelMemory
from mematlas.kernel.memory.memory_blocks import read_memory_blocks
from mematlas.kernel.memory.readers import open_kernel_memory
from mematlas.kernel.status import read_stat
from mematlas.model.pagetables.blocks import page_blocks
from mematlas.model.pagetables.entries import PRESENT, STATE_NAMES, PagingMode
from mematlas.model.pagetables.modes import mode_of
from mematlas.model.pagetables.walk import Walk, walk, walk_address, walk_parts
from mematlas.observe.pagetables import PageTables
from mematlas.observe.process import Process
from victim import DEADLINE, FIXTURES, Area, Victim, wait_until
from victim import KINDS as ALL_KINDS

pytestmark = [pytest.mark.root("CAP_SYS_ADMIN", "CAP_SYS_PTRACE"), pytest.mark.machine]

MakeVictim = Callable[..., Victim]


@pytest.fixture(scope="module")
def memory() -> Iterator[KernelMemory]:
    try:
        memory = open_kernel_memory()
    except Error as error:
        pytest.skip(f"no reader of kernel memory works: {error}")
    with memory:
        yield memory


@pytest.fixture(scope="module")
def mode(memory: KernelMemory) -> PagingMode:
    return mode_of(memory)


def walked(memory: KernelMemory, mode: PagingMode, pid: int) -> Walk:
    with memory.open_mm(pid) as mm:
        return walk(memory, mode, mm.pgd)


def pagemap_of(pid: int, address: int, nr_pages: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as file:
        return np.frombuffer(os.pread(file.fileno(), 8 * nr_pages, address >> 9), np.uint64)


def disagreements(mode: PagingMode, found: Walk, pid: int) -> tuple[int, list[Disagreement]]:
    """Compare every page of a walk with pagemap."""
    nr_pages, all_of_them = 0, []
    for block in page_blocks(found):
        nr_pages += len(block)
        all_of_them += differing_pages(mode, block, pagemap_of(pid, block.start, len(block)))
    return nr_pages, all_of_them


def states_in(found: Walk, area: Area) -> list[str]:
    """Return the names of the states of all pages of an area; where no table is, they are empty."""
    names = ["empty"] * area.nr_pages
    for block in page_blocks(found, area.address, area.end):
        first = (block.start - area.address) // area.page_size
        names[first : first + len(block)] = [STATE_NAMES[state] for state in block.states.tolist()]
    return names


KINDS = (
    "anon", "private_file", "shared_file", "shared_anon", "tmpfs", "memfd", "zero", "prot_none", "forked", "locked"
)  # fmt: skip


def test_every_page_is_as_in_pagemap(memory: KernelMemory, mode: PagingMode, victim: MakeVictim) -> None:
    target = victim(*KINDS)
    with target.stopped():
        found = walked(memory, mode, target.pid)
        nr_pages, differing = disagreements(mode, found, target.pid)
    assert nr_pages > 1000
    assert [each for each in differing if each.reason != "special"] == []
    # [vvar], which pagemap does not show, is a handful of pages.
    assert len(differing) <= 8
    for kind in KINDS:
        nr_present = sum(name in ("present", "prot-none") for name in states_in(found, target[kind]))
        assert (kind, nr_present) == (kind, target[kind].nr_present)


NAMES = {"swapped": {"swap"}, "guard": {"guard"}, "marker": {"uffd-wp-marker"}, "shmem_swapped": {"empty"}}
NAMES |= {"marker_swapped": {"uffd-wp-marker"}, "guard_swapped": {"guard"}}
"""States of entries, by the truth's word; of others `truth_of` tells."""
HUGE = ("thp", "huge_zero", "thp_prot_none", "shmem_thp", "shmem_thp_prot_none", "hugetlb", "hugetlb_prot_none")


@pytest.mark.parametrize("kind", [kind for kind in ALL_KINDS if kind != "forked"])
def test_entries_of_each_kind_are_the_truth_and_pagemaps(
    kind: str, memory: KernelMemory, mode: PagingMode, victim: MakeVictim, request: pytest.FixtureRequest
) -> None:
    if fixture := FIXTURES.get(kind):
        request.getfixturevalue(fixture)
    target = victim(kind)
    area = target[kind]
    with target.stopped():
        found = walked(memory, mode, target.pid)
        differing = [each for each in disagreements(mode, found, target.pid)[1] if each.reason != "special"]
        with memory.open_mm(target.pid) as mm:
            last = walk_address(memory, mode, mm.pgd, area.address)[-1]
    present = {"prot-none" if "prot_none" in kind else "present"}
    names = {state: NAMES.get(state, present) for state in area.states} | {"absent": {"empty"}}
    if kind == "uffd_wp_hugetlb":
        names["absent"] = {"uffd-wp-marker"}
        assert len(differing) == area.count("absent")  # pagemap shows no markers of hugetlb
    else:
        assert differing == []
    assert [
        name for name, state in zip(states_in(found, area), area.states, strict=True) if name not in names[state]
    ] == []
    if "file" not in kind:  # the page cache may hold a file in huge folios
        assert (last.level == "pmd") == (kind in HUGE or kind == "uffd_wp_hugetlb")
    assert "global" not in last.flags


@pytest.mark.parametrize("kind", [kind for kind in ALL_KINDS if kind != "forked"])
def test_verification_explains_every_kind_and_the_audit_finds_nothing(
    kind: str, victim: MakeVictim, request: pytest.FixtureRequest
) -> None:
    if fixture := FIXTURES.get(kind):
        request.getfixturevalue(fixture)
    target = victim(kind)
    area = target[kind]
    with target.stopped(), Process(target.pid) as process, PageTables(process) as tables:
        result = tables.verify()
        findings = [each for each in tables.audit().findings if area.address <= each.start < area.end]
        size = sum(leaf.mapped for leaf in tables.summary().counted.leaves)
        mapped = sum(item.usage.nr_present or 0 for item in process.maps("pagemap").vmas)
    assert result.unexplained == []
    # KSM maps a frame at many addresses, with the same rights.
    assert findings == []
    assert 0 <= size - mapped * area.page_size <= 8 * area.page_size  # [vvar]


def test_the_walk_of_an_address_ends_at_pagemaps_frame(
    memory: KernelMemory, mode: PagingMode, victim: MakeVictim
) -> None:
    target = victim("anon")
    area = target["anon"]
    with target.stopped(), memory.open_mm(target.pid) as mm:
        for page in range(area.nr_pages):
            steps = walk_address(memory, mode, mm.pgd, area.page_address(page) + 5)
            word = int(pagemap_of(target.pid, area.page_address(page), 1)[0])
            if word >> 63:
                assert steps[-1].phys == (word & (1 << 55) - 1) * 4096 + 5
                assert {"present", "writable", "user", "accessed", "dirty", "nx"} <= set(steps[-1].flags)
            else:
                assert steps[-1].phys is None


def test_table_bytes_are_those_of_status(memory: KernelMemory, mode: PagingMode, victim: MakeVictim) -> None:
    target = victim("anon", "shared_file", "tmpfs")
    with target.stopped():
        with memory.open_mm(target.pid) as mm:
            summary = summarize(walk_parts(memory, mode, mm.pgd))
        with open(f"/proc/{target.pid}/status") as file:
            told = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmPTE"))
    # The kernel counts PTE, PMD and PUD tables (mm_inc_nr_ptes and its like), not the one or two levels above.
    assert sum(level.size for level in summary.levels[-3:]) == told


def test_of_a_part_only_its_pages_are_verified(victim: MakeVictim) -> None:
    target = victim("anon", "thp", "zero")
    area = target["anon"]
    with (
        target.stopped(),
        Process(target.pid) as process,
        PageTables(process, span=(area.address, area.page_address(53))) as tables,
    ):
        result = tables.verify()
    assert [(check.what, check.tables, check.kernel) for check in result.checks] == [("pages", 53, 53)]
    assert result.unexplained == []


def test_verification_of_what_starts_another_program_is_refused() -> None:
    wait = "import os, sys; sys.stdin.readline(); os.execv('/bin/sleep', ['sleep', '60'])"
    process = subprocess.Popen([sys.executable, "-c", wait], stdin=subprocess.PIPE)
    try:
        with Process(process.pid) as target, PageTables(target) as tables:
            assert process.stdin
            process.stdin.write(b"\n")
            process.stdin.flush()
            wait_until(lambda: not tables.memory.is_current(tables.mm), "it starts another program")
            with pytest.raises(ProcessGone, match="another program"):
                tables.verify()
    finally:
        process.kill()
        process.communicate()


def test_hidden_frames_are_said_not_to_be_compared(as_nobody: Callable[..., object], victim: MakeVictim) -> None:
    if not read_memory_blocks():
        pytest.skip("needs CONFIG_MEMORY_HOTPLUG, to know where RAM is without CAP_SYS_ADMIN")
    target = victim("anon")
    area = target["anon"]

    def look() -> tuple[str | None, str, int]:
        with Process(target.pid) as process, PageTables(process, span=(area.address, area.end)) as tables:
            (walk,) = tables.walk([area.address]).items
            check = tables.verify().checks[0]
            return walk.reason, check.reason, check.amount

    caps = ["CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"]
    outcome = as_nobody(look, caps=caps)
    assert outcome.value is not None, outcome  # type: ignore[attr-defined]
    assert outcome.value == ("hidden", "hidden", area.nr_present)  # type: ignore[attr-defined]


@steadily  # of a process that stands still, the kernel still clears accessed bits
def test_a_table_is_found_by_its_number(victim: MakeVictim) -> None:
    target = victim(*KINDS)
    with target.stopped(), Process(target.pid) as process, PageTables(process) as tables:
        for level in range(len(tables.mode.levels)):
            every = list(tables.raw(level, None, None))
            for number in (0, len(every) // 2, len(every) - 1):
                (one,) = tables.raw(level, number, None)
                assert (one.number, one.address, one.table) == (number, every[number].address, every[number].table)
                assert np.array_equal(one.entries, every[number].entries)
            with pytest.raises(BadInput, match=f"has {len(every)} table"):
                list(tables.raw(level, len(every), None))


PEAK = "from mematlas.cli import main; import resource, sys; sys.stdout = open('/dev/null', 'w'); main(sys.argv[1:]); "
PEAK += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10, file=sys.stderr)"


SCATTERED = """
import mmap, sys
area = mmap.mmap(-1, 32 << 30, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)
area.madvise(15)
for page in range(16381):
    area[page << 21] = 1
print(0, flush=True)
"""


def test_memory_is_bounded_whatever_the_number_of_tables() -> None:
    # 16,381 tables with a page each: 64 MiB.
    with program(SCATTERED) as target:
        peaks = {}
        for words in (["0x1000"], ["--raw", "pte", "0"], ["--audit"], ["--verify"], []):
            command = [sys.executable, "-c", PEAK, "tables", str(target.pid), *words]
            run = subprocess.run(command, capture_output=True, text=True, check=False)
            peaks[" ".join(words)] = int(run.stderr.split()[-1])
    assert max(peaks.values()) - peaks["0x1000"] < 56, peaks


@steadily  # of a process that stands still, the kernel still clears accessed bits
def test_parts_of_a_process_are_the_whole(memory: KernelMemory, mode: PagingMode, victim: MakeVictim) -> None:
    target = victim(*KINDS)
    with target.stopped(), memory.open_mm(target.pid) as mm:
        whole = walk(memory, mode, mm.pgd)
        parts = list(walk_parts(memory, mode, mm.pgd, nr_tables=2))
    assert np.array_equal(np.concatenate([part.levels[-1].entries for part in parts]), whole.levels[-1].entries)
    assert summarize(parts) == summarize([whole])


RACE = """
import ctypes, mmap
libc = ctypes.CDLL(None)
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
while True:
    # MAP_FIXED, MAP_PRIVATE, MAP_ANONYMOUS, MAP_POPULATE: three tables, that are freed again.
    libc.mmap(0x200000000000, 5 << 20, 3, 0x10 | 2 | 0x20 | 0x8000, -1, 0)
    libc.munmap(0x200000000000, 5 << 20)
"""
RACE_RANGE = (0x200000000000, 0x200000000000 + (5 << 20))


@contextlib.contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_ten_thousand_walks_of_a_racing_target_show_no_junk(memory: KernelMemory, mode: PagingMode) -> None:
    # An emulated processor on a busy machine does not get so far in a minute.
    sizes, nr_torn, nr_walks = set(), 0, 0
    end = time.monotonic() + 60
    with running(sys.executable, "-c", RACE) as target:
        time.sleep(0.2)
        with memory.open_mm(target.pid) as mm:
            while nr_walks < 10_000 and (nr_walks < 500 or time.monotonic() < end):
                nr_walks += 1
                found = walk(memory, mode, mm.pgd, *RACE_RANGE)
                entries = found.levels[-1].entries
                present = entries[entries & 1 == 1]
                assert not (present & 4 == 0).any()
                assert not (((present & 0x000FFFFFFFFFF000) >= memory.memory_end) & (present & 512 == 0)).any()
                nr_torn += bool(found.torn)
                sizes.add(found.nr_tables)
    assert len(sizes) > 1, "the target did not race"
    # In a guest a walk takes as long as the target takes for a round, and few may be of one moment: they say so.
    most = nr_walks - 1 if "MEMATLAS_GUEST" in os.environ else nr_walks // 8
    assert nr_torn <= most


def test_verification_of_a_racing_target_has_a_reason_for_everything() -> None:
    nr_differing = 0
    nr_rounds = 3 if "MEMATLAS_GUEST" in os.environ else 20
    with running(sys.executable, "-c", RACE) as target:
        time.sleep(0.2)
        for span in (None, RACE_RANGE) * nr_rounds:
            with Process(target.pid) as process, PageTables(process, span=span) as tables:
                result = tables.verify()
                assert result.unexplained == [], result
                nr_differing += len(result.pages)
    assert nr_differing, "the target did not race"


def test_what_has_ended_has_empty_tables_and_is_no_longer_current(
    memory: KernelMemory, mode: PagingMode, victim: MakeVictim
) -> None:
    target = victim("anon")
    with memory.open_mm(target.pid) as mm:
        assert memory.is_current(mm)
        target.exit()
        assert not memory.is_current(mm)
        found = walk(memory, mode, mm.pgd)
    assert (found.nr_tables, found.torn) == (1, ())
    with pytest.raises((TargetNotFound, ProcessGone)):
        memory.open_mm(target.pid)


def test_what_executes_a_program_is_no_longer_current(memory: KernelMemory, mode: PagingMode) -> None:
    wait = (
        "import sys, os; sys.stdin.readline()\n"
        "os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(600)'])"
    )
    process = subprocess.Popen([sys.executable, "-c", wait], stdin=subprocess.PIPE)
    try:
        with memory.open_mm(process.pid) as mm:
            assert process.stdin
            process.stdin.write(b"\n")
            process.stdin.flush()
            end = time.monotonic() + DEADLINE
            while memory.is_current(mm):
                walk(memory, mode, mm.pgd)  # raises nothing, whatever it meets
                assert time.monotonic() < end
            # The new program runs before the last of the old one's memory is gone.
            wait_until(lambda: not len(walk(memory, mode, mm.pgd).levels[-1]), "its tables are empty")
    finally:
        process.kill()
        process.communicate()


def test_a_kernel_thread_has_no_tables(memory: KernelMemory) -> None:
    for pid in memory.procfs.pids():
        with contextlib.suppress(Error), memory.procfs.process(pid) as directory:
            if read_stat(directory).is_kernel_thread:
                break
    else:
        pytest.skip("no kernel thread can be seen here")
    with pytest.raises(NoAddressSpace):
        memory.open_mm(pid)


def test_kernel_half_is_the_same_from_every_process(memory: KernelMemory, mode: PagingMode, victim: MakeVictim) -> None:
    rows = []
    for pid in (os.getpid(), victim("anon").pid):
        with memory.open_mm(pid) as mm:
            rows.append(memory.tables(np.array([mm.pgd], np.uint64))[0][0, 256:])
    assert np.array_equal(rows[0], rows[1])


@pytest.fixture(scope="module")
def kernel_half(memory: KernelMemory, mode: PagingMode) -> Walk:
    with memory.open_mm(os.getpid()) as mm:
        return walk(memory, mode, mm.pgd, mode.kernel_start, 1 << 64)


def test_the_direct_map_maps_all_ram(memory: KernelMemory, kernel_half: Walk) -> None:
    regions = kernel_regions(memory.levels, memory.base, memory.ram.end, None, 64)
    size = region_sizes(kernel_half, regions)["direct map"]
    assert memory.ram.size <= size <= memory.ram.end


def test_no_kernel_page_is_open_to_user_space(kernel_half: Walk) -> None:
    assert [each for each in audit(kernel_half) if each.kind == "user-in-kernel"] == []


def test_kernel_text_is_executable_and_read_only(memory: KernelMemory, mode: PagingMode, kernel_half: Walk) -> None:
    text = memory.vmcoreinfo.get("SYMBOL(_stext)")
    if not isinstance(text, int):
        pytest.skip("needs /sys/kernel/vmcoreinfo")
    with memory.open_mm(os.getpid()) as mm:
        flags = walk_address(memory, mode, mm.pgd, text)[-1].flags
    assert not {"writable", "nx", "user"} & set(flags)
    assert [each for each in aliases(kernel_half) if each.phys == text] == []


def test_memory_mapped_writable_and_executable_is_found(memory: KernelMemory, mode: PagingMode) -> None:
    code = (
        "import mmap, time\n"
        "area = mmap.mmap(-1, 7 * 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)\n"
        "area[:] = bytes(7 * 4096)\n"
        "print(flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert process.stdout
        process.stdout.readline()
        found = walked(memory, mode, process.pid)
    finally:
        process.kill()
        process.communicate()
    assert [each.size for each in audit(found) if each.kind == "writable-executable"] == [7 * 4096]


def test_the_reader_says_its_name(memory: KernelMemory) -> None:
    assert memory.name in ("bpf", "kcore")
    assert memory.name in repr(memory)


def refusal() -> str:
    try:
        open_kernel_memory().close()
    except PermissionDenied as error:
        return f"{error.path}: {error.text}"
    return "taken"


def test_without_rights_the_missing_ones_are_named(as_nobody: Callable[..., object]) -> None:
    outcome = as_nobody(refusal)
    told = ("bpf(2): CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN", "/proc/iomem: CAP_SYS_ADMIN")
    assert outcome.value in told, outcome  # type: ignore[attr-defined]


def test_four_capabilities_are_enough_without_root(
    as_nobody: Callable[..., object], victim: MakeVictim, mode: PagingMode
) -> None:
    if not read_memory_blocks():
        pytest.skip("needs CONFIG_MEMORY_HOTPLUG, to know where RAM is without CAP_SYS_ADMIN")
    target = victim("anon")

    def look() -> int:
        with open_kernel_memory() as memory:
            found = walked(memory, mode_of(memory), target.pid)
        return states_in(found, target["anon"]).count("present")

    caps = ["CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"]
    outcome = as_nobody(look, caps=caps)
    assert outcome.value == target["anon"].nr_present, outcome  # type: ignore[attr-defined]


def test_one_capability_of_two_is_not_enough(as_nobody: Callable[..., object]) -> None:
    from mematlas.kernel.memory.bpf import BpfReader

    def load() -> str:
        try:
            BpfReader().close()
        except PermissionDenied as error:
            return error.text
        return "taken"

    # Seen on 6.1 and 6.12: there CAP_BPF alone loads a program of the type that is made for being called.
    alone = as_nobody(load, caps=["CAP_BPF"]).value  # type: ignore[attr-defined]
    assert alone in ("CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN", "taken")
    assert as_nobody(load, caps=["CAP_BPF", "CAP_PERFMON"]).value == "taken"  # type: ignore[attr-defined]
    assert as_nobody(load, caps=["CAP_SYS_ADMIN"]).value == "taken"  # type: ignore[attr-defined]


def test_both_program_types_read_the_same(memory: KernelMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    from mematlas.kernel.memory import bpf

    if memory.name != "bpf":
        pytest.skip("needs the bpf reader")
    monkeypatch.setattr(bpf, "BPF_PROG_TYPE_SYSCALL", 0xFFFF)
    with contextlib.closing(bpf.BpfReader()) as reader, memory.open_mm(os.getpid()) as mm:
        assert reader.program_type == "raw_tracepoint"
        address = np.array([memory.base + mm.pgd], np.uint64)
        rows, good = reader.read_batch(address, 4096)
        assert good.all()
        assert np.array_equal(rows[:, 256:], memory.tables(np.array([mm.pgd], np.uint64))[0][:, 256:])


def test_the_kernel_is_not_asked_for_what_no_kernel_half_has(memory: KernelMemory) -> None:
    """A wrong offset leads anywhere; a kernel with fewer levels than its processor warns of such reads."""
    from mematlas.kernel.memory import bpf

    if memory.name != "bpf":
        pytest.skip("needs the bpf reader")
    lowest = 0xFFFF800000000000 if memory.levels == 4 else 0xFF00000000000000
    outside = [0, 0x7FFF00000000, 1 << 55, 1 << 63, 0xFE00000000000000, lowest - 8]
    with contextlib.closing(bpf.BpfReader()) as reader:
        inside = reader.current_task()
        _, good = reader.read_batch(np.array([*outside, inside], np.uint64), 8)
        assert good.tolist() == [False] * len(outside) + [True]
        assert reader._addresses[: len(outside) + 1].tolist() == [0] * len(outside) + [inside]
        reader.read_batch(np.array([lowest], np.uint64), 8)
        assert reader._addresses[0] == lowest


def test_present_means_present(memory: KernelMemory, mode: PagingMode, victim: MakeVictim) -> None:
    target = victim("anon_full")
    with target.stopped():
        (block,) = page_blocks(walked(memory, mode, target.pid), target["anon_full"].address, target["anon_full"].end)
    assert (block.states == PRESENT).all()
    assert len(set(block.pfns.tolist())) == target["anon_full"].nr_pages
