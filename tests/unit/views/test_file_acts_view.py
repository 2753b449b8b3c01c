"""Acts on files, compared whole."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mematlas.actions.files import FileEffect, FilePlan, FilesEffect, PlannedFile
from mematlas.views.file_acts import file_plan_table, files_effect_table
from mematlas.views.table import Table
from mematlas.views.writers import write

EXPECTED = Path(__file__).parent / "expected"
PAGE = 4096
TIME = re.compile(r"(?<= in )[0-9.]+ [mu]?s$")


def planned(path: str, nr: int, nr_movable: int, reasons: dict[str, int], mappers: tuple[int, ...] = ()) -> PlannedFile:
    return PlannedFile(
        path=path,
        size=nr * PAGE - 17,
        nr_requested=nr,
        nr_movable=nr_movable,
        nr_dirty=nr_movable // 3,
        reasons=reasons,
        mappers=mappers,
    )


def done(path: str, nr: int, nr_moved: int, reasons: dict[str, int], mappers: tuple[int, ...] = ()) -> FileEffect:
    return FileEffect(
        path=path,
        size=nr * PAGE - 17,
        nr_requested=nr,
        nr_advised=nr,
        nr_moved=nr_moved,
        nr_reading=0,
        reasons=reasons,
        passes=2,
        mappers=mappers,
    )


PLAN = FilePlan(
    advice="pageout",
    files=(
        planned("/var/lib/db/small\x1b[2J", 3, 3, {}),
        planned("/var/lib/db/large", 4096, 4000, {"mapped": 96}, (5000, 5004, 5005, 5006)),
        planned("/dev/shm/memory", 23, 0, {"memory": 23}),
    ),
    page_size=PAGE,
    notes=(),
)
EFFECT = FilesEffect(
    advice="pageout",
    files=(
        done("/var/lib/db/large", 4096, 3990, {"mapped": 96, "busy": 10}, (5000, 5004)),
        done("/var/lib/db/small", 3, 3, {}),
    ),
    page_size=PAGE,
    seconds=0.25,
    stopped="interrupted",
    notes=(),
)
EMPTY = FilePlan(advice="willneed", files=(), page_size=PAGE, notes=())
VIEWS: dict[str, Callable[[], Table]] = {
    "plan": lambda: file_plan_table(PLAN),
    "effect": lambda: files_effect_table(EFFECT),
    "nothing": lambda: file_plan_table(EMPTY),
}


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("width", [80, 0])
def test_text_stands_as_it_was_looked_at(name: str, width: int) -> None:
    lines = [TIME.sub("TIME", line) for line in VIEWS[name]().lines(width=width)]
    path = EXPECTED / f"files-{name}-{width or 'wide'}.txt"
    text = "\n".join([*lines, ""])
    if "MEMATLAS_RECORD" in os.environ:
        path.write_text(text)

    assert text == path.read_text()
    assert not width or max(map(len, lines)) <= width


def test_json_has_pages_and_who_maps_them() -> None:
    out = io.StringIO()
    write(file_plan_table(PLAN), "json", out, {})
    result = json.loads(out.getvalue())
    first = result["rows"][0]

    assert result["schema"] == "mematlas.pageout-files-plan/1"
    assert (first["nr_requested"], first["nr_movable"], first["reasons"]) == (4096, 4000, {"mapped": 96})
    assert first["mappers"] == [5000, 5004, 5005, 5006]
    assert [note["code"] for note in result["notes"]] == ["stays-mapped", "stays-memory", "dirty"]
