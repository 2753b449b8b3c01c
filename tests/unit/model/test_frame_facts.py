"""What is known of frames by the kernel's words: which exist, and what tails have from their heads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from helpers import write_words
from mematlas.errors import NotSupported
from mematlas.kernel.kpage import KPF_NAMES
from mematlas.kernel.procfs import ProcFS
from mematlas.model import frame_facts
from mematlas.model.census.kinds import Kind
from mematlas.model.frame_facts import HIGHEST_ORDER, FrameFacts, FrameFiles

BITS = {name: 1 << bit for bit, name in KPF_NAMES.items()}


def word_of(names: str) -> int:
    return sum(BITS[name] for name in names.split())


def read(
    root: Path, monkeypatch: pytest.MonkeyPatch, flags: Mapping[int, str], pfns: list[int], is_ksm_told: bool = True
) -> FrameFacts:
    """Return what is said of frames by files that were made by hand."""

    def no_nodes(procfs: ProcFS) -> None:
        raise NotSupported("NUMA nodes")

    monkeypatch.setattr(frame_facts, "read_nodes", no_nodes)
    monkeypatch.setattr(frame_facts, "tells_ksm", lambda procfs: is_ksm_told)
    write_words(root / "kpageflags", {pfn: word_of(names) for pfn, names in flags.items()})
    write_words(root / "kpagecount", {pfn: pfn % 3 for pfn in flags})
    write_words(root / "kpagecgroup", dict.fromkeys(flags, 4211))
    with FrameFiles(ProcFS(str(root), os.sysconf("SC_PAGESIZE"))) as files:
        return files.read(np.array(pfns, np.uint64))


def test_frames_that_do_not_exist_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = read(tmp_path, monkeypatch, {5: "uptodate lru", 6: "nopage", 7: "buddy"}, [5, 6, 7, 8, 1 << 51])

    assert facts.pfns.tolist() == [5, 7]
    assert facts.counts.tolist() == [2, 1]
    assert facts.kinds.tolist() == [Kind.FILE, Kind.FREE]
    assert facts.cgroups is not None
    assert facts.cgroups.tolist() == [4211, 4211]


@pytest.mark.parametrize("order", [1, 4, 9, 10, HIGHEST_ORDER])
def test_tails_are_what_their_heads_are(order: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, last = 1 << order, (2 << order) - 1
    flags = {first: "compound_head slab", first + 1: "compound_tail", last: "compound_tail", last + 1: "compound_tail"}
    facts = read(tmp_path, monkeypatch, flags, sorted({first, first + 1, last}))

    assert set(facts.kinds.tolist()) == {Kind.SLAB}
    # The flags that are shown are those that the kernel has.
    assert facts.flags[-1] == word_of("compound_tail")


def test_a_flag_of_ksm_that_means_nothing_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = {5: "ksm anon lru swapbacked"}
    untold = read(tmp_path, monkeypatch, flags, [5], is_ksm_told=False)
    told = read(tmp_path, monkeypatch, flags, [5], is_ksm_told=True)

    assert (untold.kinds.tolist(), untold.flags.tolist()) == ([Kind.ANON], [word_of("anon lru swapbacked")])
    assert (told.kinds.tolist(), told.flags.tolist()) == ([Kind.KSM], [word_of("ksm anon lru swapbacked")])
