"""Observe, measure and influence the virtual memory of running Linux processes.

>>> import os, mematlas
>>> with mematlas.Process(os.getpid()) as process:
...     usage = process.usage()
>>> usage.uss <= usage.pss <= usage.rss
True

The names below are the library; each is imported when it is first used.
"""

from __future__ import annotations

NAMES = {
    "actions.effects": "Effect",
    "actions.files": "FileEffect FilePlan FilesEffect PlannedFile act_on_files plan_files",
    "actions.groups": "GroupEffect GroupPlan PlannedProcess ProcessEffect act_on_group plan_group",
    "actions.plans": "Plan plan",
    "actions.refaults": "Refaults watch_refaults",
    "actions.verbs": "cold collapse pageout undo willneed",
    "analysis.assertions": "Assertion Verdict",
    "analysis.cached": "CachedFile CachedGroup CacheResult",
    "analysis.charge": "Charge ChargePart Held Oom Victim",
    "analysis.ending": "DistinctResult EndingPart EndingResult",
    "analysis.frame_list": "FlagsResult FlagsUse FrameRows",
    "analysis.frame_owners": "FrameDetail FrameMapper FrameOwners OwnedFrames",
    "analysis.frames": "FrameGroup FrameUse FramesResult",
    "analysis.grid": "Cells Density Grid Stretch Strip",
    "analysis.growth": "Growth Slope",
    "analysis.kernel_memory": "KernelItem KernelPart KernelResult",
    "analysis.listing": "DistinctFrames GroupsResult ProcessGroup ProcessUsage ProcessesResult",
    "analysis.movable": "Choice",
    "analysis.overview": "Census Facts Group MachineUsage OtherProcesses",
    "analysis.owners": "Owner",
    "analysis.page_filter": "PageFilter",
    "analysis.ram": "Ram",
    "analysis.results": "Counters MapsResult Reading UsageResult VmaUsage",
    "analysis.set_usage": "SetUsage",
    "analysis.sharing": "SharedPair SharedSet SharedVma Sharer ShareResult Through",
    "analysis.translation": "Translation Translations",
    "analysis.usage": "Usage",
    "errors": (
        "AssertionNotMet BadInput CgroupGone Error FormatError NoAddressSpace NotConfirmed NotHeld NotSupported "
        "PermissionDenied ProcessGone TargetAmbiguous TargetNotFound TargetRefused TooLarge"
    ),
    "kernel.maps": "Vma",
    "kernel.memcg": "Limit Pressure",
    "kernel.pagemap": "Block",
    "kernel.procfs": "ProcFS",
    "model.address_space": "AddressSpace Selection",
    "model.pages": "Hole state_of",
    "model.search": "resolve",
    "notes": "Note",
    "observe.cgroup": "Cgroup",
    "observe.captures": "CaptureResult capture",
    "observe.frame_list": "FrameList",
    "observe.frames": "Frames",
    "observe.machine": "Machine",
    "observe.page_list": "PageList",
    "observe.pages": "Pages",
    "observe.pagetables": "PageTables",
    "observe.process": "Process",
    "observe.process_set": "ProcessSet",
    "timeline.check": "CheckResult check",
    "timeline.recorded_rows": "RecordedProcess",
    "timeline.recording": "Recording",
    "timeline.sampler": "Cost Sampler Snapshot",
    "timeline.recorded_timeline": "RecordedTimeline",
    "timeline.timeline": "Changes Detail LiveTimeline changes",
    "timeline.watch": "Watch",
    "version": "__version__",
}
"""The library, by the module where each name is defined."""
HOMES = {name: f"mematlas.{home}" for home, names in NAMES.items() for name in names.split()}

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.actions.effects import Effect as Effect
    from mematlas.actions.files import FileEffect as FileEffect
    from mematlas.actions.files import FilePlan as FilePlan
    from mematlas.actions.files import FilesEffect as FilesEffect
    from mematlas.actions.files import PlannedFile as PlannedFile
    from mematlas.actions.files import act_on_files as act_on_files
    from mematlas.actions.files import plan_files as plan_files
    from mematlas.actions.groups import GroupEffect as GroupEffect
    from mematlas.actions.groups import GroupPlan as GroupPlan
    from mematlas.actions.groups import PlannedProcess as PlannedProcess
    from mematlas.actions.groups import ProcessEffect as ProcessEffect
    from mematlas.actions.groups import act_on_group as act_on_group
    from mematlas.actions.groups import plan_group as plan_group
    from mematlas.actions.plans import Plan as Plan
    from mematlas.actions.plans import plan as plan
    from mematlas.actions.refaults import Refaults as Refaults
    from mematlas.actions.refaults import watch_refaults as watch_refaults
    from mematlas.actions.verbs import cold as cold
    from mematlas.actions.verbs import collapse as collapse
    from mematlas.actions.verbs import pageout as pageout
    from mematlas.actions.verbs import undo as undo
    from mematlas.actions.verbs import willneed as willneed
    from mematlas.analysis.assertions import Assertion as Assertion
    from mematlas.analysis.assertions import Verdict as Verdict
    from mematlas.analysis.cached import CachedFile as CachedFile
    from mematlas.analysis.cached import CachedGroup as CachedGroup
    from mematlas.analysis.cached import CacheResult as CacheResult
    from mematlas.analysis.charge import Charge as Charge
    from mematlas.analysis.charge import ChargePart as ChargePart
    from mematlas.analysis.charge import Held as Held
    from mematlas.analysis.charge import Oom as Oom
    from mematlas.analysis.charge import Victim as Victim
    from mematlas.analysis.ending import DistinctResult as DistinctResult
    from mematlas.analysis.ending import EndingPart as EndingPart
    from mematlas.analysis.ending import EndingResult as EndingResult
    from mematlas.analysis.frame_list import FlagsResult as FlagsResult
    from mematlas.analysis.frame_list import FlagsUse as FlagsUse
    from mematlas.analysis.frame_list import FrameRows as FrameRows
    from mematlas.analysis.frame_owners import FrameDetail as FrameDetail
    from mematlas.analysis.frame_owners import FrameMapper as FrameMapper
    from mematlas.analysis.frame_owners import FrameOwners as FrameOwners
    from mematlas.analysis.frame_owners import OwnedFrames as OwnedFrames
    from mematlas.analysis.frames import FrameGroup as FrameGroup
    from mematlas.analysis.frames import FramesResult as FramesResult
    from mematlas.analysis.frames import FrameUse as FrameUse
    from mematlas.analysis.grid import Cells as Cells
    from mematlas.analysis.grid import Density as Density
    from mematlas.analysis.grid import Grid as Grid
    from mematlas.analysis.grid import Stretch as Stretch
    from mematlas.analysis.grid import Strip as Strip
    from mematlas.analysis.growth import Growth as Growth
    from mematlas.analysis.growth import Slope as Slope
    from mematlas.analysis.kernel_memory import KernelItem as KernelItem
    from mematlas.analysis.kernel_memory import KernelPart as KernelPart
    from mematlas.analysis.kernel_memory import KernelResult as KernelResult
    from mematlas.analysis.listing import DistinctFrames as DistinctFrames
    from mematlas.analysis.listing import GroupsResult as GroupsResult
    from mematlas.analysis.listing import ProcessesResult as ProcessesResult
    from mematlas.analysis.listing import ProcessGroup as ProcessGroup
    from mematlas.analysis.listing import ProcessUsage as ProcessUsage
    from mematlas.analysis.movable import Choice as Choice
    from mematlas.analysis.overview import Census as Census
    from mematlas.analysis.overview import Facts as Facts
    from mematlas.analysis.overview import Group as Group
    from mematlas.analysis.overview import MachineUsage as MachineUsage
    from mematlas.analysis.overview import OtherProcesses as OtherProcesses
    from mematlas.analysis.owners import Owner as Owner
    from mematlas.analysis.page_filter import PageFilter as PageFilter
    from mematlas.analysis.ram import Ram as Ram
    from mematlas.analysis.results import Counters as Counters
    from mematlas.analysis.results import MapsResult as MapsResult
    from mematlas.analysis.results import Reading as Reading
    from mematlas.analysis.results import UsageResult as UsageResult
    from mematlas.analysis.results import VmaUsage as VmaUsage
    from mematlas.analysis.set_usage import SetUsage as SetUsage
    from mematlas.analysis.sharing import SharedPair as SharedPair
    from mematlas.analysis.sharing import SharedSet as SharedSet
    from mematlas.analysis.sharing import SharedVma as SharedVma
    from mematlas.analysis.sharing import Sharer as Sharer
    from mematlas.analysis.sharing import ShareResult as ShareResult
    from mematlas.analysis.sharing import Through as Through
    from mematlas.analysis.translation import Translation as Translation
    from mematlas.analysis.translation import Translations as Translations
    from mematlas.analysis.usage import Usage as Usage
    from mematlas.errors import AssertionNotMet as AssertionNotMet
    from mematlas.errors import BadInput as BadInput
    from mematlas.errors import CgroupGone as CgroupGone
    from mematlas.errors import Error as Error
    from mematlas.errors import FormatError as FormatError
    from mematlas.errors import NoAddressSpace as NoAddressSpace
    from mematlas.errors import NotConfirmed as NotConfirmed
    from mematlas.errors import NotHeld as NotHeld
    from mematlas.errors import NotSupported as NotSupported
    from mematlas.errors import PermissionDenied as PermissionDenied
    from mematlas.errors import ProcessGone as ProcessGone
    from mematlas.errors import TargetAmbiguous as TargetAmbiguous
    from mematlas.errors import TargetNotFound as TargetNotFound
    from mematlas.errors import TargetRefused as TargetRefused
    from mematlas.errors import TooLarge as TooLarge
    from mematlas.kernel.maps import Vma as Vma
    from mematlas.kernel.memcg import Limit as Limit
    from mematlas.kernel.memcg import Pressure as Pressure
    from mematlas.kernel.pagemap import Block as Block
    from mematlas.kernel.procfs import ProcFS as ProcFS
    from mematlas.model.address_space import AddressSpace as AddressSpace
    from mematlas.model.address_space import Selection as Selection
    from mematlas.model.pages import Hole as Hole
    from mematlas.model.pages import state_of as state_of
    from mematlas.model.search import resolve as resolve
    from mematlas.notes import Note as Note
    from mematlas.observe.captures import CaptureResult as CaptureResult
    from mematlas.observe.captures import capture as capture
    from mematlas.observe.cgroup import Cgroup as Cgroup
    from mematlas.observe.frame_list import FrameList as FrameList
    from mematlas.observe.frames import Frames as Frames
    from mematlas.observe.machine import Machine as Machine
    from mematlas.observe.page_list import PageList as PageList
    from mematlas.observe.pages import Pages as Pages
    from mematlas.observe.pagetables import PageTables as PageTables
    from mematlas.observe.process import Process as Process
    from mematlas.observe.process_set import ProcessSet as ProcessSet
    from mematlas.timeline.check import CheckResult as CheckResult
    from mematlas.timeline.check import check as check
    from mematlas.timeline.recorded_rows import RecordedProcess as RecordedProcess
    from mematlas.timeline.recorded_timeline import RecordedTimeline as RecordedTimeline
    from mematlas.timeline.recording import Recording as Recording
    from mematlas.timeline.sampler import Cost as Cost
    from mematlas.timeline.sampler import Sampler as Sampler
    from mematlas.timeline.sampler import Snapshot as Snapshot
    from mematlas.timeline.timeline import Changes as Changes
    from mematlas.timeline.timeline import Detail as Detail
    from mematlas.timeline.timeline import LiveTimeline as LiveTimeline
    from mematlas.timeline.timeline import changes as changes
    from mematlas.timeline.watch import Watch as Watch
    from mematlas.version import __version__ as __version__

__all__ = sorted(HOMES)


def __getattr__(name: str) -> object:
    # Loading all of it would cost a command that needs a third three times the time.
    if name not in HOMES:
        raise AttributeError(f"module 'mematlas' has no attribute {name!r}")
    value: object = getattr(__import__(HOMES[name], fromlist=[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
