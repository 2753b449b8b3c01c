"""The kernel's configuration, as text."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mematlas.kernel import kconfig
from mematlas.kernel.kconfig import is_built_in, parse_config, read_config


def test_options_that_are_on_are_named_without_their_prefix() -> None:
    text = b'# CONFIG_A is not set\nCONFIG_B=y\nCONFIG_C=m\nCONFIG_D="y"\nCONFIG_E=12\n\nCONFIG_F=y\n'
    assert parse_config(text) == {"B", "C", "F"}


def test_the_running_kernel_tells_or_not() -> None:
    config = read_config()
    assert config is None or "MMU" in config


def test_it_is_found_beside_the_modules_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = tmp_path / os.uname().release
    beside.mkdir()
    monkeypatch.setattr(kconfig, "IN_PROC", str(tmp_path / "config.gz"))
    monkeypatch.setattr(kconfig, "PACKAGED", (f"{tmp_path}/config-{{}}", f"{tmp_path}/{{}}/config"))
    assert read_config() is None
    (beside / "config").write_bytes(b"CONFIG_MMU=y\n")
    assert read_config() == frozenset(("MMU",))
    (tmp_path / f"config-{os.uname().release}").write_bytes(b"CONFIG_B=y\n")
    assert read_config() == frozenset(("B",))


def test_an_option_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = iter([b"\nCONFIG_A=y\nCONFIG_B=m\n", b"\nCONFIG_A=y\nCONFIG_B=m\n"])
    monkeypatch.setattr(kconfig, "_built_in", {})
    monkeypatch.setattr(kconfig, "read_config_text", lambda: next(texts))
    assert [is_built_in(option) for option in ("A", "B", "A", "B", "A")] == [True, False, True, False, True]
