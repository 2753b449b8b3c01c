"""The workloads' telling is compared with smaps and pagemap of the running process."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import mematlas.labs.workload
from mematlas.errors import BadInput
from mematlas.labs.memory import PAGE_SIZE, KnownMemory
from mematlas.labs.workload import DRAW_PAGES, WORKLOADS, divide, parse_count, run

SOURCES = str(Path(mematlas.labs.workload.__file__).parents[2])
COMMAND = [sys.executable, "-m", "mematlas", "workload"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": SOURCES}
DEADLINE = 30.0


class Talk:
    """A workload that runs, told and heard through pipes."""

    def __init__(self, *argv: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
            bufsize=0,  # select() must see all that was not heard
        )
        self.pid = self.process.pid

    def hear(self) -> str:
        assert self.process.stdout
        assert select.select([self.process.stdout], [], [], DEADLINE)[0], "it says nothing"
        return self.process.stdout.readline().decode().rstrip("\n")

    def say(self, line: str | bytes = b"") -> None:
        assert self.process.stdin
        self.process.stdin.write((line.encode() if isinstance(line, str) else line) + b"\n")
        self.process.stdin.flush()

    def truth(self) -> dict[str, Any]:
        """Hear the next step as JSON, and check what it says about memory, if anything, with the kernel."""
        step: dict[str, Any] = json.loads(self.hear())
        assert step.get("pid") == self.pid
        if "address" in step:
            assert kernel_says(step) == (step["nr_pages"], step["nr_touched"], step["touched"])
        return step

    def end(self) -> tuple[int, str, str]:
        """Close its input; return the exit code and the rest of what it says."""
        out, err = self.process.communicate(timeout=DEADLINE)
        return self.process.returncode, out.decode(), err.decode()


@contextmanager
def talk(*argv: str) -> Iterator[Talk]:
    workload = Talk(*argv)
    try:
        yield workload
    finally:
        workload.process.kill()
        workload.process.communicate(timeout=DEADLINE)


def kernel_says(step: dict[str, Any]) -> tuple[int, int, list[int]]:
    """Return the pages of the VMA at a step's address: how many, how many resident, and which are present."""
    start, page_size = int(step["address"], 16), step["page_size"]
    text = Path(f"/proc/{step['pid']}/smaps").read_text()
    found = re.search(rf"^{start:08x}-([0-9a-f]+) (.*\n)+?Rss: +(\d+) kB", text, re.MULTILINE)
    assert found, f"no VMA starts at {start:#x}"
    nr_pages = (int(found[1], 16) - start) // page_size
    with open(f"/proc/{step['pid']}/pagemap", "rb", buffering=0) as file:
        words = struct.unpack(f"{nr_pages}Q", os.pread(file.fileno(), nr_pages * 8, start // page_size * 8))
    present = [page for page, word in enumerate(words) if word >> 63]
    return nr_pages, int(found[3]) * 1024 // page_size, present


def permissions(step: dict[str, Any]) -> str:
    """Return the permissions of the VMA at a step's address."""
    start = f"{int(step['address'], 16):08x}-"
    lines = Path(f"/proc/{step['pid']}/maps").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(start))


def play(script: str, *argv: str) -> tuple[int, str]:
    """Run a workload here, on a script; return its exit code and what it wrote."""
    name, *rest = (word for word in argv if word != "--json")
    writer = io.StringIO()
    code = run(name, rest[0] if rest else "12", io.StringIO(script), writer, "--json" in argv)
    return code, writer.getvalue()


def test_singlemap_maps_one_page_and_touches_it_when_told() -> None:
    with talk("singlemap", "--json") as workload:
        assert workload.truth()["event"] == "started"
        workload.say()
        step = workload.truth()
        assert (step["event"], step["nr_pages"], step["touched"]) == ("mapped", 1, [])
        assert permissions(step) == "rwxp"
        workload.say()
        assert workload.truth()["touched"] == [0]
        workload.say()
        assert workload.truth()["event"] == "ended"
        assert workload.end() == (0, "", "")


def test_multimap_by_words_lists_every_page() -> None:
    _, text = play("\n\n", "multimap", "2")
    places = re.findall(r"^ +(\d+)  0x(\w+)$", text, re.MULTILINE)
    assert [int(page) for page, _ in places] == [0, 1]
    assert int(places[1][1], 16) - int(places[0][1], 16) == PAGE_SIZE
    assert "2 of 2 have a frame" in text


def test_singlemap_by_words() -> None:
    with talk("singlemap") as workload:
        assert workload.hear() == f"PID {workload.pid}, pages of {PAGE_SIZE} bytes."
        workload.say()
        address = re.fullmatch(r"Mapped one page \(rwx\) at (0x\w+); nothing has touched it\.", workload.hear())
        assert address
        workload.say()
        assert workload.hear() == f"Wrote to {address[1]}: now it has a frame."
        assert workload.end() == (0, "", "")


@pytest.mark.parametrize(("argv", "count"), [([], 12), (["5"], 5), (["1"], 1)])
def test_multimap_touches_its_pages_one_by_one(argv: list[str], count: int) -> None:
    with talk("multimap", "--json", *argv) as workload:
        step = workload.truth()
        assert (step["nr_pages"], step["nr_touched"], permissions(step)) == (count, 0, "rwxp")
        for page in range(count):
            workload.say()
            step = workload.truth()
            assert step["touched"] == list(range(page + 1))
            assert int(step["page_address"], 16) == int(step["address"], 16) + page * PAGE_SIZE
        workload.say()
        assert workload.truth()["event"] == "ended"


@pytest.mark.parametrize("count", ["0", "-1", "4097", "x", "1_0", "1.5", "9" * 5000])
def test_multimap_of_a_bad_number_is_a_usage_error(count: str) -> None:
    done = subprocess.run(
        [*COMMAND, "multimap", "--", count], env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"N is a number of pages, 1 to 4096" in done.stderr
    assert b"Traceback" not in done.stderr


def test_prober_holds_one_touched_page_and_says_where() -> None:
    with talk("prober", "--json") as workload:
        step = workload.truth()
        assert (step["size"], step["nr_pages"], step["touched"]) == (1024, 1, [0])
        assert permissions(step) == "rw-p"
    with talk("prober") as workload:
        assert re.fullmatch(rf"Wrote to 1 KiB at 0x\w+ of PID {workload.pid}\.", workload.hear())


def test_draw_touches_what_it_says_and_clear_gives_it_back() -> None:
    with talk("draw", "--json") as workload:
        assert workload.truth()["nr_pages"] == 1024
        for line, event, nr_touched in (
            ("Draw 1", "drawn", 1024),
            ("Clear", "cleared", 0),
            ("draw 2", "drawn", 512 + 256),
            ("CLEAR", "cleared", 0),
            ("Draw 3", "drawn", 341 + 171 + 170),
            ("Draw 1024", "drawn", None),
        ):
            workload.say(line)
            step = workload.truth()
            assert step["event"] == event
            assert nr_touched is None or step["nr_touched"] == nr_touched
        workload.say("Quit")
        assert workload.truth()["event"] == "ended"
        assert workload.end() == (0, "", "")


def test_drawings_lie_on_top_of_each_other() -> None:
    # The second of two segments holds the even pages, the second half of the first of one holds all.
    _, text = play("draw 2\ndraw 3\n", "draw", "--json")
    _, first, second, _ = (json.loads(line) for line in text.splitlines())
    assert set(first["touched"]) < set(second["touched"])


@pytest.mark.parametrize("count", [1, 2, 3, 7, 1000, 1023, 1024])
def test_segments_cover_every_page_once_in_like_sizes(count: int) -> None:
    segments = divide(count)
    pages = [page for part in segments for page in range(part.first, part.first + part.nr_pages)]
    assert pages == list(range(DRAW_PAGES))
    assert {part.nr_pages for part in segments} <= {DRAW_PAGES // count, DRAW_PAGES // count + 1}
    for part in segments:
        inside = range(part.first, part.first + part.nr_pages)
        kept = {"all": (0, 1), "even": (0,), "odd": (1,)}[part.pattern]
        assert list(part.pages()) == [page for page in inside if page % 2 in kept]


@pytest.mark.parametrize(
    "line",
    [
        "Draw",
        "Draw x",
        "Draw 0",
        "Draw 1025",
        "Draw -3",
        "Draw 3 4",
        "Draw ٣",
        "paint",
        b"\xff\xfe",
        "Draw " + "9" * 5000,
    ],
)
def test_bad_line_is_answered_and_the_next_is_heard(line: str | bytes) -> None:
    with talk("draw", "--json") as workload:
        workload.truth()
        workload.say(line)
        step = workload.truth()
        assert step["event"] == "error"
        assert "Draw N" in step["message"]
        workload.say()  # an empty line is nothing
        workload.say("Draw 1")
        assert workload.truth()["nr_touched"] == 1024
        assert workload.end()[::2] == (0, "")


@pytest.mark.parametrize("name", WORKLOADS)
def test_end_of_input_ends_every_workload(name: str) -> None:
    with talk(name, "--json") as workload:
        code, out, err = workload.end()
        assert (code, err) == (0, "")
        assert json.loads(out.splitlines()[-1])["event"] == "ended"


@pytest.mark.parametrize("name", WORKLOADS)
def test_interrupt_ends_every_workload_quietly(name: str) -> None:
    with talk(name, "--json") as workload:
        workload.hear()
        workload.process.send_signal(signal.SIGINT)
        code, _, err = workload.end()
        assert (code, err) == (130, "")


def test_reader_that_goes_away_ends_it_quietly() -> None:
    with talk("draw") as workload:
        workload.hear()
        assert workload.process.stdout
        workload.process.stdout.close()
        workload.say("Draw 1")
        workload.process.wait(DEADLINE)
        assert workload.process.stderr
        assert (workload.process.returncode, workload.process.stderr.read()) == (0, b"")


def test_person_at_a_terminal_is_prompted() -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "r+b", buffering=0) as person:
        process = subprocess.Popen([*COMMAND, "draw"], stdin=theirs, stdout=theirs, stderr=theirs, env=ENVIRONMENT)
        os.close(theirs)
        try:
            seen = b""
            while b"Draw N, Clear or Quit: " not in seen:
                assert select.select([person], [], [], DEADLINE)[0], seen
                seen += person.read(4096)
            person.write(b"quit\n")
            assert process.wait(DEADLINE) == 0
        finally:
            process.kill()
            process.wait(DEADLINE)
    assert b"1,024 pages at 0x" in seen


def test_workload_is_a_function_of_arguments_reader_and_writer() -> None:
    assert play("\n\n\n", "prober")[0] == 0
    code, text = play("\n\n", "multimap", "2", "--json")
    assert code == 0
    assert [json.loads(line)["event"] for line in text.splitlines()] == [
        "mapped",
        "touched",
        "touched",
        "ended",
    ]
    with pytest.raises(BadInput, match="multimap none"):
        play("", "multimap", "none")


@pytest.mark.parametrize(("text", "number"), [("1", 1), ("007", 7), ("8", None), ("", None), ("+1", None)])
def test_counts_are_plain_numbers_in_range(text: str, number: int | None) -> None:
    assert parse_count(text, 7) == number


def test_known_memory_can_be_closed() -> None:
    memory = KnownMemory(3 * PAGE_SIZE + 1, "test")
    memory.touch([0, 3])
    assert (memory.nr_pages, memory.touched) == (4, {0, 3})
    memory.clear()
    assert memory.touched == set()
    memory.close()


def test_nothing_heavy_is_imported_to_start() -> None:
    code = "import sys, mematlas.labs.workload; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert not {"argparse", "ctypes", "dataclasses", "json", "typing", "numpy"} & set(done.stdout.split())
