"""A process whose memory is known, to look at in tests.

    with Victim("anon", "zero") as victim:
        area = victim["anon"]              # area.address, area.nr_pages, area.nr_present, area.states, ...
        victim.touch("anon", 2)            # the truth of victim["anon"] follows
        with victim.stopped():             # SIGSTOP ... SIGCONT
            look_at(victim.pid)

The kinds of memory are the builders of `victim_program.py`. What this machine cannot make skips the test, and
says what is missing. Leaving the context ends the process and its child, and removes their files.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
PROGRAM = Path(__file__).with_name("victim_program.py")
DEADLINE = 120.0 if "MEMATLAS_GUEST" in os.environ else 60.0

PATH_KINDS = (
    "path_blank",
    "path_newline",
    "path_backslash",
    "path_octal",
    "path_brackets",
    "path_deleted_name",
    "path_not_utf8",
    "path_escapes",
    "path_deleted",
    "path_deleted_twice",
)
PLAIN_KINDS = (
    "anon",
    "anon_full",
    "private_file",
    "shared_file",
    "shared_anon",
    "tmpfs",
    "memfd",
    "zero",
    "prot_none",
    "forked",
)
"""Kinds that every Linux machine can make, without any right."""
KINDS = (
    *PLAIN_KINDS,
    "anon_named",
    "guard",
    "locked",
    "thp",
    "huge_zero",
    "ksm",  # with the fixture `ksm`
    "hugetlb",  # with the fixture `hugetlb_pages`
    "swapped",  # with the fixture `swap`, as is the next
    "shared_anon_swapped",
    "prot_none_code",
    "thp_prot_none",
    "shmem_thp",
    "shmem_thp_prot_none",
    "hugetlb_prot_none",  # with the fixture `hugetlb_pages`, as is `uffd_wp_hugetlb`
    "uffd_wp",
    "uffd_wp_swapped",  # with the fixture `swap`
    "uffd_wp_hugetlb",
    "uffd_wp_memfd",  # with the fixture `swap`, as is `guard_memfd`
    "uffd_zero_memfd",
    "guard_memfd",
)
ON_DISK = ("private_file", "shared_file", *PATH_KINDS)
NO_DISK = f"needs a directory on a disk: {tempfile.gettempdir()}, /var/tmp, or the checkout's"
FIXTURES = {
    "ksm": "ksm",
    **dict.fromkeys(("hugetlb", "hugetlb_prot_none", "uffd_wp_hugetlb"), "hugetlb_pages"),
    **dict.fromkeys(("swapped", "shared_anon_swapped", "uffd_wp_swapped", "uffd_wp_memfd", "guard_memfd"), "swap"),
}
"""What a kind needs of the machine: the name of a fixture."""

# Source: include/uapi/linux/magic.h
TMPFS = 0x01021994
RAMFS = 0x858458F6
OVERLAYFS = 0x794C7630

libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Area:
    """One VMA of a victim, and the truth about it: what the kernel must report."""

    kind: str
    pid: int
    address: int
    nr_pages: int
    page_size: int
    path: str
    """As `os.fsdecode` has it; without the `` (deleted)`` that the kernel puts behind it."""
    deleted: bool
    states: tuple[str, ...]
    """A word per page; `victim_program` lists them."""
    facts: dict[str, Any]
    """What only some kinds have: nr_huge, nr_anon, huge_size."""

    @property
    def end(self) -> int:
        """First address after the area."""
        return self.address + self.size

    @property
    def size(self) -> int:
        """Bytes."""
        return self.nr_pages * self.page_size

    @property
    def nr_present(self) -> int:
        """Pages whose pagemap entry has the present bit."""
        return self.count("present", "shared", "zero", "hugetlb")

    @property
    def nr_resident(self) -> int:
        """Pages that the kernel counts in Rss."""
        return self.count("present", "shared")

    @property
    def nr_exclusive(self) -> int:
        """Resident pages that are mapped once: Private_*."""
        return self.count("present")

    @property
    def nr_zero(self) -> int:
        """Pages that are the zero page: present, not resident."""
        return self.count("zero")

    @property
    def nr_hugetlb(self) -> int:
        """Pages of the base size in hugetlb pages: present, not resident."""
        return self.count("hugetlb")

    @property
    def nr_swapped(self) -> int:
        """Pages that the kernel counts in Swap, be there a swap entry or nothing in the page table."""
        return self.count("swapped", "shmem_swapped", "marker_swapped", "guard_swapped")

    @property
    def nr_guard(self) -> int:
        """Guard markers."""
        return self.count("guard", "guard_swapped")

    def count(self, *states: str) -> int:
        """Return the number of pages in one of these states."""
        return sum(state in states for state in self.states)

    def page_address(self, page: int) -> int:
        """Return where a page starts."""
        return self.address + page * self.page_size


class Victim:
    """A separate process that builds the asked kinds of memory, in this order."""

    def __init__(self, *kinds: str, uid: int | None = None) -> None:
        """With ``uid``, the process becomes that user after it has built everything (as root only)."""
        self.areas: dict[str, Area] = {}
        self._directory = tempfile.TemporaryDirectory(prefix="mematlas-victim-", dir=disk(), ignore_cleanup_errors=True)
        self.directory = self._directory.name
        try:
            self._process = subprocess.Popen(
                # Isolated and without site-packages: as little memory, and as quick a start, as can be.
                [sys.executable, "-I", "-S", str(PROGRAM), self.directory],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                encoding="ascii",
            )
        except BaseException:
            self._directory.cleanup()
            raise
        self.pid = self._process.pid
        try:
            self.page_size: int = self._answer()["page_size"]
            for kind in kinds:
                self.build(kind)
            if uid is not None:
                self.tell("become", uid=uid)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __getitem__(self, name: str) -> Area:
        return self.areas[name]

    def tell(self, command: str, **arguments: Any) -> None:
        """Have a command done, after which ``areas`` holds the new truth; skip what cannot be done here."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        if why := answer.get("unavailable"):
            skip(why)
        for fields in answer["areas"]:
            fields["address"] = int(fields["address"], 16)
            fields["states"] = tuple(fields["states"])
            area = Area(**fields)
            self.areas[area.kind] = area

    def build(self, kind: str) -> Area:
        """Build one more kind of memory."""
        if kind in ON_DISK and not disk():
            skip(NO_DISK)
        self.tell("build", kind=kind)
        return self.areas[kind]

    def touch(self, name: str, *pages: int) -> Area:
        """Write to pages of an area."""
        self.tell("touch", name=name, pages=list(pages))
        return self.areas[name]

    def read(self, name: str, *pages: int) -> Area:
        """Read absent pages of an area."""
        self.tell("read", name=name, pages=list(pages))
        return self.areas[name]

    def pageout(self, name: str, start: int = 0, end: int | None = None) -> Area:
        """Have pages swapped out (needs the fixture `swap`)."""
        self.tell("pageout", name=name, start=start, end=end)
        return self.areas[name]

    def drop(self, name: str, start: int = 0, end: int | None = None) -> Area:
        """Have anonymous pages given back."""
        self.tell("drop", name=name, start=start, end=end)
        return self.areas[name]

    def fork(self) -> Area:
        """Start a child that shares the area `forked`; return the child's area, `forked_child`."""
        self.tell("fork")
        return self.areas["forked_child"]

    def rewrite_half(self) -> Area:
        """Have the parent write to half of what it shares with the child; return the parent's area."""
        self.tell("rewrite", part="half")
        return self.areas["forked"]

    def set_dumpable(self, value: bool) -> None:
        """Let /proc/PID belong to the process's user, or to root."""
        self.tell("dumpable", value=int(value))

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop the process and its child, and let them go on."""
        pids = self._pids()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            wait_until(lambda: all(process_state(pid) == "T" for pid in pids), "the victim stops")
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def exit(self) -> None:
        """Let the process end by itself, now, and reap it: what it was is gone for those who look."""
        self._kill_child()
        assert self._process.stdin
        self._process.stdin.write('{"command": "exit"}\n')
        self._process.stdin.flush()
        self._process.wait(DEADLINE)

    def close(self) -> None:
        """End the process and its child, and remove their files."""
        if self._process.poll() is None:
            self._kill_child()
            self._process.kill()  # a stopped process too
            self._process.wait(DEADLINE)
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()
        self._directory.cleanup()
        # No area yet, or none at all, when the building of it failed half way.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"/dev/shm/mematlas-victim-{self.pid}")

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        # Each answer is one line that was asked for: nothing of it waits in the buffer above the descriptor.
        if not select.select([self._process.stdout], [], [], DEADLINE)[0]:
            raise AssertionError(f"the victim is in state {process_state(self.pid)} and does not answer")
        line = self._process.stdout.readline()
        if not line:
            raise AssertionError(f"the victim ended with {self._process.wait(DEADLINE)}: see its stderr")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _pids(self) -> list[int]:
        return sorted({self.pid, *(area.pid for area in self.areas.values())})

    def _kill_child(self) -> None:
        # The parent never reaps, so as long as it lives this PID is the child's and nobody else's.
        for pid in self._pids():
            if pid != self.pid:
                os.kill(pid, signal.SIGKILL)
                wait_until(lambda pid=pid: process_state(pid) == "Z", "the victim's child ends")  # type: ignore[misc]


@functools.cache
def disk() -> str | None:
    """Return a directory for files of a moment that are on a disk; None where all that is writable is in memory.

    To the kernel what is on tmpfs is shared memory, with other states and counts. Overlayfs is the last resort: it
    may lie upon either, and its files have no device.
    """
    found: dict[int, str] = {}
    for place in (tempfile.gettempdir(), "/var/tmp", str(CHECKOUT)):
        with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=place) as file:
            found.setdefault(file_system(file.fileno()), place)
    on_disk = [place for kind, place in found.items() if kind not in (TMPFS, RAMFS, OVERLAYFS)]
    return on_disk[0] if on_disk else found.get(OVERLAYFS)


def file_system(fd: int) -> int:
    """Return the kind of file system that a file is on: f_type of statfs(2)."""
    fields = (ctypes.c_long * 32)()
    if libc.fstatfs(fd, fields):
        raise OSError(ctypes.get_errno(), "fstatfs")
    return fields[0]


def skip(why: str) -> NoReturn:
    """Skip the test, naming what is missing."""
    pytest.skip(why)


def wait_until(condition: Callable[[], bool], what: str, deadline: float = DEADLINE) -> None:
    """Wait until a condition holds, and fail when it does not in time."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not in {deadline:.0f} s: {what}")
        time.sleep(0.002)


def process_state(pid: int) -> str:
    """Return the letter of /proc/PID/stat: R, S, T, Z, ..."""
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(") ")[2][0]


@contextlib.contextmanager
def standing_still(pid: int) -> Iterator[None]:
    """Have a process stand still."""
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: process_state(pid) == "T", "it stops")
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
