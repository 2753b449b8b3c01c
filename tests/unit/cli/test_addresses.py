"""Addresses on the command line: hexadecimal, or refused where they could be decimal."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

import helpers  # noqa: F401  (the settings of hypothesis)
from helpers import mematlas
from mematlas.cli.addresses import address_of, addresses_of, refuse_two_readings
from mematlas.errors import BadInput


@given(st.integers(10, (1 << 64) - 1))
def test_a_decimal_address_is_never_taken_for_a_hexadecimal_one(address: int) -> None:
    with pytest.raises(BadInput, match=f"{address:#x}"):
        address_of(str(address))


@given(st.integers(0, (1 << 64) - 1))
def test_what_can_only_be_hexadecimal_is_taken(address: int) -> None:
    assert address_of(f"{address:#x}") == address_of(f"0X{address:X}") == address_of(f"0{address:x}") == address
    assert addresses_of([f"0{address:x}", "7fa0", "10"]) == [address, 0x7FA0, 0x10]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("140567440785408", "140567440785408 could be 0x140567440785408, or decimal, which is 0x7fd868600000: type"),
        ("400000-452000", "could be 0x400000-0x452000, or decimal, which is 0x61a80-0x6e5a0: type one of these"),
        ("400000+8K", "could be 0x400000+8K, or decimal, which is 0x61a80+8K: type one of these"),
        ("18446744071562067968", "is beyond the address space; if it is decimal, type 0xffffffff80000000"),
    ],
)
def test_both_readings_are_named(text: str, message: str) -> None:
    with pytest.raises(BadInput) as error:
        refuse_two_readings(text)
    assert message in str(error.value)


@pytest.mark.parametrize("text", ["7", "heap", "401000-4fe000", "00400000-00452000", "0x11", "libc-2.36", "3.11", ""])
def test_what_has_one_reading_is_not_refused(text: str) -> None:
    refuse_two_readings(text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["translate", "self", "4198400"], "4198400 could be 0x4198400, or decimal, which is 0x401000"),
        (
            ["maps", "self", "11111111"],
            "11111111 could be 0x11111111, or decimal, which is 0xa98ac7: type one of these; for part of a path: "
            "--path 11111111",
        ),
        (["pages", "self", "400000-452000"], "could be 0x400000-0x452000"),
        (["map", "self", "400000+8K"], "could be 0x400000+8K"),
        (["hist", "self", "400000"], "could be 0x400000"),
        (["tables", "self", "400000"], "could be 0x400000"),
        (["tables", "self", "--list", "--range", "400000+8K"], "could be 0x400000+8K"),
        (["pageout", "self", "400000", "--dry-run"], "could be 0x400000"),
        (["translate", "self", "heap"], "for all its pages: mematlas pages self heap"),
        (["translate", "self", "0x1000+8K"], "for all its pages: mematlas pages self 0x1000+8K"),
        (["translate", "self", "0x1000-0x3000"], "for all its pages: mematlas pages self 0x1000-0x3000"),
        (
            ["translate", "self", "10000000000000000"],
            "is beyond the address space; if it is decimal, type 0x2386f26fc10000",
        ),
    ],
)
def test_every_command_refuses_what_has_two_readings(words: list[str], message: str) -> None:
    run = mematlas(*words)

    assert (run.returncode, run.stdout) == (2, "")
    assert message in run.stderr


def test_a_list_tells_how_its_numbers_are_meant() -> None:
    run = mematlas("translate", os.getpid(), "--format", "csv", "7f0000001000", "400000")

    assert [line.partition(",")[0] for line in run.stdout.splitlines()[1:]] == ["0x7f0000001000", "0x400000"]
