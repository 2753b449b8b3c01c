"""A kernel without counts of single pages of large folios (CONFIG_NO_PAGE_MAPCOUNT): what is an average says so."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mematlas import Process
from mematlas.arrays import Bools, Words
from mematlas.cli import main
from mematlas.errors import NotSupported
from mematlas.kernel import kconfig
from mematlas.kernel.kconfig import AVERAGE_COUNTS, counts_are_averages
from mematlas.kernel.kpage import KPF_COMPOUND_HEAD, KPF_COMPOUND_TAIL, KPF_HUGE
from mematlas.kernel.memory import structpage
from mematlas.kernel.memory.structpage import KernelFrames, open_struct_pages
from mematlas.kernel.memory.x86 import is_x86_64
from mematlas.kernel.pagemap import EXCLUSIVE, PRESENT, Block
from mematlas.kernel.procfs import ProcFS
from mematlas.model.hugecounts import HugeCounts
from mematlas.model.pagetables.count_access import CountAccess
from mematlas.observe.captures import capture
from mematlas.words import Source
from victim import Victim

pytestmark = pytest.mark.machine


@pytest.fixture(autouse=True)
def built_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kconfig, "is_built_in", lambda option: option == "NO_PAGE_MAPCOUNT")


@pytest.mark.parametrize("source", ["smaps", "pagemap"])
def test_amounts_say_that_they_are_estimates(source: Source) -> None:
    with Process(os.getpid()) as process:
        assert AVERAGE_COUNTS in process.usage(source).reading.notes
        assert AVERAGE_COUNTS in process.maps(source).reading.notes


@pytest.mark.root("CAP_DAC_READ_SEARCH")
def test_map_counts_of_pages_say_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pages", str(os.getpid()), "stack", "--json"]) == 0
    assert "average-counts" in {note["code"] for note in json.loads(capsys.readouterr().out)["notes"]}


def test_page_tables_are_no_source_of_amounts() -> None:
    with Process(os.getpid()) as process:
        process.expect_more_looks()
        assert "CONFIG_PAGE_MAPCOUNT" in str(process.sources.why_no_counts())
        assert process.usage(max_stall=0.0).reading.source != "tables"


@pytest.mark.root("CAP_SYS_ADMIN")
def test_nothing_is_counted_from_struct_pages() -> None:
    if not is_x86_64():
        pytest.skip("page tables cannot be read: needs x86-64")
    with pytest.raises(NotSupported, match="CONFIG_PAGE_MAPCOUNT"):
        CountAccess(ProcFS())
    with Process(os.getpid()) as process, pytest.raises(NotSupported, match="CONFIG_PAGE_MAPCOUNT"):
        open_struct_pages(process.page_table_access().memory)


def test_an_average_makes_no_page_exclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    words = {
        "kpagecount": [1, 2, 1, 1, 0, 1],
        "kpageflags": [0, 0, KPF_COMPOUND_HEAD, KPF_COMPOUND_TAIL, KPF_COMPOUND_TAIL, KPF_COMPOUND_TAIL | KPF_HUGE],
    }

    def read(procfs: ProcFS, name: str, pfns: Words) -> tuple[Words, Bools]:
        return np.array(words[name], np.uint64)[pfns.astype(np.intp)], np.ones(len(pfns), np.bool_)

    monkeypatch.setattr(structpage, "read_frame_words", read)
    assert KernelFrames(ProcFS()).map_counts(np.arange(6, dtype=np.uint64)).tolist() == [1, 2, -1, -1, 0, 1]


def test_the_bit_of_pages_under_huge_entries_stays_as_the_kernel_has_it() -> None:
    states = bytes([PRESENT | EXCLUSIVE] * 3 + [PRESENT] * 509)
    raw = bytearray(b"".join(byte.to_bytes(8, "big")[::-1] for byte in (state << 56 | 7 for state in states)))
    block = Block(0x200000, memoryview(raw), states)
    counts = HugeCounts(ProcFS())
    counts.settle(block, [(0, 512)])
    assert (block.states, counts.note) == (states, None)


@pytest.mark.parametrize("answer", [True, False])
def test_a_capture_keeps_what_its_kernel_was(answer: bool, tmp_path: Path) -> None:
    (tmp_path / "machine.json").write_text(json.dumps({"page_size": 16384, "average_counts": answer}))
    assert counts_are_averages(ProcFS(str(tmp_path))) == answer


def test_a_capture_is_made_with_it(victim: Callable[..., Victim], tmp_path: Path) -> None:
    with Process(victim("anon").pid) as process:
        saved = capture(process, str(tmp_path / "saved"))
    with Process(saved.path) as process:
        assert AVERAGE_COUNTS in process.usage("pagemap").reading.notes
