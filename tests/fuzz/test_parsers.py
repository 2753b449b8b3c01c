"""No parser is forgotten."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import mematlas
from parsers import all_parsers

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
    assert found - tried == set(), "give its docstring an example with bytes, or add it to tests/fuzz/parsers.py"
    assert tried - set(all_functions()) == set()
