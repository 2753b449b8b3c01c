"""How an act is carried out."""

from __future__ import annotations

from mematlas.errors import BadInput
from mematlas.frozen import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Progress = Callable[[int, int], None]
    Stop = Callable[[], bool]

MAX_PASSES = 8
CHUNK_SIZE = 2 << 20
CHUNK_SIZES = (CHUNK_SIZE, 32 << 20)


def never() -> bool:
    """Whether to stop: no."""
    return False


@record
class Options:
    """How an act is carried out.

    >>> Options(passes=1).chunk_size
    2097152
    """

    passes: int = MAX_PASSES
    """How often pages that stay without a reason are advised at most. It ends as soon as nothing more moves."""
    chunk_size: int = CHUNK_SIZE
    """Bytes advised in one call, 2 to 32 MiB. The target cannot map or unmap meanwhile: 1 to 3 ms for 2 MiB."""
    touch: bool = True
    """Of willneed: read a byte of each page. The advice alone takes what is in swap no further than the swap cache,
    where no entry shows it."""
    exact: bool = False
    """Of pageout: look for each page that the swap cache keeps, instead of for a sample of many."""
    progress: Progress | None = None
    """Called with the pages done and to do."""
    stop: Stop = never
    """Asked before each call whether to end, with a report of what was done."""

    def check(self) -> None:
        """Raise `BadInput` for what makes no sense."""
        least, most = CHUNK_SIZES
        if not least <= self.chunk_size <= most:
            raise BadInput(f"bad chunk size {self.chunk_size}: {least} to {most} bytes")


DEFAULTS = Options()
