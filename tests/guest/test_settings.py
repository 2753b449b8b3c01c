"""The guest is the one that was asked for, and its emulated processor can be relied on."""

from __future__ import annotations

import mmap
import os
import re

import numpy as np
import pytest

from inside import Facts

pytestmark = pytest.mark.guest


def test_the_machine_is_the_one_that_was_asked_for(facts: Facts) -> None:
    assert facts.page_size == mmap.PAGESIZE
    assert os.uname().machine == {"x86-64": "x86_64", "arm64": "aarch64"}[facts.architecture]
    with open("/proc/cpuinfo") as file:
        flags = next((line.split() for line in file if line.startswith("flags")), [])
    assert ("pti" in flags) == facts.pti
    assert facts.kernel == "own" or os.uname().release.startswith(f"{facts.kernel}.")
    nodes = [name for name in os.listdir("/sys/devices/system/node") if re.fullmatch(r"node\d+", name)]
    assert len(nodes) == 1 + facts.numa


def test_what_the_emulated_processor_sorts_is_sorted() -> None:
    numbers = np.random.default_rng(1).integers(0, 1 << 20, 5000).astype(np.uint64)
    different, which = np.unique(numbers, return_inverse=True)
    assert different.tolist() == sorted(set(numbers.tolist()))
    assert different[which].tolist() == numbers.tolist()
