"""The engine finds what it is there to find, and what it keeps fails again."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from engine import Notebook, attempt, replay, run
from mematlas.errors import BadInput
from mutation import BINARY, MOST, TEXT, mutate

BAD = 700
"""The number of the input that fails; each input is its number."""


@dataclass
class Numbers:
    """A subject whose inputs are numbers, one of which does something bad."""

    bad: Callable[[], object]
    name: str = "numbers"
    seconds: float = 0.2
    allowed: tuple[type[BaseException], ...] = (BadInput,)
    count: int = -1

    def make(self, random: Random) -> bytes:
        return b"%d" % random.randrange(1000)

    def run(self, data: bytes) -> None:
        if int(data) == BAD:
            self.bad()


def loop() -> None:
    while True:
        pass


def fill() -> object:
    return bytearray(1 << 32)


def refuse() -> None:
    raise BadInput("no")


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (loop, "Overrun"),
        (fill, "MemoryError"),
        (lambda: int("x"), "ValueError"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "ended with -9"),
        (signal.pause, "no end in 1 s"),
    ],
    ids=["endless", "memory", "foreign", "crash", "blocked"],
)
def test_what_goes_wrong_is_found_and_the_rest_is_run(bad: Callable[[], object], kind: str) -> None:
    outcome = run([Numbers(bad)], 5, range(2000), nr_workers=2, hang=1.0 if bad is signal.pause else 60.0)
    assert outcome.nr_run == 2000
    assert [fault.data for fault in outcome.faults.values()] == [b"%d" % BAD]
    assert kind in next(iter(outcome.faults))


def test_what_is_allowed_is_no_fault() -> None:
    assert attempt(Numbers(refuse), b"%d" % BAD) is None


def test_a_kept_input_fails_again(tmp_path: Path) -> None:
    subject = Numbers(lambda: int("x"))
    fault = attempt(subject, b"%d" % BAD)
    assert fault
    again = replay(Notebook(tmp_path).keep(fault), [subject])
    assert again == fault


def test_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    stopped = run([Numbers(loop)], 5, range(1000, 100_000), seconds=0.0)
    Notebook(tmp_path).came_to("numbers", 5, stopped.first)
    assert Notebook(tmp_path).first("numbers", 5) == stopped.first == 1000 + stopped.nr_run
    assert Notebook(tmp_path).first("numbers", 6) == 0


@pytest.mark.parametrize("mutations", [TEXT, BINARY], ids=["text", "binary"])
def test_mutations_are_the_same_for_a_seed_and_differ_for_another(mutations: tuple[object, ...]) -> None:
    corpus = [b"1000-2000 r--p\nVmRSS: 12 kB\n", b"12"]
    made = [[mutate(Random(seed), corpus, mutations) for seed in range(300)] for _ in range(2)]  # type: ignore[arg-type]
    assert made[0] == made[1]
    assert len(set(made[0])) > 200


def test_an_input_has_a_bound_however_often_it_is_repeated() -> None:
    sizes: list[int] = []

    def double(random: Random, data: bytes, corpus: object) -> bytes:
        sizes.append(len(data))
        return data * 300

    for seed in range(50):
        assert len(mutate(Random(seed), [b"x" * 1000], [double])) <= MOST
    assert max(sizes) == MOST
