"""Programs whose life is known, compared at two moments of it: which VMAs, which pages, went which way."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from helpers import PAGE, mematlas, program
from mematlas import Process
from mematlas.timeline.difference import Look, difference
from victim import process_state, wait_until

CODE = """
import ctypes, json, mmap, os, sys
P, PAGEOUT, NOHUGE = mmap.PAGESIZE, 21, 15
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
path = json.loads(sys.argv[1])
fd = os.open(path, os.O_RDWR)

def area(nr_pages, flags=0x22, fd=-1):
    # Between two pages that nobody may access, so that no two areas become one VMA.
    address = libc.mmap(None, (nr_pages + 2) * P, 0, 0x22, -1, 0) + P
    libc.mmap(address, nr_pages * P, 3, flags | 0x10, fd, 0)
    libc.madvise(address, nr_pages * P, NOHUGE)
    return address

def write(address, pages):
    for page in pages:
        ctypes.memset(address + page * P, 7, 1)

def read(address, pages):
    for page in pages:
        ctypes.string_at(address + page * P, 1)

grown, freed, gone, mapped, out = area(61), area(47), area(13), area(37, 2, fd), area(43)
write(grown, range(5)); write(freed, range(47)); write(gone, range(11)); read(mapped, range(37)); write(out, range(43))
new = []
print(json.dumps({"grown": grown, "freed": freed, "gone": gone, "mapped": mapped, "out": out}), flush=True)
for word in sys.stdin:
    if word == "change\\n":
        write(grown, range(5, 36))
        libc.madvise(freed, 19 * P, 4)
        libc.munmap(gone, 13 * P)
        write(mapped, range(17))
        new.append(area(29)); write(new[0], range(23))
    elif word == "out\\n":
        for _ in range(5):
            libc.madvise(out, 43 * P, PAGEOUT)
    elif word == "back\\n":
        read(out, range(7))
    elif word == "replaced\\n":
        for address, nr_pages in ((mapped, 37), (freed, 47)):
            libc.mmap(address, nr_pages * P, 0, 0x32, -1, 0)
        libc.mmap(mapped, 37 * P, 3, 0x32, -1, 0); libc.madvise(mapped, 37 * P, NOHUGE); write(mapped, range(29))
    elif word == "protected\\n":
        libc.mprotect(freed, 19 * P, 1)
        libc.munmap(mapped + 30 * P, 3 * P)
    elif word == "moved\\n":
        new.append(libc.mremap(grown, 61 * P, 71 * P, 1))
    print(json.dumps(new), flush=True)
"""


class Changing:
    """A program that changes when it is told, and stands still otherwise."""

    def __init__(self, running: Any) -> None:
        self.pid = running.pid
        self.areas: dict[str, int] = running.told
        self._process = running.process

    def tell(self, word: str) -> Any:
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@pytest.fixture
def changing(disk_path: Path) -> Iterator[Changing]:
    path = disk_path / "changing"
    path.write_bytes(b"x" * 37 * PAGE)
    with program(CODE, str(path), wait="") as running:
        yield Changing(running)


def pages_of(row: Any) -> dict[str, int]:
    """Return which ways pages went, and how many."""
    return {name: nr for name, nr in row.pages.to_dict().items() if nr and name != "moved"}


@pytest.mark.root("CAP_SYS_ADMIN")
def test_every_change_is_told_with_its_pages(changing: Changing) -> None:
    with Process(changing.pid) as process:
        before = Look(process, "before")
        (new,) = changing.tell("change")
        result = difference(before, Look(process, "after"))
    rows = {row.start: row for row in result.rows}
    areas = changing.areas

    found = {name: (rows[start].how, pages_of(rows[start])) for name, start in areas.items() if start in rows}
    assert found == {
        "grown": ("changed", {"came": 31}),
        "freed": ("changed", {"went": 19}),
        "gone": ("gone", {"went": 11}),
        "mapped": ("changed", {"copied": 17}),
    }
    assert (rows[new].how, pages_of(rows[new]), rows[new].size) == ("new", {"came": 23}, 29 * PAGE)
    assert rows[areas["grown"]].changes["rss"] == 31 * PAGE
    assert (rows[areas["mapped"]].changes["anon"], rows[areas["mapped"]].changes["rss"]) == (17 * PAGE, 0)
    for name in ("rss", "uss", "swap", "anon"):
        assert sum(row.changes[name] or 0 for row in result.rows) == result.changes[name]


@pytest.mark.root("CAP_SYS_ADMIN")
def test_pages_of_what_was_replaced_went_and_those_of_what_replaced_it_came(changing: Changing) -> None:
    with Process(changing.pid) as process:
        before = Look(process, "before")
        changing.tell("replaced")
        result = difference(before, Look(process, "after"))
    rows = {(row.start, row.how): row for row in result.rows if row.pages}

    mapped, freed = changing.areas["mapped"], changing.areas["freed"]
    assert pages_of(rows[mapped, "gone"]) == {"went": 37}
    assert pages_of(rows[mapped, "new"]) == {"came": 29}
    assert pages_of(rows[freed, "gone"]) == {"went": 47}
    assert sum(row.pages.copied for row in result.rows if row.pages) == 0


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("by", ["vma", "path", "kind"])
def test_pages_that_only_got_another_vma_neither_came_nor_went(by: str, changing: Changing) -> None:
    mapped, freed = changing.areas["mapped"], changing.areas["freed"]
    with Process(changing.pid) as process:
        before = Look(process, "before")
        changing.tell("protected")
        result = difference(before, Look(process, "after"), by)

    assert result.changes["rss"] == sum(row.changes["rss"] or 0 for row in result.rows)
    if by == "vma":
        rows = {row.start: row for row in result.rows}
        assert (rows[freed].how, rows[freed].changes["rss"], pages_of(rows[freed])) == ("new", 19 * PAGE, {})
        rest = rows[freed + 19 * PAGE]
        assert (rest.how, rest.changes["rss"], pages_of(rest)) == ("shrunk", -19 * PAGE, {})
        # A hole in a file: what is behind it is a new VMA with the pages that it had.
        assert pages_of(rows[mapped + 33 * PAGE]) == {}
        assert pages_of(rows[mapped]) == {"went": 3}
    of_files = [row for row in result.rows if row.kind == "file" and row.pages and row.pages.went]
    assert [pages_of(row) for row in of_files] == [{"went": 3}]


@pytest.mark.root("CAP_SYS_ADMIN")
def test_pages_that_were_moved_to_another_address_neither_came_nor_went(changing: Changing) -> None:
    with Process(changing.pid) as process:
        before = Look(process, "before")
        (new,) = changing.tell("moved")
        result = difference(before, Look(process, "after"))
    rows = {row.start: row for row in result.rows}

    pages = rows[new].pages
    assert pages
    assert (rows[new].how, pages_of(rows[new]), pages.moved) == ("new", {}, 5)
    assert (rows[new].changes["rss"], rows[new].size) == (5 * PAGE, 71 * PAGE)
    gone = rows[changing.areas["grown"]]
    assert (gone.how, pages_of(gone), gone.changes["rss"]) == ("gone", {}, -5 * PAGE)


@pytest.mark.root("CAP_SYS_ADMIN")
def test_pages_go_to_swap_and_come_back(changing: Changing, swap: Path) -> None:
    out = changing.areas["out"]
    with Process(changing.pid) as process:
        looks = [Look(process, "before")]
        for word in ("out", "back"):
            changing.tell(word)
            looks.append(Look(process, word))
        went, came = (difference(*pair) for pair in pairwise(looks))
    (row,) = (row for row in went.rows if row.start == out)
    nr_out = row.pages.out if row.pages else 0
    assert nr_out > 30  # others may hold one or the other for a moment
    assert (row.changes["swap"], row.changes["rss"]) == (nr_out * PAGE, -nr_out * PAGE)
    (row,) = (row for row in came.rows if row.start == out)
    assert row.pages
    assert 1 <= row.pages.back <= 43
    assert row.changes["rss"] == row.pages.back * PAGE


@pytest.mark.root("CAP_SYS_ADMIN")
def test_moments_and_captures_differ_as_the_process_did(changing: Changing, tmp_path: Path) -> None:
    path = tmp_path / "x.mematlas"
    saved = [tmp_path / "one", tmp_path / "two"]

    def stopped(act: Callable[[], object]) -> None:
        os.kill(changing.pid, signal.SIGSTOP)
        wait_until(lambda: process_state(changing.pid) == "T", "it stops")
        act()
        os.kill(changing.pid, signal.SIGCONT)

    def record(name: str) -> Path:
        file = path.with_name(name)
        words = ("record", changing.pid, "-o", file, "--what", "frames", "-d", "50ms", "-i", "50ms")
        assert mematlas(*words).returncode == 0
        return file

    recorded = []
    for index, directory in enumerate(saved):
        stopped(lambda directory=directory: mematlas("capture", changing.pid, directory))  # type: ignore[misc]
        stopped(lambda index=index: recorded.append(record(f"{index}.mematlas")))  # type: ignore[misc]
        if not index:
            changing.tell("change")
    answers = []
    for one, other in (saved, [f"{each}@0s" for each in recorded]):
        run = mematlas("diff", one, other, "--json")
        assert run.returncode == 0, run.stderr
        answers.append(json.loads(run.stdout))
    ways = ("how", "start", "size", "rss", "uss", "swap", "came", "went", "out", "back", "copied")
    # Between the two it runs on, and its heap with it.
    areas = {f"{start:#x}" for start in changing.areas.values()}
    rows = [[{key: row[key] for key in ways} for row in answer["rows"] if row["start"] in areas] for answer in answers]
    assert rows[0] == rows[1]
    assert [row["how"] for row in rows[0]].count("changed") >= 3
    assert answers[1]["target"]["before"]["at"] == f"{recorded[0]}@0s"


def test_without_rights_amounts_are_compared_and_frames_are_not(as_nobody: Callable[..., Any]) -> None:
    run = as_nobody(["diff", "self", "-d", "50ms", "--json"])
    assert run.code == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["target"]["changes"]["rss"] == sum(row["rss"] for row in result["rows"])
    assert {row["moved"] for row in result["rows"]} <= {None}


BIG = "import sys\nx = bytearray(1 << 24)\nprint(0, flush=True)"


def test_two_processes_are_compared_by_path() -> None:
    with program("import sys\nprint(0, flush=True)") as one, program(BIG) as two:
        run = mematlas("diff", one.pid, two.pid, "--json")
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert (run.returncode, result["target"]["is_same"], result["target"]["by"]) == (0, False, "path")
    assert result["target"]["changes"]["anon"] >= 1 << 24


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["self"], 2, "what with what?"),
        (["self", "1", "2"], 2, "what with what?"),
        (["self", "self", "-d", "1s"], 2, "-d looks at one process twice"),
        (["self", "~nothing-is-called-so"], 3, "no command line matches"),
        (["self", "self", "--by", "x"], 2, "vma, path or kind"),
    ],
)
def test_wrong_words_are_refused(words: list[str], code: int, text: str) -> None:
    run = mematlas("diff", *words)
    assert (run.returncode, run.stdout) == (code, "")
    assert text in run.stderr
