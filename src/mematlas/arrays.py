"""numpy, and the arrays that page tables are read into, by what they hold: names for annotations.

Whoever needs numpy has it from here: where it is missing, or cannot be loaded, that is an error of ours.
"""

from __future__ import annotations

from mematlas.errors import LibraryMissing

UNLOADABLE = (
    *(ImportError, OSError),
    RuntimeError,  # it was built for another processor
    *(SyntaxError, EOFError),  # its files are cut short, or of another version of Python
    *(AttributeError, ValueError),  # parts of several versions, or a module of somebody's by its name
    SystemExit,  # that module is a program
)

try:
    import numpy as np
    from numpy.typing import NDArray
except UNLOADABLE as error:
    raise LibraryMissing("numpy", error) from error

__all__ = ("Bools", "Bytes", "Counts", "NDArray", "Words", "np")

Words = NDArray[np.uint64]
"""Entries, addresses or frame numbers."""
Counts = NDArray[np.int32]
Bytes = NDArray[np.uint8]
Bools = NDArray[np.bool_]
