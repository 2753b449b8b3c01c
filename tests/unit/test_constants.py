"""What the kernel and the hardware define is defined once here, in the module of its file, and imported elsewhere."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator

from sources import PATHS, SOURCE, trees

KERNEL_NAME = re.compile(
    r"(BPF|BTF|KPF|MADV|MAP|MARKER|PAGEMAP|PAGE_IS|PERF|PM|PMD|PROCMAP|PROT|PR|PUD|SYS|UFFDIO|X86)_\w+|UFFD_[AFU]\w+|PAGE|U64|GIB|UNKNOWN"
)
"""Names with the spelling of the kernel, of the sizes that go with them, and of the state that means one thing."""
LONG_TEXT = 16


def constants() -> Iterator[tuple[str, str, ast.expr]]:
    """Yield the name of each constant at the top of a module, where it is, and its value."""
    for path, tree in trees():
        for statement in tree.body:
            for name, value in names_of(statement):
                yield name, str(path.relative_to(SOURCE)), value


def names_of(statement: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    """Yield the names in capitals that a statement sets, with what they are set to."""
    if isinstance(statement, ast.Assign):
        targets, value = statement.targets, statement.value
    elif isinstance(statement, ast.AnnAssign) and statement.value:
        targets, value = [statement.target], statement.value
    else:
        return
    for target in targets:
        for node in ast.walk(target):
            if isinstance(node, ast.Name) and node.id.isupper():
                yield node.id, value


def test_what_the_kernel_defines_is_defined_once() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for name, place, _ in constants():
        if KERNEL_NAME.fullmatch(name):
            places[name].append(place)

    assert places["PM_PRESENT"] == ["kernel/pagemap.py"]
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_no_long_text_is_a_constant_twice() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for name, place, value in constants():
        if name == "USAGE":  # what a command line takes is each command's own
            continue
        if isinstance(value, ast.Constant) and isinstance(value.value, str) and len(value.value) >= LONG_TEXT:
            places[value.value].append(f"{place}: {name}")

    assert {text: where for text, where in places.items() if len(where) > 1} == {}


def test_masks_are_used_by_their_names() -> None:
    masks = {"PM_PFRAME": "(1 << 55) - 1", "U64": "(1 << 64) - 1"}
    for name, mask in masks.items():
        lines = [
            (path.name, line)
            for path in PATHS
            for line in path.read_text().splitlines()
            if mask in line and '"' not in line
        ]
        assert [line.partition(" = ")[0] for _, line in lines] == [name], lines
