"""The arrays that page tables are read into, by what they hold: names for annotations."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
"""Entries, addresses or frame numbers."""
Counts = NDArray[np.int32]
Bytes = NDArray[np.uint8]
Bools = NDArray[np.bool_]
