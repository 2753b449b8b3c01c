"""A refusal names the next step: the line to type, or why no right helps."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from conftest import Outcome
from mematlas.doctor import hints
from mematlas.doctor.hints import permission_hint
from mematlas.errors import PermissionDenied

HELD = frozenset(["CAP_SYS_PTRACE", "CAP_BPF"])


@pytest.fixture(autouse=True)
def rights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold some rights, in the first user namespace."""
    monkeypatch.setattr(hints, "effective_capabilities", lambda: HELD)
    monkeypatch.setattr(hints, "in_user_namespace", lambda: False)


def test_a_capability_that_is_missing_is_had_by_sudo() -> None:
    hint = permission_hint(PermissionDenied("x", "CAP_BPF", "CAP_PERFMON"), ["maps", "1"])
    assert hint.startswith("try: sudo -- ")
    assert hint.endswith(" maps 1")


def test_what_is_refused_in_spite_of_its_capability_is_not_had_by_sudo() -> None:
    assert "security module" in permission_hint(PermissionDenied("x", "CAP_SYS_PTRACE"), ["maps", "1"])


def test_words_are_not_taken_for_capabilities() -> None:
    error = PermissionDenied("x", "CAP_SYS_PTRACE", text="CAP_SYS_PTRACE, or CAP_SYS_ADMIN")
    assert "security module" in permission_hint(error, ["maps", "1"])


def test_a_right_that_is_no_capability_is_had_by_sudo(as_nobody: Callable[..., Outcome]) -> None:
    error = PermissionDenied("mincore", text="root, or being the owner of the file")
    assert as_nobody(lambda: permission_hint(error, ["maps", "1"])).value.startswith("try: sudo -- ")
    if os.geteuid() == 0:
        assert not permission_hint(error, ["maps", "1"]).startswith("try: ")
