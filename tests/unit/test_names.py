"""What the source defines is used there, or offered in the guide; what else stays is named here, with the reason."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from sources import SOURCE, trees

LIBRARY = SOURCE.parents[1] / "docs" / "library.md"
FOR_TESTS = {
    "arm64": "unproven: kernel memory is read on x86-64 alone",
    "riscv64": "the same",
    "parse_maps": "what read_maps does, without a process",
    "LESS": "one of the three answers of kcmp(2)",
    "PAPER": "the backgrounds that contrast is computed with",
    "_repr_html_": "called by notebooks",
    **dict.fromkeys(("compose", "on_mount", "on_unmount", "on_resize", "on_key", "on_click"), "called by Textual"),
    **dict.fromkeys(("on_mouse_scroll_up", "on_mouse_scroll_down", "on_top_news"), "called by Textual"),
    **dict.fromkeys(("on_input_submitted", "render_line"), "called by Textual"),
}


def is_public(name: str) -> bool:
    """Whether a name is more than the interpreter's or the type checker's own."""
    return not name.startswith("__") and name != "TYPE_CHECKING"


def defined(tree: ast.Module) -> Iterator[str]:
    """Yield the names that a module sets at its top, and its methods, but those of names put together (``do_``)."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
            yield from (
                part.name
                for part in getattr(node, "body", ())
                if isinstance(node, ast.ClassDef) and isinstance(part, ast.FunctionDef) and part.name[:3] != "do_"
            )
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name))


def used(tree: ast.Module) -> Iterator[str]:
    """Yield the names that a module reads, or has as a text, as ``__all__`` and lazy imports do."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value.rpartition(":")[2]  # MODULE:NAME too


def test_nothing_is_defined_that_nobody_uses() -> None:
    names = {name for _, tree in trees() for name in used(tree)} | set(re.findall(r"(\w+)\(", LIBRARY.read_text()))
    unused = {
        f"{path.relative_to(SOURCE)}: {name}"
        for path, tree in trees()
        for name in defined(tree)
        if is_public(name) and name not in names and name not in FOR_TESTS
    }
    assert unused == set()
    assert set(FOR_TESTS) <= {name for _, tree in trees() for name in defined(tree)}


LOW = ("kernel", "doctor", "labs")


def test_a_class_of_the_lower_layers_and_of_labs_has_its_name_alone() -> None:
    places: dict[str, list[str]] = {}
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(str(path.relative_to(SOURCE)))
    shared = {name: where for name, where in places.items() if len(where) > 1}
    assert {name: where for name, where in shared.items() if any(place.startswith(LOW) for place in where)} == {}
