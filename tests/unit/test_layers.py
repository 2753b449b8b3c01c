"""How the modules lie upon each other, what a light command loads, and what the library shows."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import subprocess
import sys
import tokenize
from importlib import import_module
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest

import mematlas
from helpers import loaded_by
from mematlas import words
from mematlas.cli.command import COMMANDS
from mematlas.kernel.maps import KINDS
from mematlas.model.pages import STATES
from mematlas.observe.sources import PAGE_SOURCES, SOURCES
from sources import PATHS, SOURCE, tree_of

FILES = {
    ".".join(("mematlas", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in PATHS
}
LAYERS = (
    *(("version", "frozen", "words"), ("errors", "notes"), ("arrays",), ("kernel",), ("model",), ("analysis",)),
    *(("doctor", "observe"), ("actions",), ("timeline",), ("views",), ("labs", "tui", "web", "fleet"), ("cli",)),
)
"""From the lowest up. Those of one layer that stand beside one another know nothing of one another."""
OF_NO_LAYER = {"mematlas", "mematlas.__main__"}
"""The public names, and the door to the command line."""
RANKS = {name: rank for rank, names in enumerate(LAYERS) for name in names}

HEAVY = {"numpy", "argparse", "dataclasses", "inspect", "typing", "re"}
LIGHT = (["--help"], ["--version"])
MOST_MODULES, MOST_MODULES_OF_HELP = 42, 9
"""Of ours that a light look, and help, may load: each costs its start 0.1 ms and more, whatever is in it."""
MOST_LINES = 610
LOOKS = ("usage", "maps", "hist", "map", "translate")


def part_of(module: str) -> str:
    """Return the layer's name: ``kernel`` of ``mematlas.kernel.maps``."""
    return module.partition(".")[2].partition(".")[0]


def may_use(module: str, other: str) -> bool:
    """Whether a module may import another: of its own part, or of a lower layer."""
    part, used = part_of(module), part_of(other)
    return part == used or RANKS.get(used, len(LAYERS)) < RANKS[part]


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports_of(nodes: list[ast.stmt], deep: bool) -> set[str]:
    """Return the modules of ours that statements import: at run time and at the top, or anywhere with ``deep``."""
    found: set[str] = set()
    for node in nodes:
        if is_type_checking(node) and not deep:
            continue
        for inner in ast.walk(node) if deep or not isinstance(node, ast.FunctionDef | ast.ClassDef) else ():
            if isinstance(inner, ast.Import):
                found |= {alias.name for alias in inner.names}
            elif isinstance(inner, ast.ImportFrom) and inner.module:
                found |= {f"{inner.module}.{alias.name}" for alias in inner.names} & FILES.keys() or {inner.module}
    return {name for name in found if name in FILES}


@pytest.mark.parametrize("module", sorted(FILES.keys() - OF_NO_LAYER))
def test_module_imports_its_own_layer_or_a_lower_one(module: str) -> None:
    # An `if TYPE_CHECKING` import counts too: a lower layer does not know the words of a higher one.
    assert not {name for name in imports_of(tree_of(FILES[module]).body, deep=True) if not may_use(module, name)}


@pytest.mark.parametrize("module", sorted(FILES.keys() - {"mematlas.arrays"}))
def test_numpy_comes_from_the_module_that_says_when_it_is_missing(module: str) -> None:
    assert not re.search(r"^ *(import|from) numpy", FILES[module].read_text(), re.MULTILINE)


def test_every_module_has_a_layer() -> None:
    assert {name for name in FILES if part_of(name) not in RANKS} == OF_NO_LAYER


def test_no_import_goes_round() -> None:
    uses = {name: imports_of(tree_of(path).body, deep=True) for name, path in FILES.items()}
    while True:
        # Take away what uses nothing more; what remains goes round.
        done = {name for name, others in uses.items() if not others}
        if not done:
            break
        uses = {name: others - done for name, others in uses.items() if name not in done}
    assert not uses


@pytest.mark.parametrize("words", LIGHT, ids=" ".join)
def test_light_commands_load_little(words: list[str]) -> None:
    assert not HEAVY & loaded_by(*words)


def test_completion_loads_every_command_but_not_what_they_need() -> None:
    # It quotes for shells, and shlex is made of re.
    assert not (HEAVY - {"re"}) & loaded_by("completion", "bash")


@pytest.mark.parametrize("more", [[], ["--bytes", "--color", "never"]], ids=["plain", "options"])
@pytest.mark.parametrize("command", LOOKS)
def test_looking_at_a_process_loads_little(command: str, more: list[str]) -> None:
    words = [command, str(os.getpid()), *(["0x1000"] if command == "translate" else []), *more]

    assert not HEAVY & loaded_by(*words)


@pytest.mark.parametrize("command", ["usage", "maps"])
def test_looking_at_a_process_loads_few_modules(command: str) -> None:
    loaded = loaded_by(command, str(os.getpid()), "--source", "smaps")

    assert len(FILES.keys() & loaded) <= MOST_MODULES, sorted(FILES.keys() & loaded)


def test_help_loads_few_modules() -> None:
    loaded = FILES.keys() & loaded_by("--help")

    assert len(loaded) <= MOST_MODULES_OF_HELP, sorted(loaded)


@pytest.mark.parametrize("source", ["smaps", "pagemap"])
def test_neither_source_loads_much(source: str) -> None:
    assert not HEAVY & loaded_by("usage", str(os.getpid()), "--source", source)


@pytest.mark.root("CAP_SYS_ADMIN")
def test_a_source_loads_nothing_of_another() -> None:
    by_smaps = loaded_by("usage", str(os.getpid()), "--source", "smaps")
    by_pagemap = loaded_by("usage", str(os.getpid()), "--source", "pagemap")

    assert not {f"mematlas.model.{name}" for name in ("pages", "sharers", "search", "hugecounts")} & by_smaps
    assert not {"mematlas.model.unsaid", "mematlas.model.search"} & by_pagemap


@pytest.mark.parametrize("command", ["usage", "maps"])
def test_amounts_by_node_load_little_where_the_kernel_adds_them_up(command: str) -> None:
    assert not HEAVY & loaded_by(command, str(os.getpid()), "--numa", "--source", "smaps")


def test_pages_is_light_too_unless_it_groups() -> None:
    assert "numpy" not in loaded_by("pages", str(os.getpid()), "stack", "--limit", "3")


# --- what draws and what answers open nothing

VIEWS = {name: path for name, path in FILES.items() if part_of(name) == "views"}
ANSWERS = {name: path for name, path in FILES.items() if part_of(name) == "analysis"}
THAT_READ = ("kernel", "doctor", "observe", "actions")
"""The parts that open files of the kernel, or act."""
OPENERS = {"open", "fdopen", "scandir", "listdir", "walk", "stat", "readlink", "pread", "read_text", "read_bytes"}


def run_time(path: Path) -> list[ast.AST]:
    """Return the nodes of a module that are there when it runs: all but those for type checkers."""
    return [node for top in tree_of(path).body if not is_type_checking(top) for node in ast.walk(top)]


@pytest.mark.parametrize("view", VIEWS)
def test_views_take_nothing_but_constants_of_what_reads(view: str) -> None:
    imports = [node for node in run_time(VIEWS[view]) if isinstance(node, ast.ImportFrom | ast.Import)]
    taken = {
        f"{node.module}.{alias.name}"
        for node in imports
        if isinstance(node, ast.ImportFrom) and node.module and part_of(node.module) in THAT_READ
        for alias in node.names
        if not alias.name.isupper()
    }
    whole = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}

    assert not taken
    assert not {name for name in whole if name.startswith(("mematlas", "numpy"))}


@pytest.mark.parametrize("path", [*VIEWS.values(), *ANSWERS.values()], ids=[*VIEWS, *ANSWERS])
def test_views_and_answers_open_no_file_and_walk_no_directory(path: Path) -> None:
    calls = [node.func for node in run_time(path) if isinstance(node, ast.Call)]
    names = {func.id if isinstance(func, ast.Name) else getattr(func, "attr", "") for func in calls}

    assert not names & OPENERS


# --- the library


def test_public_names_exist_and_say_what_they_are() -> None:
    for name in mematlas.__all__:
        value = getattr(mematlas, name)
        assert name == "__version__" or value.__doc__, name
    assert mematlas.__all__ == sorted(mematlas.__all__)
    assert dir(mematlas) == sorted(mematlas.__all__)


def test_homes_are_where_the_public_names_are_defined() -> None:
    assert sorted(mematlas.HOMES) == mematlas.__all__
    for name, home in mematlas.HOMES.items():
        if name != "__version__":  # a text does not know where it is from
            assert getattr(import_module(home), name).__module__ == home


def test_public_names_are_the_same_whatever_was_imported_before() -> None:
    code = (
        "import mematlas, mematlas.observe.captures, mematlas.observe.process\n"
        "print([name for name in mematlas.__all__ if type(getattr(mematlas, name)).__name__ == 'module'])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert run.stdout.strip() == "[]"


def test_type_checkers_see_the_same_names() -> None:
    block = next(node for node in tree_of(SOURCE / "__init__.py").body if is_type_checking(node))
    seen = {alias.name for node in ast.walk(block) if isinstance(node, ast.ImportFrom) for alias in node.names}

    assert sorted(seen) == mematlas.__all__


def test_name_that_is_none_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mematlas.nothing  # noqa: B018


# --- sizes that are no constants

OTHER_NUMBERS = {"labs/workload.py": "MAX_PAGES ="}
"""A number of pages that happens to be as large as a page."""


@pytest.mark.parametrize("path", FILES.values(), ids=FILES.keys())
def test_no_code_takes_a_page_for_4096_bytes(path: Path) -> None:
    other = OTHER_NUMBERS.get(str(path.relative_to(SOURCE)), "\0")
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
    numbers = [token for token in tokens if token.type == tokenize.NUMBER and other not in token.line]

    assert not [token.line for token in numbers if token.string.lower() in ("4096", "0x1000", "4_096")]


def test_a_module_is_no_longer_than_a_reader_can_hold() -> None:
    lines = {module: len(path.read_text().splitlines()) for module, path in FILES.items()}

    assert {module: number for module, number in lines.items() if number > MOST_LINES} == {}


def test_modules_begin_by_saying_what_they_are() -> None:
    silent = [name for name, path in FILES.items() if not ast.get_docstring(tree_of(path))]

    # Those of the commands are their help; json keeps the list readable.
    assert not silent, json.dumps(silent)


def test_no_command_knows_another() -> None:
    # Nor does what they share know any of them: that is in modules of its own.
    commands = {f"mematlas.cli.{name}" for name in (*COMMANDS, "overview")}
    used = {name: imports_of(tree_of(path).body, deep=True) & commands for name, path in FILES.items() if "cli" in name}

    assert {name: others for name, others in used.items() if others} == {}


def test_words_for_type_checkers_are_those_that_are_checked() -> None:
    found = {name: get_args(value) for name, value in vars(words).items() if get_origin(value) is Literal}

    assert found == {
        "Source": SOURCES,
        "PagesFrom": PAGE_SOURCES,
        "Kind": KINDS,
        "State": STATES,
    }


def is_handed_down(argument: ast.arg) -> bool:
    """Whether an argument is a collector of notes, or a list of them: something to be filled."""
    return argument.annotation is not None and bool(
        re.search(r"\bNotes\b|list\[(Note|str)\]", ast.unparse(argument.annotation)) and "notes" in argument.arg
    )


def test_no_notes_are_handed_down_to_be_filled() -> None:
    """Who looks has notes of its own, and returns them with its answer."""
    functions = [
        (name, node)
        for name, path in FILES.items()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef)
    ]
    takers = [
        f"{name}.{node.name}"
        for name, node in functions
        if any(map(is_handed_down, [*node.args.args, *node.args.kwonlyargs]))
    ]

    assert len(functions) > 1000
    assert takers == []
