"""Setting up says what it does, and in one line what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import NOBODY

SCRIPTS = Path(__file__).parents[2] / "scripts"
VENV_PYTHON = """#!/bin/sh
case "$*" in
*--version* | *--upgrade* | *uninstall*) exit 0 ;;
*install*) echo "Collecting hatchling"; echo "  ERROR: No matching distribution found for hatchling"; exit 1 ;;
esac
"""


def packages(what: str, directory: Path, uid: int) -> subprocess.CompletedProcess[str]:
    """Run scripts/packages as a user who has the programs of one directory."""
    return subprocess.run(
        ["/bin/sh", "-s", what],
        input=(SCRIPTS / "packages").read_text(),
        env={"PATH": str(directory)},
        user=uid,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def programs() -> Iterator[Path]:
    """Return a directory with what the script needs, and most of what tests need; pytest's own are closed."""
    with tempfile.TemporaryDirectory(prefix="mematlas-") as name:
        place = Path(name)
        place.chmod(0o755)
        for program in ("zsh", "fish", "groff", "gcc", "make", "jcmd"):
            (place / program).symlink_to("/bin/true")
        (place / "id").symlink_to(shutil.which("id") or "")
        yield place


@pytest.mark.root
def test_missing_packages_are_named_in_one_line(programs: Path) -> None:
    done = packages("test", programs, NOBODY)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "packages: please install tmux: sudo apt-get install tmux\n"


@pytest.mark.root
def test_nothing_is_said_when_all_is_there(programs: Path) -> None:
    (programs / "tmux").symlink_to("/bin/true")
    done = packages("test", programs, NOBODY)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def bootstrap(place: Path, python_text: str) -> subprocess.CompletedProcess[str]:
    """Set up in a directory that has a Python already."""
    python = place / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(python_text)
    python.chmod(0o755)
    (place / "pyproject.toml").touch()
    (place / "scripts").mkdir()
    script = shutil.copy(SCRIPTS / "bootstrap", place / "scripts")
    environment = {**os.environ, "PIP_NO_INDEX": "1"}
    return subprocess.run([script], env=environment, capture_output=True, text=True, check=False)


def test_a_pip_that_cannot_be_renewed_will_do(tmp_path: Path) -> None:
    done = bootstrap(tmp_path, '#!/bin/sh\ncase "$*" in *--upgrade*) exit 1 ;; esac\n')

    assert (done.returncode, done.stdout) == (0, "")
    assert "bootstrap: no newer pip is to be had: going on with this one\n" in done.stderr
    assert "bootstrap: pip is installing mematlas and numpy" in done.stderr


def test_without_an_index_set_up_ends_with_one_line(tmp_path: Path) -> None:
    done = bootstrap(tmp_path, VENV_PYTHON)
    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (1, "")
    assert [line for line in lines if "failed" in line] == lines[-1:]
    assert lines[-1].endswith("ERROR: No matching distribution found for hatchling")
    assert not list(tmp_path.glob(".venv/.bootstrap-*"))
