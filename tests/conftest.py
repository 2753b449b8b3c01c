"""What the tests need of the machine: users, capabilities, swap, huge pages, KSM. Everything is put back."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import gc
import importlib
import json
import os
import pickle
import re
import selectors
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

from everything import import_everything
from helpers import children
from victim import NO_DISK, Victim, disk

NOBODY = 65534
MACHINE = {"swap", "hugetlb_pages", "ksm"}
"""Fixtures that change settings of the machine."""
DEADLINE = 60.0
STARTS_GUESTS = "test_guest.py"
GROUPS = "groups.json"
TO_SAY = "to say"
"""The property of a test that holds a line for whoever reads the results, however the test ended."""

# Source: include/uapi/linux/capability.h, prctl.h
CAPABILITIES = {
    "CAP_DAC_OVERRIDE": 1,
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_KILL": 5,
    "CAP_IPC_LOCK": 14,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_NICE": 23,
    "CAP_SYS_RESOURCE": 24,
    "CAP_SYSLOG": 34,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
    "CAP_CHECKPOINT_RESTORE": 40,
}
CAPABILITY_VERSION_3 = 0x20080522
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8

KSM = Path("/sys/kernel/mm/ksm")
SWAP_SIZE = 16_384 * os.sysconf("SC_PAGESIZE")
SWAP_FLAG_PREFER = 0x8000
SWAP_PRIORITY_MAX = 0x7FFF

NOT_TO_BE_HAD = re.compile(
    r"needs a guest|CONFIG_|Linux \d|(needs a|this) kernel|vsyscall=|cachestat|cgroup version 1|is at \d+ here"
    r"|huge page was to be had|memory in (pieces|one piece)|start too fast|swap are free here|IS NOT BUILT"
)
"""What the reason of a skip names where no package, no right and no other directory would help."""

Work = Callable[[], object] | Sequence[str]

libc = ctypes.CDLL(None, use_errno=True)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Have SIGTERM and SIGHUP end a run as Ctrl-C does: what was changed is put back, such as swap that is on.

    Under nohup(1) SIGHUP does nothing, as there. But no program that we start is to ignore it: tests send it.
    """
    owner = os.getpid()
    ignored = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) == signal.SIG_IGN]

    def end(number: int, frame: object) -> None:
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif number not in ignored:
            # The second alone ends the test that runs; a command under test may take it for its own.
            session.shouldstop = f"ended by {signal.Signals(number).name}"
            if session.config.getoption("numprocesses", None):
                # Workers are given ten seconds to end; a test may last longer, and has something to put back.
                for pid in children():
                    os.kill(pid, number)
            raise KeyboardInterrupt

    # A worker of pytest-xdist ignores Ctrl-C, and so would each program that it starts.
    if "PYTEST_XDIST_WORKER" in os.environ:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # What has a handler is what a program begins with as its default (execve(2)).
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)


# --- rights


def effective_capabilities() -> int:
    """Return the set that this process has, as a number."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("CapEff:")).split()[1], 16)


def missing_right(*names: str) -> str | None:
    """Return what this process lacks to be root with these capabilities; None when it has them."""
    if os.geteuid() != 0:
        return f"needs root: the tests run as uid {os.geteuid()}"
    held = effective_capabilities()
    lacking = [name for name in names if not held >> CAPABILITIES[name] & 1]
    return f"needs {', '.join(lacking)}: root has it not here" if lacking else None


def require(*names: str) -> None:
    """Skip the test unless it runs as root with these capabilities."""
    if why := missing_right(*names):
        pytest.skip(why)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what starts guests, unless it is named: `make guests`."""
    named = any(Path(word.partition("::")[0]).name == collection_path.name for word in config.args)
    return True if collection_path.name == STARTS_GUESTS and not named else None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Have each group of tests go to one worker (pytest-xdist): see `group_of`, which workers alone can ask."""
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

    class ByGroup(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return str(read_groups(config._tmp_path_factory.getbasetemp() / GROUPS)[nodeid])  # type: ignore[attr-defined]

    return ByGroup(config, log)


@functools.cache
def read_groups(path: Path) -> dict[str, str]:
    """Return the group of each test, as a worker has written them down."""
    groups: dict[str, str] = json.loads(path.read_text())
    return groups


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Tell the groups, and have the garbage collector leave alone what stays to the end: many tests call it."""
    if os.environ.get("PYTEST_XDIST_WORKER") == "gw0":
        place = session.config._tmp_path_factory.getbasetemp().parent / GROUPS  # type: ignore[attr-defined]
        place.write_text(json.dumps({item.nodeid: group_of(item) for item in session.items}))
    gc.collect()
    gc.freeze()


def group_of(item: pytest.Item) -> str:
    """Return what a test shares its worker with.

    That is its module, which may make something for all of its tests. Those that change settings of the machine run one
    after another. Guests are machines of their own.
    """
    name = item.nodeid.partition("::")[0]
    if Path(name).name == STARTS_GUESTS:
        return item.nodeid
    asked = set(getattr(item, "fixturenames", ()))
    return "machine" if asked & MACHINE or item.get_closest_marker("machine") else name


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what tests have to say: they may have run in a worker, whose output nobody sees."""
    reports = (report for reports in terminalreporter.stats.values() for report in reports)
    said = (line for report in reports for key, line in getattr(report, "user_properties", ()) if key == TO_SAY)
    for line in dict.fromkeys(said):
        terminalreporter.write_line(line)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("guest") and "MEMATLAS_GUEST" not in os.environ:
        pytest.skip("needs a guest: make guests")
    for mark in item.iter_markers("root"):
        require(*mark.args)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With CI set, a skip is a failure unless it is for what the kernel, its machine or the moment has not.

    In a guest it is known what the kernel has: there the plugin `inside` decides.
    """
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and must_not_skip():
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not NOT_TO_BE_HAD.search(reason):
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid}\nno skip in CI of what can be had: {reason}"
    return report


def must_not_skip() -> bool:
    return bool(os.environ.get("CI")) and "MEMATLAS_GUEST" not in os.environ


# --- processes to look at


@pytest.fixture
def victim() -> Iterator[Callable[..., Victim]]:
    """Return a function that starts a `Victim`; each ends with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda *kinds, **more: stack.enter_context(Victim(*kinds, **more))


@pytest.fixture(scope="module")
def disk_path() -> Iterator[Path]:
    """Return a directory on a disk, as `tmp_path` is not where /tmp is in memory; it goes with the module's tests."""
    if not disk():
        pytest.skip(NO_DISK)
    with tempfile.TemporaryDirectory(prefix="mematlas-", dir=disk()) as name:
        yield Path(name)


# --- settings of the machine


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep a second run of these tests, at the same time, from changing what a file of the kernel shows."""
    with open(path) as file:
        end = time.monotonic() + 2 * DEADLINE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    pytest.skip(f"another run of the tests holds {path}")
                time.sleep(0.05)
        yield


def write_swap_header(file: Any, size: int) -> None:
    """Make an empty swap area, as mkswap(8) does: union swap_header of include/linux/swap.h."""
    page_size = os.sysconf("SC_PAGESIZE")
    # Zeros that are really written: the kernel refuses a file with holes.
    for _ in range(size >> 20):
        file.write(bytes(1 << 20))
    for offset, text in (
        (1024, (1).to_bytes(4, sys.byteorder) + (size // page_size - 1).to_bytes(4, sys.byteorder)),
        (page_size - 10, b"SWAPSPACE2"),
    ):
        file.seek(offset)
        file.write(text)


@contextlib.contextmanager
def swap_file(directory: Path) -> Iterator[Path]:
    """Swap to a temporary file, before all other swap space. Raises OSError where that is impossible."""
    path = directory / "swap"
    try:
        with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            write_swap_header(file, SWAP_SIZE)
            os.fsync(file.fileno())
        if libc.swapon(os.fsencode(path), SWAP_FLAG_PREFER | SWAP_PRIORITY_MAX):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
        try:
            yield path
        finally:
            if libc.swapoff(os.fsencode(path)):
                raise OSError(ctypes.get_errno(), f"swapoff {path}: {os.strerror(ctypes.get_errno())}")
    finally:
        path.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def swap() -> Iterator[Path]:
    """Make swap space, so that pages can leave memory; return the file."""
    require("CAP_SYS_ADMIN")
    if not Path("/proc/swaps").exists():
        pytest.skip("needs CONFIG_SWAP")
    reasons = []
    with locked(Path("/proc/swaps")), contextlib.ExitStack() as stack:
        # File systems differ: tmpfs takes no swap file at all.
        for parent in dict.fromkeys((disk() or "/var/tmp", "/var/tmp")):
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mematlas-", dir=parent)))
            try:
                path = stack.enter_context(swap_file(directory))
            except OSError as error:
                reasons.append(f"{directory}: {error.strerror}")
                continue
            yield path
            return
        pytest.skip(f"no swap file can be made: {'; '.join(reasons)}")


@pytest.fixture
def hugetlb_pages() -> Iterator[int]:
    """Reserve three hugetlb pages of the default size; return that number."""
    with reserved_hugetlb() as count:
        yield count


@contextlib.contextmanager
def reserved_hugetlb() -> Iterator[int]:
    """Do what `hugetlb_pages` does, for as long as one likes."""
    require("CAP_SYS_ADMIN")
    path = Path("/proc/sys/vm/nr_hugepages")
    if not path.exists():
        pytest.skip("needs CONFIG_HUGETLBFS")
    count = 3

    def add(number: int) -> int:
        # Only ever by difference: somebody else may have changed it meanwhile.
        with locked(path):
            before = int(path.read_text())
            path.write_text(str(before + number))
            return int(path.read_text()) - before

    added = add(count)
    try:
        if added < count:
            pytest.skip(f"no memory in one piece for {count} hugetlb pages: the kernel found {added}")
        yield count
    finally:
        add(-added)


@pytest.fixture
def way_back() -> None:
    """Skip where the kernel brings no pages of another process back into RAM."""
    from mematlas.kernel.madvise import MADV_WILLNEED, takes

    if not takes(MADV_WILLNEED):
        pytest.skip("process_madvise(MADV_WILLNEED) needs Linux 5.15")


@pytest.fixture
def ksm() -> Iterator[None]:
    """Switch the merging of equal pages on, and make it quick."""
    with merging():
        yield


@contextlib.contextmanager
def merging() -> Iterator[None]:
    """Do what `ksm` does, for as long as one likes."""
    require("CAP_SYS_ADMIN")
    if not KSM.exists():
        pytest.skip("needs CONFIG_KSM")
    wanted = {
        "advisor_mode": "none",
        "sleep_millisecs": "1",
        "pages_to_scan": "5000",
        "smart_scan": "0",
        "run": "1",
    }
    with locked(KSM / "run"), contextlib.ExitStack() as stack:
        for name, value in wanted.items():
            path = KSM / name
            # smart_scan came with Linux 6.7, advisor_mode with 6.8.
            if path.exists():
                stack.callback(path.write_text, chosen(path.read_text()))
                path.write_text(value)
        yield


def chosen(text: str) -> str:
    """Return the choice out of ``[none] scan-time``, or the whole of a plain value."""
    return text.partition("[")[2].partition("]")[0] or text.strip()


# --- another user


@dataclass(frozen=True)
class Outcome:
    """What a run as another user came to."""

    code: int
    """Exit code; minus the signal's number when one ended it."""
    stdout: str
    stderr: str
    value: Any
    """What the function returned; None when it raised."""


@pytest.fixture
def as_nobody() -> Callable[..., Outcome]:
    """Return `run_as`: a function, or the arguments of the command line, run as nobody.

    ``as_nobody(["maps", "1"]).code``; ``as_nobody(function, caps=["CAP_SYS_PTRACE"]).value``
    """
    require()
    return run_as


def run_as(what: Work, caps: Sequence[str] = (), uid: int = NOBODY) -> Outcome:
    """Run in a forked child that is another user, with these capabilities and no others.

    No exec: that user may not be able to read the interpreter or the sources. So everything is imported here.
    """
    require(*caps)
    import_everything()
    pipes = [os.pipe() for _ in range(3)]
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        # Python 3.12 warns when other threads exist (numpy's): the child never needs them.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        _child(what, caps, uid, [write for _, write in pipes])
    for _, write in pipes:
        os.close(write)
    try:
        stdout, stderr, value = read_to_end([read for read, _ in pipes])
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return Outcome(code, stdout.decode(), stderr.decode(), pickle.loads(value) if value else None)


def _child(what: Work, caps: Sequence[str], uid: int, fds: list[int]) -> NoReturn:
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(fds[0], 1)
        os.dup2(fds[1], 2)
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(fd, mode) for fd, mode in enumerate("rww"))
        drop_rights(caps, uid)
        if callable(what):
            value, code = what(), 0
        else:
            value = code = _run_command_line(list(what))
        os.write(fds[2], pickle.dumps(value))
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        # Not sys.exit(): pytest must not run its own ending a second time.
        os._exit(code)


def _run_command_line(argv: list[str]) -> int:
    return int(importlib.import_module("mematlas.cli").main(argv) or 0)


def drop_rights(caps: Sequence[str], uid: int) -> None:
    """Become a user that is nobody special, and keep some capabilities."""
    libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    kept = sum(1 << CAPABILITIES[name] for name in caps)
    low, high = kept & 0xFFFFFFFF, kept >> 32
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    # Twice effective, permitted, inheritable: the low and the high half of each set.
    if libc.capset(header, (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)):
        raise OSError(ctypes.get_errno(), "capset")
    # Without an exec the change of user leaves /proc/self to root; a program that was started is not so.
    libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)


def read_to_end(fds: list[int]) -> list[bytes]:
    """Read descriptors side by side until the other ends are closed; close them."""
    parts: dict[int, list[bytes]] = {fd: [] for fd in fds}
    end = time.monotonic() + DEADLINE
    with selectors.DefaultSelector() as selector:
        for fd in fds:
            selector.register(fd, selectors.EVENT_READ)
        try:
            while selector.get_map():
                if time.monotonic() > end:
                    raise AssertionError(f"the run as another user takes more than {DEADLINE:.0f} s")
                for key, _ in selector.select(1.0):
                    part = os.read(key.fd, 1 << 16)
                    parts[key.fd].append(part)
                    if not part:
                        selector.unregister(key.fd)
        finally:
            for fd in fds:
                os.close(fd)
    return [b"".join(parts[fd]) for fd in fds]
