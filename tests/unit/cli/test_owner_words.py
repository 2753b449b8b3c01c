"""Frames as people type them: numbers, addresses, ranges; and what has two readings."""

from __future__ import annotations

import pytest

from helpers import mematlas
from mematlas.cli.frame_words import parse_frames
from mematlas.errors import BadInput

PAGE = 4096


@pytest.mark.parametrize(
    ("word", "span"),
    [
        ("pfn:7", (7, 8)),
        ("pfn:0x1f", (31, 32)),
        ("pfn:100-200", (100, 200)),
        ("pfn:0x10-0x20", (16, 32)),
        ("pfn:0x10+16", (16, 32)),
        ("phys:0x1000", (1, 2)),
        ("phys:0x1fff", (1, 2)),
        ("phys:1a2b3c000", (0x1A2B3C, 0x1A2B3D)),
        ("phys:0x1000+8K", (1, 3)),
        ("phys:0x1000-0x3001", (1, 4)),
    ],
)
def test_frames_are_read_as_they_are_written(word: str, span: tuple[int, int]) -> None:
    assert parse_frames(word, PAGE) == span


@pytest.mark.parametrize(
    ("word", "readings"),
    [
        ("1234", ("pfn:1234", "phys:0x1234")),
        ("0x1234", ("pfn:0x1234", "phys:0x1234")),
        ("12ab", ("pfn:0x12ab", "phys:0x12ab")),
    ],
)
def test_a_number_alone_is_refused_with_both_readings(word: str, readings: tuple[str, str]) -> None:
    with pytest.raises(BadInput) as raised:
        parse_frames(word, PAGE)
    assert all(reading in str(raised.value) for reading in readings)
    assert all(parse_frames(reading, PAGE) for reading in readings)


@pytest.mark.parametrize("word", ["phys:4096", "phys:4096+64K", "phys:1000-2000"])
def test_an_address_that_may_be_decimal_is_refused(word: str) -> None:
    with pytest.raises(BadInput, match="could be"):
        parse_frames(word, PAGE)


@pytest.mark.parametrize(
    "word",
    [
        *("", "pfn:", "pfn:x", "pfn:1f", "pfn:-1", "pfn:1-", "pfn:+4", "pfn:1+", "pfn:9-7", "pfn:7-7", "pfn:7+0"),
        *("pfn:1_0", "pfn:٣", "pfn:" + "9" * 5000, "phys:", "phys:x", "phys:0x", "phys:0x3000-0x1000", "heap", "self"),
    ],
)
def test_what_is_no_frame_is_refused(word: str) -> None:
    with pytest.raises(BadInput):
        parse_frames(word, PAGE)


def test_without_a_frame_the_forms_are_named() -> None:
    run = mematlas("owner")

    assert run.returncode == 2
    assert "pfn:0x1a2b3c" in run.stderr
