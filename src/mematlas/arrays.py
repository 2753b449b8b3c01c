"""numpy, and the arrays that page tables are read into, by what they hold: names for annotations.

Whoever needs numpy has it from here: where it is missing, or cannot be loaded, that is an error of ours.
"""

from __future__ import annotations

from mematlas.errors import LibraryMissing

try:
    import numpy as np
    from numpy.typing import NDArray
except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: of a processor that it was not built for
    raise LibraryMissing("numpy", error) from error

__all__ = ("Bools", "Bytes", "Counts", "NDArray", "Words", "np")

Words = NDArray[np.uint64]
"""Entries, addresses or frame numbers."""
Counts = NDArray[np.int32]
Bytes = NDArray[np.uint8]
Bools = NDArray[np.bool_]
