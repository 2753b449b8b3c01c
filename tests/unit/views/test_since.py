"""What has changed since the first of several looks."""

from __future__ import annotations

import pytest

from mematlas.views.since import Since


def test_changes_are_since_the_first_look_and_what_is_new_has_grown_from_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter((100.0, 102.0, 104.0))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    since = Since()

    since.look()
    assert [since.change("rss", 8192), since.change("pss", None)] == [0, None]
    assert since.rate(0) is None
    since.look()
    assert [since.change("rss", 4096), since.change("new", 4096), since.change("pss", 1)] == [-4096, 4096, None]
    since.look()
    assert since.rate(since.change("rss", 16384)) == 2048
    assert since.rate(None) is None
