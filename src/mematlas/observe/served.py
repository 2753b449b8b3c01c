"""Questions about the whole machine, for a front end without rights: answered in a worker of `mematlas.kernel.broker`.

Each is one call of the library, where the rights are: frames are told by kernel memory, and no address of it is in the
answers. `mematlas.observe` asks them where /proc is read through a broker.
"""

from __future__ import annotations

from mematlas.errors import PermissionDenied
from mematlas.observe import cache, whole_cache
from mematlas.observe import frames as all_frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from mematlas.analysis.cached import CacheResult
    from mematlas.analysis.frame_owners import FrameOwners
    from mematlas.analysis.frames import FramesCheck, FramesResult
    from mematlas.analysis.kernel_memory import KernelResult
    from mematlas.kernel.broker import ServedFS
    from mematlas.kernel.procfs import ProcessDir

_frames: dict[str, all_frames.Frames] = {}


def frames_by(procfs: ServedFS, source: str) -> all_frames.Frames:
    """Return all frames, held open."""
    if source not in _frames:
        _frames[source] = all_frames.Frames(procfs, source)
    return _frames[source]


def open_frames(procfs: ServedFS, source: str) -> None:
    """Open what tells frames."""
    frames_by(procfs, source)


def look_at_frames(procfs: ServedFS, source: str, by: str, sample: float | None, seed: int | None) -> FramesResult:
    """Return what `Frames.look` does."""
    return frames_by(procfs, source).look(by, sample, seed)


def check_frames(procfs: ServedFS, source: str) -> FramesCheck:
    """Return what `Frames.check` does."""
    return frames_by(procfs, source).check()


def find_kernel_memory(procfs: ServedFS, seconds: float) -> KernelResult:
    """Return what `Machine.kernel_memory` does."""
    from mematlas.observe import kernel_memory

    return kernel_memory.find_kernel_memory(procfs, seconds)


def find_owners(procfs: ServedFS, seconds: float, spans: bytes) -> FrameOwners:
    """Return what `Machine.owners` does; of each span two numbers are given."""
    from mematlas.observe import frame_owners

    numbers = memoryview(spans).cast("Q").tolist()
    return frame_owners.find_owners(procfs, list(zip(numbers[::2], numbers[1::2], strict=True)), seconds)


def find_everything(procfs: ServedFS, sort: str, limit: int, details: str, seconds: float) -> CacheResult:
    """Return what `Machine.cache` does of all files."""
    wanted = cache.Wanted(sort, limit, frozenset(filter(None, details.split(","))), seconds)
    return whole_cache.find_everything(procfs, wanted)


def look_at_process(process: ProcessDir) -> Iterator[tuple[int, Any]]:
    """Yield what the page cache has of the files of a process."""
    return cache.look_at(process, process.procfs)


def look_at_path(procfs: ServedFS, path: str) -> Iterator[tuple[int, Any]]:
    """Yield what the page cache has of the files at or below a path."""
    if path not in procfs.grant.paths:
        raise PermissionDenied(path, text="to be named at the start")
    return cache.look_at(path, procfs)


_decoders: list[all_frames.DecoderHeld] = []


def find_largest_files(procfs: ServedFS, count: int) -> list[dict[str, Any]]:
    """Return the largest files in the page cache, found by a sample."""
    from mematlas.observe import largest_files

    if not _decoders:
        _decoders.append(all_frames.open_decoder(procfs))
    return largest_files.plain(whole_cache.largest_files(procfs, _decoders[0], count))
