"""Observe, measure and influence the virtual memory of running Linux processes.

>>> import os, mematlas
>>> with mematlas.Process(os.getpid()) as process:
...     usage = process.usage().usage
>>> usage.uss <= usage.pss <= usage.rss
True

The names below are the library; each is imported when it is first used.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.analysis.ending import DistinctResult, EndingResult, Part
    from mematlas.analysis.grid import Cells, Strip
    from mematlas.analysis.results import MapsResult, Reading, Translation, UsageResult, VmaUsage
    from mematlas.analysis.usage import Usage
    from mematlas.errors import (
        AssertionNotMet,
        BadInput,
        Error,
        FormatError,
        NoAddressSpace,
        NotHeld,
        NotSupported,
        PermissionDenied,
        ProcessGone,
        TargetAmbiguous,
        TargetNotFound,
        TooLarge,
    )
    from mematlas.kernel.maps import Vma
    from mematlas.kernel.pagemap import Block
    from mematlas.kernel.procfs import ProcFS
    from mematlas.model.address_space import AddressSpace, Selection
    from mematlas.model.pages import Hole, state_of
    from mematlas.model.search import resolve
    from mematlas.observe.captures import CaptureResult, capture
    from mematlas.observe.process import Process
    from mematlas.version import __version__

HOMES = {
    "mematlas.version": ("__version__",),
    "mematlas.analysis.ending": ("DistinctResult", "EndingResult", "Part"),
    "mematlas.analysis.grid": ("Cells", "Strip"),
    "mematlas.analysis.usage": ("Usage",),
    "mematlas.observe.captures": ("CaptureResult", "capture"),
    "mematlas.errors": (
        "AssertionNotMet",
        "BadInput",
        "Error",
        "FormatError",
        "NoAddressSpace",
        "NotHeld",
        "NotSupported",
        "PermissionDenied",
        "ProcessGone",
        "TargetAmbiguous",
        "TargetNotFound",
        "TooLarge",
    ),
    "mematlas.kernel.maps": ("Vma",),
    "mematlas.kernel.pagemap": ("Block",),
    "mematlas.kernel.procfs": ("ProcFS",),
    "mematlas.model.address_space": ("AddressSpace", "Selection"),
    "mematlas.model.pages": ("Hole", "state_of"),
    "mematlas.model.search": ("resolve",),
    "mematlas.analysis.results": ("MapsResult", "Reading", "Translation", "UsageResult", "VmaUsage"),
    "mematlas.observe.process": ("Process",),
}

__all__ = [
    "AddressSpace",
    "AssertionNotMet",
    "BadInput",
    "Block",
    "CaptureResult",
    "Cells",
    "DistinctResult",
    "EndingResult",
    "Error",
    "FormatError",
    "Hole",
    "MapsResult",
    "NoAddressSpace",
    "NotHeld",
    "NotSupported",
    "Part",
    "PermissionDenied",
    "ProcFS",
    "Process",
    "ProcessGone",
    "Reading",
    "Selection",
    "Strip",
    "TargetAmbiguous",
    "TargetNotFound",
    "TooLarge",
    "Translation",
    "Usage",
    "UsageResult",
    "Vma",
    "VmaUsage",
    "__version__",
    "capture",
    "resolve",
    "state_of",
]


def __getattr__(name: str) -> object:
    # Loading all of it would cost a command that needs a third three times the time.
    for home, names in HOMES.items():
        if name in names:
            value: object = getattr(__import__(home, fromlist=[name]), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'mematlas' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
