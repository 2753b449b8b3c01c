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
    from mematlas.actions.effects import Effect
    from mematlas.actions.plans import Plan, plan
    from mematlas.actions.refaults import Refaults, watch_refaults
    from mematlas.actions.verbs import cold, collapse, pageout, undo, willneed
    from mematlas.analysis.ending import DistinctResult, EndingResult, Part
    from mematlas.analysis.grid import Cells, Strip
    from mematlas.analysis.movable import Choice
    from mematlas.analysis.overview import Facts, Group, Others
    from mematlas.analysis.page_filter import PageFilter
    from mematlas.analysis.ram import Ram
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
        TargetRefused,
        TooLarge,
    )
    from mematlas.kernel.maps import Vma
    from mematlas.kernel.pagemap import Block
    from mematlas.kernel.procfs import ProcFS
    from mematlas.model.address_space import AddressSpace, Selection
    from mematlas.model.pages import Hole, state_of
    from mematlas.model.search import resolve
    from mematlas.observe.captures import CaptureResult, capture
    from mematlas.observe.machine import Census, Machine, MachineUsage
    from mematlas.observe.page_list import PageList
    from mematlas.observe.pagetables import PageTables
    from mematlas.observe.process import Process
    from mematlas.version import __version__

HOMES = {
    "mematlas.version": ("__version__",),
    "mematlas.actions.effects": ("Effect",),
    "mematlas.actions.plans": ("Plan", "plan"),
    "mematlas.actions.refaults": ("Refaults", "watch_refaults"),
    "mematlas.actions.verbs": ("cold", "collapse", "pageout", "undo", "willneed"),
    "mematlas.analysis.ending": ("DistinctResult", "EndingResult", "Part"),
    "mematlas.analysis.grid": ("Cells", "Strip"),
    "mematlas.analysis.movable": ("Choice",),
    "mematlas.analysis.overview": ("Facts", "Group", "Others"),
    "mematlas.analysis.page_filter": ("PageFilter",),
    "mematlas.analysis.ram": ("Ram",),
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
        "TargetRefused",
        "TooLarge",
    ),
    "mematlas.kernel.maps": ("Vma",),
    "mematlas.kernel.pagemap": ("Block",),
    "mematlas.kernel.procfs": ("ProcFS",),
    "mematlas.model.address_space": ("AddressSpace", "Selection"),
    "mematlas.model.pages": ("Hole", "state_of"),
    "mematlas.model.search": ("resolve",),
    "mematlas.analysis.results": ("MapsResult", "Reading", "Translation", "UsageResult", "VmaUsage"),
    "mematlas.observe.machine": ("Census", "Machine", "MachineUsage"),
    "mematlas.observe.page_list": ("PageList",),
    "mematlas.observe.pagetables": ("PageTables",),
    "mematlas.observe.process": ("Process",),
}

__all__ = [
    "AddressSpace",
    "AssertionNotMet",
    "BadInput",
    "Block",
    "CaptureResult",
    "Cells",
    "Census",
    "Choice",
    "DistinctResult",
    "Effect",
    "EndingResult",
    "Error",
    "Facts",
    "FormatError",
    "Group",
    "Hole",
    "Machine",
    "MachineUsage",
    "MapsResult",
    "NoAddressSpace",
    "NotHeld",
    "NotSupported",
    "Others",
    "PageFilter",
    "PageList",
    "PageTables",
    "Part",
    "PermissionDenied",
    "Plan",
    "ProcFS",
    "Process",
    "ProcessGone",
    "Ram",
    "Reading",
    "Refaults",
    "Selection",
    "Strip",
    "TargetAmbiguous",
    "TargetNotFound",
    "TargetRefused",
    "TooLarge",
    "Translation",
    "Usage",
    "UsageResult",
    "Vma",
    "VmaUsage",
    "__version__",
    "capture",
    "cold",
    "collapse",
    "pageout",
    "plan",
    "resolve",
    "state_of",
    "undo",
    "watch_refaults",
    "willneed",
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
