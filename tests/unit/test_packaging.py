"""A wheel has what a package is expected to have, and promises nothing that is not there."""

from __future__ import annotations

import doctest
import email
import re
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from pathlib import Path
from types import ModuleType

import pytest
from test_docs import LINK, ROOT

from mematlas import __version__
from mematlas.cli.command import COMMANDS
from mematlas.cli.completion import SHELLS

SCRIPTS = ROOT / "scripts"


def run(*words: object) -> str:
    if not shutil.which(str(words[0])):
        pytest.skip(f"needs {words[0]}")
    done = subprocess.run([str(word) for word in words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a wheel, built as an index would have it: without a network."""
    place = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", place)
    return next(place.glob("*.whl"))


@pytest.fixture(scope="module")
def prefix(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the wheel was installed."""
    place = tmp_path_factory.mktemp("prefix")
    quietly = ("-q", "--disable-pip-version-check", "--root-user-action=ignore", "--no-warn-script-location")
    offline = ("--no-index", "--no-deps", "--ignore-installed", "--prefix", place)
    run(sys.executable, "-m", "pip", "install", *quietly, *offline, wheel)
    return place


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return email.message_from_bytes(archive.read(f"mematlas-{__version__}.dist-info/METADATA"))


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> list[ModuleType]:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import hatch_build
    import man_page

    return [hatch_build, man_page]


def test_every_module_is_in_the_wheel(wheel: Path) -> None:
    sources = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src").rglob("*.py")}
    with zipfile.ZipFile(wheel) as archive:
        assert sources | {"mematlas/py.typed"} <= set(archive.namelist())


def test_two_extras_and_no_address_are_promised(metadata: Message) -> None:
    assert metadata.get_all("Provides-Extra") == ["plot", "tui"]
    assert metadata.get_all("Project-URL") is None
    assert metadata.get_all("Requires-Dist") == [
        "numpy>=1.26",
        "matplotlib>=3.8; extra == 'plot'",
        "textual>=1.0; extra == 'tui'",
    ]


def test_every_python_that_is_named_is_required_or_newer(metadata: Message) -> None:
    classifiers = metadata.get_all("Classifier") or []
    minors = [int(text.rpartition(".")[2]) for text in classifiers if re.search(r"Python :: 3\.\d+$", text)]

    assert metadata["Requires-Python"] == f">=3.{min(minors)}"
    assert minors == list(range(min(minors), max(minors) + 1))


def test_the_description_leads_nowhere_that_an_index_has_not(metadata: Message) -> None:
    text = metadata.get_payload()

    assert isinstance(text, str)
    assert [target for target in LINK.findall(text) if ":" not in target and not target.startswith("#")] == []
    assert "![" not in text
    assert "`docs/guide.md`" in text


def test_the_manual_has_every_command_and_roff_finds_no_fault(prefix: Path) -> None:
    manual = prefix / "share/man/man1/mematlas.1"
    shown = run("groff", "-man", "-Tascii", "-P-cbou", "-ww", manual)

    assert [name for name in COMMANDS if f"\n   {name}\n" not in shown] == []
    assert "warning" not in shown
    assert re.search(r"^ +--format FORMAT\n +table \(default\), json, jsonl or csv$", shown, re.MULTILINE)


def test_completions_are_where_shells_look(prefix: Path, tmp_path: Path) -> None:
    share = prefix / "share"
    bash = f"source {share}/bash-completion/completions/mematlas; complete -p mematlas"
    zsh = f"fpath=({share}/zsh/site-functions $fpath); autoload -U compinit; compinit -u -D; print $_comps[mematlas]"
    fish = f"source {share}/fish/vendor_completions.d/mematlas.fish; complete -C 'mematlas completion '"

    assert run("bash", "--norc", "-c", bash) == "complete -F _mematlas mematlas\n"
    assert run("zsh", "-f", "-c", zsh) == "_mematlas\n"
    assert {line.partition("\t")[0] for line in run("fish", "--no-config", "-c", fish).splitlines()} == set(SHELLS)


def test_documents_are_installed_as_they_link_to_each_other(prefix: Path) -> None:
    docs = prefix / "share/doc/mematlas"

    assert {path.name for path in (docs / "docs").iterdir()} == {path.name for path in (ROOT / "docs").iterdir()}
    assert (docs / "README.md").read_text() == (ROOT / "README.md").read_text()


def test_what_is_installed_runs(prefix: Path) -> None:
    # numpy is that of the tests; the package is the installed one.
    place = next(prefix.glob("lib/python3*/site-packages"))
    code = f"import sys; sys.path.insert(0, {str(place)!r}); import mematlas; print(mematlas.__file__)"

    assert run(sys.executable, "-c", code).startswith(str(place))
    assert run("env", f"PYTHONPATH={place}", prefix / "bin" / "mematlas", "--version") == f"mematlas {__version__}\n"


def test_examples_in_the_scripts_are_true(scripts: list[ModuleType]) -> None:
    for module in scripts:
        tried = doctest.testmod(module)
        assert tried.attempted > tried.failed == 0
