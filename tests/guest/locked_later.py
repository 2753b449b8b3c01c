"""Lockdown that comes after the module: mematlas can use it no more. There is no way back, so a guest of its own:

tests/guest/run --kernel 6.12 -- ... pytest -p inside tests/guest/locked_later.py
"""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from mematlas.cli import main
from mematlas.errors import NotSupported
from mematlas.kernel.memory.kmod import ModuleReader
from test_module import FOLDER, load, open_all, row_of_doctor, unload

pytestmark = pytest.mark.guest

LOCKDOWN = Path("/sys/kernel/security/lockdown")


def test_lockdown_closes_the_module_and_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert load() == 0
    assert set(open_all()) == {0}
    for mode in ("integrity", "confidentiality"):
        LOCKDOWN.write_text(mode)
        with pytest.raises(NotSupported, match=f"lockdown={mode}"):
            ModuleReader()
        assert main(["tables", "self", "--reader", "module"]) == 5
        assert f"lockdown={mode}" in capsys.readouterr().err
        assert row_of_doctor(capsys)["status"] == "missing"
        if mode == "integrity":
            # debugfs opens what can neither be written to nor takes an ioctl: whose table that is cannot be chosen.
            assert len((FOLDER / "pgd").read_bytes()) == 4096
            assert set(open_all()) == {0, errno.EPERM}
        else:
            assert set(open_all()) == {errno.EPERM}
    assert unload() == 0
