"""The sums over all VMAs of one process after the other: their lines are learnt once, and anew where they change."""

from __future__ import annotations

import os

import pytest

from helpers import steadily
from mematlas.errors import FormatError
from mematlas.kernel.procfs import ProcFS
from mematlas.kernel.smaps_rollup import RollupReader

HEAD = b"55d0c1a2f000-7ffd1e5f9000 ---p 00000000 00:00 0                          [rollup]\n"
TEXT = HEAD + b"Rss:                 900 kB\nPss:                 311 kB\nSwapPss:               0 kB\n"
OTHER = HEAD + b"Rss:                   8 kB\nPss_New:               4 kB\nSwapPss:               0 kB\nLocked: 1 kB\n"


def test_each_sum_is_in_bytes_under_the_kernels_name() -> None:
    rollup = RollupReader().parse(TEXT)

    assert rollup.fields == {"Rss": 900 << 10, "Pss": 311 << 10, "SwapPss": 0}
    assert rollup.span == b"55d0c1a2f000-7ffd1e5f9000"


def test_lines_that_change_from_one_file_to_the_next_are_learnt_anew() -> None:
    reader = RollupReader()
    found = [reader.parse(text).fields for text in (TEXT, OTHER, TEXT)]

    assert found[1] == {"Rss": 8192, "Pss_New": 4096, "SwapPss": 0, "Locked": 1024}
    assert found[0] == found[2] == {"Rss": 900 << 10, "Pss": 311 << 10, "SwapPss": 0}


@pytest.mark.parametrize(
    "text",
    [
        TEXT.replace(b"900 kB", b"x kB"),
        TEXT.replace(b"900 kB", b"900"),
        TEXT.replace(b"900 kB", b"-1 kB"),
        TEXT.replace(b"Rss:", b"Rss"),
        TEXT.replace(b"900", b"9" * 30),
        TEXT + b"Locked:\n",
        b"\xff\n\n\n\n",
        HEAD * 2,
    ],
)
def test_text_that_is_none_is_an_error_whatever_was_learnt_before(text: bytes) -> None:
    reader = RollupReader()
    with pytest.raises(FormatError, match="smaps_rollup"):
        reader.parse(text)
    reader.parse(TEXT)
    with pytest.raises(FormatError, match="smaps_rollup"):
        reader.parse(text)


def test_no_text_has_no_sums() -> None:
    assert RollupReader().parse(b"").fields == {}


@steadily
def test_span_is_that_of_the_first_and_the_last_vma() -> None:
    with ProcFS().process(os.getpid()) as process:
        span = RollupReader().read(process).span
        lines = process.read("maps").splitlines()
    ends = [line.partition(b" ")[0].split(b"-") for line in lines if b"[vsyscall]" not in line]

    assert span == ends[0][0] + b"-" + ends[-1][1]
