"""The plain parser of command lines says what argparse says, or leaves it to argparse."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import helpers  # noqa: F401  (the settings of hypothesis)
from mematlas.cli import main
from mematlas.cli.arguments import Arguments
from mematlas.cli.command import COMMANDS, load
from mematlas.cli.mistakes import how_to_install
from mematlas.errors import BadInput
from victim import Victim

WORDS = (
    *("123", "self", "~x", "heap", "0x7f00+8K", "-", "", "a b", "--", "-1", "--help", "-h", "--nonsense", "-z"),
    *("-p", "--pid", "--pid=5", "-p5", "-p=5", "--pi", "--after", "--after=2s", "1s", "200ms", "later"),
    *("--json", "--js", "--json=1", "--bytes", "--format", "--format=csv", "csv", "xml", "--color=never"),
    *("-i", "-i1", "--interval", "-n", "-n2", "--count=3", "3", "0", "--source", "smaps", "--source=pagemap"),
    *("--perms", "rwx", "--perms=q", "--kind", "heap,stack", "--kind=", "--path", "--path=", "--gaps", "--verify"),
    *("--runs", "--present", "--soft-dirty", "--soft_dirty", "--limit", "--width", "--width=x", "--cell", "7"),
)


VALUES = st.sampled_from(("1", "1s", "x", "", "heap", "4K", "pte", "--"))


def declare(command: str) -> Arguments:
    arguments = Arguments()
    load(command).add_arguments(arguments)
    return arguments


def see_slowly(arguments: Arguments, words: list[str]) -> dict[str, Any] | str:
    """Return what argparse makes of a line: values, or what is wrong with it."""
    try:
        return vars(arguments.parse_slowly(words))
    except BadInput as error:
        return f"bad input: {error}"


def see_plainly(arguments: Arguments, words: list[str]) -> dict[str, Any] | str | None:
    """Return what our own parser makes of it; None when it leaves the line to argparse."""
    try:
        found = arguments.parse(words)
    except BadInput as error:
        return f"bad input: {error}"
    return None if found is None else vars(found)


DECLARED = {name: declare(name) for name in (*COMMANDS, "overview")}


@st.composite
def lines(draw: st.DrawFn) -> tuple[Arguments, list[str]]:
    """A command's declarations, and a line of words, of its own options too."""
    arguments = DECLARED[draw(st.sampled_from(sorted(DECLARED)))]
    own = arguments.names(["--help"])
    word = st.sampled_from(WORDS) | st.sampled_from(own) | st.builds("{}={}".format, st.sampled_from(own), VALUES)
    return arguments, draw(st.lists(word, max_size=8))


@given(lines())
def test_both_parsers_agree(line: tuple[Arguments, list[str]]) -> None:
    arguments, words = line

    plain = see_plainly(arguments, words)
    if isinstance(plain, dict):
        assert plain == see_slowly(arguments, words)


UNUSUAL: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "append": (("--more",), {"action": "append"}),
    "required": (("--more",), {"required": True}),
    "count": (("--more",), {"action": "count", "default": 0}),
    "two values": (("--more",), {"nargs": 2}),
    "store_false": (("--more",), {"action": "store_false"}),
    "store_const": (("--more",), {"action": "store_const", "const": 7}),
    "a default to convert": (("--more",), {"type": int, "default": "7"}),
    "a word that may be left out": (("more",), {"nargs": "?"}),
    "one word or more": (("more",), {"nargs": "+"}),
    "words with choices": (("more",), {"nargs": "*", "choices": ("x", "y")}),
    "a word to convert": (("more",), {"type": int}),
    "a setting that is new": (("--more",), {"deprecated": True}),
}


@pytest.mark.parametrize("what", UNUSUAL)
@pytest.mark.parametrize("line", ["", "--more x", "--more x --more y", "--more", "--more x y", "x", "--flag", "7"])
def test_what_the_plain_parser_does_not_know_is_left_to_argparse(what: str, line: str) -> None:
    names, settings = UNUSUAL[what]
    arguments = Arguments()
    arguments.add_argument("--flag", action="store_true")
    arguments.add_argument(*names, **settings)

    assert arguments.parse(line.split()) is None


@pytest.mark.parametrize(
    ("what", "line", "value"),
    [
        ("append", "--more x --more y", ["x", "y"]),
        ("count", "--more --more", 2),
        ("two values", "--more x y", ["x", "y"]),
        ("store_false", "--more", False),
        ("store_false", "", True),
        ("a default to convert", "", 7),
        ("one word or more", "x y", ["x", "y"]),
    ],
)
def test_argparse_gives_them_their_meaning(what: str, line: str, value: object) -> None:
    names, settings = UNUSUAL[what]
    arguments = Arguments()
    arguments.add_argument(*names, **settings)

    assert arguments.parse_slowly(line.split()).more == value


def test_an_option_that_is_required_is_asked_for() -> None:
    arguments = Arguments()
    arguments.add_argument("--more", required=True)

    with pytest.raises(BadInput, match="--more"):
        arguments.parse_slowly([])


def test_an_option_is_called_by_its_first_long_name_and_has_its_first_default() -> None:
    arguments = Arguments()
    arguments.add_argument("--long-name", "-l", default=1)
    arguments.add_argument("--other", dest="long_name", default=2)

    assert see_plainly(arguments, []) == see_slowly(arguments, []) == {"long_name": 1}
    assert see_plainly(arguments, ["-l", "3"]) == see_slowly(arguments, ["-l", "3"]) == {"long_name": "3"}


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


@pytest.mark.parametrize("name", DECLARED)
def test_defaults_are_argparses(name: str) -> None:
    arguments = DECLARED[name]
    slow = see_slowly(arguments, [])

    assert see_plainly(arguments, []) in (slow, None)


# --- mistakes


@pytest.mark.parametrize("option", ["--path", "--source", "--interval", "--sour"])
def test_two_dashes_are_no_value(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["maps", "self", f"{option}=--"]) == 2
    assert f"{option} needs a value" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("maps 1 --formt json", "unknown option '--formt' (did you mean --format?)"),
        ("maps 1 --formt=json", "unknown option '--formt=json' (did you mean --format?)"),
        ("maps 1 --hlep", "unknown option '--hlep' (did you mean --help?)"),
        ("maps 1 --qqqq", "unknown option '--qqqq'"),
        ("--verison", "unknown option '--verison' (did you mean --version?)"),
        ("--jsn", "unknown option '--jsn' (did you mean --json?)"),
        ("doctor here", "unexpected argument 'here'"),
        ("completion", "SHELL is missing"),
        ("completion bash zsh", "unexpected argument 'zsh'"),
        ("maps self heap more", "unexpected argument 'more'"),
        ("maps 1 --format jsn", "bad --format 'jsn': table, json, jsonl or csv (did you mean json?)"),
        ("completion fsh", "bad 'fsh': bash, zsh or fish (did you mean fish?)"),
        ("maps 1 --path", "--path needs a value"),
        ("maps 1 --kind heapp", "--kind: no such kind: heapp (did you mean heap?); choose from heap, stack, anon, "),
        ("pageout 1 --state presnt", "--state: no such state: presnt (did you mean present?); choose from "),
        ("maps 1 --limit -1", "--limit: bad number '-1': 1 or more"),
        ("usage 1 -n 0", "-n: bad number '0': 1 or more"),
        ("usage 1 --qqqq -n 0", "-n: bad number '0': 1 or more"),
        ("usage 1 --max-stall -5ms", "--max-stall: bad time '-5ms': try 1s"),
        ("usage 1 -i 999999999999s", "-i: bad time '999999999999s': 30 years at most"),
        ("usage 1 -i 1e400", "-i: bad time '1e400': 30 years at most"),
        ("pages 1 --state swapped", "unknown option '--state'\n"),
        ("maps 1 --sort RSS", "bad --sort 'RSS': start, size, rss, pss, uss, swap, here or change (did you mean rss?)"),
        ("usage cmdline:", "which command lines? Give an expression: cmdline:REGEX"),
        ("version", "no command 'version' (did you mean --version?); mematlas --help lists them"),
        ("lab zer", "no lesson 'zer' (did you mean zero?): choose from reserve, zero, "),
        ("workload drw", "no workload 'drw' (did you mean draw?): choose from singlemap, "),
        ("demo pagin", "no demo 'pagin' (did you mean paging?): choose from tour, paging"),
        ("htop", "no command 'htop'; for the largest processes: mematlas (live: mematlas top)"),
        ("mpas 1", "no command 'mpas' (did you mean maps?); mematlas --help lists them"),
        ("help mpas", "no help on 'mpas' (did you mean maps?); mematlas --help lists the commands"),
    ],
)
def test_a_mistake_is_reported_in_one_line_of_mematlas(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"mematlas: {message}")


def test_a_word_that_is_not_understood_is_shown_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["maps", "self", "-\x1b[2J\u202e"]) == 2
    assert r"-\x1b[2J\u202e" in capsys.readouterr().err


def test_what_could_be_a_target_leads_to_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Victim() as victim:
        name = f"v {victim.pid}"
        victim.tell("rename", name=name)
        assert main(["1234567"]) == main([name, "--json"]) == 2
    assert capsys.readouterr().err == (
        "mematlas: no command '1234567'; to look at that process: mematlas usage 1234567\n"
        f"mematlas: no command '{name}'; to look at that process: mematlas usage '{name}'\n"
    )


MANAGED = "sudo apt install python3-numpy"


@pytest.mark.parametrize(
    ("is_managed", "is_venv", "line"),
    [(False, False, "-m pip install numpy"), (True, True, "-m pip install numpy"), (True, False, MANAGED)],
)
def test_a_python_of_the_system_has_its_packages_from_there(
    is_managed: bool, is_venv: bool, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if line == MANAGED and not Path("/etc/debian_version").exists():
        pytest.skip("needs Debian")
    if is_managed:
        (tmp_path / "EXTERNALLY-MANAGED").touch()
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(sys, "base_prefix", "/elsewhere" if is_venv else sys.prefix)

    assert how_to_install("numpy").endswith(line)
