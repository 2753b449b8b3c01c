"""scripts/examples.py makes the outputs in a page anew, and leaves nothing behind."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.root("CAP_SYS_ADMIN")
SCRIPT = Path(__file__).parents[2] / "scripts" / "examples.py"


@pytest.fixture
def examples() -> ModuleType:
    spec = importlib.util.spec_from_file_location("examples", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_output_and_its_numbers_are_those_of_now(examples: ModuleType) -> None:
    page = "<!-- example: sleep 1111 -->\n```console\n$ mematlas usage 1111 | head -1\nold\n$ echo $?\n1\n```\n"

    new = examples.remade("page", page)

    assert re.fullmatch(
        r"<!-- example: sleep (\d+) -->\n```console\n\$ mematlas usage \1 \| head -1\n"
        r"sleep, PID \1, \d+ VMAs, from smaps in .*\n\$ echo \$\?\n0\n```\n",
        new,
    )


def test_lines_of_nobody_have_no_rights(examples: ModuleType) -> None:
    page = "<!-- example: -->\n```console\nuser$ id -u\n```\n<!-- by hand: why -->\n```console\n$ false\nkept\n```\n"

    assert examples.remade("page", page) == page.replace("id -u\n", "id -u\n65534\n")


def test_a_block_whose_cast_cannot_be_had_stays(
    examples: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(examples.CAST, "missing", ("missing", "exec no-such-program"))
    page = "<!-- example: missing -->\n```console\n$ echo new\nold\n```\n"

    assert examples.remade("page", page) == page
    assert "no-such-program" in capsys.readouterr().err


def test_the_cast_ends_with_the_stage(examples: ModuleType, tmp_path: Path) -> None:
    before = set(os.listdir("/proc"))
    with examples.Stage(tmp_path, str(tmp_path)) as stage:
        stage.bring("sleep")
        new = set(os.listdir("/proc")) - before

        assert any(is_sleep(pid) for pid in new)
    assert not any(is_sleep(pid) for pid in new)


def is_sleep(pid: str) -> bool:
    """Whether a process of ours is there and has become sleep."""
    try:
        return Path("/proc", pid, "cmdline").read_bytes() == b"sleep\x00300\x00"
    except OSError:
        return False
