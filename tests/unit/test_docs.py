"""The documents say what the program does: nothing in them is stale, missing or broken."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import importlib.util
import io
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
from mematlas.cli.arguments import Arguments
from mematlas.cli.command import COMMANDS, Command, load
from mematlas.errors import BadInput
from mematlas.views import usage

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


def make_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "scripts" / "make_docs.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- the reference and the guide


def test_command_reference_is_not_stale() -> None:
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == make_docs().page(), "run `make docs`"


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
    guide = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
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


SOURCES = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
HEADINGS = re.compile(r" *[A-Z]{3}[A-Z0-9 ?]{9,}")
USAGE = re.compile(r"^(.*)\nMEASURE +SIZE +MEANING\n((?: *[a-zA-Z].* {2,}.*\n)+)", re.MULTILINE)
MEANINGS = {title.strip(): text for _, title, *_, text in (*usage.LINES, *usage.MORE)}
MEANINGS["distinct"] = usage.DISTINCT


def stale_lines(output: str) -> list[str]:
    """Return what the program does not print: headings of tables, and lines of `usage`."""
    cells = [cell for line in output.splitlines() if HEADINGS.fullmatch(line) for cell in line.strip().split("  ")]
    titles = {cell.strip() for cell in cells if cell} - {f"N{node}" for node in range(64)}
    stale = [title for title in titles if f'"{title}"' not in SOURCES]
    for first, table in USAGE.findall(output):
        rows = [re.split(" {2,}", line.strip()) for line in table.splitlines()]
        stale += [meaning for title, _, meaning in rows if MEANINGS.get(title, meaning) != meaning]
        stale += [] if re.search(r", PID \d+, \d+ VMAs?, from ", first) else [first]
        if "tables" in (shown := [row[0] for row in rows]) and "peak" not in shown:
            stale.append(f"no peak: {first}")
    return stale


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_shown_outputs_have_the_words_of_the_program(page: Path) -> None:
    blocks = [text for kind, text in FENCE.findall(page.read_text(encoding="utf-8")) if kind == "console"]
    assert [line for block in blocks for line in stale_lines(block)] == []


def test_stale_outputs_are_found() -> None:
    table = (
        "MEASURE  SIZE  MEANING\nTHP         0  the part in huge pages\ntables  4 KiB  page tables of this process\n"
    )

    assert stale_lines("START  SIZE  PERM  N0  ADDRES\n") == ["ADDRES"]
    assert stale_lines(f"a, PID 7, from smaps in 4 ms\n{table}") == [
        "the part in huge pages",
        "a, PID 7, from smaps in 4 ms",
        "no peak: a, PID 7, from smaps in 4 ms",
    ]


# --- the sources' own examples


MODULES = ["mematlas", *(module.name for module in pkgutil.walk_packages(mematlas.__path__, "mematlas."))]


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
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
