"""The processes that a name may mean, on a screen that is too narrow for them."""

from __future__ import annotations

import pytest

from mematlas.model.search import Candidate
from mematlas.views.candidates import candidate_lines
from mematlas.views.format import width_of


@pytest.mark.parametrize("command", ["x" * 200, "\u540d" * 200, "a" + "\u540d\x1b" * 200])
def test_line_is_as_wide_as_the_screen_whatever_is_in_it(command: str) -> None:
    candidates = [Candidate(4771, "\u540d\u524d", 80 << 20, command), Candidate(12, "root", None, "short")]
    heading, first, second = candidate_lines(candidates, 60)

    assert 56 <= width_of(first) <= 60
    assert {width_of(line[: line.index(start)]) for line, start in ((heading, "COMMAND"), (second, "short"))} == {23}
