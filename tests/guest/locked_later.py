"""Lockdown that comes after the module: nothing of it opens any more. There is no way back, so a guest of its own:

tests/guest/run --kernel 6.12 -- ... pytest -p inside tests/guest/locked_later.py
"""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from mematlas.errors import PermissionDenied
from mematlas.kernel.kmod import MODULE_PATH, ModuleReader
from test_module import FOLDER, load, open_all, unload

pytestmark = pytest.mark.guest

LOCKDOWN = Path("/sys/kernel/security/lockdown")


def test_nothing_opens_under_confidentiality() -> None:
    assert load() == 0
    assert set(open_all()) == {0}
    # Integrity keeps the kernel from being changed, and lets it be looked at: debugfs takes no ioctl then.
    LOCKDOWN.write_text("integrity")
    assert len((FOLDER / "pgd").read_bytes()) == 4096
    ModuleReader().close()
    LOCKDOWN.write_text("confidentiality")
    assert set(open_all()) == {errno.EPERM}
    with pytest.raises(PermissionDenied, match=MODULE_PATH):
        ModuleReader()
    assert unload() == 0
