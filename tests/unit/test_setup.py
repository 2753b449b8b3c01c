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
    """Return a directory with what the script itself needs, and with two of the shells; pytest's own are closed."""
    with tempfile.TemporaryDirectory(prefix="mematlas-") as name:
        place = Path(name)
        place.chmod(0o755)
        for shell in ("zsh", "fish"):
            (place / shell).symlink_to("/bin/true")
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


def test_without_an_index_set_up_ends_with_one_line(tmp_path: Path) -> None:
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(VENV_PYTHON)
    python.chmod(0o755)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "scripts").mkdir()
    script = shutil.copy(SCRIPTS / "bootstrap", tmp_path / "scripts")

    done = subprocess.run(
        [script], env={**os.environ, "PIP_NO_INDEX": "1"}, capture_output=True, text=True, check=False
    )
    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (1, "")
    assert [line for line in lines if "failed" in line] == lines[-1:]
    assert lines[-1].endswith("ERROR: No matching distribution found for hatchling")
    assert not list(tmp_path.glob(".venv/.bootstrap-*"))
