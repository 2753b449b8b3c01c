"""What is said of frames, by files with known words."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers import PAGE, write_words
from mematlas.errors import PermissionDenied
from mematlas.kernel.kpage import KPF_ANON, KPF_KSM, KPF_LRU
from mematlas.kernel.procfs import ProcFS
from mematlas.model import page_frames
from mematlas.model.page_frames import KSM_NOT_SHOWN, PageFrames


@pytest.fixture
def procfs(tmp_path: Path) -> ProcFS:
    write_words(tmp_path / "kpageflags", {5: KPF_ANON | KPF_KSM, 6: KPF_LRU})
    write_words(tmp_path / "kpagecount", {5: 3, 6: 1})
    return ProcFS(str(tmp_path), PAGE)


def test_counts_and_flags_are_those_of_the_frames_that_are_asked_for(procfs: ProcFS) -> None:
    with PageFrames(procfs) as frames:
        counts, words = frames.of([6, 5, 5, 7])

        assert (counts, words) == ({5: 3, 6: 1}, {5: KPF_ANON | KPF_KSM, 6: KPF_LRU})
        assert frames.names([words[6], None]) == [("lru",), None]
        assert not frames.notes


@pytest.mark.parametrize(("means_it", "is_shown"), [(True, True), (None, True), (False, False)])
def test_ksm_is_left_out_where_it_means_nothing(
    means_it: bool | None, is_shown: bool, procfs: ProcFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_frames, "tells_ksm", lambda procfs: means_it)
    with PageFrames(procfs) as frames:
        words = frames.of([5, 6])[1]

        assert words == {5: KPF_ANON | (KPF_KSM if is_shown else 0), 6: KPF_LRU}
        assert list(frames.notes) == ([] if is_shown else [KSM_NOT_SHOWN])


@pytest.mark.parametrize("missing", ["kpageflags", "kpagecount"])
def test_what_one_file_does_not_say_the_other_still_does(missing: str, procfs: ProcFS) -> None:
    Path(procfs.root, missing).unlink()
    with PageFrames(procfs) as frames:
        counts, words = frames.of([6])
        codes = [note.code for note in frames.notes]

    assert (counts, words) == (({6: 1}, {}) if missing == "kpageflags" else ({}, {6: KPF_LRU}))
    assert codes == ["flags-unknown" if missing == "kpageflags" else "map-counts-unknown"]


def test_flags_that_must_be_had_are_refused(procfs: ProcFS, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise PermissionDenied(name, "CAP_DAC_READ_SEARCH")

    monkeypatch.setattr(procfs, "open", refuse)

    with pytest.raises(PermissionDenied):
        PageFrames(procfs, must_have_flags=True)
