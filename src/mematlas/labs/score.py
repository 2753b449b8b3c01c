"""Which lessons were passed: one small file of the user, under XDG_STATE_HOME or ~/.local/state.

Under sudo it is the file of the user who called: we become that user to touch it, so that nothing of root's is
written where a link of theirs points. What cannot be read or written is a note, never a failure.
"""

from __future__ import annotations

import contextlib
import os

from mematlas.errors import FormatError
from mematlas.frozen import record
from mematlas.kernel.rights import invoking_user
from mematlas.notes import Note, Notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from mematlas.labs.lesson import Answer

MAX_SIZE = 1 << 16


@record
class Score:
    """How one lesson went, at its best."""

    nr_right: int
    nr_asked: int

    @property
    def passed(self) -> bool:
        """Whether every question that could be asked was predicted rightly."""
        return 0 < self.nr_asked == self.nr_right


def score_of(answers: list[Answer]) -> Score:
    """Return how a lesson went."""
    nr_right = sum(answer.right is True for answer in answers)
    nr_asked = sum(answer.right is not None for answer in answers)
    return Score(nr_right, nr_asked)


class ScoreFile:
    """The file, and what went wrong with it."""

    def __init__(self, path: str | None = None) -> None:
        self.path = path or default_path()
        self.notes = Notes()

    def read(self) -> dict[str, Score]:
        """Return the scores by lesson; none, with a note, when the file is damaged."""
        try:
            with as_invoking_user(), open(self.path, "rb", opener=open_quickly) as file:
                return parse_scores(file.read(MAX_SIZE))
        except FileNotFoundError:
            return {}
        except OSError as error:
            self.notes.add(Note("scores-unknown", f"scores unknown: {self.path}: {error.strerror}"))
        except FormatError:
            text = f"scores unknown: {self.path} is damaged; to start over: mematlas lab --reset"
            self.notes.add(Note("scores-unknown", text))
        return {}

    def add(self, lesson: str, score: Score) -> None:
        """Keep a score, unless a better one is there. A damaged file is left as it is."""
        scores = self.read()
        if self.notes or (lesson in scores and scores[lesson].passed):
            return
        self._write(scores | {lesson: score})

    def _write(self, scores: dict[str, Score]) -> None:
        import json

        rows = {}
        for name, score in sorted(scores.items()):
            rows[name] = {"right": score.nr_right, "asked": score.nr_asked}
        fresh = f"{self.path}.{os.getpid()}"
        try:
            with as_invoking_user():
                os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
                fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                try:
                    with open(fd, "w", encoding="utf-8") as file:
                        json.dump({"version": 1, "lessons": rows}, file, indent=1)
                    os.replace(fresh, self.path)
                except BaseException:  # Ctrl-C as well
                    os.unlink(fresh)
                    raise
        except OSError as error:
            text = f"the score was not saved: {self.path}: {error.strerror}"
            self.notes.add(Note("score-not-kept", text))

    def reset(self, lesson: str | None = None) -> bool:
        """Forget the score of one lesson, or all of them; return whether there was any."""
        if lesson is None:
            return self._remove()
        scores = self.read()
        if lesson not in scores:
            return False
        del scores[lesson]
        if scores:
            self._write(scores)
            return True
        return self._remove()

    def _remove(self) -> bool:
        """Remove the file, and the directory that was made for it alone; return whether there was one."""
        try:
            with as_invoking_user():
                os.unlink(self.path)
                with contextlib.suppress(OSError):
                    os.rmdir(os.path.dirname(self.path))
        except FileNotFoundError:
            return False
        except OSError as error:
            self.notes.add(Note("scores-stay", f"the scores were not reset: {self.path}: {error.strerror}"))
        return True


def parse_scores(data: bytes) -> dict[str, Score]:
    """Return the scores in the text of a score file.

    Raises:
        FormatError: it is damaged.
    """
    import json

    try:
        rows: dict[str, Any] = json.loads(data)["lessons"]
        scores = {name: Score(row["right"], row["asked"]) for name, row in rows.items()}
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        raise FormatError("scores", repr(data)) from None
    numbers = [number for score in scores.values() for number in (score.nr_right, score.nr_asked)]
    if not all(type(number) is int for number in numbers):
        raise FormatError("scores", repr(data))
    return scores


def default_path() -> str:
    """Return where the scores of the user who called us are."""
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):
        state = os.path.join(home_of(invoking_user()), ".local", "state")
    return os.path.join(state, "mematlas", "labs.json")


def home_of(user: tuple[int, int] | None) -> str:
    """Return the home directory of a user, our own without one."""
    if user:
        import pwd

        with contextlib.suppress(KeyError):
            return pwd.getpwuid(user[0]).pw_dir
    return os.path.expanduser("~")


def open_quickly(path: str, flags: int) -> int:
    """Open a file without waiting, should it be a pipe."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


@contextlib.contextmanager
def as_invoking_user() -> Iterator[None]:
    """Have the rights of the user who called sudo, and no others, for a while."""
    user = invoking_user()
    if user is None or user[0] == 0:
        yield
        return
    groups = os.getgroups()
    try:
        os.setgroups([user[1]])
        os.setegid(user[1])
        os.seteuid(user[0])
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)
