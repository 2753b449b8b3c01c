"""What the kernel says of the frames that pages lie in: how often each is mapped, and its flags."""

from __future__ import annotations

from mematlas.errors import NotSupported, PermissionDenied
from mematlas.kernel.kconfig import AVERAGE_COUNTS, counts_are_averages
from mematlas.kernel.kpage import KPF_KSM, FrameWords, flag_names, runs_of, tells_ksm
from mematlas.notes import Note, Notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Self

    from mematlas.kernel.procfs import ProcFS

MOST_NAMES = 5000
"""Different words of kpageflags whose names are kept."""
KSM_NOT_SHOWN = Note(
    "ksm-not-shown",
    "ksm is not shown: this kernel sets it on every anonymous page, or whether it does cannot be found out",
)


class PageFrames:
    """Returns the map counts and the flags of frames, where kpagecount and kpageflags may be read. Holds both open.

    >>> with PageFrames(process.procfs) as frames:   # doctest: +SKIP
    ...     counts, words = frames.of([74565, 74566])
    >>> counts, frames.names([words[74565]])   # doctest: +SKIP
    ({74565: 1, 74566: 3}, [('uptodate', 'lru', 'active', 'mmap', 'anon', 'swapbacked')])

    Raises:
        PermissionDenied: flags must be had, and may not be read: needs CAP_DAC_READ_SEARCH.
        NotSupported: the same, of a kernel without CONFIG_PROC_PAGE_MONITOR.
    """

    def __init__(self, procfs: ProcFS, must_have_flags: bool = False) -> None:
        self.notes = Notes()
        """Why something is unknown, or not shown."""
        self._procfs = procfs
        self._counts: FrameWords | None = None
        self._flags: FrameWords | None = None
        self._misleading = 0
        """The flags that do not mean what their names say."""
        self._is_ksm_checked = False
        self._names: dict[int | None, tuple[str, ...] | None] = {}
        try:
            self._flags = FrameWords(procfs, "kpageflags")
        except (PermissionDenied, NotSupported) as error:
            if must_have_flags:
                raise
            self.notes.add(Note("flags-unknown", f"frame flags unknown: {error}"))
        try:
            self._counts = FrameWords(procfs, "kpagecount")
            if counts_are_averages(procfs):
                self.notes.add(AVERAGE_COUNTS)
        except (PermissionDenied, NotSupported) as error:
            self.notes.add(Note("map-counts-unknown", f"map counts unknown: {error}"))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of both files."""
        for file in (self._counts, self._flags):
            if file:
                file.close()

    def of(self, pfns: Iterable[int]) -> tuple[dict[int, int], dict[int, int]]:
        """Return the map counts and the flags of frames, by frame; those that are not known are left out."""
        runs = runs_of(pfns)
        return self._counts.of_runs(runs) if self._counts else {}, self._flags_of(runs)

    def _flags_of(self, runs: list[list[int]]) -> dict[int, int]:
        words = self._flags.of_runs(runs) if self._flags else {}
        if not self._is_ksm_checked and any(word & KPF_KSM for word in set(words.values())):
            self._is_ksm_checked = True
            if tells_ksm(self._procfs) is False:
                self._misleading = KPF_KSM
                self.notes.add(KSM_NOT_SHOWN)
        if not self._misleading:
            return words
        return {pfn: word & ~self._misleading for pfn, word in words.items()}

    def names(self, words: Sequence[int | None]) -> list[tuple[str, ...] | None]:
        """Return the names of the flags in each word; None for one that is not known."""
        known = self._names
        new = set(words).difference(known)
        # No machine has as many, but a capture may say anything.
        if len(known) + len(new) > MOST_NAMES:
            known.clear()
            new = set(words)
        known.update((word, None if word is None else flag_names(word)) for word in new)
        return [known[word] for word in words]
