"""Lockdown: integrity leaves the readers alone, confidentiality is said in a sentence, and what else works goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import pytest

from helpers import mematlas
from inside import Facts
from mematlas.cli import main
from victim import Victim

pytestmark = pytest.mark.guest

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize("reader", ["auto", "bpf", "kcore"])
def test_tables_are_read_or_refused_in_a_sentence(reader: str, facts: Facts, capsys: Capture) -> None:
    code = main(["tables", str(os.getpid()), "--reader", reader])
    out, err = capsys.readouterr()
    if facts.lockdown != "confidentiality":
        assert (code, err) == (0, "")
        return
    assert (code, out) == (5, "")
    assert "lock" in err
    assert len(err.splitlines()) <= 2


def test_as_a_program_it_ends_without_a_traceback(facts: Facts) -> None:
    done = mematlas("tables", os.getpid())
    assert done.returncode == (5 if facts.lockdown == "confidentiality" else 0), done.stderr
    assert "Traceback" not in done.stderr


def test_numbers_of_a_process_need_no_tables(victim: Callable[..., Victim], capsys: Capture) -> None:
    target = victim("anon_full", "shared_file")
    with target.stopped():
        assert main(["usage", str(target.pid), "--verify"]) == 0
        assert main(["pages", str(target.pid), f"{target['anon_full'].address:#x}", "--json"]) == 0
    text = capsys.readouterr().out
    assert json.loads(text[text.index('{"schema": "mematlas.pages') :])["rows"][0]["state"] == "present"


def test_tables_as_the_source_of_numbers_are_refused_too(
    facts: Facts, victim: Callable[..., Victim], capsys: Capture
) -> None:
    target = victim("anon")
    code = main(["usage", str(target.pid), "--source", "tables"])
    err = capsys.readouterr().err
    if facts.lockdown == "confidentiality":
        assert code == 5
        assert "lock" in err
    else:
        assert code == 0
