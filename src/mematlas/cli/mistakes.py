"""Hints in messages: what was probably meant by a name that there is none of, and what the machine does not give us."""

from __future__ import annotations

from mematlas.cli.command import COMMANDS
from mematlas.errors import Error, LibraryMissing, did_you_mean

ALL_PROCESSES = frozenset(("htop", "ps", "list", "ls", "processes"))
"""What other tools call a look at all processes, for which we have no command but ourselves."""


def unknown_command(name: str) -> str:
    """Return the message about a first word that is no command: it may be what to look at."""
    if name in ALL_PROCESSES:
        return f"no command {name!r}; for the largest processes: mematlas (live: mematlas top)"
    if name.isdecimal() or names_target(name):
        import shlex

        return f"no command {name!r}; to look at that process: mematlas usage {shlex.quote(name)}"
    return f"no command {name!r}{did_you_mean(name, (*COMMANDS, '--version'))}; mematlas --help lists them"


def names_target(text: str) -> bool:
    """Whether a word is the name of a process, or whatever else a target can be."""
    from mematlas.kernel.procfs import ProcFS
    from mematlas.model.search import Search

    try:
        for target in Search(text, ProcFS()):
            target.close()
            return True
    except Error:
        pass
    return False


def what_is_lacking(error: OSError | MemoryError | ImportError) -> str | None:
    """Return what the machine does not give us, memory, a file or a library; None where the mistake is ours."""
    if isinstance(error, MemoryError):
        return "not enough memory (ulimit -v, memory.max)"
    if isinstance(error, OSError):
        return lacking_resource(error)
    # What the dynamic loader said has no errno. A package that is missing is `LibraryMissing`.
    if not error.path or not error.path.endswith(".so"):
        return None
    return f"cannot load a library: {error.msg}{' (ulimit -v)' * lacks_memory(error.msg)}"


def lacking_resource(error: OSError) -> str | None:
    """Return what our output, or one of our limits, lacks.

    What the kernel says about a target is translated where it is read.
    """
    import errno

    if error.errno in (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM):
        limit = {errno.EMFILE: " (ulimit -n)", errno.EAGAIN: " (ulimit -u, pids.max)"}.get(error.errno, "")
        return f"out of system resources: {error.strerror}{limit}"
    is_of_output = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
    return f"cannot write: {error.strerror}" if is_of_output and not error.filename else None


def how_to_mend(error: LibraryMissing) -> str:
    """Return how a message about a package ends: with what to type."""
    if lacks_memory(str(error)):
        return " (ulimit -v)"
    return f": {how_to_install(error.package, error.extra, again=error.is_installed)}"


def lacks_memory(said: str) -> bool:
    """Whether the dynamic loader had no room."""
    return "failed to map" in said or "allocate" in said


def how_to_install(package: str, extra: str = "", again: bool = False) -> str:
    """Return the line that installs a package for the Python that runs us, or installs it again; ``extra`` is what of
    ours brings it.
    """
    import os
    import sys
    import sysconfig

    marker = os.path.join(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED")  # PEP 668
    is_managed = os.path.exists(marker)
    wanted = f"'mematlas[{extra}]'" if extra and not again else package
    if not is_managed or sys.prefix != sys.base_prefix:
        return f"{sys.executable} -m pip install {'--force-reinstall ' * again}{wanted}"
    if os.path.exists("/etc/debian_version"):
        return f"sudo apt install {'--reinstall ' * again}python3-{package}"
    return f"python3 -m venv, then pip install {wanted} in it (this Python is managed by the system)"
