"""What to type when a right is missing."""

from __future__ import annotations

import os
import sys

from mematlas.errors import PermissionDenied
from mematlas.kernel.rights import effective_capabilities, in_user_namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def own_command() -> str:
    """Return how we were started, as a path that also works under sudo, whose PATH leaves virtual environments out."""
    program = sys.argv[0]
    if os.path.basename(program) == "__main__.py" or not os.access(program, os.X_OK):
        return f"{sys.executable} -m mematlas"
    return os.path.abspath(program)


def sudo_line(words: Sequence[str]) -> str:
    """Return the command line that runs these words with all rights."""
    import shlex

    return f"sudo -- {own_command()} {shlex.join(words)}".rstrip()


def line_with_rights(words: Sequence[str]) -> str:
    """Return the same where it would show more than we may see; else an empty one."""
    return "" if os.geteuid() == 0 or in_user_namespace() else sudo_line(words)


def plain_line(words: Sequence[str]) -> str:
    """Return the command line that a person types for these words, here and with the rights that we have."""
    import shlex
    import shutil

    name = "mematlas"
    on_path = shutil.which(name)
    is_ours = on_path is not None and os.path.samefile(on_path, sys.argv[0])
    program = name if is_ours else own_command()
    return f"{program} {shlex.join(words)}"


USER_NAMESPACE = (
    "This is a user namespace: the kernel asks for rights in the initial one, whatever we hold here. "
    "Run mematlas outside, as root there."
)


def permission_hint(error: PermissionDenied, words: Sequence[str]) -> str:
    """Return the next step: the line to type, or why even that would not do."""
    if in_user_namespace():
        return USER_NAMESPACE
    is_missing = error.needs - effective_capabilities() if error.needs else os.geteuid() != 0
    if is_missing:
        return f"try: {sudo_line(words)}"
    return (
        "we hold that right already: a security module, a user namespace or a seccomp filter refuses. "
        "In a container, give it --cap-add SYS_PTRACE,SYS_ADMIN,DAC_READ_SEARCH and the host's PID namespace."
    )
