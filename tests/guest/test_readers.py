"""The readers of kernel memory, on kernels as they are shipped: levels, isolation, lockdown, and one truth."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from inside import Facts
from mematlas.cli import main
from mematlas.errors import Error
from mematlas.kernel.memory.memory import KernelMemory
from mematlas.kernel.memory.readers import open_kernel_memory
from mematlas.model.pagetables.modes import mode_of
from mematlas.model.pagetables.walk import Walk, walk
from victim import Victim

pytestmark = pytest.mark.guest

ACCESSED_DIRTY = np.uint64(0x60)
NR_TRIES = 5
KINDS = ("anon", "private_file", "shared_file", "shared_anon", "tmpfs", "zero", "prot_none", "thp")


def readers_of(facts: Facts) -> list[str]:
    return [] if facts.lockdown == "confidentiality" else ["bpf", "kcore"]


@pytest.fixture(params=["bpf", "kcore"])
def memory(request: pytest.FixtureRequest, facts: Facts) -> Iterator[KernelMemory]:
    if request.param not in readers_of(facts):
        pytest.skip("lockdown=confidentiality")
    with open_kernel_memory(request.param) as memory:
        assert memory.name == request.param
        yield memory


def test_levels_are_those_of_the_kernel_line(memory: KernelMemory, facts: Facts) -> None:
    assert memory.levels == facts.levels


def test_user_pgd_is_there_with_isolation_alone(
    memory: KernelMemory, facts: Facts, victim: Callable[..., Victim]
) -> None:
    target = victim("anon")
    with target.stopped(), memory.open_mm(target.pid) as mm:
        user = memory.user_pgd(mm.pgd)
        assert (user is not None) == facts.pti
        if user is not None:
            kernel_rows, user_rows = memory.tables(np.array([mm.pgd, user], np.uint64))[0][:, :256]
            # The kernel marks what it sees of user space as not executable; the rest is the same.
            assert np.array_equal(kernel_rows & ~np.uint64(1 << 63), user_rows & ~np.uint64(1 << 63))
            assert np.count_nonzero(user_rows)


def test_a_walk_through_the_user_pgd_finds_the_same_pages(
    memory: KernelMemory, facts: Facts, victim: Callable[..., Victim]
) -> None:
    if not facts.pti:
        pytest.skip("pti=off: no second table")
    target = victim("anon")
    with target.stopped(), memory.open_mm(target.pid) as mm:
        user = memory.user_pgd(mm.pgd)
        assert user is not None
        # The kernel may move or collapse pages of a process that is stopped, but not each time.
        for _ in range(10):
            walks = [walk(memory, mode_of(memory), pgd) for pgd in (mm.pgd, user)]
            if same(walks[0], walks[1], skip_top=True):
                break
    assert same(walks[0], walks[1], skip_top=True)


def same(first: Walk, second: Walk, skip_top: bool = False) -> bool:
    """Whether two walks have the same entries; what the processor sets by itself apart."""
    return len(first.levels) == len(second.levels) and all(
        np.array_equal(one.entries | ACCESSED_DIRTY, other.entries | ACCESSED_DIRTY)
        for one, other in list(zip(first.levels, second.levels, strict=True))[skip_top:]
    )


def walks_of(pid: int, readers: Sequence[str]) -> list[Walk]:
    """Return the tables of a process by each reader, of a moment in which they stood still.

    A stopped process changes nothing, but the kernel may: khugepaged collapses, compaction moves, balancing unmaps.
    """
    for _ in range(NR_TRIES):
        walks, places = [], []
        for name in (*readers, readers[0]):
            with open_kernel_memory(name) as memory, memory.open_mm(pid) as mm:
                assert memory.name == name
                places.append((memory.base, memory.levels, mm.pgd))
                walks.append(walk(memory, mode_of(memory), mm.pgd))
        assert places == places[:1] * len(places)
        if same(walks[0], walks[-1]):
            return walks[:-1]
    raise AssertionError("the tables never stand still")


def test_readers_agree_entry_by_entry(facts: Facts, victim: Callable[..., Victim]) -> None:
    if not (readers := readers_of(facts)):
        pytest.skip("lockdown=confidentiality")
    target = victim(*KINDS)
    with target.stopped():
        first, *others = walks_of(target.pid, readers)
    assert first.nr_tables > 10
    assert all(same(first, other) for other in others)


@pytest.mark.parametrize("reader", ["bpf", "kcore"])
def test_every_page_and_sum_is_as_the_kernel_tells_elsewhere(
    reader: str, facts: Facts, victim: Callable[..., Victim], capsys: pytest.CaptureFixture[str]
) -> None:
    if reader not in readers_of(facts):
        pytest.skip("lockdown=confidentiality")
    target = victim(*KINDS)
    with target.stopped():
        assert main(["tables", str(target.pid), "--reader", reader, "--verify", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
    assert told["target"]["reader"] == reader
    assert told["target"]["paging"] == f"x86-64, {facts.levels} levels"
    nr_pages = next(row["tables"] for row in told["rows"] if row["what"] == "pages")
    assert nr_pages > 1000


def test_the_first_reader_is_bpf(facts: Facts) -> None:
    if facts.lockdown == "confidentiality":
        pytest.skip("lockdown=confidentiality")
    with open_kernel_memory() as memory:
        assert memory.name == "bpf"


def test_lockdown_to_confidentiality_is_named(facts: Facts) -> None:
    if facts.lockdown != "confidentiality":
        pytest.skip(f"lockdown={facts.lockdown}")
    with pytest.raises(Error) as caught:
        open_kernel_memory()
    assert re.search("lock(ed )?down", str(caught.value)), str(caught.value)
