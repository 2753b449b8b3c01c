"""All frames of RAM on this machine: against the kernel's own files frame by frame, meminfo, and known workloads."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pytest

from conftest import Outcome
from helpers import PAGE, frames_by_structs, steadily
from mematlas import Frames, Machine
from mematlas.arrays import Words
from mematlas.errors import NotSupported, PermissionDenied
from mematlas.kernel.meminfo import read_meminfo
from mematlas.kernel.memory import framearray
from mematlas.kernel.memory.ownpages import OwnPages, address_of
from mematlas.kernel.procfs import ProcFS
from mematlas.model.census.kinds import KIND_MASK, START, STATE_SHIFT, Kind
from mematlas.model.census.sample import Agreement, check_against_kernel
from mematlas.model.census.tell import Teller
from mematlas.observe import frames as frames_module

pytestmark = [pytest.mark.root("CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"), pytest.mark.machine]

NR_PAGES = 211


@pytest.fixture(scope="module")
def frames() -> Iterator[Frames]:
    with frames_by_structs() as frames:
        yield frames


@pytest.fixture
def files() -> Iterator[Frames]:
    with Frames(ProcFS(), "files") as frames:
        yield frames


def own_frames(area: mmap.mmap, nr: int) -> Words:
    """Return the frames of the first pages of memory of ours."""
    with OwnPages(ProcFS()) as own:
        start = address_of(area)
        return np.array(own.pfns_at([start + place * mmap.PAGESIZE for place in range(nr)]), np.uint64)


def kinds_of(frames: Frames, pfns: Words) -> set[tuple[Kind, int]]:
    """Return the kinds and map states of frames, by a census of now."""
    return {
        (Kind(byte & KIND_MASK), (byte & ~START) >> STATE_SHIFT) for byte in frames.census().of_frames(pfns).tolist()
    }


@steadily
def test_no_frame_is_something_else_in_the_kernels_own_files(frames: Frames) -> None:
    agreement = frames.check().agreement
    assert isinstance(agreement, Agreement)
    assert (agreement.nr_kinds_differ, agreement.nr_states_differ) == (0, 0), agreement
    assert agreement.nr_frames > 0.9 * frames.look().nr_frames


def test_kinds_add_up_to_the_frames_that_exist(frames: Frames) -> None:
    result = frames.look()
    assert sum(use.nr_pages for use in result.uses) == result.nr_frames
    assert result.size > read_meminfo(ProcFS())["MemTotal"]


@pytest.mark.parametrize("by", ["zone", "node", "order", "mapped", "cgroup"])
def test_every_other_row_adds_up_to_the_same(frames: Frames, by: str) -> None:
    result = frames.look(by)
    assert sum(group.nr_pages for group in result.groups) == result.nr_frames
    assert sum(sum(group.uses.values()) for group in result.groups) == result.size


def test_our_own_pages_are_what_they_are(frames: Frames) -> None:
    with mmap.mmap(-1, 2 * NR_PAGES * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        area.madvise(mmap.MADV_NOHUGEPAGE)
        area[:] = b"x" * len(area)
        assert kinds_of(frames, own_frames(area, NR_PAGES)) == {(Kind.ANON, 1)}


def test_shared_memory_of_two_is_mapped_more_than_once(frames: Frames) -> None:
    with mmap.mmap(-1, NR_PAGES * mmap.PAGESIZE) as area:
        area[:] = b"x" * len(area)
        pfns = own_frames(area, NR_PAGES)
        assert kinds_of(frames, pfns) == {(Kind.SHMEM, 1)}
        ready, go = os.pipe(), os.pipe()
        child = os.fork()
        if not child:
            sum(area[:: mmap.PAGESIZE])
            os.write(ready[1], b"1")
            os.read(go[0], 1)
            os._exit(0)
        try:
            os.read(ready[0], 1)
            assert kinds_of(frames, pfns) == {(Kind.SHMEM, 2)}
        finally:
            os.write(go[1], b"1")
            os.waitpid(child, 0)
            for fd in (*ready, *go):
                os.close(fd)


@pytest.mark.parametrize("member", ["mapping", "page_type", "flags"])
def test_offsets_that_are_wrong_are_refused(frames: Frames, member: str, monkeypatch: pytest.MonkeyPatch) -> None:
    held = frames.held
    assert held is not None
    monkeypatch.setitem(held.array.at, member, held.array.at[member] ^ 8)
    with pytest.raises(NotSupported, match=r"frame 0x[0-9a-f]+ is another thing"):
        check_against_kernel(Teller(held.decoder, in_kernel=False), ProcFS())


@steadily
def test_skipping_changes_nothing(frames: Frames) -> None:
    held = frames.held
    assert held is not None
    teller = Teller(held.decoder, in_kernel=False)  # what is told in the kernel is compared lot by lot
    whole, skipped, again = (teller.census(skips).bytes for skips in (False, True, False))
    same = whole == again
    assert np.count_nonzero(same) > 0.9 * same.size
    differ = np.count_nonzero((whole != skipped) & same)
    # What came and went between the two whole ones is no fault of skipping.
    assert differ <= np.count_nonzero(~same) + 64


def test_the_kernels_own_files_alone_give_the_same_sums(frames: Frames, files: Frames) -> None:
    ours, theirs = frames.look(), files.look()
    assert ours.nr_frames == theirs.nr_frames
    by_files = {use.kind: use.size for use in theirs.uses}
    by_structs = {use.kind: use.size for use in ours.uses}
    never_used = by_structs.get("untouched", 0)
    if not 0 < never_used < by_structs["free"] // 10:
        assert any(note.code == "never-used" for note in theirs.reading.notes) == bool(never_used)
    for kind in told_by_both(by_structs) & {"reserved", "slab"}:
        assert by_files[kind] == pytest.approx(by_structs[kind], rel=0.1)


def told_by_both(sizes: Mapping[str, int]) -> set[str]:
    """Return the kinds of which kpageflags tells all that there is."""
    # Beyond the struct pages that are filled in, it tells nothing: see `Kind.UNTOUCHED`.
    return {"anon", "shmem", "slab", "table"} | {"reserved"} - ({"reserved"} if "untouched" in sizes else set())


@pytest.mark.parametrize("source", ["structs", "files"])
def test_truth_lies_between_the_ends_of_estimates(source: str, frames: Frames) -> None:
    def sizes() -> dict[str, int]:
        return {use.kind: use.size for use in frames.look().uses}

    nr_inside = nr_outside = 0
    with Frames(ProcFS(), source) as sampled:
        for seed in range(10):
            before, uses, after = sizes(), sampled.look(sample=0.02, seed=seed).uses, sizes()
            for use in uses:
                if source == "files" and use.kind not in told_by_both(before):
                    continue
                least, most = sorted((before.get(use.kind, 0), after.get(use.kind, 0)))
                assert use.size_low is not None
                assert use.size_high is not None
                is_inside = use.size_low <= most and least <= use.size_high
                nr_inside += is_inside
                nr_outside += not is_inside
    assert nr_inside >= 0.9 * (nr_inside + nr_outside)


def test_sample_tells_the_huge_page_of_zeros_from_memory_of_the_kernel(
    frames: Frames, victim: Callable[..., object]
) -> None:
    victim("huge_zero")
    exact = next(use.size for use in frames.look().uses if use.kind == "zero")
    sampled = [next(use for use in frames.look(sample=0.5, seed=seed).uses if use.kind == "zero") for seed in (1, 2)]

    assert exact > frames.procfs.page_size
    assert all((use.size_low or 0) <= exact <= (use.size_high or 0) for use in sampled)


@pytest.mark.parametrize("sample", [None, 0.01])
def test_memory_that_is_switched_off_between_two_looks_is_offline(
    sample: float | None, frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Frames(frames.procfs, "structs") as frames:
        before = frames.look(sample=sample)
        assert frames.held
        *others, (first, end) = frames.held.array.spans
        nr = min(1 << 15, end - first)
        # As the kernel shows it then: the block is not among those that are online, and MemTotal is less.
        online = [(low * PAGE, high * PAGE) for low, high in (*others, (first, end - nr))]
        for module in (frames_module, framearray):
            monkeypatch.setattr(module, "read_memory_blocks", lambda: online)
        total = read_meminfo(ProcFS()) | {"MemTotal": 1}
        monkeypatch.setattr(frames_module, "read_meminfo", lambda procfs: total)
        after = frames.look(sample=sample)

    assert {use.kind: use.nr_pages for use in after.uses}["offline"] == nr
    assert after.nr_frames == before.nr_frames


def test_merged_memory_is_not_estimated_where_it_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames_module, "tells_ksm", lambda procfs: False)
    with Frames(ProcFS(), "files") as frames:
        result = frames.look(sample=0.001)

    assert "ksm" not in {use.kind for use in result.uses}
    assert "ksm-not-shown" in {note.code for note in result.reading.notes}


def test_sample_of_all_is_the_census(frames: Frames) -> None:
    exact, sampled = frames.look(), frames.look(sample=1.0)
    assert sampled.nr_frames == exact.nr_frames
    assert all(use.size_low == use.size == use.size_high for use in sampled.uses)
    sizes = {use.kind: use.size for use in exact.uses}
    reserved = next(use for use in sampled.uses if use.kind == "reserved")
    assert reserved.size == sizes["reserved"]


def test_estimates_add_up_to_all_of_ram(frames: Frames) -> None:
    result = frames.look(sample=0.01, seed=7)
    assert sum(use.nr_pages for use in result.uses) == result.nr_frames
    again = frames.look(sample=0.01, seed=7)
    assert result.sample == again.sample  # the same blocks


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--sample", "0"], "bad part '0'"),
        (["--sample", "101%"], "bad part '101%'"),
        (["--sample", "nan"], "bad part 'nan'"),
        (["--sample", "1_0%"], "bad part '1_0%'"),
        (["--sample", "١%"], "bad part"),
        (["--sample", "1%", "--by", "order"], "not by order"),
        (["--sample", "1%", "--verify"], "not with --sample"),
    ],
)
def test_sample_that_there_cannot_be_is_bad_input(words: list[str], said: str) -> None:
    result = run("ram", *words)
    assert (result.returncode, said in result.stderr) == (2, True), result.stderr


def test_command_shows_estimates_with_their_interval() -> None:
    result = run("ram", "--sample", "1%", "--json")
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["total"]["size"] == answer["target"]["size"]
    assert all(row["size_low"] <= row["size"] <= row["size_high"] for row in answer["rows"])
    assert answer["target"]["sample"]["nr_seen"] * 99 <= answer["target"]["sample"]["nr_blocks"]
    assert any(note["code"] == "estimates" for note in answer["notes"])


@pytest.mark.parametrize("by", ["structs", "files"])
def test_free_blocks_are_those_of_buddyinfo(by: str, frames: Frames, files: Frames) -> None:
    from mematlas.kernel.buddyinfo import read_free_blocks

    def free(blocks: list[int] | tuple[int, ...]) -> int:
        return sum(nr << order for order, nr in enumerate(blocks))

    before = free(read_free_blocks(ProcFS()))
    ours = free((frames if by == "structs" else files).look().free_blocks or ())
    after = free(read_free_blocks(ProcFS()))
    slack = 0.05 * max(before, after)
    assert min(before, after) - slack <= ours <= max(before, after) + slack


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "mematlas", *words], capture_output=True, text=True, timeout=120)


def test_the_command_says_what_all_of_ram_is() -> None:
    result = run("ram", "--json")
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["total"]["size"] == answer["target"]["size"]
    assert {"free", "anon", "file"} <= {row["kind"] for row in answer["rows"]}


def test_without_rights_there_are_the_sums_of_meminfo(as_nobody: Callable[..., Outcome]) -> None:
    def look() -> tuple[str, bool]:
        result = Machine().frames()
        return result.reading.source, sum(use.size for use in result.uses) >= 0.9 * result.size

    assert as_nobody(look).value == ("meminfo", True)


def test_without_rights_rows_of_frames_are_refused(as_nobody: Callable[..., Outcome]) -> None:
    def look() -> str:
        try:
            Machine().frames("order")
        except PermissionDenied as error:
            return str(error)
        return ""

    assert "kpageflags: permission denied" in as_nobody(look).value
