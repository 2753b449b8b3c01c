"""Every error has an exit code, a line for a person, and data."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator

import pytest

from mematlas import errors
from mematlas.errors import Error, FormatError, NotSupported, PermissionDenied, TargetAmbiguous
from mematlas.kernel.rights import CAPABILITIES
from mematlas.model.search import Candidate
from sources import trees

CODES = {
    "Error": 1,
    "FormatError": 1,
    "TooLarge": 1,
    "TargetRefused": 1,
    "NotConfirmed": 1,
    "BadInput": 2,
    "TargetNotFound": 3,
    "TargetAmbiguous": 3,
    "NoAddressSpace": 3,
    "PermissionDenied": 4,
    "NotSupported": 5,
    "NotHeld": 5,
    "LibraryMissing": 5,
    "ProcessGone": 6,
    "CgroupGone": 6,
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


def test_a_refusal_has_the_capabilities_as_a_set_and_says_what_else_would_do() -> None:
    both = PermissionDenied("/proc/1/pagemap", "CAP_A", "CAP_B")
    other = PermissionDenied("mincore", text="root, or being the owner of the file")
    either = PermissionDenied("bpf(2)", "CAP_A", "CAP_B", text="CAP_A and CAP_B, or CAP_C")

    assert (sorted(both.needs), both.text) == (["CAP_A", "CAP_B"], "CAP_A and CAP_B")
    assert (sorted(other.needs), str(other)) == (
        [],
        "mincore: permission denied (needs root, or being the owner of the file)",
    )
    assert (sorted(either.needs), str(either)) == (
        ["CAP_A", "CAP_B"],
        "bpf(2): permission denied (needs CAP_A and CAP_B, or CAP_C)",
    )


def refusals() -> Iterator[tuple[str, ast.Call]]:
    """Yield each place in the source that makes a `PermissionDenied`."""
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "PermissionDenied":
                yield f"{path.name}:{node.lineno}", node


def test_what_a_refusal_needs_are_capabilities_that_are_known() -> None:
    needed = {
        (place, word.value) for place, call in refusals() for word in call.args[1:] if isinstance(word, ast.Constant)
    }

    assert needed
    assert {(place, word) for place, word in needed if word not in CAPABILITIES} == set()


def test_ambiguity_lists_its_candidates() -> None:
    candidates = [Candidate(pid=pid, user="root", rss=None, command="sh") for pid in (12, 13)]
    error = TargetAmbiguous("sh", candidates, nr_more=7)

    assert (error.target, error.candidates, error.nr_more) == ("sh", candidates, 7)
    assert str(error) == "'sh' names 9 processes; give one PID: 12, 13 and 7 more"
