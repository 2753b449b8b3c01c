"""In continuous integration no test is left out for want of what could be had."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TEST = """
import pytest

@pytest.mark.parametrize("reason", [
    *("needs zsh", "needs root: the tests run as uid 1000", "no swap file can be made"),
    *("needs CONFIG_KSM", "guard regions: Invalid argument (needs Linux 6.13)"),
])
def test_it(reason):
    pytest.skip(reason)
"""


def outcome_of_skips(tmp_path: Path, **variables: str) -> str:
    """Run tests that are skipped, under our conftest; return the last line of pytest."""
    (tmp_path / "test_it.py").write_text(TEST)
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "MEMATLAS_GUEST")}
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-c",
            os.devnull,
            "-p",
            "conftest",
            "-p",
            "no:cacheprovider",
            "test_it.py",
        ],
        env={**kept, "PYTHONPATH": str(Path(__file__).parents[1]), **variables},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    return run.stdout.splitlines()[-1].partition(" in ")[0]


def test_in_ci_a_skip_for_what_can_be_had_is_a_failure(tmp_path: Path) -> None:
    assert outcome_of_skips(tmp_path, CI="1") == "3 failed, 2 skipped"


def test_elsewhere_a_skip_is_no_failure(tmp_path: Path) -> None:
    assert outcome_of_skips(tmp_path) == "5 skipped"
