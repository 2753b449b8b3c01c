"""The source of mematlas as the parser has it, each module read once, and not before a test asks for it."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import mematlas

SOURCE = Path(mematlas.__file__).parent
PATHS = tuple(sorted(SOURCE.rglob("*.py")))


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """Return the tree of a module."""
    return ast.parse(path.read_text(encoding="utf-8"))


def trees() -> Iterator[tuple[Path, ast.Module]]:
    """Yield each module with its tree."""
    return ((path, tree_of(path)) for path in PATHS)
