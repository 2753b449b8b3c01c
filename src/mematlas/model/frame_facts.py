"""What the kernel says of single frames: /proc/kpageflags, kpagecount and kpagecgroup, and their node.

What a frame is follows from its flags, and those of the head of its folio: before Linux 6.9 or so tails had few of
their own (fs/proc/page.c, stable_page_flags()).
"""

from __future__ import annotations

from mematlas.arrays import Bools, Bytes, Counts, NDArray, Words, np
from mematlas.errors import NotSupported, PermissionDenied
from mematlas.frozen import record
from mematlas.kernel.kpage import (
    KPF_COMPOUND,
    KPF_COMPOUND_HEAD,
    KPF_COMPOUND_TAIL,
    KPF_KSM,
    KPF_NOPAGE,
    open_flags_and_counts,
    tells_ksm,
)
from mematlas.kernel.nodes import read_nodes
from mematlas.model.census.words import kinds_of_words, without_slab_flags
from mematlas.model.charged import FrameCharges
from mematlas.model.page_frames import KSM_NOT_SHOWN
from mematlas.notes import Note, Notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from mematlas.kernel.kpage import FrameWords
    from mematlas.kernel.nodes import NodeMap
    from mematlas.kernel.procfs import ProcFS

HIGHEST_ORDER = 18
"""Of a folio: 1 GiB in pages of 4 KiB."""
NO_NODE = -1
"""Of a frame whose node is not known."""


@record
class FrameFacts:
    """What is known of frames: arrays side by side, in the order of the frames."""

    pfns: Words
    flags: Words
    """Words of kpageflags."""
    kinds: Bytes
    """What each is: `mematlas.model.census.kinds.Kind`."""
    counts: NDArray[np.int64]
    """How often each is mapped."""
    cgroups: Words | None
    """Inodes of the directories of the cgroups they are charged to, 0 for none; None where it is not told."""
    nodes: Counts
    """`NO_NODE` where it is not known."""

    def at(self, which: Bools) -> FrameFacts:
        """Return those of some of the frames."""
        return FrameFacts(
            pfns=self.pfns[which],
            flags=self.flags[which],
            kinds=self.kinds[which],
            counts=self.counts[which],
            cgroups=None if self.cgroups is None else self.cgroups[which],
            nodes=self.nodes[which],
        )


class FrameFiles:
    """The kernel's files of words per frame, held open.

    Raises:
        PermissionDenied: without CAP_DAC_READ_SEARCH.
        NotSupported: a kernel without CONFIG_PROC_PAGE_MONITOR.
    """

    def __init__(self, procfs: ProcFS) -> None:
        self.procfs = procfs
        self.notes = Notes()
        """Why something is not known of any frame."""
        self._flags, self._counts = open_flags_and_counts(procfs)
        self._charges: FrameCharges | None = None
        self._nodes: NodeMap | None = None
        self._tells_ksm: bool | None = None
        try:
            self._charges = FrameCharges(procfs)
        except (NotSupported, PermissionDenied) as error:
            self.notes.add(Note("cgroups-unknown", f"whom frames are charged to is unknown: {error}"))
        try:
            self._nodes = read_nodes(procfs)
        except (NotSupported, PermissionDenied) as error:
            self.notes.add(Note("nodes-unknown", f"nodes of frames unknown: {error}"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._flags.close()
        self._counts.close()
        if self._charges:
            self._charges.__exit__(*exc)

    def read(self, pfns: Words) -> FrameFacts:
        """Return what is known of frames, ascending; those that do not exist are left out."""
        words, known = self._flags.array(pfns)
        exist = known & (words & np.uint64(KPF_NOPAGE) == 0)
        pfns, words = pfns[exist], self._without_false_flags(words[exist])
        return self.about(pfns, words, kinds_of_words(self._with_heads(pfns, words)))

    def about(self, pfns: Words, words: Words, kinds: Bytes) -> FrameFacts:
        """Return what else is known of frames, ascending, whose flags were read."""
        return FrameFacts(
            pfns=pfns,
            flags=words,
            kinds=kinds,
            counts=self.counts(pfns),
            cgroups=self._charges.inodes(pfns)[0] if self._charges else None,
            nodes=self._nodes_of(pfns),
        )

    def counts(self, pfns: Words) -> NDArray[np.int64]:
        """Return how often frames are mapped, in the whole machine."""
        return self._counts.array(pfns)[0].astype(np.int64)

    def kinds(self, pfns: Words) -> Bytes:
        """Return what frames are now."""
        return kinds_of_words(self._with_heads(pfns, self._without_false_flags(self._flags.array(pfns)[0])))

    def heads(self, pfns: Words) -> Words:
        """Return the first frame of the folio that each frame is in: itself where that is of one page."""
        words, _ = self._flags.array(pfns)
        tails = words & np.uint64(KPF_COMPOUND_TAIL) != 0
        heads = pfns.copy()
        heads[tails] = heads_of(self._flags, pfns[tails])
        return heads

    def _with_heads(self, pfns: Words, words: Words) -> Words:
        """Return the flags of frames with those of the heads of their folios."""
        tails = np.flatnonzero(words & np.uint64(KPF_COMPOUND_TAIL) != 0)
        if not len(tails):
            return words
        heads, which = np.unique(heads_of(self._flags, pfns[tails]), return_inverse=True)
        of_heads = self._without_false_flags(self._flags.array(heads)[0])
        whole = words.copy()
        whole[tails] |= of_heads[which] & ~np.uint64(KPF_COMPOUND)
        return whole

    def _without_false_flags(self, words: Words) -> Words:
        """Return words without flags that say nothing: of slabs, and what Linux 6.12 says of all anonymous pages."""
        words = without_slab_flags(words)
        if not (words & np.uint64(KPF_KSM)).any():
            return words
        if self._tells_ksm is None:
            self._tells_ksm = bool(tells_ksm(self.procfs))
            if not self._tells_ksm:
                self.notes.add(KSM_NOT_SHOWN)
        return words if self._tells_ksm else words & ~np.uint64(KPF_KSM)

    def _nodes_of(self, pfns: Words) -> Counts:
        nodes = np.full(len(pfns), NO_NODE, np.int32)
        if self._nodes is None:
            return nodes
        if self._nodes.only is not None:
            nodes[:] = self._nodes.only
        for first, end, node in self._nodes.spans:
            low, high = np.searchsorted(pfns, np.array([first, end], np.uint64))
            nodes[low:high] = node
        return nodes


def heads_of(flags: FrameWords, tails: Words) -> Words:
    """Return the first frame of the folio of each of some tails: folios are aligned to their size."""
    heads = tails.copy()
    left = np.arange(len(tails))
    for order in range(1, HIGHEST_ORDER + 1):
        candidates = tails[left] & ~np.uint64((1 << order) - 1)
        unique, which = np.unique(candidates, return_inverse=True)
        is_head = (flags.array(unique)[0] & np.uint64(KPF_COMPOUND_HEAD) != 0)[which]
        heads[left[is_head]] = candidates[is_head]
        left = left[~is_head]
        if not len(left):
            break
    return heads


def extents_of(flags: FrameWords, pfns: Words) -> tuple[Words, NDArray[np.int64]]:
    """Return the first frame of the folio of each frame, and how many frames that folio has."""
    words, _ = flags.array(pfns)
    firsts = pfns.copy()
    tails = words & np.uint64(KPF_COMPOUND_TAIL) != 0
    firsts[tails] = heads_of(flags, pfns[tails])
    different, which = np.unique(firsts, return_inverse=True)
    lengths = np.ones(len(different), np.int64)
    left = np.arange(len(different))
    for order in range(HIGHEST_ORDER):
        # A folio of more than so many frames is aligned to twice that, and what follows the first half is a tail.
        half = np.uint64(1 << order)
        aligned = different[left] & (half * np.uint64(2) - np.uint64(1)) == 0
        left = left[aligned]
        left = left[flags.array(different[left] + half)[0] & np.uint64(KPF_COMPOUND_TAIL) != 0]
        if not len(left):
            break
        lengths[left] = 2 << order
    return firsts, lengths[which]
