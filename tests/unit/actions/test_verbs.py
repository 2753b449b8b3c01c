"""The library's verbs say in their signatures what they take; what all advice has in common knows none of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

import mematlas
from mematlas.actions import verbs
from mematlas.actions.advice import ADVICE, base
from mematlas.actions.options import Options
from mematlas.errors import BadInput
from mematlas.frozen import fields_of

VERBS: list[Callable[..., Any]] = [
    mematlas.pageout,
    mematlas.cold,
    mematlas.willneed,
    mematlas.collapse,
    mematlas.undo,
    mematlas.plan,
]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_every_option_of_a_verb_is_named_typed_and_explained(verb: Callable[..., Any]) -> None:
    parameters = inspect.signature(verb).parameters.values()
    assert not [item.name for item in parameters if item.kind in (item.VAR_KEYWORD, item.VAR_POSITIONAL)]
    assert not [item.name for item in parameters if item.annotation is item.empty]
    text = f"{verb.__doc__}{mematlas.pageout.__doc__}"
    assert not [item.name for item in parameters if item.name not in text.replace("``", " ")]
    assert ">>> with Process(4211) as process:" in (verb.__doc__ or "")


def test_every_advice_of_the_kernel_is_a_verb() -> None:
    assert list(ADVICE) == ["pageout", "cold", "willneed", "collapse"]
    for name, advice in ADVICE.items():
        assert (advice.name, advice.__module__) == (name, f"mematlas.actions.advice.{name}")
        assert callable(getattr(verbs, name))


def test_options_are_the_same_wherever_they_stand() -> None:
    for verb in VERBS:
        for name, item in inspect.signature(verb).parameters.items():
            if name in fields_of(Options):
                assert item.default == getattr(Options(), name)


def test_what_is_common_to_all_advice_names_none_of_it() -> None:
    code = inspect.getsource(base)
    assert not [word for word in (*ADVICE, *(advice.__name__ for advice in ADVICE.values())) if word in code]
    assert "isinstance" not in code


@pytest.mark.parametrize("size", [0, (2 << 20) - 1, (32 << 20) + 1])
def test_chunk_size_has_bounds(size: int) -> None:
    with pytest.raises(BadInput, match="bad chunk size"):
        Options(chunk_size=size).check()
