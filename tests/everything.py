"""All that is imported late, by us and by what we import: for a child that may not be able to read it any more."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import sysconfig

import mematlas

LATE_IMPORTS = """
    numpy array csv ctypes.util encodings.idna fcntl gettext grp json locale mmap pwd select shutil signal
    struct subprocess tempfile termios textwrap unicodedata zlib
    argparse bisect difflib encodings.ascii encodings.unicode_escape encodings.utf_16_be encodings.utf_16_le
    encodings.utf_32_be encodings.utf_32_le encodings.utf_8_sig heapq html pickle random resource shlex traceback
"""


def import_everything() -> None:
    """Import each module of ours, and what they and the standard library import late."""
    names = [module.name for module in pkgutil.walk_packages(mematlas.__path__, "mematlas.")]
    for name in [*LATE_IMPORTS.split(), *names]:
        if not name.endswith("__main__"):
            # An extra that is not installed.
            with contextlib.suppress(ModuleNotFoundError):
                importlib.import_module(name)
    sysconfig.get_config_vars()  # a module of its own, by the name of the machine
