"""The library's front door: what it takes for a process, and what its answers are."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

import mematlas
from helpers import make_process, program
from mematlas import BadInput, Machine, Process, ProcFS, TargetNotFound
from mematlas.analysis.usage import HasUsage, Usage

MAPS = "10000-14000 rw-p 00000000 00:00 0 [heap]\n20000-22000 rw-p 00000000 00:00 0 [stack]\n"
WORDS = {0x10 + page: 1 << 63 | 1 << 56 | page + 5 for page in range(4)} | {0x21: 0}
NAMED = "import ctypes; ctypes.CDLL(None).prctl(15, b'so-called', 0, 0, 0); print(1, flush=True); sys.stdin.read()"


@pytest.fixture
def saved(tmp_path: Path) -> ProcFS:
    make_process(tmp_path, maps=MAPS, words=WORDS)
    return ProcFS(str(tmp_path), 4096)


# --- what is a process


def test_process_is_named_by_its_pid_as_a_number_or_a_text() -> None:
    for target in (os.getpid(), str(os.getpid()), "self"):
        with Process(target) as process:
            assert process.pid == os.getpid()


def test_process_is_named_by_its_command() -> None:
    with program(f"import sys; {NAMED}") as running, Process("so-called") as process:
        assert (process.pid, process.notes) == (running.pid, ())


@pytest.mark.parametrize("form", [str, Path])
def test_process_is_named_by_the_directory_of_its_capture(form: type, tmp_path: Path) -> None:
    with Process(os.getpid()) as process:
        mematlas.capture(process, str(tmp_path / "saved"))
    with Process(form(tmp_path / "saved")) as copy:
        assert (copy.pid, copy.procfs.live) == (os.getpid(), False)


def test_a_path_is_never_taken_for_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "so-called").mkdir()
    with program(f"import sys; {NAMED}"), pytest.raises(TargetNotFound):
        Process(Path("so-called"))


@pytest.mark.parametrize("target", [None, 1.5, True, b"init", [1]], ids=repr)
def test_what_is_no_target_is_refused(target: object) -> None:
    with pytest.raises(BadInput, match="give a PID, a name"):
        Process(target)  # type: ignore[arg-type]


@pytest.mark.parametrize("target", [-1, 0, 1 << 70])
def test_a_number_that_is_no_pid_names_nobody(target: int) -> None:
    with pytest.raises(TargetNotFound):
        Process(target)


# --- what its answers are


def test_two_looks_at_once_do_not_disturb_each_other(saved: ProcFS) -> None:
    with Process(7, saved) as process:
        heap, stack = process.pages(0x10000, 0x14000), process.pages(0x20000, 0x22000)
        first, second = next(heap), next(stack)
        rest = [*heap, *process.pages(0x10000, 0x14000), *stack]

    assert [vma.kind for vma, _ in (first, second, *rest)] == ["heap", "stack", "heap"]
    assert None not in (heap.reading, stack.reading)
    assert heap.reading is not stack.reading


def test_pages_that_are_left_early_tell_how_they_were_read(saved: ProcFS) -> None:
    with Process(7, saved) as process:
        pages = process.pages()
        with pages:
            next(pages)
            before = pages.reading
        after = pages.reading
        rest = list(pages)

    assert (before, rest) == (None, [])
    assert after
    assert after.source == pages.source == "pagemap"


def test_pages_that_nobody_goes_through_are_let_go_of(saved: ProcFS) -> None:
    with Process(7, saved) as process:
        before = len(os.listdir("/proc/self/fd"))
        pages = process.pages()
        assert len(os.listdir("/proc/self/fd")) > before
        pages.close()
        assert len(os.listdir("/proc/self/fd")) == before


def test_every_answer_has_its_own_reading(saved: ProcFS) -> None:
    with Process(7, saved) as process:
        answers = (
            *(process.usage("pagemap"), process.maps("pagemap"), process.translate([0x10000]), process.grid()),
            process.density(3),
        )

    assert [answer.reading.source for answer in answers] == ["pagemap"] * 5
    assert len({id(answer.reading) for answer in answers}) == 5
    assert not any(hasattr(process, name) for name in ("reading", "notes_of_last"))


def test_amounts_and_addresses_are_asked_of_a_result_itself(saved: ProcFS) -> None:
    with Process(7, saved) as process:
        usage, (heap, _) = process.usage("pagemap"), process.maps("pagemap").vmas

    assert all(getattr(usage, name) == getattr(usage.usage, name) for name in Usage.__match_args__)
    assert (heap.start, heap.end, heap.size, heap.perms, heap.kind, heap.path) == (
        *(0x10000, 0x14000, 0x4000, "rw-p", "heap"),
        "[heap]",
    )
    assert (heap.rss, heap.nr_present) == (4 * 4096, 4)


def test_every_amount_can_be_asked_of_a_result() -> None:
    assert {name for name, value in vars(HasUsage).items() if isinstance(value, property)} == set(Usage.__match_args__)


def test_results_become_dictionaries_that_json_takes(saved: ProcFS) -> None:
    with Process(7, saved) as process:
        usage, maps, places = process.usage("pagemap"), process.maps("pagemap"), process.translate([0x10008])

    for result in (usage, maps, places):
        assert json.loads(json.dumps(result.to_dict())) == result.to_dict()
    assert usage.to_dict()["usage"]["rss"] == usage.rss
    assert [vma["vma"]["start"] for vma in maps.to_dict()["vmas"]] == [0x10000, 0x20000]
    assert places.to_dict()["items"][0]["flags"] == ["present", "exclusive"]
    assert places.to_dict()["reading"]["notes"] == [note.to_dict() for note in places.reading.notes]


OTHERS = {"Grid", "Density", "Strip", "Stretch"}
"""Records of pictures, whose cells are none."""
NO_ANSWERS = {"Choice", "Hole", "PageFilter", "Selection"}


def test_every_record_of_an_answer_becomes_a_dictionary() -> None:
    public = {name: getattr(mematlas, name) for name in mematlas.__all__}
    records = {name for name, value in public.items() if isinstance(value, type) and hasattr(value, "__match_args__")}
    able = {name for name in records if hasattr(public[name], "to_dict")}

    assert records - able == OTHERS | NO_ANSWERS
    assert {"UsageResult", "Vma", "Effect", "Plan", "Ram"} <= able


def test_translations_are_a_sequence(saved: ProcFS) -> None:
    with Process(7, saved) as process:
        places = process.translate([0x10008, 0x11000, 0x99000])

    assert [place.pfn for place in places] == [5, 6, None]
    assert (len(places), places[-1].vma) == (3, None)


@pytest.mark.parametrize("address", [-1, 1 << 64, 1.5, "0x1000", None])
def test_what_is_no_address_is_refused(saved: ProcFS, address: Any) -> None:
    with Process(7, saved) as process, pytest.raises(BadInput, match="address"):
        process.translate([0x1000, address])


def test_fewer_groups_than_one_are_refused() -> None:
    with pytest.raises(BadInput, match="1 or more"):
        Machine().usage(limit=0)


def test_help_names_every_question() -> None:
    questions = [name for name, value in vars(Process).items() if callable(value) and not name.startswith("_")]

    assert {"usage", "maps", "pages", "grid", "density", "translate", "if_ended"} <= set(questions)
    assert all(getattr(Process, name).__doc__ for name in questions)


def test_torn_reading_of_ourselves_says_why() -> None:
    with program(f"import sys; {NAMED}") as running, Process(running.pid) as other, Process("self") as own:
        texts = [process.sources.reading("pagemap", 0.0, True, ()).notes[0].text for process in (own, other)]

    assert ["reads itself" in text for text in texts] == [True, False]
