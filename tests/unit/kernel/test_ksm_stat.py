"""What KSM has merged of a process, as each kernel tells it."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers import make_process
from mematlas.errors import FormatError, NotSupported
from mematlas.kernel.ksm_stat import parse_ksm_stat, parse_number, read_merging_pages
from mematlas.kernel.procfs import ProcFS

NEW = "ksm_rmap_items 76\nksm_zero_pages 0\nksm_merging_pages 47\nksm_process_profit -3\nksm_merge_any: no\n"


@pytest.mark.parametrize(
    ("files", "nr_pages"),
    [
        ({"ksm_stat": NEW}, 47),
        ({"ksm_stat": "ksm_rmap_items 76\n", "ksm_merging_pages": "47\n"}, 47),
        ({"ksm_merging_pages": "47\n"}, 47),
        ({"ksm_stat": NEW, "ksm_merging_pages": "5\n"}, 47),
    ],
    ids=["6.4", "6.1", "5.19", "both"],
)
def test_merged_pages_are_reported_by_every_kernel_that_counts_them(
    files: dict[str, str], nr_pages: int, tmp_path: Path
) -> None:
    directory = make_process(tmp_path)
    for name, text in files.items():
        (directory / name).write_text(text)

    with ProcFS(str(tmp_path), 4096).process(7) as process:
        assert read_merging_pages(process) == nr_pages


def test_kernel_that_does_not_count_them_says_so(tmp_path: Path) -> None:
    make_process(tmp_path)

    with ProcFS(str(tmp_path), 4096).process(7) as process, pytest.raises(NotSupported):
        read_merging_pages(process)


def test_numbers_that_are_none_are_no_numbers() -> None:
    assert parse_ksm_stat(b"a 1\nb -2\nc\nd 1 2\n\xff 3\ne " + b"9" * 30) == {"a": 1, "\ufffd": 3}
    for text in (b"", b"-1", b"9" * 30, "１".encode(), b"x"):
        with pytest.raises(FormatError):
            parse_number(text)
