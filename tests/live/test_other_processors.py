"""Where page tables are not read, which is so of every processor but x86-64, all else works, and one line says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from helpers import PAGE, sparse
from mematlas.cli import main
from mematlas.kernel.memory import x86
from mematlas.model.pagetables import count_access

Run = Callable[..., tuple[int, str]]

COMMANDS = (
    ("usage", "--verify"),
    ("maps",),
    ("map",),
    ("hist",),
    ("pages", "--runs"),
    ("translate", "0x1000"),
    ("pageout", "--dry-run"),
)


@pytest.fixture(autouse=True)
def other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this be another processor."""
    for module in (x86, count_access):
        monkeypatch.setattr(module, "is_x86_64", lambda: False)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Return a function that runs a command on a program, and returns its exit code and what it says aside."""
    with sparse(101 * PAGE, range(23)) as target:

        def run(name: str, *rest: str) -> tuple[int, str]:
            return main([name, str(target.pid), *rest]), capsys.readouterr().err

        yield run


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_what_needs_no_page_tables_works(words: tuple[str, ...], run: Run) -> None:
    code, said = run(*words)

    assert code == 0
    assert ("page tables cannot be read: reading the page tables of" in said) == ("--verify" in words)


@pytest.mark.parametrize(
    "words", [("tables",), ("tables", "0x1000"), ("usage", "--source", "tables"), ("map", "--source", "tables")]
)
def test_what_needs_them_says_in_one_line_what_is_missing(words: tuple[str, ...], run: Run) -> None:
    code, said = run(*words)
    (line,) = said.splitlines()

    assert code == 5
    assert line.endswith("not supported here (needs x86-64)")
