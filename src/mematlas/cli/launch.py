"""``-- COMMAND``: start a program to look at, as the user who called us, even under sudo."""

from __future__ import annotations

import os
import signal
import time

from mematlas.errors import BadInput, ProcessGone, TargetNotFound
from mematlas.frozen import record
from mematlas.kernel.descriptors import close_all_but
from mematlas.kernel.procfs import ProcFS
from mematlas.kernel.rights import caller_variable, invoking_user
from mematlas.model.target import own_pid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self


@record
class Account:
    """Who a program is started as."""

    name: str
    uid: int
    gid: int
    home: str

    def become(self, kept: int) -> None:
        """Have the rights of this user and no others, nothing that is open but the standard streams and ``kept``."""
        close_all_but({kept})
        os.initgroups(self.name, self.gid)
        os.setgid(self.gid)
        os.setuid(self.uid)
        os.environ |= {"HOME": self.home, "USER": self.name, "LOGNAME": self.name}


class Launched:
    """A program that we started. It goes on when we are done; leaving waits for it.

    Its standard output goes to our standard error, which ours is kept apart from.
    """

    def __init__(self, command: list[str], after: float) -> None:
        if not command:
            raise BadInput("-- must be followed by a command")
        self.command = command
        self.exit_code: int | None = None
        self.user = user_to_become()
        reader, writer = os.pipe()  # closed by a successful exec, so that its silence means success
        self.pid = os.fork()
        if self.pid == 0:
            self._become(writer)
        os.close(writer)
        with open(reader, "rb") as pipe:
            pid, _, why = pipe.read().decode().partition("\n")
        if why or not pid:
            self.wait()
            raise TargetNotFound(f"cannot start {command[0]}: {why or 'it was killed'}")
        self.pid_in_proc = int(pid)
        """Its PID as /proc counts, which is another one where /proc is of another PID namespace than ours."""
        deadline = time.monotonic() + after
        while time.monotonic() < deadline:
            if self.ended():
                raise ProcessGone(self.pid, f"({command[0]}) ended within {after:g} s: see --after")
            time.sleep(min(0.01, max(deadline - time.monotonic(), 0)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.wait()

    def wait(self) -> None:
        """Wait for its end."""
        if self.exit_code is None:
            self.exit_code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def ended(self) -> bool:
        """Whether the program has ended."""
        if self.exit_code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.exit_code = os.waitstatus_to_exitcode(status)
        return self.exit_code is not None

    def _become(self, writer: int) -> None:
        # In the child: nothing here may return.
        try:
            # Only the program itself can tell its PID in a /proc of another namespace.
            os.write(writer, f"{own_pid(ProcFS())}\n".encode())
            os.dup2(2, 1)
            for number in (signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)  # Python ignores them, and what is ignored is inherited
            os.get_exec_path()  # what this imports, the user may not be able to read
            if self.user:
                self.user.become(writer)
            os.execvp(self.command[0], self.command)
        except TargetNotFound as error:
            os.write(writer, f"\n{error}".encode())
        except OSError as error:
            os.write(writer, (error.strerror or "?").encode())
        finally:
            os._exit(127)


def user_to_become() -> Account | None:
    """Return the user that became root to start us; None when we go on as who we are.

    Raises:
        BadInput: somebody did, and who cannot be told: nothing is started as root by mistake.
    """
    variable = caller_variable()
    if variable is None:
        return None
    import pwd

    user = invoking_user()
    try:
        account = pwd.getpwuid(user[0]) if user else None
    except KeyError:
        account = None
    if user is None or account is None:
        asked = os.environ[variable]
        raise BadInput(f"{variable} is {asked!r}, which is not a user here: not starting a command as root")
    uid, gid = user
    return Account(name=account.pw_name, uid=uid, gid=gid, home=account.pw_dir)
