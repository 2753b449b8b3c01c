"""Charges and limits of cgroups in version 1 of the hierarchy, which takes the memory controller from version 2.

It changes the guest for good, and before anything has been charged in version 2, so it is a run of its own: what is
charged in one version and uncharged in the other has the kernel complain of its counters.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from memory_groups import MemoryGroup, charge_of
from test_charge_limits import (  # noqa: F401
    MIB,
    test_huge_pages_are_charged_by_their_heads,
    test_parts_add_up_and_what_nobody_maps_is_known,
    test_tmpfs_that_fills_a_limit_belongs_to_nobody,
    tmpfs_file,
)

pytestmark = pytest.mark.guest

POINT = Path("/run/memory")


@pytest.fixture(scope="module")
def highest() -> MemoryGroup:
    """Mount the hierarchy; return its root."""
    POINT.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mount(b"memory", bytes(POINT), b"cgroup", 0, b"memory") == 0, os.strerror(ctypes.get_errno())
    made = MemoryGroup(POINT, 1)
    if (POINT / "memory.use_hierarchy").exists():
        made.write("memory.use_hierarchy", 1)
    return made


@pytest.fixture
def group(highest: MemoryGroup) -> Iterator[MemoryGroup]:
    with highest.child("mematlas") as made:
        yield made


def test_limit_of_memory_and_swap_together_is_one_too(group: MemoryGroup) -> None:
    group.write("max", 96 * MIB)
    group.write("memory.memsw.limit_in_bytes", 96 * MIB)
    with group.child("inner") as inner, inner.running():
        limits = charge_of(inner).limits

    assert [(limit.name, limit.size) for limit in limits] == [
        ("memory.limit_in_bytes", 96 * MIB),
        ("memory.memsw.limit_in_bytes", 96 * MIB),
    ]


def test_killer_that_is_switched_off_is_said_to_be(group: MemoryGroup) -> None:
    group.write("memory.oom_control", 1)
    group.write("max", 96 * MIB)
    with group.running():
        assert charge_of(group).oom.is_off


def test_group_above_that_keeps_no_account_of_those_below_sets_no_limit(highest: MemoryGroup) -> None:
    """An option of kernels up to 5.10; later ones refuse to switch it off."""
    with highest.child("flat") as flat:
        flat.write("max", 96 * MIB)
        try:
            flat.write("memory.use_hierarchy", 0)
        except OSError:
            is_flat = False
        else:
            is_flat = (flat.path / "memory.use_hierarchy").read_text().strip() == "0"
        with flat.child("inner") as inner, inner.running():
            limits = charge_of(inner).limits

    assert [limit.size for limit in limits] == ([] if is_flat else [96 * MIB])
