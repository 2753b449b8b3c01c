"""Assertions: what is understood, what is refused and with which words, and what comes of amounts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mematlas.analysis.assertions import EXAMPLES, MOST_TEXT, OPERATORS, UNITS, judge, parse_assertion
from mematlas.analysis.measures import MEASURES
from mematlas.errors import BadInput
from mematlas.views.check import MEANINGS

MIB = 1 << 20


@pytest.mark.parametrize(
    ("text", "measure", "sign", "limit"),
    [
        ("uss < 200MiB", "uss", "<", 200 * MIB),
        ("  rss<=1.5GiB ", "rss", "<=", 1536 * MIB),
        ("swap == 0", "swap", "==", 0),
        ("nr_vmas != 65530", "nr_vmas", "!=", 65530),
        ("pss > 4096", "pss", ">", 4096),
        ("tables>=2M", "tables", ">=", 2 * MIB),
    ],
)
def test_an_amount_is_asserted(text: str, measure: str, sign: str, limit: int) -> None:
    one = parse_assertion(text)
    assert (one.measure, one.sign, one.limit, one.is_growth) == (measure, sign, limit, False)
    assert one.text == text.strip()


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("growth(rss) < 1MiB/s", MIB),
        ("growth( rss ) <= 60 KiB / min", 1024),
        ("growth(rss)>-1MiB/s", -MIB),
        ("growth(nr_vmas) < 36/h", 0.01),
        ("growth(rss) < 84.375KiB/d", 1),
    ],
)
def test_growth_is_asserted_by_the_second(text: str, limit: float) -> None:
    one = parse_assertion(text)
    assert one.is_growth
    assert one.limit == pytest.approx(limit)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", f"try {EXAMPLES}"),
        ("uss", f"try {EXAMPLES}"),
        ("uss < ", f"try {EXAMPLES}"),
        ("uss < 200MiB; import os", f"try {EXAMPLES}"),
        ("uss < rss", f"try {EXAMPLES}"),
        ("uss < 0x10", f"try {EXAMPLES}"),
        ("uss = 5", "equal is =="),
        ("uss < \u0665MiB", f"try {EXAMPLES}"),
        ("uss" + " " * MOST_TEXT + "< 1", f"try {EXAMPLES}"),
        ("us < 1MiB", "no measure 'us' (did you mean uss?)"),
        ("__class__ < 1", "mematlas help measures"),
        ("grwth(uss) < 1MiB/s", "no function 'grwth' (did you mean growth?)"),
        ("growth(uss) == 1MiB/s", "growth is an estimate"),
        ("growth(uss) < 1MiB", "growth is so much a time: /s, /min, /h or /d"),
        ("growth(uss) < 1MiB/week", "no time 'week'"),
        ("uss < 1MiB/s", "did you mean growth(uss)?"),
        ("uss < 1MB", "no unit 'MB' (did you mean MiB?)"),
        ("nr_vmas < 5KiB", "nr_vmas is a number of things"),
        ("uss > -1", "never less than 0"),
    ],
)
def test_what_cannot_be_understood_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_assertion(text)
    assert words in str(caught.value)
    assert len(str(caught.value)) < MOST_TEXT * 2


@given(st.text(max_size=40) | st.text("usrgowth()<>=!0123456789.-/KMGiBdmn _\u0660\n", max_size=40))
def test_any_text_is_an_assertion_or_refused(text: str) -> None:
    try:
        one = parse_assertion(text)
    except BadInput:
        return
    assert one.measure in MEASURES
    assert one.sign in OPERATORS


def test_every_measure_is_explained_and_nothing_else() -> None:
    assert MEANINGS.keys() == MEASURES.keys()
    assert set(UNITS) >= {"", "KiB", "MiB", "GiB"}


@pytest.mark.parametrize(
    ("text", "amounts", "passed", "found", "at"),
    [
        ("rss < 10", [3, 9, 4], True, 9, 1),
        ("rss < 10", [3, 11, 12, 4], False, 12, 2),
        ("rss <= 10", [10, 10], True, 10, 0),
        ("rss > 10", [11, 5, 7], False, 5, 1),
        ("rss >= 5", [11, 5, 7], True, 5, 1),
        ("rss == 5", [5, 6, 5], False, 6, 1),
        ("rss != 5", [4, 5], False, 5, 1),
        ("rss < 10", [3, None, 4], None, 4, 2),
        ("rss < 10", [3, None, 11], False, 11, 2),
        ("rss < 10", [None], None, None, None),
    ],
)
def test_a_measure_has_to_hold_at_each_look_and_what_is_not_known_is_no_pass(
    text: str, amounts: list[int | None], passed: bool | None, found: int | None, at: float | None
) -> None:
    verdict = judge(parse_assertion(text), [float(time) for time in range(len(amounts))], amounts)
    assert (verdict.passed, verdict.found, verdict.at, verdict.nr_looks) == (passed, found, at, len(amounts))


@pytest.mark.parametrize(
    ("text", "passed"),
    [
        ("growth(rss) < 99B/s", False),
        ("growth(rss) < 100B/s", False),
        ("growth(rss) <= 100B/s", True),
        ("growth(rss) > 100B/s", False),
        ("growth(rss) < 101B/s", True),
        ("growth(rss) > 101B/s", False),
        ("growth(rss) > 99B/s", True),
        ("growth(rss) >= 100B/s", True),
    ],
)
def test_the_interval_of_growth_decides(text: str, passed: bool) -> None:
    verdict = judge(parse_assertion(text), [0.0, 1.0, 2.0, 3.0, 4.0], [0, 100, 200, 300, 400])
    assert (verdict.passed, verdict.found) == (passed, 100)


def test_growth_that_is_not_sure_to_be_too_much_passes() -> None:
    amounts = [0, 500, 100, 900, 300, 1100]
    verdict = judge(parse_assertion("growth(rss) < 10B/s"), [float(time) for time in range(6)], amounts)
    assert verdict.growth
    assert verdict.growth.slope.low < 10 < verdict.growth.slope.value
    assert verdict.passed


def test_growth_of_too_few_looks_is_refused_and_of_unknown_amounts_is_no_pass() -> None:
    one = parse_assertion("growth(rss) < 10B/s")
    with pytest.raises(BadInput, match="5 looks"):
        judge(one, [0.0, 1.0, 2.0, 3.0], [1, 2, 3, 4])
    assert judge(one, [0.0, 1.0, 2.0, 3.0, 4.0], [1, 2, None, 3, 4]).passed is None
