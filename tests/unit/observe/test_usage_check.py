"""Whether the sources of amounts agree, over a capture."""

from __future__ import annotations

from pathlib import Path

from mematlas import Process
from mematlas.frozen import replace
from mematlas.observe.usage_check import check_usage
from mematlas.views.verify import verify_table

CAPTURE = Path(__file__).parents[2] / "fuzz" / "corpus" / "captures" / "whole"


def test_a_capture_is_compared_without_page_tables_and_says_so() -> None:
    with Process(str(CAPTURE)) as captured:
        check = check_usage(captured)

    rss = check.comparisons[0]
    assert (rss.measure, rss.difference, rss.third, rss.explained) == ("rss", 0, None, True)
    assert check.is_explained
    assert [note.code for note in verify_table(check, {}).notes] == [check.no_tables.code if check.no_tables else ""]


def test_a_source_that_says_otherwise_fails_the_table() -> None:
    with Process(str(CAPTURE)) as captured:
        check = check_usage(captured)
    rss = check.comparisons[0]

    wrong = replace(check, comparisons=[replace(rss, explained=False)])

    assert not wrong.is_explained
    assert verify_table(wrong, {}).failures == ["the sources disagree without a reason: rss"]
