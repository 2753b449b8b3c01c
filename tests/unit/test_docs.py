"""The documents say what the program does: nothing in them is stale, missing or broken."""

from __future__ import annotations

import ast
import contextlib
import doctest
import functools
import importlib
import importlib.util
import io
import json
import pkgutil
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest

import mematlas
from mematlas import cli
from mematlas.analysis.movable import REASONS
from mematlas.cli.arguments import Arguments
from mematlas.cli.command import COMMANDS, Command, load
from mematlas.errors import BadInput
from mematlas.views import maps, pages, set_usage, translate, usage, vma_groups
from mematlas.views.columns import Column
from sources import tree_of, trees

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", *DOCS, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!\\)\[[^\]]*\]\(([^)\s]+)[^)]*\)")

# A person who does not exist, for examples with a home directory.
HOME_DIRECTORY = re.compile(r"(?<![\w.])/(?:home/(?!ann\b)\w|root/|Users/\w)")
# What a project may point at: the kernel's own documents, manuals, conventions. Package registries are not here.
HOSTS = {
    "docs.kernel.org",
    "git.kernel.org",
    "keepachangelog.com",
    "lore.kernel.org",
    "man7.org",
    "semver.org",
    "www.kernel.org",
    "www.w3.org",  # the name of SVG's namespace
}


def page_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


STAYS = ast.parse("""f"stays-{reason.replace(' ', '-')}" """.strip(), mode="eval").body
"""How the codes of reasons are made."""


def note_codes() -> set[str]:
    """Return the codes of all notes that the source makes: each stands there as it is, but for those of reasons."""
    codes = {f"stays-{reason.replace(' ', '-')}" for reason in REASONS}
    for _, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Note":
                code = node.args[0]
                if ast.unparse(code) != ast.unparse(STAYS):
                    codes.add(ast.literal_eval(code))
    return codes


def test_every_code_of_a_note_is_documented() -> None:
    text = (ROOT / "docs" / "notes.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?`) \|", text, re.MULTILINE)

    listed = [code for row in rows for code in re.findall(r"`([^`]+)`", row)]
    assert sorted(listed) == sorted(note_codes())


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- the reference and the guide


def test_command_reference_is_not_stale() -> None:
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == script("make_docs").page(), "run `make docs`"


def test_the_table_of_kernels_is_what_their_doctors_said() -> None:
    made = script("kernel_table")
    page = made.PAGE.read_text(encoding="utf-8")
    kernels = json.loads(made.DATA.read_text())
    assert made.with_table(page, made.table(kernels)) == page, "run scripts/kernel_table.py"
    assert made.merged(kernels, kernels) == kernels


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_explained(name: str) -> None:
    command = load(name)
    assert COMMANDS[name][1]
    assert command.usage
    assert command.about.strip()
    arguments = Arguments()
    command.add_arguments(arguments)
    assert [names for names, settings in arguments.declared if not settings.get("help")] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_guide(name: str) -> None:
    guide = "\n".join(page.read_text(encoding="utf-8") for page in DOCS if page.name != "cli.md")
    assert re.search(rf"^\S*\$ .*\bmematlas {name}\b", guide, re.MULTILINE)


def test_every_public_name_is_documented() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    unknown = [name for name in mematlas.__all__ if not re.search(rf"\b{name}\b", text) and not has_example(name)]
    assert unknown == []


def has_example(name: str) -> bool:
    return ">>>" in (getattr(mematlas, name).__doc__ or "")


# --- links


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_somewhere(page: Path) -> None:
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    assert [target for target in LINK.findall(prose) if is_broken(page, target)] == []


def is_broken(page: Path, target: str) -> bool:
    parts = urlsplit(target)
    if parts.scheme:
        return False
    other = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not other.is_relative_to(ROOT) or not other.exists():
        return True
    return bool(parts.fragment) and parts.fragment not in anchors(other)


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, made as the common web sites for git make them."""
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ +(.+?) *$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_broken_links_are_found(tmp_path: Path) -> None:
    page = ROOT / "docs" / "guide.md"
    assert is_broken(page, "nowhere.md")
    assert is_broken(page, "guide.md#no-such-heading")
    assert not is_broken(page, "../README.md")


def test_tests_that_reliability_names_are_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")))
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert {name for name in named if f"def {name}(" not in sources} == set()
    assert named


@pytest.mark.parametrize("picture", sorted((ROOT / "docs").glob("*.svg")), ids=page_name)
def test_pictures_leave_no_blanks_to_browsers(picture: Path) -> None:
    """Some collapse them, whatever xml:space says, and stretch what is left to the whole length."""
    texts = re.findall(r">([^<]+)</text>", picture.read_text(encoding="utf-8"))
    assert texts
    assert [text for text in texts if text != " ".join(text.split())] == []


# --- lists


NUMBERED = re.compile(r"^ {0,3}(\d+)[.)] ", re.MULTILINE)


def false_items(text: str) -> list[str]:
    """Return lines of prose that a wrap made look like items of a numbered list: no list begins or goes on there."""
    lines = FENCE.sub("", text).splitlines()
    found, last = [], 0
    for line in lines:
        if line.startswith("#"):
            last = 0
        if match := NUMBERED.match(line):
            if int(match[1]) != last + 1:
                found.append(line)
            last = int(match[1])
    return found


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_no_prose_looks_like_a_list(page: Path) -> None:
    assert false_items(page.read_text(encoding="utf-8")) == []


def test_prose_that_looks_like_a_list_is_found() -> None:
    assert false_items("1. one\n   more\n\n2. two\n") == []
    assert false_items("one entry instead of\n512. In pagemap\n") == ["512. In pagemap"]


# --- command lines


def command_lines(page: Path) -> Iterator[str]:
    """Every line after a prompt in the console blocks of a page."""
    for kind, block in FENCE.findall(page.read_text(encoding="utf-8")):
        if kind == "console":
            joined = block.replace("\\\n", " ")
            yield from (line.split("$ ", 1)[1] for line in joined.splitlines() if re.match(r"\w*\$ ", line))


def calls_of(line: str) -> Iterator[list[str]]:
    """The words of every call of mematlas in a line of shell, without the name."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
    lexer.whitespace_split = True
    words: list[str] = []
    for token in [*lexer, ";"]:
        if token[0] not in "|&;<>()":
            words.append(token)
            continue
        names = [place for place, word in enumerate(words) if word.rsplit("/", 1)[-1] == "mematlas"]
        if names:
            yield words[names[0] + 1 :]
        words = []


CALLS = [(page_name(page), call) for page in PAGES for line in command_lines(page) for call in calls_of(line)]


@pytest.mark.parametrize(("page", "words"), CALLS, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_command_lines_in_the_documents_parse(page: str, words: list[str]) -> None:
    if not words or words[0] in cli.FIRST_OPTIONS:
        return
    name, rest = ("overview", words) if words[0].startswith("-") else (words[0], words[1:])
    assert name in {*COMMANDS, "overview"}
    assert cli.asks_for_help(rest) or parses(name, load(name), rest)


def parses(name: str, command: Command, words: list[str]) -> bool:
    if command.takes_target and "--" in words:
        words = words[: words.index("--")]
    try:
        cli.parse(name, command, words)
    except BadInput:
        return False
    return True


def test_command_lines_are_found() -> None:
    assert list(calls_of("echo 1000 | sudo -- .venv/bin/mematlas translate cgroup:/a - > out; mematlas")) == [
        ["translate", "cgroup:/a", "-"],
        [],
    ]
    assert {page for page, _ in CALLS} >= {"docs/guide.md", "docs/concepts.md"}


def test_wrong_command_lines_are_found() -> None:
    assert not parses("usage", load("usage"), ["--no-such-option", "1"])


# --- shown outputs


@functools.cache
def written() -> frozenset[str]:
    """Return the lines of all texts in the source."""
    return frozenset(
        line.strip()
        for _, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for line in re.split(r"\n|\{\w*\}", node.value)
    )


HEADINGS = re.compile(r" *[A-Z]{3}[A-Z0-9 ?]{9,}")
USAGE = re.compile(r"^(.*)\nMEASURE +SIZE +MEANING\n((?: *[a-zA-Z].* {2,}.*\n)+)", re.MULTILINE)
MEANINGS = {(title.strip(), text) for _, title, *_, text in (*usage.LINES, *usage.MORE, *set_usage.LINES)}
MEANINGS.add(("distinct", usage.DISTINCT))
MEASURES = {title for title, _ in MEANINGS}
WHOLE = [
    {column.heading for column in columns if column.shown}
    for columns in (
        maps.COLUMNS,
        vma_groups.GROUP_COLUMNS,
        pages.PAGE_COLUMNS,
        pages.RUN_COLUMNS,
        translate.COLUMNS,
        usage.COLUMNS,
        set_usage.COLUMNS,
    )
]
"""What is shown with all its columns, unless a line below says which are not."""


def modules_with_tables() -> Iterator[ModuleType]:
    for name in MODULES:
        module = importlib.import_module(name)
        if any(value is Column for value in vars(module).values()) or name == "mematlas.views.candidates":
            yield module


def tables_of(module: ModuleType) -> Iterator[tuple[Column, ...]]:
    for value in vars(module).values():
        if isinstance(value, tuple) and value and all(isinstance(column, Column) for column in value):
            yield value


def words_of(module: ModuleType) -> set[str]:
    """Return what a view can write above a table: the headings of its columns, and its own words in capitals."""
    headings = {column.heading for columns in tables_of(module) for column in columns}
    nodes = ast.walk(tree_of(Path(module.__file__ or "")))
    written = {
        word for node in nodes if isinstance(node, ast.Constant) for word in re.findall(CAPITALS, str(node.value))
    }
    return headings | written


CAPITALS = r"(?:^|(?<=  ))[A-Z][A-Z0-9/?]*(?: [A-Z]+)*(?=$|  )"
MODULES = ["mematlas", *(module.name for module in pkgutil.walk_packages(mematlas.__path__, "mematlas."))]
MODULES.remove("mematlas.__main__")
VIEWS = {module.__name__: words_of(module) for module in modules_with_tables()}
KEYS = [[column.key for column in columns] for module in modules_with_tables() for columns in tables_of(module)]

KEYS.append([*(column.key for column in usage.COLUMNS), "source"])


OF_THE_ANSWER = r"N\d+|(IN )?\d+|\w+:\w+"
"""Headings that come with what was looked at: nodes, and processes or groups that share memory."""


def stale_headings(output: str) -> Iterator[str]:
    """Yield the headings that no view writes, and those that lack a column."""
    for line in filter(HEADINGS.fullmatch, output.splitlines()):
        titles = {title for title in re.split(r" {2,}", line.strip()) if not re.fullmatch(OF_THE_ANSWER, title)}
        if not any(titles <= words for words in VIEWS.values()):
            yield min((titles - words for words in VIEWS.values()), key=len).pop()
        likest = max(WHOLE, key=lambda headings: len(titles & headings) / len(titles | headings))
        if len(titles & likest) > 0.6 * len(titles | likest) and "not shown: " not in output:
            yield from likest - titles


def stale_keys(output: str) -> Iterator[str]:
    """Yield the head of a CSV, and the keys of a long row of JSON, that no table has."""
    heads = [line.split(",") for line in output.splitlines() if re.fullmatch(r"[a-z_]+(,[a-z_]+){7,}", line)]
    rows = [list(json.loads(row)) for row in re.findall(r"^ *(\{\"\w+\": .*\})(?=\]?,?$)", output, re.MULTILINE)]
    for keys in [*heads, *(row for row in rows if len(row) > 9)]:
        if keys not in KEYS:
            yield ",".join(keys)


def stale_notes(output: str) -> Iterator[str]:
    """Yield the words of notes that the program does not say."""
    texts = written()
    sentences = sorted((text for text in texts if " " in text), key=len, reverse=True)
    for note in re.findall(r"^note: (.*)$", output, re.MULTILINE):
        rest = note
        for text in sentences:
            rest = rest.replace(text, "|") if text in rest else rest
        for piece in rest.split("|"):
            words = re.findall(r"(?<![\w/.-])[a-z]{4,}(?![\w/.-])", piece)
            if len(words) > 1 or not all(word in texts or word.removesuffix("s") in texts for word in words):
                yield " ".join(words)


def stale_usage(output: str) -> Iterator[str]:
    """Yield what the lines of `usage` do not say any more."""
    for first, table in USAGE.findall(output):
        rows = [re.split(" {2,}", line.strip()) for line in table.splitlines()]
        yield from (meaning for title, _, meaning in rows if title in MEASURES and (title, meaning) not in MEANINGS)
        if not re.search(r", PID \d+, \d+ VMAs?, from |, \d+ process(es)?, from ", first):
            yield first
        if "tables" in (shown := [row[0] for row in rows]) and not {"peak", "sum of RSS"} & set(shown):
            yield f"no peak: {first}"


def stale(output: str) -> list[str]:
    return [*stale_headings(output), *stale_keys(output), *stale_notes(output), *stale_usage(output)]


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_shown_outputs_have_the_words_of_the_program(page: Path) -> None:
    blocks = [text for kind, text in FENCE.findall(page.read_text(encoding="utf-8")) if kind == "console"]
    assert [line for block in blocks for line in stale(block)] == []


@pytest.mark.parametrize(
    "output",
    [
        "START  SIZE  PERM  N0  ADDRES\n",
        "START  SIZE  PERMS  PRESENT  PAGES  SWAPPED  RSS  PSS  USS  FIRST FRAME AT  KIND  PATH\n",
        "START  SIZE  PERM  PRESENT  PAGES  SWAPPED  RSS  PSS  USS  FIRST FRAME AT  KIND  PATH\n",
        "start,end,size,perms,offset,dev,inode,nr_present,nr_pages,nr_swapped,kind,path\n",
        '{"pid": 1, "name": "a", "rss": 1, "anon": 0, "file": 1, "pss": 0, "uss": 0, "swap": 0, "a": 0, "b": 1}\n',
        "note: an address outside all areas has no state: touching it is a crash\n",
        "a, PID 7, from smaps in 4 ms\nMEASURE  SIZE  MEANING\nRSS      4 KiB  in RAM\n",
        "a, PID 7, 1 VMA, from smaps\nMEASURE  SIZE  MEANING\ntables  4 KiB  page tables of this process\n",
    ],
)
def test_stale_outputs_are_found(output: str) -> None:
    assert stale(output)


# --- how they are made anew


COMMENTED = re.compile(r"(?:^<!-- ([^\n]*) -->\n)?^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks_nobody_makes(text: str) -> list[str]:
    """Return the first line of each block with an output and no comment that scripts/examples.py takes."""
    return [
        block.splitlines()[0]
        for comment, block in COMMENTED.findall(text)
        if not all(re.match(r"\w*\$ ", line) for line in block.replace("\\\n", "").splitlines())
        and not re.fullmatch(r"example( \d+)?:.*|shown:.+|by hand: .+", comment)
    ]


@pytest.mark.parametrize("page", [ROOT / "README.md", *DOCS], ids=page_name)
def test_outputs_say_how_they_are_made(page: Path) -> None:
    assert blocks_nobody_makes(page.read_text(encoding="utf-8")) == []


def test_outputs_that_nobody_makes_are_found() -> None:
    assert blocks_nobody_makes("```console\n$ mematlas usage 1\nRSS\n```\n") == ["$ mematlas usage 1"]


@pytest.mark.parametrize("page", [ROOT / "README.md", *DOCS], ids=page_name)
def test_the_cast_of_examples_is_there(page: Path) -> None:
    casts = re.findall(r"^<!-- (?:example|shown)(?: \d+)?: *(.*?) *-->", page.read_text(encoding="utf-8"), re.MULTILINE)
    names = {part.split()[0] for cast in casts for part in cast.split(";") if part.strip()}
    assert names <= set(script("examples").CAST)


@pytest.mark.parametrize("name", ["examples", "picture"])
def test_examples_in_the_scripts_are_true(name: str) -> None:
    result = doctest.testmod(script(name))
    assert result.attempted
    assert result.failed == 0


# --- the sources' own examples


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_the_sources_are_true(name: str) -> None:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0, said.getvalue()


# --- the changelog, and what must not be in any file


def test_newest_version_of_the_changelog_is_ours() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\d+\.\d+\.\d+)\b", changelog, re.MULTILINE)[:1] == [mematlas.__version__]


def tracked_texts() -> list[tuple[str, str]]:
    """Every text file that git tracks or would, with its content."""
    try:
        names = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    texts = []
    for name in filter(None, names):
        with contextlib.suppress(UnicodeDecodeError, FileNotFoundError):
            texts.append((name, (ROOT / name).read_text(encoding="utf-8")))
    return texts


def test_no_file_names_a_home_directory_or_this_checkout() -> None:
    found = [
        f"{name}: {text[max(match.start() - 20, 0) : match.end() + 20]!r}"
        for name, text in tracked_texts()
        for match in re.finditer(rf"{HOME_DIRECTORY.pattern}|(?<![\w.~*/-]){re.escape(str(ROOT))}(?![\w-])", text)
    ]
    assert found == []


def test_no_file_names_a_package_registry() -> None:
    found = [
        f"{name}: {host}"
        for name, text in tracked_texts()
        for host in re.findall(r"\b(?:https?|git|ssh)://([\w.-]+)", text)
        if "." in host and host not in HOSTS
    ]
    assert found == []
