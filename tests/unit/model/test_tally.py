"""Words that are counted as they come: each once, with how often, in memory that goes by the distinct ones."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import helpers  # noqa: F401  (the settings of hypothesis)
from mematlas.model import tally as module
from mematlas.model.tally import PENDING, Tally


@given(st.lists(st.lists(st.integers(0, 40) | st.integers(0, 2**64 - 1), min_size=1)), st.sampled_from([1, 7, 1 << 20]))
def test_each_word_is_there_once_with_how_often(parts: list[list[int]], pending: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PENDING", pending)
        tally = Tally()
        for part in parts:
            tally.add(np.array(part, np.uint64))

    words, times = tally.settled()
    expected = Counter(word for part in parts for word in part)
    assert dict(zip(words.tolist(), times.tolist(), strict=True)) == expected
    assert words.tolist() == sorted(expected)


def test_processes_that_share_take_the_memory_of_one() -> None:
    shared = np.arange(150_000, dtype=np.uint64)
    tally = Tally()
    most = 0
    for _ in range(61):
        tally.add(shared.copy())
        most = max(most, tally._nr_pending)

    assert len(tally) == 150_000
    assert set(tally.settled()[1].tolist()) == {61}
    assert most < PENDING
