"""What RAM is used for: parts that add up, whatever lines a kernel has."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mematlas.analysis.ram import account

LINES = (
    *("MemTotal", "MemFree", "MemAvailable", "AnonPages", "Cached", "Buffers", "Shmem", "Mapped", "Slab"),
    *("SReclaimable", "KReclaimable", "KernelStack", "PageTables", "SecPageTables", "VmallocUsed", "Percpu", "Hugetlb"),
)
NEEDED = LINES[:10]


@given(st.fixed_dictionaries({name: st.integers(0, 1 << 40) for name in NEEDED}), st.sets(st.sampled_from(LINES[10:])))
def test_parts_add_up_whatever_the_kernel_tells(lines: dict[str, int], more: set[str]) -> None:
    ram = account(lines | dict.fromkeys(more, 7), cpu_free=5)

    used = (ram.anon, ram.shmem, ram.hugetlb, ram.kernel, ram.cpu_free, ram.other)
    spare = (ram.page_cache, ram.kernel_caches, ram.free)
    assert sum(size or 0 for size in (*used, *spare)) == ram.total
    assert sum(size or 0 for size in used) + (ram.reserve or 0) == ram.in_use
    assert sum(size or 0 for size in spare) - (ram.reserve or 0) == ram.available


def test_what_is_not_reported_is_not_zero() -> None:
    ram = account({"MemTotal": 100, "MemFree": 50})

    assert (ram.in_use, ram.reserve, ram.other, ram.pss, ram.in_swap) == (None,) * 5
    assert account({}).hugetlb is None
    assert account({"MemTotal": 100}).hugetlb == 0  # a kernel without huge pages


def test_stacks_in_vmalloc_memory_count_once() -> None:
    slabs = {"Slab": 0, "SReclaimable": 0}

    assert account({**slabs, "KernelStack": 30, "VmallocUsed": 100}).kernel == 100
    assert account({**slabs, "KernelStack": 30, "VmallocUsed": 0}).kernel == 30


def test_free_pages_of_cpus_are_other_where_they_are_not_reported() -> None:
    lines = dict.fromkeys(NEEDED, 0) | {"MemTotal": 100}

    assert (account(lines).other, account(lines, cpu_free=60).other) == (100, 40)
