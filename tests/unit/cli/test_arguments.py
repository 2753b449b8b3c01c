"""The plain parser of command lines says what argparse says, or leaves it to argparse."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import helpers  # noqa: F401  (the settings of hypothesis)
from mematlas.cli import COMMANDS, load, main
from mematlas.cli.arguments import Arguments
from mematlas.errors import BadInput

WORDS = (
    *("123", "self", "~x", "heap", "0x7f00+8K", "-", "", "a b", "--", "-1", "--help", "-h", "--nonsense", "-z"),
    *("-p", "--pid", "--pid=5", "-p5", "-p=5", "--pi", "--after", "--after=2s", "1s", "200ms", "later"),
    *("--json", "--js", "--json=1", "--bytes", "--format", "--format=csv", "csv", "xml", "--color=never"),
    *("-i", "-i1", "--interval", "-n", "-n2", "--count=3", "3", "0", "--source", "smaps", "--source=pagemap"),
    *("--perms", "rwx", "--perms=q", "--kind", "heap,stack", "--kind=", "--path", "--path=", "--gaps", "--verify"),
    *("--runs", "--present", "--soft-dirty", "--soft_dirty", "--limit", "--width", "--width=x", "--cell", "7"),
)


def declare(command: str) -> Arguments:
    arguments = Arguments()
    load(command).add_arguments(arguments)
    return arguments


def see_slowly(arguments: Arguments, words: list[str]) -> dict[str, Any] | str:
    """Return what argparse makes of a line: values, or how it ends."""
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            return vars(arguments.parse_slowly(words, "mematlas x", "", ""))
    except SystemExit as stop:
        return f"exit {stop.code}"
    except BadInput as error:
        return f"bad input: {error}"


def see_plainly(arguments: Arguments, words: list[str]) -> dict[str, Any] | str | None:
    """Return what our own parser makes of it; None when it leaves the line to argparse."""
    try:
        found = arguments.parse(words)
    except BadInput as error:
        return f"bad input: {error}"
    return None if found is None else vars(found)


LOADED = [name for name in COMMANDS if name != "workload"]


@given(st.sampled_from(["usage", "maps", "pages", "translate", "hist", "map"]), st.lists(st.sampled_from(WORDS)))
def test_both_parsers_agree(command: str, words: list[str]) -> None:
    arguments = declare(command)

    plain = see_plainly(arguments, words)
    if isinstance(plain, dict):
        assert plain == see_slowly(arguments, words)


@pytest.mark.parametrize(
    "line",
    ["123", "-p 123", "123 heap --json", "123 --json heap", "self --kind heap,stack --perms rw -i 1s -n 3", ""],
)
def test_plain_lines_need_no_argparse(line: str) -> None:
    arguments = declare("maps")

    plain = arguments.parse(line.split())
    assert plain is not None
    assert vars(plain) == see_slowly(arguments, line.split())


@pytest.mark.parametrize(
    "line", ["--help", "--js", "--json=1", "-n2", "--format xml", "--nonsense", "--path", "-x -- y"]
)
def test_other_lines_are_left_to_argparse(line: str) -> None:
    assert declare("maps").parse(line.split()) is None


@pytest.mark.parametrize("line", ["1 --js", "1 --js heap", "-n2 1", "-p5"])
def test_abbreviations_work_through_argparse(line: str) -> None:
    assert isinstance(see_slowly(declare("maps"), line.split()), dict)


@pytest.mark.parametrize("line", ["-n 0", "-i never", "--perms q", "--kind heapp"])
def test_values_that_make_no_sense_are_refused_alike(line: str) -> None:
    arguments = declare("maps")

    assert see_plainly(arguments, line.split()) == see_slowly(arguments, line.split())
    assert str(see_plainly(arguments, line.split())).startswith("bad input")


@pytest.mark.parametrize("option", ["--path", "--source", "--interval", "--sour"])
def test_two_dashes_are_no_value(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["maps", "self", f"{option}=--"])

    assert end.value.code == 2
    assert f"{option}: expected one argument" in capsys.readouterr().err


def test_defaults_are_argparses() -> None:
    for command in ("usage", "maps", "pages", "translate", "hist", "map"):
        arguments = declare(command)
        assert see_plainly(arguments, []) == see_slowly(arguments, [])


def test_a_word_that_is_not_understood_is_shown_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        declare("maps").parse_slowly(["-\x1b[2J\u202e"], "mematlas maps", "", "")
    assert r"-\x1b[2J\u202e" in capsys.readouterr().err
