"""Runs inputs by the million: workers that are bounded in time and memory, and a directory that keeps what failed.

An input is bytes, and a function of its subject, the seed and its number (and of what the subject starts from). So a
seed names a whole run. What fails is kept as a file, which `replay` runs again wherever it came from.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import resource
import select
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType
from typing import NoReturn, Protocol

HANG = 120.0
"""Seconds in which an input must end, whatever else the machine does; a worker that needs longer is ended."""
MEMORY = 512 << 20
"""Bytes of addresses that a worker may take on top of those that it starts with."""
CHUNK = 500
"""Inputs that a worker is given at once."""
SOURCE = f"{os.sep}mematlas{os.sep}"


class Subject(Protocol):
    """What is tried: something that makes inputs, and runs them."""

    @property
    def name(self) -> str:
        """Names the directory of its inputs that failed."""

    @property
    def seconds(self) -> float:
        """How much of the processor's time one input may take."""

    @property
    def allowed(self) -> tuple[type[BaseException], ...]:
        """What it may raise."""

    def make(self, random: Random) -> bytes:
        """Return an input."""

    def run(self, data: bytes) -> None:
        """Run an input; raise `AssertionError`, or anything else that is not allowed, when it fails."""


class Overrun(BaseException):
    """An input takes too long. Not an `Exception`: nothing on the way may catch it."""


@dataclass(frozen=True)
class Fault:
    """An input that failed."""

    subject: str
    data: bytes
    kind: str
    """What happened and where, in a line: faults of one kind are kept once."""
    text: str


@dataclass
class Outcome:
    """What came of a run."""

    nr_run: int = 0
    first: int = 0
    """The number from which a run of the same seed goes on."""
    seconds: float = 0.0
    faults: dict[str, Fault] = field(default_factory=dict)
    """One for each kind."""
    nr_faults: int = 0
    interrupted: bool = False
    """Whether Ctrl-C ended it."""


def attempt(subject: Subject, data: bytes) -> Fault | None:
    """Run one input; return the fault when it fails."""

    def overrun(number: int, frame: FrameType | None) -> NoReturn:
        raise Overrun(f"more than {subject.seconds:g} s")

    # The processor's time, not the clock's: the machine may be doing other things.
    before = signal.signal(signal.SIGPROF, overrun)
    try:
        signal.setitimer(signal.ITIMER_PROF, subject.seconds)
        try:
            subject.run(data)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    except subject.allowed:
        return None
    except (Exception, SystemExit, Overrun) as error:
        return Fault(subject.name, data, kind_of(error), "".join(traceback.format_exception(error)[-40:]))
    finally:
        signal.signal(signal.SIGPROF, before)
    return None


def kind_of(error: BaseException) -> str:
    """Return what happened, and the last line of ours on the way there."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if SOURCE in frame.filename] or frames[-1:]
    where = f"{os.path.basename(ours[-1].filename)}:{ours[-1].name}" if ours else "?"
    text = str(error).split("\n")[0][:60] if isinstance(error, AssertionError) else ""
    return f"{type(error).__name__} in {where}" + (f": {text}" if text else "")


def input_of(subjects: Sequence[Subject], seed: int, number: int) -> tuple[Subject, bytes]:
    """Return an input by its number: subjects take turns."""
    subject = subjects[number % len(subjects)]
    return subject, subject.make(Random(f"{subject.name} {seed} {number}"))


class Worker:
    """A child that runs inputs, a chunk at a time."""

    def __init__(self, subjects: Sequence[Subject], seed: int) -> None:
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.page = os.memfd_create("number")  # the number of the input that runs now
        os.ftruncate(self.page, 8)
        self.first = self.end = 0
        self.seen, self.since = -1, time.monotonic()
        sys.stdout.flush()
        with warnings.catch_warnings():
            # Python 3.12 warns when other threads exist (numpy's): the child never needs them.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            self.ours.close()
            work(subjects, seed, theirs, self.page)
        theirs.close()

    def give(self, first: int, end: int) -> None:
        """Have inputs run."""
        self.first, self.end, self.since = first, end, time.monotonic()
        self.ours.send(pickle.dumps((first, end)))

    @property
    def number(self) -> int:
        """The input that runs now."""
        return int.from_bytes(os.pread(self.page, 8, 0), "little")

    def has_hung(self, hang: float) -> bool:
        """Whether it has run the same input for too long."""
        if (number := self.number) != self.seen:
            self.seen, self.since = number, time.monotonic()
        return time.monotonic() - self.since > hang

    def end_it(self) -> int:
        """End the worker; return how it ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.ours.close()
        os.close(self.page)
        return code


def work(subjects: Sequence[Subject], seed: int, parent: socket.socket, page: int) -> NoReturn:
    """Run what the parent says, and tell it what fails, until it ends."""
    code = 1
    try:
        warnings.simplefilter("error")
        limit_memory()
        while order := parent.recv(1 << 16):
            first, end = pickle.loads(order)
            for number in range(first, end):
                os.pwrite(page, number.to_bytes(8, "little"), 0)
                subject, data = input_of(subjects, seed, number)
                if fault := attempt(subject, data):
                    parent.send(pickle.dumps((number, fault)))
            parent.send(pickle.dumps((end, None)))
        code = 0
    except KeyboardInterrupt:
        pass  # the parent tells
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def limit_memory() -> None:
    """Let this process take a bounded amount of memory from now on."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))


def run(
    subjects: Sequence[Subject],
    seed: int,
    numbers: range,
    nr_workers: int = 1,
    seconds: float | None = None,
    told: Callable[[Outcome], None] = lambda outcome: None,
    hang: float = HANG,
) -> Outcome:
    """Run the inputs with these numbers, for so long at most."""
    start = time.monotonic()
    outcome = Outcome(first=numbers.start)
    chunks = iter(range(numbers.start, numbers.stop, CHUNK))
    workers: list[Worker] = []
    idle: list[Worker] = []
    try:
        while True:
            late = seconds is not None and time.monotonic() - start > seconds
            while not late and (idle or len(workers) < nr_workers) and (first := next(chunks, None)) is not None:
                worker = idle.pop() if idle else Worker(subjects, seed)
                if worker not in workers:
                    workers.append(worker)
                worker.give(first, min(first + CHUNK, numbers.stop))
                outcome.first = first + CHUNK
            busy = [worker for worker in workers if worker not in idle]
            if not busy:
                break
            idle.extend(listen(busy, outcome, subjects, seed, hang))
            workers = [worker if worker.pid else replaced(worker, subjects, seed) for worker in workers]
            outcome.seconds = time.monotonic() - start
            told(outcome)
    except KeyboardInterrupt:
        outcome.interrupted = True
    finally:
        # What was not finished is done again.
        outcome.first = min([outcome.first, *(worker.first for worker in workers if worker not in idle)])
        for worker in workers:
            worker.end_it()
    outcome.first = min(outcome.first, numbers.stop)
    outcome.seconds = time.monotonic() - start
    return outcome


def listen(
    busy: Sequence[Worker], outcome: Outcome, subjects: Sequence[Subject], seed: int, hang: float
) -> Iterator[Worker]:
    """Take what workers say for a second at most; yield those that are done. One that is lost has no PID then."""
    readable, _, _ = select.select([worker.ours for worker in busy], [], [], 1.0)
    for worker in busy:
        said = worker.ours.recv(1 << 20) if worker.ours in readable else None
        if said:
            number, fault = pickle.loads(said)
            if fault:
                note(outcome, fault)
            else:
                outcome.nr_run += number - worker.first
                worker.first = number
                yield worker
        elif said == b"" or worker.has_hung(hang):
            number = worker.number
            code = worker.end_it()
            worker.pid = 0
            subject, data = input_of(subjects, seed, number)
            kind = f"{subject.name}: " + (f"ended with {code}" if said == b"" else f"no end in {hang:g} s")
            note(outcome, Fault(subject.name, data, kind, f"{kind}, input {number}\n"))
            outcome.nr_run += number + 1 - worker.first
            worker.first = number + 1


def replaced(lost: Worker, subjects: Sequence[Subject], seed: int) -> Worker:
    """Return a worker that goes on after the input that its predecessor was lost with."""
    worker = Worker(subjects, seed)
    worker.give(lost.first, lost.end)
    return worker


def note(outcome: Outcome, fault: Fault) -> None:
    """Keep a fault, if it is the first of its kind, or shorter."""
    outcome.nr_faults += 1
    kind = f"{fault.subject}: {fault.kind}"
    known = outcome.faults.get(kind)
    if known is None or len(fault.data) < len(known.data):
        outcome.faults[kind] = fault


# --- what is kept


class Notebook:
    """A directory with the inputs that failed, and how far the run of each group came."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    def keep(self, fault: Fault) -> Path:
        """Write an input that failed, and beside it what happened; return the input's path."""
        name = hashlib.sha256(fault.kind.encode()).hexdigest()[:12]
        path = self.path / fault.subject / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(fault.data)
        path.with_suffix(".txt").write_text(f"{fault.kind}\n\n{fault.text}", errors="backslashreplace")
        return path

    def first(self, group: str, seed: int) -> int:
        """Return the number that a run of this group and seed goes on from."""
        return int(self._read().get(f"{group} {seed}", 0))

    def came_to(self, group: str, seed: int, first: int) -> None:
        """Remember it."""
        fresh = self.path / ".progress.json"
        fresh.write_text(json.dumps(self._read() | {f"{group} {seed}": first}))
        fresh.rename(self.path / "progress.json")

    def _read(self) -> dict[str, int]:
        try:
            known: dict[str, int] = json.loads((self.path / "progress.json").read_text())
        except FileNotFoundError:
            return {}
        return known


def replay(path: Path, subjects: Sequence[Subject]) -> Fault | None:
    """Run one kept input again: its directory names the subject."""
    subject = next(each for each in subjects if each.name == path.absolute().parent.name)
    return attempt(subject, path.read_bytes())
