"""Every parser, whatever it is given, returns or raises an error of our tree, and soon. `make fuzz` does more."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mematlas
from parsers import all_parsers

CAMPAIGN = Path(__file__).with_name("campaign.py")
SOURCE = Path(mematlas.__file__).parent
ELSEWHERE = {
    # Tried by whole command lines.
    "mematlas.cli.arguments.Arguments.parse_slowly",
}


def functions(module: str, nodes: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    """Yield the full names of functions and methods."""
    for node in nodes:
        if isinstance(node, ast.FunctionDef):
            yield f"{module}.{prefix}{node.name}"
        elif isinstance(node, ast.ClassDef):
            yield from functions(module, node.body, f"{node.name}.")


def all_functions() -> Iterator[str]:
    for path in sorted(SOURCE.rglob("*.py")):
        module = ".".join(("mematlas", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
        yield from functions(module, ast.parse(path.read_text()).body)


def test_every_parser_is_tried() -> None:
    found = {name for name in all_functions() if name.rpartition(".")[2].split("_")[0] == "parse"}
    tried = {name for parser in all_parsers() for name in parser.covers} | ELSEWHERE
    assert found - tried == set(), "add it to tests/fuzz/parsers.py"
    assert tried - set(all_functions()) == set()


def test_parsers_raise_errors_of_our_tree_and_end() -> None:
    words = [sys.executable, str(CAMPAIGN), "parsers", "--inputs", "12000", "--recorded", "--workers", "1"]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "parsers: 12,000 inputs" in result.stdout
