"""What was probably meant: hints in the messages about names that there are none of."""

from __future__ import annotations

from mematlas.cli.command import COMMANDS
from mematlas.errors import Error, did_you_mean

ALL_PROCESSES = frozenset(("top", "htop", "ps", "list", "ls", "processes"))
"""What other tools call a look at all processes, for which we have no command but ourselves."""


def unknown_command(name: str) -> str:
    """Return the message about a first word that is no command: it may be what to look at."""
    if name in ALL_PROCESSES:
        return f"no command {name!r}; for the largest processes: mematlas (live: mematlas -i 1s)"
    if name.isdecimal() or names_target(name):
        import shlex

        return f"no command {name!r}; to look at that process: mematlas usage {shlex.quote(name)}"
    return f"no command {name!r}{did_you_mean(name, COMMANDS)}; mematlas --help lists them"


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


def how_to_install(package: str) -> str:
    """Return the line that installs a package for the Python that runs us."""
    import os
    import sys
    import sysconfig

    is_managed = os.path.exists(os.path.join(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED"))  # PEP 668
    if not is_managed or sys.prefix != sys.base_prefix:
        return f"{sys.executable} -m pip install {package}"
    if os.path.exists("/etc/debian_version"):
        return f"sudo apt install python3-{package}"
    return f"python3 -m venv, then pip install {package} in it (this Python is managed by the system)"
