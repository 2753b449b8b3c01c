"""The largest files in the page cache, for who has little time: a child finds them while all else is found out.

Kernel memory is opened for that, and numpy loaded, which takes longer than all the rest of the first screen. So a child
does it, on another processor if there is one, and who asks waits until a deadline: on a machine that is too busy there
is no answer. A sample of the frames finds them, so it is no more on a larger machine; all frames would be (`cache`).
No file is opened, so nothing waits for a file system.
"""

from __future__ import annotations

import os
import time

from mematlas.analysis.cached import CachedFile
from mematlas.errors import Error
from mematlas.frozen import as_dict
from mematlas.kernel.abandon import Child
from mematlas.kernel.maps import MAX_PATH
from mematlas.kernel.memory.x86 import is_x86_64
from mematlas.kernel.rights import may_read_kernel
from mematlas.kernel.status import counts_as_we_do

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, Self

    from mematlas.kernel.procfs import ProcFS

    Answer = tuple[Any, int]

TIMES, LEAST, MOST = 3.0, 0.5, 1.5
"""An answer is waited for until so many times as much has passed as what was found out meanwhile took, and seconds at
the least and the most. On a machine that is busy both take longer; on one that is not it takes 0.3 s at first."""
GO_ON = b"x"
UNREADABLE = "struct pages cannot be read here, or not by us"
LATE, LOST = "there was too little time", "who looked for them has ended"
NO_ROOM = "there was no room for a process that looks for them"


class LargestFiles:
    """Finds the largest files, a few, as often as it is asked: an answer is one message.

    >>> with LargestFiles(ProcFS(), 3) as files:   # doctest: +SKIP
    ...     files.ask()
    ...     [file.path for file in files.answer() or ()]
    ['/usr/lib/jvm/java-17-openjdk-amd64/lib/modules', '/dev/vda', '/usr/bin/node']
    """

    def __init__(self, procfs: ProcFS, count: int) -> None:
        self.procfs = procfs
        self.count = count
        self.why = ""
        """Why there is no answer, or the last one could not be had."""
        self._child: Child | None = None
        self._more = -1
        """Where the child is told to look again."""
        self._asked = 0.0
        self._is_pending = self._is_over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child."""
        if self._child:
            self._child.close()
            os.close(self._more)
            self._child = None
        self._is_over = True

    @property
    def pids(self) -> tuple[int, ...]:
        """The child, which is a part of us, and no process to be shown."""
        return (self._child.pid,) if self._child else ()

    def ask(self) -> None:
        """Have them found; where the answer before is still to come, that is the next one too."""
        if self._child is None and not self._is_over:
            self._begin()
        if self._child is None or self._is_pending:
            return
        try:
            os.write(self._more, GO_ON)
        except BrokenPipeError:  # it has ended, for want of memory perhaps
            self._give_up(LOST)
            return
        self._asked, self._is_pending = time.monotonic(), True

    def _begin(self) -> None:
        # Where others' numbers are shown our child would look like a process of somebody's.
        if not (counts_as_we_do(self.procfs) and is_x86_64() and may_read_kernel()):
            self._give_up(UNREADABLE)
            return
        try:
            told, more = os.pipe()
        except OSError:
            self._give_up(NO_ROOM)
            return
        try:
            self._child, self._more = Child(looks(self.procfs, self.count, told), 0), more
        except OSError:  # no room for a child
            os.close(more)
            self._give_up(NO_ROOM)
        finally:
            os.close(told)

    def _give_up(self, why: str) -> None:
        self.why = why
        self.close()

    def answer(self, seconds: float | None = None) -> tuple[CachedFile, ...] | None:
        """Return the largest files, the largest first; None, with a reason in ``why``, where they are not known.

        It is waited for until so many ``seconds`` after they were asked for; as long as `TIMES` says where none are
        given.
        """
        if self._child is None or not self._is_pending:
            return None
        if seconds is None:
            seconds = min(max(TIMES * (time.monotonic() - self._asked), LEAST), MOST)
        if not self._child.speaks(self._asked + seconds):
            self.why = LATE
            return None
        self._is_pending = False
        told, _ = self._child.answer() or (LOST, -1)
        if isinstance(told, str):
            self._give_up(told)
            return None
        self.why = ""
        return tuple(CachedFile(**file) for file in told)


def looks(procfs: ProcFS, count: int, told: int) -> Iterator[Answer]:
    """Yield the largest files each time that it is told to, or why they cannot be had; in the child."""
    try:
        if procfs.lender is not None:
            while os.read(told, 1):
                yield procfs.lender.ask("find_largest_files", count)[0], -1
            return
        from mematlas.observe.frames import open_decoder
        from mematlas.observe.whole_cache import largest_files

        with open_decoder(procfs) as held:
            while os.read(told, 1):
                yield plain(largest_files(procfs, held, count)), -1
    except Error as error:
        yield str(error), -1


def plain(files: Iterable[CachedFile]) -> list[dict[str, Any]]:
    """Return files as they are sent."""
    return [as_dict(file) | {"path": short_enough(file.path)} for file in files]


def short_enough(path: str | None) -> str | None:
    """Return a path; None for one that no file can be opened by, and that a message has no room for."""
    return None if path is None or len(path) >= MAX_PATH else path
