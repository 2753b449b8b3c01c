"""How single values are written."""

from __future__ import annotations

import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import helpers  # noqa: F401  (the settings of hypothesis)
from mematlas.errors import BadInput
from mematlas.views.format import (
    UNITS,
    format_address,
    format_change,
    format_exact,
    format_list,
    format_message,
    format_path,
    format_rate,
    format_seconds,
    format_size,
)
from mematlas.views.terminal import PLAIN, paint


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0"),
        (512, "512 B"),
        (1024, "1 KiB"),
        (4096, "4 KiB"),
        (1536, "1.50 KiB"),
        (1023 << 10, "1023 KiB"),
        (1 << 20, "1 MiB"),
        (20 << 20, "20 MiB"),
        ((20 << 20) + (1 << 16), "20.1 MiB"),
        (999 << 20, "999 MiB"),
        (1 << 30, "1 GiB"),
        ((1 << 40) - 1, "1.00 TiB"),
        (5 << 60, "5 EiB"),
        (-4096, "-4 KiB"),
        (-(3 << 20), "-3 MiB"),
    ],
)
def test_sizes_have_a_unit(size: int, text: str) -> None:
    assert format_size(size) == text


@given(st.integers(-(1 << 62), 1 << 62))
def test_sizes_are_true_to_one_part_in_a_hundred(size: int) -> None:
    number, _, unit = format_size(size).partition(" ")
    value = float(number) * (1024 ** (UNITS.index(unit) + 1) if unit in UNITS else 1)

    assert abs(value - size) <= abs(size) / 100
    assert len(format_size(size)) <= len("-1023 KiB")


@given(st.binary(max_size=60))
def test_paths_are_safe_on_a_terminal(raw: bytes) -> None:
    text = format_path(raw.decode("utf-8", "surrogateescape"))

    assert text.isprintable()
    text.encode("utf-8")


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/plain path (deleted)", "/plain path (deleted)"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\udcff\udcfe", "\\xff\\xfe"),
        ("right\u202eleft", "right\\u202eleft"),
        ("\u009b31m\u00a0\U000e0001", "\\u009b31m\\u00a0\\U000e0001"),
        ("schön 世界", "schön 世界"),
    ],
)
def test_control_characters_are_escapes(path: str, shown: str) -> None:
    assert format_path(path) == shown


@given(st.binary(max_size=60) | st.text(max_size=60, alphabet=st.characters(exclude_categories=["Cs"])))
def test_exact_text_is_safe_and_can_be_turned_back(name: bytes | str) -> None:
    path = name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name

    assert format_exact(path).isprintable()
    assert unescaped(format_exact(path)) == os.fsencode(path)


def unescaped(text: str) -> bytes:
    """Return the name that an exact text stands for, by the rules in the guide."""
    short = {"\\": b"\\", "n": b"\n", "r": b"\r", "t": b"\t"}

    def one(found: re.Match[str]) -> str:
        kind, digits = found[1][0], found[1][1:]
        name = bytes.fromhex(digits) if kind == "x" else chr(int(digits, 16)).encode() if digits else short[kind]
        return name.decode("latin-1")

    raw = text.encode().decode("latin-1")
    return re.sub(r"\\(x..|u....|U........|.)", one, raw).encode("latin-1")


def test_addresses_align_and_long_ones_are_whole() -> None:
    assert format_address(0x1000) == "0x000000001000"
    assert format_address(0xFFFFFFFFFF600000) == "0xffffffffff600000"


def test_times_and_lists() -> None:
    assert [format_seconds(seconds) for seconds in (0, 0.0009, 0.2, 61.0)] == ["0 us", "900 us", "200 ms", "61.0 s"]
    assert (format_list(()), format_list(("a", "b"))) == ("-", "a,b")


def test_colour_is_off_when_it_is_off() -> None:
    assert paint("x", "title", False) == paint("x", None, True) == "x"
    assert all(paint("x", style, True) == f"\x1b[{code}mx\x1b[0m" for style, code in PLAIN.items())


@pytest.mark.parametrize(("text", "seconds"), [("1s", 1), ("200ms", 0.2), ("5m", 300), ("0.5", 0.5), ("7us", 7e-6)])
def test_durations_are_understood(text: str, seconds: float) -> None:
    from mematlas.cli.options import parse_seconds

    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "-1s", "1w", "inf", "nan", "1 2", "m"])
def test_durations_that_are_none_are_refused(text: str) -> None:
    from mematlas.cli.options import parse_seconds

    with pytest.raises(BadInput, match="bad time"):
        parse_seconds(text)


@pytest.mark.parametrize(
    ("change", "text"), [(0, "0"), (4096, "+4 KiB"), (-4096, "-4 KiB"), (12 << 20, "+12 MiB"), (-1, "-1 B")]
)
def test_changes_have_a_sign(change: int, text: str) -> None:
    assert format_change(change) == text
    assert format_rate(change) == (text if text == "0" else f"{text}/s")


def test_a_message_has_no_command_for_runners_in_it() -> None:
    assert format_message("a name ##[add-mask]e") == r"a name ##\x5badd-mask]e"
