"""Results as tables of other libraries and as HTML; JSON is the second source of their values."""

from __future__ import annotations

import importlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import parse_line
from mematlas import MapsResult, Process, Reading, VmaUsage
from mematlas.analysis.usage import usage_of_fields
from mematlas.errors import NotSupported
from mematlas.views import writers
from mematlas.views.frames import NR_SHOWN, table_of

CAPTURE = Path(__file__).parents[2] / "fuzz" / "corpus" / "captures" / "whole"
ADDRESSES = [0x41F123, 0x7F0AD64FF000, 0xFFFFFFFFFF600000]
FIELDS = dict.fromkeys(("Rss", "Pss", "Private_Clean", "Private_Dirty", "Anonymous", "Swap"), 0)
LIBRARIES = ("pyarrow", "pandas", "polars")


@pytest.fixture(scope="module")
def process() -> Iterator[Process]:
    """Give a process that was captured, of 105 VMAs."""
    with Process(str(CAPTURE)) as captured:
        yield captured


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> str:
    """Give the name of each library that is installed."""
    name = str(request.param)
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"needs {name}")
    return name


def frame_of(result: Any, library: str) -> Any:
    return getattr(result, f"to_{library.removeprefix('py')}")()


def records_of(frame: Any, library: str) -> list[dict[str, Any]]:
    """Return the rows of a frame, by key; None for what is not known."""
    if library == "pyarrow":
        rows = frame.to_pylist()
    elif library == "polars":
        rows = frame.to_dicts()
    else:
        rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return [dict(row) for row in rows]


def rows_of_json(result: Any) -> list[dict[str, Any]]:
    """Return the rows that JSON has, with addresses as numbers."""
    out = io.StringIO()
    writers.write(table_of(result), "json", out, {})
    rows: list[dict[str, Any]] = json.loads(out.getvalue())["rows"]
    return [{key: int(value, 16) if is_hex(value) else value for key, value in row.items()} for row in rows]


def is_hex(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("0x") and "-" not in value


def results(process: Process) -> list[Any]:
    return [process.maps(), process.usage(), process.translate(ADDRESSES)]


def test_frame_has_what_json_has(process: Process, library: str) -> None:
    for result in results(process):
        rows = records_of(frame_of(result, library), library)
        expected = rows_of_json(result)

        for row in rows:
            if row.get("here") is not None:
                row["here"] = round(row["here"], 4)
        for row in expected:  # a byte that is no text, as people see it
            row["path"] = row.get("path") and row["path"].replace("\udcff\udcfe\udc80", "\\xff\\xfe\\x80")
        assert [row | {"path": row.get("path")} for row in rows] == expected


TYPES = {
    "pyarrow": ("int64", "uint64", "double", "int64"),
    "pandas": ("Int64", "UInt64", "Float64", "Int64"),
    "polars": ("Int64", "UInt64", "Float64", "Int64"),
}
"""Of a count, an address, a share, and a count of which nothing is known."""


def test_numbers_keep_their_type_where_some_are_not_known(process: Process, library: str) -> None:
    frame = frame_of(process.maps(), library)
    kinds = frame.schema.types if library == "pyarrow" else frame.dtypes
    names = frame.schema.names if library == "pyarrow" else frame.columns
    types = dict(zip(names, map(str, kinds), strict=True))

    assert tuple(types[key] for key in ("nr_present", "phys", "here", "nr_dirty")) == TYPES[library]


@pytest.mark.parametrize("library", LIBRARIES)
def test_library_that_is_missing_is_named(library: str, process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)

    with pytest.raises(NotSupported, match=f"pip install {library}"):
        frame_of(process.maps(), library)


def made(lines: list[bytes]) -> MapsResult:
    """Return a result of VMAs of which nothing is in memory."""
    vmas = [parse_line(line) for line in lines]
    items = [VmaUsage(vma, usage_of_fields(vma, FIELDS, 4 << 10, 0), None, None) for vma in vmas]
    return MapsResult(items, Reading("smaps", 0.0, False, ()))


HOSTILE = [b"00001000-00002000 r--p 00000000 fe:00 18446744073709551615 /<script>alert(1)</script>&\x1b[2J\xff"]


def test_inode_beyond_a_signed_number_is_kept(library: str) -> None:
    (row,) = records_of(frame_of(made(HOSTILE), library), library)

    assert (row["inode"], row["path"]) == (2**64 - 1, "/<script>alert(1)</script>&\x1b[2J\\xff")


def test_page_of_a_notebook_has_no_code_of_strangers() -> None:
    page = made(HOSTILE)._repr_html_()

    assert "/&lt;script&gt;alert(1)&lt;/script&gt;&amp;\\x1b[2J\\xff" in page
    assert "<script" not in page
    assert "\x1b" not in page


def test_page_of_a_notebook_has_an_end() -> None:
    size = 1 << 16
    lines = [b"%08x-%08x r--p 0 00:00 0 " % (start, start + size) for start in range(0, size * 9_973, size)]
    html = made(lines)._repr_html_()

    assert html.count("<tr>") == NR_SHOWN + 2
    assert f"{9_973 - NR_SHOWN:,} more rows: to_pandas()" in html


def test_page_of_a_notebook_says_how_much_and_what_it_means(process: Process) -> None:
    page = process.usage()._repr_html_()

    assert "105 VMAs, from smaps in " in page
    assert "18.1 MiB</td>" in page
    assert "resident: in RAM and mapped here" in page
