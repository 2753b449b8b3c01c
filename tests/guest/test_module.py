"""The kernel module: its files, as a third reader, and under stress."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from conftest import Outcome, libc
from helpers import program
from inside import Facts
from mematlas.analysis.pagetables.regions import X86_LDT
from mematlas.cli import main
from mematlas.errors import NoAddressSpace, NotSupported, ProcessGone
from mematlas.kernel.memory.kmod import MODULE_PATH, ModuleReader
from mematlas.kernel.memory.memory import KernelMemory
from mematlas.kernel.memory.readers import open_kernel_memory
from mematlas.kernel.procfs import ProcFS
from mematlas.kernel.status import read_stat
from mematlas.model.pagetables.modes import mode_of
from mematlas.model.pagetables.walk import walk, walk_address
from test_readers import KINDS, same, walks_of
from victim import Victim

pytestmark = pytest.mark.guest

SYS_DELETE_MODULE, SYS_FINIT_MODULE = 176, 313
FOLDER = Path(MODULE_PATH)
NR_READS = 10_000
MakeVictim = Callable[..., Victim]


def load() -> int:
    """Load the module; return 0 or the error's number."""
    fd = os.open(os.environ["MEMATLAS_MODULE"], os.O_RDONLY | os.O_CLOEXEC)
    try:
        return ctypes.get_errno() if libc.syscall(SYS_FINIT_MODULE, fd, b"", 0) else 0
    finally:
        os.close(fd)


def unload() -> int:
    """Unload it; return 0 or the error's number."""
    return ctypes.get_errno() if libc.syscall(SYS_DELETE_MODULE, b"mematlas", os.O_NONBLOCK) else 0


@pytest.fixture
def loaded(facts: Facts) -> Iterator[None]:
    if facts.lockdown != "none":
        pytest.skip("locked down: an unsigned module is refused")
    assert load() == 0
    yield
    assert unload() == 0
    assert not FOLDER.exists()


@pytest.fixture
def memory(loaded: None) -> Iterator[KernelMemory]:
    with open_kernel_memory("module") as memory:
        yield memory


def choose(pid: object, *indices: int) -> None:
    (FOLDER / "pid").write_text(f"{pid}\n")
    for name, index in zip(("pgdindex", "p4dindex", "pudindex", "pmdindex"), indices, strict=False):
        (FOLDER / name).write_text(f"{index}\n")


def read_table(name: str) -> list[int]:
    data = (FOLDER / name).read_bytes()
    assert len(data) == 4096
    return [int(entry) for entry in np.frombuffer(data, np.uint64)]


def indices_of(address: int, facts: Facts) -> tuple[int, int, int, int, int]:
    pgd, p4d = (address >> 48 & 511, address >> 39 & 511) if facts.levels == 5 else (address >> 39 & 511, 0)
    return pgd, p4d, address >> 30 & 511, address >> 21 & 511, address >> 12 & 511


def error_of(what: Callable[[], object]) -> int:
    try:
        what()
    except OSError as error:
        return error.errno or 0
    raise AssertionError("no error")


def test_an_unsigned_module_is_refused_under_lockdown_alone(facts: Facts) -> None:
    error = load()
    if facts.lockdown == "none":
        assert error == 0
        assert unload() == 0
    else:
        assert error == errno.EPERM
        with pytest.raises(NotSupported, match="mematlas module"):
            ModuleReader()


TABLE_FILES = ("info", "tables", "pgd", "pud", "pmd", "pte")
SETTINGS = ("pid", "pgdindex", "p4dindex", "pudindex", "pmdindex")


def open_all() -> list[int]:
    """Open each file in every way that its mode allows root; return the errors' numbers."""
    ways = [(name, os.O_RDONLY) for name in TABLE_FILES]
    ways += [(name, flags) for name in SETTINGS for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)]
    errors = []
    for name, flags in ways:
        try:
            os.close(os.open(FOLDER / name, flags))
            errors.append(0)
        except OSError as error:
            errors.append(error.errno or 0)
    return errors


def test_without_the_right_nothing_opens(loaded: None, as_nobody: Callable[..., Outcome]) -> None:
    assert set(open_all()) == {0}
    # Root by number alone, which the modes of the files let in.
    assert set(as_nobody(open_all, uid=0).value) == {errno.EPERM}
    assert 0 not in as_nobody(open_all, caps=["CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH"]).value
    assert set(as_nobody(open_all, caps=["CAP_SYS_ADMIN"], uid=0).value) == {0}


def test_doctor_sees_it_and_says_what_is_missing(
    loaded: None, as_nobody: Callable[..., Outcome], capsys: pytest.CaptureFixture[str]
) -> None:
    assert row_of_doctor(capsys)["status"] == "works"
    (row,) = (row for row in json.loads(as_nobody(["doctor", "--json"]).stdout)["rows"] if row["interface"] == NAME)
    assert (row["status"], row["detail"]) == ("needs", "CAP_SYS_ADMIN")
    assert unload() == 0
    try:
        row = row_of_doctor(capsys)
        assert row["status"] == "needs"
        assert "insmod" in (row["detail"] or "")
    finally:
        assert load() == 0


NAME = "mematlas module"


def row_of_doctor(capsys: pytest.CaptureFixture[str]) -> dict[str, str | None]:
    assert main(["doctor", "--json"]) == 0
    (row,) = (row for row in json.loads(capsys.readouterr().out)["rows"] if row["interface"] == NAME)
    return dict(row)


def test_files_are_roots_alone(loaded: None) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in FOLDER.iterdir()}
    tables = dict.fromkeys(("pgd", "p4d", "pud", "pmd", "pte", "tables", "info"), 0o400)
    settings = dict.fromkeys(("pid", "pgdindex", "p4dindex", "pudindex", "pmdindex"), 0o600)
    assert modes == {**tables, **settings}
    assert FOLDER.stat().st_uid == 0


def test_files_lead_to_the_frame_of_pagemap(loaded: None, facts: Facts, victim: MakeVictim) -> None:
    target = victim("anon_full")
    area = target["anon_full"]
    *path, last = indices_of(area.address, facts)
    choose(target.pid, *path)
    names = ("pgd", "p4d", "pud", "pmd", "pte") if facts.levels == 5 else ("pgd", "pud", "pmd", "pte")
    steps = [*path, last] if facts.levels == 5 else [path[0], *path[2:], last]
    with target.stopped():
        entries = [read_table(name)[step] for name, step in zip(names, steps, strict=True)]
        with open(f"/proc/{target.pid}/pagemap", "rb") as file:
            word = int.from_bytes(os.pread(file.fileno(), 8, area.address >> 9), "little")
        with open_kernel_memory("bpf") as memory, memory.open_mm(target.pid) as mm:
            told = walk_address(memory, mode_of(memory), mm.pgd, area.address)
    assert entries[-1] >> 12 & (1 << 40) - 1 == word & (1 << 55) - 1
    assert [entry | 0x60 for entry in entries] == [int(step.entry or 0) | 0x60 for step in told]


def test_p4d_is_refused_where_there_are_four_levels(loaded: None, facts: Facts) -> None:
    choose("self", *indices_of(id(facts), facts))
    if facts.levels == 4:
        assert error_of((FOLDER / "p4d").read_bytes) == errno.EOPNOTSUPP
    else:
        assert any(read_table("p4d"))


def test_the_kernel_half_is_there_too(loaded: None) -> None:
    choose("self", 511, 511, 510, 8)
    assert sum(map(bool, read_table("pgd")[256:])) > 2
    # The kernel's text: 0xffffffff81000000 and up, wherever KASLR has put it.
    assert any(read_table("pud"))


@pytest.mark.parametrize("text", ["512", "-1", "x", "", "99999999999999999999", "1 2"])
def test_an_index_beyond_the_table_is_refused(text: str, loaded: None) -> None:
    for name in ("pgdindex", "p4dindex", "pudindex", "pmdindex"):
        choose("self", 7, 7, 7, 7)
        fd = os.open(FOLDER / name, os.O_WRONLY)
        try:
            assert error_of(lambda fd=fd: os.write(fd, text.encode() + b"\n")) in (errno.EINVAL, errno.ERANGE)  # type: ignore[misc]
        finally:
            os.close(fd)
        assert (FOLDER / name).read_text() == "7\n"


@pytest.mark.parametrize("text", ["0", "-1", "x", "4194305", "1" * 40])
def test_a_pid_that_is_none_is_refused(text: str, loaded: None) -> None:
    choose("self")
    assert error_of(lambda: (FOLDER / "pid").write_text(text)) in (errno.EINVAL, errno.ESRCH)
    assert (FOLDER / "pid").read_text() == "self\n"


def write_twice(name: str, first: bytes, second: bytes) -> int:
    with open(FOLDER / name, "wb", buffering=0) as file:
        assert file.write(first) == len(first)
        return error_of(lambda: file.write(second))


def test_what_is_chosen_comes_in_one_write_and_is_all_of_it(loaded: None) -> None:
    choose("self", 7, 7, 7, 7)
    assert write_twice("pid", b"1", b"2") == errno.EINVAL
    assert (FOLDER / "pid").read_text() == "1\n"
    choose("self")
    assert write_twice("pgdindex", b"4", b"2") == errno.EINVAL
    assert (FOLDER / "pgdindex").read_text() == "4\n"
    for name, text in (("pid", b"1\0002"), ("pgdindex", b"5\0006")):
        with open(FOLDER / name, "wb", buffering=0) as file:
            assert error_of(lambda file=file, text=text: file.write(text)) == errno.EINVAL  # type: ignore[misc]
    assert (FOLDER / "pid").read_text() == "self\n"
    assert (FOLDER / "pgdindex").read_text() == "4\n"


def test_a_process_that_ended_is_chosen_no_longer(loaded: None) -> None:
    with program("print(0, flush=True)") as target:
        choose(target.pid)
        assert (FOLDER / "pid").read_text() == f"{target.pid}\n"
        target.kill()
    assert error_of((FOLDER / "pid").read_bytes) == errno.ESRCH
    choose("self")


def test_a_proc_of_another_namespace_is_refused(loaded: None) -> None:
    # Its own PIDs are 1, 2, ...; /proc still has those of the outer one.
    words = [sys.executable, "-m", "mematlas", "tables", "1", "--reader", "module"]
    done = subprocess.run(["unshare", "--pid", "--fork", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 5, done.stdout + done.stderr
    assert "PID namespace" in done.stderr


def test_nothing_can_be_written_to_a_table(loaded: None) -> None:
    choose("self")
    for name in ("pgd", "pud", "pmd", "pte", "tables"):
        fd = os.open(FOLDER / name, os.O_RDWR)
        try:
            assert error_of(lambda fd=fd: os.write(fd, bytes(8))) == errno.EINVAL  # type: ignore[misc]
        finally:
            os.close(fd)


def test_a_huge_entry_is_not_followed(loaded: None, facts: Facts, victim: MakeVictim) -> None:
    target = victim("thp")
    area = target["thp"]
    with target.stopped():
        *path, _ = indices_of(area.address, facts)
        choose(target.pid, *path)
        # Balancing between nodes takes the present bit away now and then, not the one that says huge.
        assert read_table("pmd")[path[3]] & 0x80
        assert error_of((FOLDER / "pte").read_bytes) == errno.ENODATA


def test_what_ended_has_no_tables(loaded: None, victim: MakeVictim, facts: Facts) -> None:
    target = victim("anon")
    *path, _ = indices_of(target["anon"].address, facts)
    choose(target.pid, *path)
    with open(FOLDER / "pte", "rb", buffering=0) as pte, open(FOLDER / "pgd", "rb", buffering=0) as pgd:
        assert len(pte.read(4096)) == 4096
        target.exit()
        assert error_of(lambda: os.pread(pte.fileno(), 4096, 0)) == errno.ESRCH
        # The top table is pinned, and empty.
        assert not any(os.pread(pgd.fileno(), 2048, 0))
    assert error_of((FOLDER / "pgd").read_bytes) == errno.ESRCH


def test_kernel_threads_have_no_tables(memory: KernelMemory) -> None:
    procfs = ProcFS()
    pid = next(pid for pid in procfs.pids() if read_stat(procfs.process(pid)).is_kernel_thread)
    choose(pid)
    assert error_of((FOLDER / "pgd").read_bytes) == errno.ESRCH
    with open(f"/proc/{pid}/stat", "rb") as file, pytest.raises(ProcessGone):
        memory.reader.mm_address(pid, file.fileno(), memory.layout)
    with pytest.raises(NoAddressSpace):
        memory.open_mm(pid)


def test_three_readers_agree_entry_by_entry(loaded: None, victim: MakeVictim) -> None:
    target = victim(*KINDS)
    with target.stopped():
        first, *others = walks_of(target.pid, ("bpf", "kcore", "module"))
    assert first.nr_tables > 10
    assert len(others) == 2
    assert all(other.torn == () and same(first, other) for other in others)


def test_readers_agree_about_the_kernel(loaded: None) -> None:
    walks = []
    with contextlib.ExitStack() as stack:
        # Open all at once: the program of the BPF reader is write-protected memory of the kernel itself.
        memories = [stack.enter_context(open_kernel_memory(name)) for name in ("bpf", "kcore", "module")]
        for memory in (*memories, memories[0]):
            with memory.open_mm(os.getpid()) as mm:
                # The direct map's first GiB, where little changes meanwhile.
                walks.append(walk(memory, mode_of(memory), mm.pgd, memory.base, memory.base + (1 << 30)))
    assert same(walks[0], walks[3])
    assert same(walks[0], walks[1])
    assert same(walks[0], walks[2])


def test_the_user_half_under_isolation_is_read_too(memory: KernelMemory, facts: Facts, victim: MakeVictim) -> None:
    if not facts.pti:
        pytest.skip("pti=off: no second table")
    target = victim("anon")
    with target.stopped(), memory.open_mm(target.pid) as mm:
        user = memory.user_pgd(mm.pgd)
        assert user is not None
        walks = [walk(memory, mode_of(memory), pgd) for pgd in (mm.pgd, user)]
    assert len(walks[1].levels[0]) == 1
    assert same(walks[0], walks[1], skip_top=True)


LDT = """
import ctypes, json, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
entry = ctypes.create_string_buffer(struct.pack("IIII", 0, 0, 0xfffff, 0x51))
print(json.dumps(libc.syscall(154, 1, entry, 16)), flush=True)  # modify_ldt
"""


def test_the_tables_of_an_ldt_under_isolation_are_the_process_s_own(loaded: None, facts: Facts) -> None:
    if not facts.pti:
        pytest.skip("pti=off: the LDT is everybody's")
    start, size = X86_LDT[facts.levels]
    with program(LDT) as target:
        assert target.told == 0
        walks = []
        for name in ("bpf", "kcore", "module"):
            with open_kernel_memory(name) as memory, memory.open_mm(target.pid) as mm:
                walks.append(walk(memory, mode_of(memory), mm.pgd, start, start + size))
        assert all(same(walks[0], other) for other in walks[1:])
        (present,) = np.nonzero(walks[0].levels[-1].entries.reshape(-1) & 1)
        assert len(present) > 0
        *path, _ = indices_of(int(walks[0].levels[-1].addresses[0]), facts)
        choose(target.pid, *path)
        with open(FOLDER / "pte", "rb", buffering=0) as pte:
            assert any(np.frombuffer(os.pread(pte.fileno(), 4096, 0), np.uint64))
            target.kill()
            # The kernel half goes on as ours, in which there is no LDT.
            assert error_of(lambda: os.pread(pte.fileno(), 4096, 0)) == errno.ENODATA


def test_memory_that_is_no_table_is_not_read(memory: KernelMemory) -> None:
    with memory.open_mm(os.getpid()):
        for phys in (0x1000, 0x100000, 0x40000000):
            _, good = memory.reader.read_batch(np.array([memory.base + phys], np.uint64), 4096)
            assert not good.any()


TARGET = """
import ctypes, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
address, nr_rounds = json.loads(sys.argv[1])
def put():
    # MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED; in a PMD and a PTE table of its own, so that taking it away frees them.
    assert libc.mmap(address, 4 << 20, 3, 0x32, -1, 0) == address
    libc.madvise(address, 4 << 20, 15)
    for page in range(16):
        ctypes.c_char.from_address(address + page * 4096).value = b"x"
    ctypes.c_char.from_address(address + (2 << 20)).value = b"x"
put()
print("null", flush=True)
for round in range(nr_rounds):
    libc.munmap(address, 4 << 20)
    put()
    if round % 64 == 0:
        if os.fork() == 0:
            os._exit(0)
        os.wait()
"""
PLACE = 0x2A00_0000_0000
"""Where the target maps and unmaps: nothing else is in the 512 GiB around it."""
FOR_EVER = 1 << 40

READER = """
import json, os, sys, time
end = time.monotonic() + float(sys.argv[3])
reads, refused = {}, {}
while sum(reads.values()) < int(sys.argv[2]) and time.monotonic() < end:
    for name in ("pgd", "pud", "pmd", "pte"):
        try:
            with open(f"{sys.argv[1]}/{name}", "rb", buffering=0) as file:
                for _ in range(5):
                    assert len(os.pread(file.fileno(), 4096, 0)) == 4096
                    reads[name] = reads.get(name, 0) + 1
        except OSError as error:
            refused[error.errno] = refused.get(error.errno, 0) + 1
print(json.dumps([reads, refused]))
"""
STRESS_SECONDS = 120


def test_ten_thousand_reads_of_a_racing_target(memory: KernelMemory) -> None:
    nr_reads = nr_walks = nr_leaves = 0
    mode = mode_of(memory)
    while nr_reads < NR_READS:
        # The target ends every so often, in the middle of being read.
        with program(TARGET, [PLACE, FOR_EVER], wait="") as target, memory.open_mm(target.pid) as mm:
            for round_ in range(200):
                found = walk(memory, mode, mm.pgd)
                nr_reads += found.nr_tables
                nr_walks += 1
                leaves = found.levels[-1].entries
                frames = leaves[leaves & 5 == 5] & np.uint64(0x000FFFFFFFFFF000)
                nr_leaves += len(frames)
                assert not (frames >= memory.memory_end).any()
                if round_ == 150:
                    target.kill()
    assert nr_walks > 10
    assert nr_leaves > nr_walks


BUSY = """
import ctypes, mmap, sys, threading
libc = ctypes.CDLL(None)
def use(area, address):
    while True:
        libc.memset(ctypes.c_void_p(address), 1, ctypes.c_size_t(len(area)))
        area.madvise(mmap.MADV_DONTNEED)
for _ in range(4):
    area = mmap.mmap(-1, 4 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(15)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    threading.Thread(target=use, args=(area, address), daemon=True).start()
print("null", flush=True)
"""


def test_a_target_whose_lock_is_never_free_is_read(memory: KernelMemory) -> None:
    """Before Linux 6.4 each page fault holds the mmap lock for reading: four threads leave no gap between them."""
    with program(BUSY) as target, memory.open_mm(target.pid) as mm:
        walks = [walk(memory, mode_of(memory), mm.pgd) for _ in range(10)]
    assert all(found.nr_tables > 10 for found in walks)


def test_it_is_unloaded_under_use(facts: Facts) -> None:
    if facts.lockdown != "none":
        pytest.skip("locked down: an unsigned module is refused")
    assert load() == 0
    indices = indices_of(PLACE, facts)
    nr_busy = nr_unloaded = nr_targets = 0
    words = [sys.executable, "-I", "-S", "-c", READER, MODULE_PATH, str(NR_READS), str(STRESS_SECONDS)]
    readers: list[subprocess.Popen[str]] = []
    try:
        while not readers or any(reader.poll() is None for reader in readers):
            # Each target ends by itself, while it is read.
            with program(TARGET, [PLACE, 1000], wait="") as target:
                nr_targets += 1
                choose(target.pid, *indices)
                if not readers:
                    readers += [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
                while target.process.poll() is None and any(reader.poll() is None for reader in readers):
                    error = unload()
                    assert error in (0, errno.EAGAIN)
                    if error == 0:
                        nr_unloaded += 1
                        time.sleep(0.01)
                        assert load() == 0
                        with contextlib.suppress(ProcessLookupError):
                            choose(target.pid, *indices)
                    else:
                        nr_busy += 1
                    time.sleep(0.002)
    finally:
        for reader in readers:
            reader.kill()
        told = [json.loads(reader.communicate()[0] or "[{}, {}]") for reader in readers]
    with open(FOLDER / "tables", "rb"):
        assert unload() == errno.EAGAIN
    assert unload() == 0
    assert nr_unloaded > 0, "never between two uses"
    assert nr_busy > 0, "never in use"
    assert nr_targets > 1, "no target ended"
    reads = {name: sum(each.get(name, 0) for each, _ in told) for name in ("pgd", "pud", "pmd", "pte")}
    print(reads, [refused for _, refused in told], nr_busy, nr_unloaded, nr_targets)
    # Refusals are not counted: these are tables that were there.
    assert sum(reads.values()) >= NR_READS, told
    assert min(reads["pmd"], reads["pte"]) >= NR_READS // 10, told
    assert all(refused for _, refused in told), "nothing was ever in the way"
