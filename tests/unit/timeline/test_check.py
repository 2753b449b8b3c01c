"""Checks: what comes of assertions on a target whose amounts are known, and how it is written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mematlas.analysis.results import Reading, UsageResult
from mematlas.analysis.usage import Usage
from mematlas.errors import BadInput, NotSupported, ProcessGone
from mematlas.frozen import replace
from mematlas.timeline import check as module
from mematlas.timeline.check import CheckResult, check
from mematlas.views.check import check_table, github_lines

NAMES = Usage.__match_args__
TARGET = {"pid": 7, "name": "shop"}


def usage(**amounts: int | None) -> UsageResult:
    known: dict[str, int | None] = dict.fromkeys(NAMES, 0)
    return UsageResult(Usage(**known | amounts), 4096, Reading("smaps", 0.0, torn=False, notes=()))  # type: ignore[arg-type]


def looks(results: Iterable[UsageResult]) -> Callable[[], UsageResult]:
    """Return what looks at one after the other; then the target has ended."""
    left = iter(results)

    def look() -> UsageResult:
        for one in left:
            return one
        raise ProcessGone(7)

    return look


def growing(nr: int, step: int = 4096) -> Callable[[], UsageResult]:
    return looks(usage(rss=number * step, uss=4096) for number in range(nr))


def lines_of(result: CheckResult) -> list[str]:
    return list(check_table(result, TARGET).lines(width=80))


def test_one_look_is_made_without_a_duration() -> None:
    result = check(looks([usage(rss=8192)]), ["rss < 3KiB", "rss > 0"])
    assert [verdict.passed for verdict in result.verdicts] == [False, True]
    assert lines_of(result) == [
        "shop, PID 7, 1 look",
        "ASSERTION   RESULT  FOUND",
        "rss < 3KiB  FAILS   8 KiB",
        "rss > 0     holds   8 KiB",
    ]
    assert check_table(result, TARGET).failures == ["shop, PID 7: rss < 3KiB fails: 8 KiB"]


def test_growth_is_of_all_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    elapsed = [0.0]
    monkeypatch.setattr("mematlas.timeline.sampler.now", lambda: elapsed[0])

    def rest(seconds: float) -> None:
        elapsed[0] += seconds

    asserted = ["growth(rss) < 8KiB/min", "uss == 4KiB"]
    result = check(growing(6), asserted, 0.25, 0.05, budget=1, rest=rest)
    assert (result.nr_looks, result.passed) == (6, False)
    growth = result.verdicts[0].growth
    assert growth
    assert growth.slope.value == pytest.approx(4096 / 0.05)
    assert growth.label == "leak"
    assert lines_of(result)[2].endswith("leak")


def test_growth_of_too_few_looks_is_refused_before_any() -> None:
    with pytest.raises(BadInput, match="5 looks at the least, and there would be 3: try -d 60s"):
        check(looks([]), ["growth(rss) < 1MiB/min"], 2.0, 1.0)


def test_a_target_that_ends_is_told_with_what_was_seen_of_it() -> None:
    result = check(growing(3), ["rss < 1GiB", "growth(rss) < 1MiB/s"], 9.0, 0.05, budget=1)
    assert isinstance(result.ended, ProcessGone)
    assert not result.passed
    assert [verdict.assertion.text for verdict in result.verdicts] == ["rss < 1GiB"]
    assert check_table(result, TARGET).failures == []
    assert list(github_lines(result, TARGET))[-1] == "::error title=mematlas check::shop, PID 7: process 7 ended"
    assert (check_table(result, TARGET).target or {})["ended"] == "process 7 ended"


def test_who_stops_it_is_told_of_what_can_be_judged() -> None:
    waits = iter([False, False, True])
    result = check(growing(9), ["rss < 1GiB", "growth(rss) < 1/s"], 60, 0.001, budget=1, rest=lambda _: next(waits))
    assert (result.is_stopped, result.passed, result.nr_looks) == (True, False, 3)
    assert [(verdict.assertion.text, verdict.passed) for verdict in result.verdicts] == [("rss < 1GiB", True)]
    assert "; stopped before the time was over" in " ".join(lines_of(result)[:2]).replace("    ", "")
    assert list(github_lines(result, TARGET))[-1].startswith("::error title=mematlas check::stopped after ")


def test_a_target_that_has_ended_before_is_an_error() -> None:
    with pytest.raises(ProcessGone):
        check(looks([]), ["rss < 1GiB"])


def test_what_such_a_target_has_not_is_refused() -> None:
    with pytest.raises(BadInput, match="of a cgroup, such as cgroup:PATH or unit:NAME; there are anon, file"):
        check(looks([usage()]), ["charged < 1GiB"])


def test_nothing_asserted_is_refused() -> None:
    with pytest.raises(BadInput, match="nothing is asserted"):
        check(looks([usage()]), [])


def test_what_is_hidden_says_which_right_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    result = check(looks([usage(pss=None)]), ["pss < 1GiB"])
    assert result.verdicts[0].passed is None
    rights = {"CAP_SYS_PTRACE"}
    monkeypatch.setattr(module, "effective_capabilities", lambda: frozenset(rights))
    why = result.why_unknown()["pss"]
    text = "pss: permission denied (needs CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH)"
    assert (why.exit_code, str(why)) == (4, text)
    assert "not known  pss: permission denied" in lines_of(result)[2]
    assert text in next(github_lines(result, TARGET))
    rights.update(("CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH"))
    assert isinstance(result.why_unknown()["pss"], NotSupported)


def test_what_smaps_alone_tells_is_not_known_of_another_source() -> None:
    one = usage(lazyfree=None)
    one = replace(one, reading=replace(one.reading, source="tables"))
    why = check(looks([one]), ["lazyfree < 1GiB"]).why_unknown()
    assert str(why["lazyfree"]) == "lazyfree from tables: not supported here (needs --source smaps)"


def test_growth_that_is_likely_too_much_and_not_certain_to_be_is_said_to_be_that() -> None:
    amounts = iter((0, 500, 100, 900, 300, 1100))
    result = check(lambda: usage(rss=next(amounts)), ["growth(rss) < 1B/s"], 0.25, 0.05, budget=1)
    assert result.passed
    assert lines_of(result)[-1].endswith("not certain: try a longer -d") or "not certain" in " ".join(lines_of(result))


def test_programs_get_amounts_in_bytes_and_growth_by_the_second() -> None:
    result = check(growing(6), ["growth(rss) < 8KiB/min", "rss < 1MiB"], 0.25, 0.05, budget=1)
    growth, amount = check_table(result, TARGET).records()
    assert json.loads(json.dumps([amount["found"], amount["limit"], amount["passed"]])) == [20480, 1048576, True]
    assert growth["low"] <= growth["found"] <= growth["high"]
    assert growth["limit"] == pytest.approx(8192 / 60)


@given(st.text(max_size=60))
def test_a_name_never_becomes_a_command_of_a_runner(name: str) -> None:
    result = check(looks([usage(rss=8192)]), ["rss < 3KiB", "rss > 0"])
    text = "".join(f"{line}\n" for line in github_lines(result, {"pid": 7, "name": name}))
    lines = re.split(r"[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]", text)
    assert [line[: line.find("::", 2) + 2] for line in lines[:-1]] == [
        "::error title=mematlas check::",
        "::notice title=mematlas check::",
    ]
