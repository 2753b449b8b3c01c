"""Changes to a capture change nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mutated_captures import VERBS, change

MORE: dict[str, list[Any]] = {
    "write": [""],
    "link": ["/"],
    "hard": ["maps"],
    "device": [5],
    "sparse": [4096],
    "bomb": [1 << 20],
    "mode": [0],
    "twin": ["8"],
    "rename": ["8"],
}


@pytest.mark.parametrize("verb", sorted(VERBS))
@pytest.mark.parametrize("name", ["7", "7/maps"])
def test_no_change_follows_a_link(verb: str, name: str, tmp_path: Path) -> None:
    elsewhere, capture = tmp_path / "elsewhere", tmp_path / "capture"
    for directory in (elsewhere, capture):
        directory.mkdir()
    (elsewhere / "maps").write_text("precious")
    before = elsewhere.stat().st_mode, (elsewhere / "maps").stat().st_mode
    change(capture, "link", "7", [str(elsewhere)])
    change(capture, verb, name, MORE.get(verb, []))
    assert (elsewhere / "maps").read_text() == "precious"
    assert [path.name for path in elsewhere.iterdir()] == ["maps"]
    assert (elsewhere.stat().st_mode, (elsewhere / "maps").stat().st_mode) == before
