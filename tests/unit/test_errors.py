"""Every error has an exit code, a line for a person, and data."""

from __future__ import annotations

import inspect

import pytest

from mematlas import errors
from mematlas.errors import Error, FormatError, NotSupported, PermissionDenied, TargetAmbiguous

CODES = {
    "Error": 1,
    "FormatError": 1,
    "TooLarge": 1,
    "BadInput": 2,
    "TargetNotFound": 3,
    "TargetAmbiguous": 3,
    "NoAddressSpace": 3,
    "PermissionDenied": 4,
    "NotSupported": 5,
    "NotHeld": 5,
    "ProcessGone": 6,
    "AssertionNotMet": 10,
}


def test_exit_codes_are_those_of_the_manual() -> None:
    classes = {name: one for name, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, Error)}

    assert {name: one.exit_code for name, one in classes.items()} == CODES


@pytest.mark.parametrize("name", CODES)
def test_tree_on_top_of_the_module_shows_the_code(name: str) -> None:
    line = next(line for line in (errors.__doc__ or "").splitlines() if name in line.split())
    assert str(CODES[name]) in line.split()


def test_messages_are_one_line_that_says_what_to_do() -> None:
    assert str(PermissionDenied("/proc/1/maps", "CAP_X")) == "/proc/1/maps: permission denied (needs CAP_X)"
    assert str(PermissionDenied("/x")) == "/x: permission denied"
    assert str(NotSupported("/proc/1/pagemap", "CONFIG_X")) == "/proc/1/pagemap: not supported here (needs CONFIG_X)"
    assert str(FormatError("maps", "a\n" * 100)).count("\n") == 0


def test_ambiguity_lists_its_candidates() -> None:
    error = TargetAmbiguous("sh", ["12 sh", "13 sh"])

    assert (error.target, error.candidates) == ("sh", ["12 sh", "13 sh"])
    assert str(error).splitlines()[1:] == ["  12 sh", "  13 sh"]
