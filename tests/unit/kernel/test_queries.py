"""What a front end may ask: each part of a question is what it is declared as, or the question is none."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mematlas.kernel.broker import Worker
from mematlas.kernel.messages import Grant, encode
from mematlas.kernel.queries import (
    NonsenseError,
    file_name,
    flag,
    fraction,
    link_name,
    number,
    optional,
    pairs,
    span,
    spans,
    words,
)
from mematlas.observe.queries import EVERY

VALID = (
    encode("open_file", 4211, 77, "maps", 0),
    encode("open_file", 4211, 77, "task/4212/comm", os.O_DIRECTORY),
    encode("read_link", 4211, 77, "map_files/7f10-7f20"),
    encode("parts_of_file", 4211, 77, "7f10-7f20", 0, 4096, True),
    encode("give_advice", 4211, 77, 20, bytes(32)),
    encode("walk_tables", 1, False, 0, (1 << 47) - 1, 4),
    encode("count_maps", "auto", bytes(64)),
    encode("look_at_frames", "auto", "kind", 0.25, None),
    encode("find_everything", "resident", 20, "path,mappers", 10.0),
    encode("open_page_file", "kpageflags"),
    encode("open_counts"),
)


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield Worker(ours, Grant(os.getpid()), EVERY)


def test_each_question_has_a_name_of_its_own() -> None:
    names = [query.name for query in EVERY]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("query", EVERY, ids=lambda query: query.name)
def test_each_question_has_what_answers_it(query: Any) -> None:
    assert query.answering().__name__ == query.name


@pytest.mark.parametrize("question", VALID, ids=lambda question: question.split(b"\0")[0].decode())
def test_what_a_front_end_asks_is_understood(question: bytes, worker: Worker) -> None:
    query, about, args = worker.understood(question)
    assert encode(query.name, *about, *args) == question
    assert len(about) == 2 * query.is_about_process


@pytest.mark.parametrize(
    ("vet", "good", "bad"),
    [
        (number, {b"0": 0, b"18446744073709551615": 2**64 - 1}, (b"", b"-1", b"0x1", b"1 ", b"18446744073709551616")),
        (number, {}, ("١".encode(), b"1_0", b"9" * 30)),
        (flag, {b"0": False, b"1": True}, (b"", b"2", b"true")),
        (fraction, {b"0.5": 0.5, b"3": 3.0}, (b"", b".", b"-0.5", b"1e5", b"nan", b"inf", b"0." + b"1" * 30)),
        (words, {bytes(16): bytes(16), b"": b""}, (b"1", bytes(15))),
        (pairs, {bytes(32): bytes(32), b"": b""}, (bytes(8), bytes(24), bytes(17))),
        (
            span,
            {b"7f10-7f20": "7f10-7f20"},
            (b"7f10", b"-", b"7f10-", b"7F10-7f20", b"1-2-3", b"../..-1", b"1" * 17 + b"-2"),
        ),
        (
            spans,
            {b"7f10-7f20,1-2": "7f10-7f20,1-2", b"1-2": "1-2"},
            (b"", b",", b"1-2,", b"1-2,exe", b"1-2,../1/mem"),
        ),
        (
            file_name,
            {b"maps": "maps", b"fdinfo/7": "fdinfo/7", b"task/7/comm": "task/7/comm"},
            (b"mem", b"environ", b""),
        ),
        (
            file_name,
            {},
            (b"fdinfo/7/x", b"fdinfo/x", b"task/7/mem", b"task//comm", b"task/7", b"../maps", b"maps/", b"fd/1"),
        ),
        (
            link_name,
            {b"exe": "exe", b"fd/3": "fd/3", b"map_files/1-2": "map_files/1-2"},
            (b"cwd", b"root", b"fd", b"fd/x"),
        ),
        (optional(number), {b"": None, b"7": 7}, (b"x",)),
    ],
)
def test_a_part_is_what_it_is_declared_as(
    vet: Callable[[bytes], Any], good: dict[bytes, Any], bad: tuple[bytes, ...]
) -> None:
    assert {data: vet(data) for data in good} == good
    for data in bad:
        with pytest.raises(NonsenseError):
            vet(data)


@given(question=st.binary(max_size=200))
def test_what_is_no_question_is_nonsense(question: bytes, worker: Worker) -> None:
    check(question, worker)


def test_what_is_nearly_a_question_is_one_or_nonsense(worker: Worker) -> None:
    chance = random.Random(7)
    nr_understood = sum(check(changed(chance.choice(VALID), chance), worker) for _ in range(20_000))
    assert 0 < nr_understood < 20_000


def check(question: bytes, worker: Worker) -> bool:
    """Return whether a question is understood, as which it says nothing but what is allowed."""
    try:
        query, _, args = worker.understood(question)
    except NonsenseError:
        return False
    for arg in args:
        assert arg is None or isinstance(arg, int | float | bytes | str)
        assert not isinstance(arg, str) or query.name == "look_at_path" or "/.." not in arg
    return True


def changed(question: bytes, chance: random.Random) -> bytes:
    """Return a question with one to three changes to its bytes or its parts."""
    for _ in range(chance.randint(1, 3)):
        way, at = chance.randrange(5), chance.randrange(len(question) or 1)
        if way == 0:
            question = question[:at] + bytes((chance.randrange(256),)) + question[at + 1 :]
        elif way == 1:
            question = question[:at] + question[at + 1 :]
        elif way == 2:
            question = question[:at] + chance.choice((b"\0", b"/", b"..", b"-", b"9" * 20)) + question[at:]
        else:
            parts, others = question.split(b"\0"), chance.choice(VALID).split(b"\0")
            parts[chance.randrange(len(parts))] = chance.choice(others)
            question = b"\0".join(parts)
    return question
