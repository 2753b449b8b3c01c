"""What this kernel has memory for: against its own counters, and workloads that it has to have memory for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import Outcome
from helpers import steadily
from mematlas import KernelItem, KernelPart, KernelResult, Machine
from mematlas.analysis.kernel_memory import KERNEL_USES
from mematlas.errors import NotSupported
from mematlas.kernel.procfs import ProcFS
from mematlas.kernel.zoneinfo import read_cpu_free
from mematlas.observe import frames

root = pytest.mark.root("CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH")
NR_THREADS = 53
PAGE = ProcFS().page_size


def parts_of(result: KernelResult) -> dict[str, KernelPart]:
    return {part.part: part for part in result.parts}


@pytest.fixture(scope="module")
def parts() -> dict[str, KernelPart]:
    return parts_of(Machine().kernel_memory())


@root
@steadily
def test_parts_add_up_to_the_frames_that_are_the_kernels() -> None:
    result = Machine().kernel_memory()
    all_frames = Machine().frames("mapped")
    assert sum(part.size or 0 for part in result.parts if part.is_summed) == result.size
    by_frames = sum(group.uses[use] for group in all_frames.groups for use in KERNEL_USES)
    if result.reading.source == "kpageflags":
        by_frames -= read_cpu_free(ProcFS())  # in no flag
    assert result.size == pytest.approx(by_frames, rel=0.02)


@root
def test_caches_are_as_large_as_slabinfo_says(parts: dict[str, KernelPart]) -> None:
    lines = [line.split() for line in Path("/proc/slabinfo").read_text().splitlines()[2:]]
    expected = {words[0]: int(words[14]) * int(words[5]) * PAGE for words in lines}
    largest = parts["slab"].items[:3]
    for item in largest:
        assert item.size == pytest.approx(expected[item.name], rel=0.05)
        assert item.used is not None
        assert 0 < item.used <= item.size


@root
@steadily
def test_what_functions_asked_for_is_what_vmalloc_has() -> None:
    part = parts_of(Machine().kernel_memory())["vmalloc"]
    assert part.size is not None
    assert sum(item.size for item in part.items) == pytest.approx(part.size, rel=0.05)


def of(part: KernelPart, pid: int) -> KernelItem:
    (item,) = [item for item in part.items if item.pids == (pid,)]
    return item


@pytest.fixture
def threaded() -> Iterator[int]:
    """A process of many threads, with page tables."""
    code = (
        "import mmap, threading\n"
        "area = mmap.mmap(-1, 1 << 30, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
        "area.madvise(mmap.MADV_NOHUGEPAGE)\n"
        "for at in range(0, 1 << 30, 1 << 21): area[at] = 1\n"
        f"for _ in range({NR_THREADS - 1}): threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "print(flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdout
        program.stdout.readline()
        yield program.pid
        program.kill()


def test_every_thread_has_a_stack_and_every_process_its_tables(threaded: int) -> None:
    parts = parts_of(Machine().kernel_memory())
    stack, tables = of(parts["stack"], threaded), of(parts["table"], threaded)
    assert stack.nr == NR_THREADS
    assert stack.size % (NR_THREADS * PAGE) == 0
    status = Path(f"/proc/{threaded}/status").read_text().split()
    assert tables.size == int(status[status.index("VmPTE:") + 1]) * 1024
    assert tables.size > 0


def test_without_rights_there_are_counters_and_what_is_missing_is_said(as_nobody: Callable[..., Outcome]) -> None:
    def look() -> tuple[object, ...]:
        result = Machine().kernel_memory()
        parts = parts_of(result)
        codes = {note.code for note in result.reading.notes}
        unknown = [part for part in ("dmabuf", "drm", "reserved") if parts[part].size is not None]
        return result.is_by_frames, (parts["slab"].size or 0) > 0, parts["slab"].items, unknown, sorted(codes)

    by_frames, has_slab, caches, known, codes = as_nobody(look).value
    assert (by_frames, has_slab, caches, known) == (False, True, (), [])
    assert {"no-frames", "part-unknown", "files-refused"} <= {*codes}


@root
def test_the_command_has_the_largest_for_people_and_all_for_programs() -> None:
    words = [sys.executable, "-m", "mematlas", "ram", "--kernel"]
    text = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True).stdout
    answer = json.loads(subprocess.run([*words, "--json"], capture_output=True, timeout=120, check=True).stdout)
    assert answer["schema"] == "mematlas.ram-kernel/1"
    names = [row["name"] for row in answer["rows"] if row["part"] == "slab" and row["name"]]
    assert len(names) > 20
    assert names[0] in text
    assert names[-2] not in text
    whole = [row["size"] or 0 for row in answer["rows"] if row["name"] is None and row["part"] not in ("drm", "dmabuf")]
    assert answer["total"]["size"] == sum(whole)


@root
@steadily
def test_the_kernels_own_files_alone_tell_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    by_structs = Machine().kernel_memory()
    monkeypatch.setattr(frames, "open_decoder", refuse)
    by_files = Machine().kernel_memory()
    assert by_files.reading.source == "kpageflags"
    assert by_files.size == pytest.approx(by_structs.size, rel=0.03)


def refuse(procfs: ProcFS, **more: object) -> None:
    raise NotSupported("struct pages")
