"""The programs that documents show for the library run, and the names in their sentences are there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import mematlas
from victim import DEADLINE, Victim

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples() -> Iterator[object]:
    """Yield the programs that use the library."""
    for page in PAGES:
        for number, text in enumerate(PYTHON.findall(page.read_text(encoding="utf-8"))):
            if re.search(r"^(?:import|from) mematlas", text, re.MULTILINE):
                yield pytest.param(text, id=f"{page.name}-{number}")


@pytest.mark.root("CAP_SYS_ADMIN", "CAP_SYS_NICE")
@pytest.mark.parametrize("text", list(examples()))
def test_program_of_a_document_runs(text: str, victim: Callable[..., Victim]) -> None:
    area = victim("anon")["anon"]
    text = re.sub(r'Process\("[^"]*"\)', f"Process({area.pid})", text)
    run = subprocess.run(
        [sys.executable, "-c", text, str(area.pid)], capture_output=True, text=True, timeout=DEADLINE, check=False
    )

    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout


def library_half() -> str:
    return (ROOT / "docs" / "library.md").read_text(encoding="utf-8")


def test_what_the_guide_asks_of_a_process_is_there() -> None:
    asked = set(re.findall(r"\bprocess\.(\w+)", library_half()))

    assert len(asked) > 5
    assert {name for name in asked if not hasattr(mematlas.Process, name)} == set()


@pytest.mark.parametrize(("name", "question"), [("usage", "usage"), ("vma", "maps")])
def test_what_the_guide_asks_of_an_answer_is_there(name: str, question: str) -> None:
    with mematlas.Process(os.getpid()) as process:
        answer = getattr(process, question)()
    item = answer.vmas[0] if question == "maps" else answer
    asked = set(re.findall(rf"`{name}\.(\w+)", library_half()))

    assert asked
    assert {each for each in asked if not hasattr(item, each)} == set()
