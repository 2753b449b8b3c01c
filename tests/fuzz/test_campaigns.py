"""A fixed, small number of the inputs that `make fuzz` runs by the thousand: the same ones every time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.machine  # command lines page out the program of our own, to what swap there is

CAMPAIGN = Path(__file__).with_name("campaign.py")


@pytest.mark.parametrize(
    ("group", "nr_inputs"),
    [
        *(("parsers", 10_000), ("captures", 80), ("command-lines", 100), ("races", 60), ("swaps", 20)),
        *(("questions", 3000), ("recordings", 250), ("kills", 8)),
    ],
)
def test_nothing_of_it_fails(group: str, nr_inputs: int, tmp_path: Path) -> None:
    words = [sys.executable, str(CAMPAIGN), group, "--inputs", str(nr_inputs), "--recorded", "--workers", "1"]
    result = subprocess.run([*words, "--keep", str(tmp_path)], capture_output=True, text=True, check=False)
    details = "".join(path.read_text() for path in tmp_path.glob("*/*.txt"))
    assert result.returncode == 0, result.stdout + result.stderr + details
    assert f"{group}: {nr_inputs:,} inputs" in result.stdout


def test_a_kept_input_is_run_again(tmp_path: Path) -> None:
    kept = tmp_path / "kernel.meminfo.parse_meminfo" / "input"
    kept.parent.mkdir()
    kept.write_bytes(b"MemTotal: many kB\n")
    words = [sys.executable, str(CAMPAIGN), "--replay"]
    again = subprocess.run([*words, str(kept)], capture_output=True, text=True, check=False)
    assert (again.returncode, again.stdout) == (0, "it does not fail\n")
    unknown = subprocess.run([*words, str(tmp_path / "input")], capture_output=True, text=True, check=False)
    assert unknown.returncode == 2
