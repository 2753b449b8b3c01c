"""The kernel's configuration, as text."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from mematlas.kernel import kconfig
from mematlas.kernel.directory import MAX_FILE
from mematlas.kernel.kconfig import find_option, is_built_in, parse_config, read_config, read_config_blocks


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
    texts = iter([[b"\nCONFIG_A=y\nCONFIG_B=m\n"], [b"\nCONFIG_A=y\nCONFIG_B=m\n"]])
    monkeypatch.setattr(kconfig, "_built_in", {})
    monkeypatch.setattr(kconfig, "read_config_blocks", lambda: next(texts))
    assert [is_built_in(option) for option in ("A", "B", "A", "B", "A")] == [True, False, True, False, True]


@pytest.mark.parametrize(("line", "answer"), [("CONFIG_A=y", True), ("# CONFIG_A is not set", False)])
def test_no_more_is_read_than_says_it(line: str, answer: bool) -> None:
    blocks = iter([b"#\nCONFIG_FIRST=y\n" + line[:5].encode(), line[5:].encode() + b"\nCONFIG_B=y\n", b"CONFIG_C=y\n"])
    assert find_option("A", blocks) == answer
    assert list(blocks) == [b"CONFIG_C=y\n"]


def test_an_option_that_is_not_named_is_off_and_of_no_text_unknown() -> None:
    assert find_option("A", [b"\nCONFIG_AA=y\n", b"CONFIG_B=y\n"]) is False
    assert find_option("A", []) is None


def test_a_packed_configuration_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"OPTION_{number}" for number in range(10_007)]
    path = tmp_path / "config.gz"
    path.write_bytes(gzip.compress("".join(f"CONFIG_{name}=y\n" for name in names).encode()))
    monkeypatch.setattr(kconfig, "IN_PROC", str(path))
    assert read_config() == frozenset(names)


@pytest.mark.parametrize(
    "data",
    [b"CONFIG_A=y\n", gzip.compress(b"#\nCONFIG_A=y\n")[:-20], gzip.compress(bytes(64 << 20))],
    ids=["not packed", "cut short", "of no end"],
)
def test_what_is_mounted_in_its_place_says_nothing(
    data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.gz"
    path.write_bytes(data)
    monkeypatch.setattr(kconfig, "IN_PROC", str(path))
    assert sum(map(len, read_config_blocks())) <= MAX_FILE
    assert not read_config()
