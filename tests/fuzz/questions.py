"""Questions to the side that has the rights, by a front end that somebody has taken over: right, or nearly so, or not.

Each is answered as a worker of the broker answers it. What may come of it: nonsense, an error that is sent, or an
answer about the one process that was granted, with no address of the kernel in it.
"""

from __future__ import annotations

import fcntl
import marshal
import os
import pickle
import re
import socket
import threading
from array import array
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from commands import start_victim
from mematlas.kernel import messages
from mematlas.kernel.broker import Worker
from mematlas.kernel.messages import encode
from mematlas.kernel.procfs import ProcFS
from mematlas.kernel.queries import NonsenseError
from mematlas.observe.queries import EVERY
from mutation import ANY, NUMBERS, PIECES, change_number, mutate

PID, START, SPACE, COUNTED = "@pid", "@start", "@space", "@counted"
"""What stands in an input for what is another number each time."""
WHO = (PID, START)
FRAMES = array("Q", [1, 4096, 1 << 20, 1 << 40]).tobytes()
USER_END = (1 << 47) - 1
EXAMPLES: tuple[tuple[object, ...], ...] = (
    *(("open_file", *WHO, name, 0) for name in ("maps", "smaps", "pagemap", "status", "cgroup", "task/7/stat")),
    *(("open_file", *WHO, name, os.O_DIRECTORY) for name in ("fd", "task")),
    *(("open_page_file", name) for name in ("kpagecount", "kpageflags", "kpagecgroup")),
    *(("open_machine_file", name) for name in ("slabinfo", "vmallocinfo", "iomem")),
    *(("read_link", *WHO, name) for name in ("exe", "fd/0", "ns/pid", "map_files/400000-401000")),
    *(("stat_link", *WHO, name) for name in ("exe", "fd/0")),
    ("stat_mapped", *WHO, "1000-2000,7f10-7f20"),
    ("magic_behind", *WHO, "exe"),
    ("read_stat_whole", *WHO),
    ("read_syscall", *WHO, PID),
    ("robust_list_of", *WHO, PID),
    ("program_sections", *WHO),
    ("parts_of_file", *WHO, "400000-401000", 0, 4096, 1),
    ("pages_of_link", *WHO, "exe"),
    ("compare_memory", *WHO, 1),
    ("resident_pages", *WHO, "400000-401000", 0, 4096),
    ("give_advice", *WHO, 21, FRAMES),
    ("touch_pages", *WHO, FRAMES),
    ("open_tables", "auto"),
    ("prove_frames", "auto"),
    ("hold_tables", *WHO, "auto"),
    ("release_tables", SPACE),
    ("are_tables_current", SPACE),
    ("walk_tables", SPACE, False, 0, USER_END, 4),
    ("walk_to_address", SPACE, False, 0x400000),
    *(
        (name, "auto", FRAMES)
        for name in ("count_maps", "count_maps_alone", "find_anonymous", "find_pinned", "count_shares")
    ),
    ("open_counts",),
    ("renew_layout",),
    ("hold_counted", *WHO),
    ("release_counted", COUNTED),
    ("are_counted_current", COUNTED),
    ("count_range", COUNTED, 0, USER_END, 0),
    ("sample_counted", COUNTED),
    ("count_table_shares", COUNTED, 0x400000, 21),
    ("count_leaves", array("q", [4096, 512, 0]).tobytes()),
    ("ask_frames", FRAMES),
    ("open_frames", "auto"),
    ("look_at_frames", "auto", "kind", 0.5, 7),
    ("check_frames", "auto"),
    ("find_kernel_memory", 0.5),
    ("find_owners", 0.5, FRAMES),
    ("find_everything", "", 7, "", 0.5),
    ("find_largest_files", 3),
    ("look_at_process", *WHO),
    ("look_at_path", "/etc"),
    ("<0walk_tables", SPACE, False, 0, USER_END, 4),
    ("<0<1open_tables", "auto"),
)
"""A question of each name, two that give an area back as well; some that are about everybody are never answered where
one process was granted."""
KERNEL = (range(0xFFFF800000000000, 0xFFFFFFFF00000000), range(0xFFFFFFFF80000000, (1 << 64) - 4096))
"""Addresses of the kernel. (What is beyond is a small negative number; what is between, a count behind which is -1.)"""
OPENED = re.compile(r"/proc/(?P<pid>\d+)/|/proc/(kpage\w+|slabinfo|vmallocinfo|iomem)$")
KINDS = (messages.ANSWER, messages.RECORD, messages.ARRAYS, messages.PIECE, messages.FAILURE, messages.REFUSAL)
DONE = b"."
MOST_HELD = 300
"""Descriptors that a worker may have open: 16 processes, and 64 address spaces of each sort, with what these hold."""


def change_parts(random: Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    """Drop, double or exchange one part of a question, or take one of another."""
    parts = data.split(b"\0")
    at = random.randrange(len(parts))
    match random.randrange(5):
        case 0:
            del parts[at]
        case 1:
            parts.insert(at, parts[at])
        case 2:
            parts[at] = random.choice(random.choice(corpus).split(b"\0"))
        case 3:
            parts[at] = random.choice(NUMBERS + PIECES)
        case _:
            other = random.randrange(len(parts))
            parts[at], parts[other] = parts[other], parts[at]
    return b"\0".join(parts)


class Questions:
    """Questions to a worker that is granted one process, which may not be acted on."""

    name = "questions"
    seconds = 10.0
    allowed: tuple[type[BaseException], ...] = ()

    def __init__(self) -> None:
        missing = {query.name for query in EVERY} ^ {str(words[0]).lstrip("<01") for words in EXAMPLES}
        assert not missing, f"no example of {missing}"
        self._corpus = [encode(*map(str, words[:1]), *words[1:]) for words in EXAMPLES]
        self._asked: Asked | None = None

    def make(self, random: Random) -> bytes:
        return mutate(random, self._corpus, (*ANY, change_number, *(change_parts,) * 6))

    def run(self, data: bytes) -> None:
        if self._asked is None:
            self._asked = Asked()
        self._asked.ask(data)


class Asked:
    """A worker in this process, and who hears its answers."""

    def __init__(self) -> None:
        self.pid = start_victim()
        with ProcFS().process(self.pid) as process:
            self.victim = process.identity
        ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        grant = messages.Grant(os.getpid(), frozenset((self.victim,)))
        self._worker = Worker(ours, grant, EVERY)
        self._ours = ours
        self._heard: list[tuple[bytes, list[int]]] = []
        self._is_heard = threading.Event()
        threading.Thread(target=self._hear, daemon=True).start()
        self._numbers = {SPACE: 0, COUNTED: 0}
        for key, name, more in ((SPACE, "hold_tables", ("auto",)), (COUNTED, "hold_counted", ())):
            for kind, answer, _ in self._answers(encode(name, *self.victim, *more)):
                if kind == messages.ANSWER:
                    told = marshal.loads(answer)
                    self._numbers[key] = told[0] if isinstance(told, tuple) else told

    def ask(self, data: bytes) -> None:
        """Ask something, and look at what comes back."""
        given = data
        for key, number in zip((*WHO, *self._numbers), (*self.victim, *self._numbers.values()), strict=True):
            given = given.replace(key.encode(), str(number).encode())
        for kind, answer, opened in self._answers(given):
            assert kind in KINDS, f"an answer of kind {kind!r}"
            assert all(map(self._may_be_open, opened)), "what nobody was granted is opened"
            for fd in opened:
                os.close(fd)
            shown = [number for number in numbers_in(kind, answer) if any(number in each for each in KERNEL)]
            assert not [number for number in shown if str(number).encode() not in given], f"{shown[0]:#x} is told"
        assert len(os.listdir("/proc/self/fd")) < MOST_HELD, "descriptors are left open"

    def _answers(self, data: bytes) -> list[tuple[bytes, bytes, list[int]]]:
        self._heard.clear()
        self._is_heard.clear()
        try:
            self._worker.take(data[: messages.QUESTION_SIZE])
        except NonsenseError:
            pass
        finally:
            self._ours.send(DONE)
            self._is_heard.wait()
        for area in self._worker.procfs.areas._areas[1:]:
            area.is_looked_at = False  # the first is given back by a question
        return [(message[:1], message[1:], opened) for message, opened in self._heard if message[:1] != messages.MORE]

    def _hear(self) -> None:
        while True:
            message, rights, _, _ = socket.recv_fds(self._theirs, messages.ROOM, 4)
            if message == DONE:
                self._is_heard.set()
            else:
                self._heard.append((message, rights))

    def _may_be_open(self, fd: int) -> bool:
        path = os.readlink(f"/proc/self/fd/{fd}")
        found = OPENED.match(path)
        is_read = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        if path.startswith("/memfd:mematlas"):
            return True
        return bool(is_read and found and found["pid"] in (None, str(self.pid)))


def numbers_in(kind: bytes, answer: bytes) -> Iterator[int]:
    """Yield the numbers of an answer, of 64 bits where it is bytes."""
    if kind in (messages.ANSWER, messages.PIECE) and answer:
        yield from numbers_of(marshal.loads(answer))
    elif kind == messages.RECORD:
        yield from numbers_of(pickle.loads(answer))


def numbers_of(value: Any) -> Iterator[int]:
    if isinstance(value, bool):
        return
    if isinstance(value, int):
        yield value
    elif isinstance(value, bytes) and len(value) % 8 == 0:
        yield from memoryview(value).cast("Q").tolist()
    elif isinstance(value, dict):
        for each in value.values():
            yield from numbers_of(each)
    elif isinstance(value, list | tuple | set | frozenset):
        for each in value:
            yield from numbers_of(each)
    elif hasattr(value, "tobytes"):
        yield from numbers_of(value.tobytes())
    elif fields := getattr(type(value), "__match_args__", ()):
        for name in fields:
            yield from numbers_of(getattr(value, name))
