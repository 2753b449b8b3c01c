"""The kernel's configuration, as text."""

from __future__ import annotations

from mematlas.kernel.kconfig import parse_config, read_config


def test_options_that_are_on_are_named_without_their_prefix() -> None:
    text = b'# CONFIG_A is not set\nCONFIG_B=y\nCONFIG_C=m\nCONFIG_D="y"\nCONFIG_E=12\n\nCONFIG_F=y\n'
    assert parse_config(text) == {"B", "C", "F"}


def test_the_running_kernel_tells_or_not() -> None:
    config = read_config()
    assert config is None or "MMU" in config
