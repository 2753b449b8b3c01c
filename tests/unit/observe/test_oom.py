"""Whom the OOM killer would take, as far as that is known."""

from pathlib import Path

import pytest

from mematlas.kernel.memcg import Limit
from mematlas.kernel.procfs import ProcFS
from mematlas.observe.oom import all_there_is

GIB = 1 << 30
MAX = Limit("memory.max", "/shop", GIB, GIB // 2, 0)
SWAP_MAX = Limit("memory.swap.max", "/shop", 3 << 20, 0, 0)
BOTH = Limit("memory.memsw.limit_in_bytes", "/shop", GIB + (2 << 20), 0, 0)
LINES = {"MemTotal": 4 * GIB, "SwapTotal": GIB}


@pytest.mark.parametrize(
    ("limit", "limits", "names", "size"),
    [
        (None, (), ("MemTotal", "SwapTotal"), 5 * GIB),
        (None, (), ("MemTotal",), None),
        (None, (), ("SwapTotal",), None),
        (MAX, (MAX,), ("SwapTotal",), 2 * GIB),
        (MAX, (MAX, SWAP_MAX), ("SwapTotal",), GIB + (3 << 20)),
        (MAX, (MAX, BOTH), ("SwapTotal",), GIB + (2 << 20)),
        (MAX, (MAX, SWAP_MAX), ("MemTotal",), None),
    ],
)
def test_what_there_is_for_who_shares_a_limit_is_known_or_unknown(
    limit: Limit | None, limits: tuple[Limit, ...], names: tuple[str, ...], size: int | None, tmp_path: Path
) -> None:
    (tmp_path / "meminfo").write_text("".join(f"{name}: {LINES[name] >> 10} kB\n" for name in names))

    assert all_there_is(limit, limits, ProcFS(str(tmp_path))) == size
