"""``-- COMMAND``: start a program to look at, as the user who called us, even under sudo."""

from __future__ import annotations

import os
import time

from mematlas.errors import BadInput, ProcessGone, TargetNotFound
from mematlas.kernel.rights import invoking_user

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self


class Launched:
    """A program that we started. It goes on when we are done; leaving waits for it.

    Its standard output goes to our standard error, which ours is kept apart from.
    """

    def __init__(self, command: list[str], after: float) -> None:
        if not command:
            raise BadInput("-- must be followed by a command")
        self.command = command
        self.exit_code: int | None = None
        told, tell = os.pipe()  # closed by a successful exec, so that its silence means success
        self.pid = os.fork()
        if self.pid == 0:
            self._become(tell)
        os.close(tell)
        with open(told, "rb") as pipe:
            if why := pipe.read():
                self.__exit__()
                raise TargetNotFound(f"cannot start {command[0]}: {why.decode()}")
        deadline = time.monotonic() + after
        while time.monotonic() < deadline:
            if self.ended():
                raise ProcessGone(self.pid, f"({command[0]}) ended within {after:g} s: see --after")
            time.sleep(min(0.01, max(deadline - time.monotonic(), 0)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.exit_code is None:
            self.exit_code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def ended(self) -> bool:
        """Whether the program has ended."""
        if self.exit_code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.exit_code = os.waitstatus_to_exitcode(status)
        return self.exit_code is not None

    def _become(self, tell: int) -> None:
        # In the child: nothing here may return.
        try:
            os.dup2(2, 1)
            if user := invoking_user():
                import pwd

                uid, gid = user
                os.initgroups(pwd.getpwuid(uid).pw_name, gid)
                os.setgid(gid)
                os.setuid(uid)
            os.execvp(self.command[0], self.command)
        except OSError as error:
            os.write(tell, (error.strerror or "?").encode())
        except KeyError:
            os.write(tell, b"the user who called sudo has no account here")
        finally:
            os._exit(127)
