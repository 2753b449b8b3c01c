"""Writing a recording: a child that runs as the invoking user has the file, and is fed a stream.

It goes on when who feeds it is killed: it writes what it was given, and makes one file of the three that SQLite has
while it writes. Source: sqlite.org/wal.html.
"""

from __future__ import annotations

import errno
import os
import shlex
import signal
import sqlite3  # before the user changes, who may not be able to read where it is
import stat
import time
from contextlib import suppress

from mematlas.errors import BadInput, Error
from mematlas.kernel.descriptors import close_all_but
from mematlas.kernel.rights import become, invoking_user
from mematlas.timeline.schema import APPLICATION_ID, TABLES, VERSION, insertion, statements
from mematlas.timeline.stream import MAGIC, frames, frames_of, is_moment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn, Self

    from mematlas.timeline.encoding import Rows
    from mematlas.timeline.ring import Ring

LOG = "-wal"
BESIDE = (LOG, "-shm")
"""What SQLite has beside a file that it writes."""
NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
KILLED = "mematlas report shows what is in it"
REPLY = 1 << 13
"""Bytes of what the writer says, at the most."""
OPENED = b"opened"
LOCKED = "locked"
"""What SQLite says of a file that somebody else has open."""
LOCK_PATIENCE = 60.0
"""Seconds that who writes into the file as well, or holds it locked, is waited for."""
PATIENCE, STEP = 5.0, 0.05
"""Seconds that readers are waited for at the end, and between two tries."""
MOST_LOG = 4 << 20
"""Bytes that are left of a log that begins anew: about those after which SQLite puts it into the file."""
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)
"""What a terminal sends to all of us: who feeds the writer ends it, by having nothing more."""


class RecordingWriter:
    """A recording that is being written.

    >>> with RecordingWriter("shop.mematlas", {"host": "atlas"}) as writer:  # doctest: +SKIP
    ...     writer.add(encoder.rows_of(snapshot))

    Raises:
        BadInput: there is a file of that name, or it cannot be made.
        Error: what is written finds no room.
    """

    def __init__(self, path: str, facts: dict[str, str] | None, force: bool = False, ring: Ring | None = None) -> None:
        """With a ``ring`` only as much is kept as that says. Without ``facts`` these come first of all, as rows."""
        self.path = path
        self.size = 0
        """Bytes of the file, when it is closed."""
        self.cpu_s = 0.0
        """What writing has taken of processors, when it is closed."""
        self.is_one_file = True
        """Whether it is one file, when it is closed: not where somebody else had it open at the end."""
        user = invoking_user()
        fed, self._feed = os.pipe()
        self._heard, said = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            run(path, force, ring, user, fed, said)
        os.close(fed)
        os.close(said)
        try:
            if (reply := self._reply()) != OPENED:
                raise BadInput(reply.decode("utf-8", "replace") or f"{path} cannot be written")
            self._send(MAGIC)
            if facts is not None:
                self.add({"recording": list(facts.items())})
        except BaseException:
            self._let_go()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def fds(self) -> set[int]:
        """The descriptors that are needed to the end."""
        return {self._feed, self._heard}

    def add(self, rows: Rows) -> None:
        """Add a moment."""
        for frame in frames_of(rows):
            self._send(frame)

    def close(self) -> None:
        """Have all of it written, and one file made of it.

        Raises:
            Error: it found no room.
        """
        if self._feed < 0:
            return
        os.close(self._feed)
        self._feed = -1
        reply = self._reply()
        self._let_go()
        size, _, rest = reply.partition(b" ")
        if not size.isdigit():
            raise Error(reply.decode("utf-8", "replace") or f"{self.path}: what writes it was killed; {KILLED}")
        self.size, self.is_one_file = int(size), not rest

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._feed, view) :]
        except BrokenPipeError:
            self.close()  # says why
            raise Error(f"{self.path}: what writes it has ended") from None

    def _reply(self) -> bytes:
        return os.read(self._heard, REPLY)

    def _let_go(self) -> None:
        if self._feed >= 0:
            os.close(self._feed)
            self._feed = -1
        if self._heard >= 0:
            os.close(self._heard)
            self._heard = -1
            _, _, usage = os.wait4(self._pid, 0)
            self.cpu_s = usage.ru_utime + usage.ru_stime


# In the child


def run(path: str, force: bool, ring: Ring | None, user: tuple[int, int] | None, fed: int, said: int) -> NoReturn:
    """Write a recording, and end: say that it is open, and at the end its size, or what went wrong."""
    try:
        for number in IGNORED:
            signal.signal(number, signal.SIG_IGN)
        close_all_but({fed, said})
        if user and os.geteuid() == 0:
            become(*user)
        os.write(said, write(path, force, ring, fed, said))
    except (Error, OSError, MemoryError) as error:
        os.write(said, (str(error) or type(error).__name__).encode("utf-8", "replace")[:REPLY])
    finally:
        os._exit(0)


def write(path: str, force: bool, ring: Ring | None, fed: int, said: int) -> bytes:
    """Write what comes over a pipe; return how large the file is, in digits, and `LOG` where that is beside it.

    Where no moment came, there is no file.
    """
    make(path, force)
    try:
        whole = os.path.abspath(path)  # ":memory:" is a name as any other
        database = sqlite3.connect(whole, timeout=LOCK_PATIENCE, isolation_level=None)
        made = os.stat(path)
        prepare(database)
    except (sqlite3.Error, OSError) as error:
        unmake(path)
        raise Error(f"{path}: {error}") from None
    nr_moments = 0
    try:
        os.write(said, OPENED)
        with open(fed, "rb") as stream:
            for rows in frames(stream, path):
                add(database, ring.based(rows) if ring else rows)
                nr_moments += "moment" in rows
                if ring and is_moment(rows):
                    ring.advance(database, rows)
        if database.in_transaction:
            database.rollback()  # the last moment was not there as a whole
        is_one_file = finish(database, PATIENCE)
    except sqlite3.Error as error:
        with suppress(sqlite3.Error):
            finish(database)
        raise Error(f"{path}: {error}; {what_is_left(path, made, nr_moments)}") from None
    except (Error, OSError):
        what_is_left(path, made, nr_moments)  # whoever feeds us was killed before there was anything
        raise
    finally:
        database.close()
    if not nr_moments:
        unmake(path)
        return b"0"
    return str(os.stat(path).st_size).encode("ascii") + (b"" if is_one_file else b" " + LOG.encode("ascii"))


def what_is_left(path: str, made: os.stat_result, nr_moments: int) -> str:
    """Return what there is of a recording that could not go on; of none that has nothing there is a file."""
    try:
        is_ours = os.path.samestat(os.lstat(path), made)
    except OSError:
        is_ours = False
    if not is_ours:
        return "somebody has taken the file away, or put another in its place"
    if not nr_moments:
        unmake(path)
        return "nothing was recorded"
    return f"what was recorded before is in it: mematlas report {shlex.quote(path)}"


def refuse_path(path: str, force: bool) -> None:
    """Refuse a path at which no file can be made, as far as can be seen before.

    Raises:
        BadInput: there is a file, or no directory.
    """
    if os.path.lexists(path) and not force:
        raise BadInput(f"{path} exists: give another name, or --force")
    directory = os.path.dirname(path) or "."
    if not os.path.isdir(directory):
        raise BadInput(f"{path}: {directory} is no directory")


def make(path: str, force: bool) -> None:
    """Make the file, and those beside it, so that nobody else's are taken for ours.

    Raises:
        BadInput: there is one.
    """
    try:
        there = [name for name in (path, *(path + suffix for suffix in BESIDE)) if os.path.lexists(name)]
        # All or none: what is no file of ours keeps the others from harm.
        if force and all(stat.S_ISREG(os.lstat(name).st_mode) for name in there):
            for name in there:
                os.unlink(name)
        made: list[str] = []
        try:
            for name in (path, *(path + suffix for suffix in BESIDE)):
                os.close(os.open(name, NEW, 0o600))
                made.append(name)
        except OSError:
            for name in made:
                os.unlink(name)
            raise
    except OSError as error:
        if error.errno == errno.EEXIST:
            raise BadInput(f"{error.filename} exists: give another name, or --force") from None
        raise BadInput(f"{path}: {error.strerror}") from None


def unmake(path: str) -> None:
    """Take the file away, and those beside it."""
    for name in (path, *(path + suffix for suffix in BESIDE)):
        with suppress(OSError):
            os.unlink(name)


def prepare(database: sqlite3.Connection) -> None:
    """Make the tables."""
    for statement in (
        "PRAGMA journal_mode = WAL",
        "PRAGMA synchronous = NORMAL",
        f"PRAGMA journal_size_limit = {MOST_LOG}",
        "BEGIN",
        f"PRAGMA application_id = {APPLICATION_ID}",
        f"PRAGMA user_version = {VERSION}",
        *statements(),
        "COMMIT",
    ):
        database.execute(statement).fetchall()


def add(database: sqlite3.Connection, rows: Rows) -> None:
    """Add a moment, or a part of it, as one transaction."""
    try:
        if not database.in_transaction:
            database.execute("BEGIN")
        for table in TABLES:
            if table in rows:
                database.executemany(insertion(table), rows[table])
        if is_moment(rows):
            database.commit()
    except BaseException:
        database.rollback()
        raise


def finish(database: sqlite3.Connection, patience: float = 0.0) -> bool:
    """Make one file of it; return whether that was done: not while somebody else has it open, for so many seconds."""
    end = time.monotonic() + patience
    while True:
        try:
            database.execute("PRAGMA journal_mode = DELETE").fetchall()
            return True
        except sqlite3.OperationalError as error:
            if LOCKED not in str(error):
                raise
        if time.monotonic() > end:
            return False
        time.sleep(STEP)
