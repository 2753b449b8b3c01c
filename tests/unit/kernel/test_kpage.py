"""Words per frame, read in few calls."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import PAGE, sparse, write_words
from mematlas import Process
from mematlas.errors import Error
from mematlas.kernel.kpage import (
    KPF_ANON,
    KPF_KSM,
    KPF_NAMES,
    RUN,
    FrameWords,
    flag_names,
    open_flags_and_counts,
    tells_ksm,
)
from mematlas.kernel.pagemap import GAP
from mematlas.kernel.procfs import ProcFS

LAST = 30_000
places = st.one_of(
    st.integers(0, LAST + 5000),
    st.sampled_from([0, 1, GAP, GAP + 1, RUN - 1, RUN, RUN + 1, LAST, LAST + 1]),
)


@given(st.lists(places, max_size=60))
def test_each_frame_has_its_word_and_those_beyond_memory_none(frames: list[int]) -> None:
    known = {frame: frame * 3 + 1 for frame in [*frames, LAST] if frame <= LAST}
    with tempfile.TemporaryDirectory() as directory:
        write_words(Path(directory, "kpagecount"), known)
        with FrameWords(ProcFS(directory, 4096), "kpagecount") as reader:
            found, counts = reader.get(frames), reader.tally(frames)
            words, are_known = reader.array(np.array(frames, np.uint64))

    assert found == {frame: known[frame] for frame in frames if frame <= LAST}
    assert counts == Counter(known.get(frame, 0) for frame in frames)
    assert words.tolist() == [known.get(frame, 0) for frame in frames]
    assert are_known.tolist() == [frame in found for frame in frames]


def test_of_two_files_none_stays_open_where_one_is_refused(tmp_path: Path) -> None:
    write_words(tmp_path / "kpageflags", {1: 1})
    procfs = ProcFS(str(tmp_path), 4096)
    FrameWords(procfs, "kpageflags").close()
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(Error) as refused:
        open_flags_and_counts(procfs)
    assert sorted(os.listdir("/proc/self/fd")) == before, refused.value


@pytest.mark.parametrize("frames", [[3, 4, 5], [1, 1, 2], [0, 7, 7, 7], [2, 9, 99]], ids=str)
def test_frames_are_tallied_by_their_words(tmp_path: Path, frames: list[int]) -> None:
    write_words(tmp_path / "kpagecount", {frame: 4 if frame < 5 else 1 for frame in range(10)})

    with FrameWords(ProcFS(str(tmp_path), PAGE), "kpagecount") as words:
        expected = Counter(words.get([frame]).get(frame, 0) for frame in frames)
        assert words.tally(frames) == expected


def test_frames_that_are_close_are_read_in_one_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_words(tmp_path / "kpagecount", {1000: 1})
    calls: list[int] = []
    read, read_into = os.pread, os.preadv

    def pread(fd: int, size: int, offset: int) -> bytes:
        calls.append(size // 8)
        return read(fd, size, offset)

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        calls.append(len(buffers[0]) // 8)
        return read_into(fd, buffers, offset)

    monkeypatch.setattr(os, "pread", pread)
    monkeypatch.setattr(os, "preadv", preadv)
    with FrameWords(ProcFS(str(tmp_path), 4096), "kpagecount") as reader:
        reader.get([5, 5 + GAP, 5 + 2 * GAP, 700])
        reader.array(np.array([700, 5, 5 + 2 * GAP, 5 + GAP], np.uint64))
    assert calls == [2 * GAP + 1, 1] * 2


def test_flags_have_names_and_unknown_ones_numbers() -> None:
    assert flag_names(0) == ()
    assert flag_names(1 << 24 | 1 << 32) == ("zero_page", "reserved")
    assert flag_names(1 << 27 | 1 << 63) == ("bit_27", "bit_63")
    assert len(set(KPF_NAMES.values())) == len(KPF_NAMES)


@pytest.mark.root("CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH")
def test_own_anonymous_page_is_mapped_once() -> None:
    with sparse(16 * PAGE, [5]) as target, Process(target.pid) as process:
        pfn = process.translate([target.told + 5 * PAGE])[0].pfn
        assert pfn
        with FrameWords(ProcFS(), "kpagecount") as counts, FrameWords(ProcFS(), "kpageflags") as flags:
            assert counts.get([pfn]) == {pfn: 1}
            assert "anon" in flag_names(flags.get([pfn])[pfn])


@pytest.mark.root
def test_ksm_is_said_of_no_page_that_nothing_was_merged_with(anonymous_word: int) -> None:
    # Linux 6.12 sets the flag for every anonymous page: then it tells nothing, and we say so.
    assert tells_ksm(ProcFS()) == (not anonymous_word & KPF_KSM)


@pytest.fixture
def anonymous_word() -> int:
    """The flags of a page of our own stack, the oracle."""
    with Process(os.getpid()) as process:
        stack = next(vma for vma in process.address_space().vmas if vma.kind == "stack")
        frames = {
            page.pfn
            for page in process.translate(range(stack.start, stack.end, PAGE))
            if page.state == "present" and page.pfn
        }
    with FrameWords(ProcFS(), "kpageflags") as words:
        return next(word for word in words.get(frames).values() if word & KPF_ANON)
