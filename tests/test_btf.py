"""BTF: constructed type information, its offsets, and the cache of them."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from mematlas.errors import FormatError, NotSupported
from mematlas.kernel import btf
from mematlas.kernel.btf import Layout, parse_btf, read_layout

INT, STRUCT, UNION, ENUM, CONST = 1, 4, 5, 6, 10


class Builder:
    """Writes a BTF file, type by type; types count from 1."""

    def __init__(self) -> None:
        self.strings = b"\0"
        self.types = b""

    def name(self, text: str) -> int:
        if not text:
            return 0
        self.strings += text.encode() + b"\0"
        return len(self.strings) - len(text) - 1

    def add(self, kind: int, name: str, size: int, rows: list[tuple[int, ...]], flag: int = 0) -> None:
        info = flag << 31 | kind << 24 | (len(rows) if kind != INT else 0)
        self.types += struct.pack("=III", self.name(name), info, size)
        self.types += b"".join(struct.pack(f"={len(row)}I", *row) for row in rows)

    def build(self) -> bytes:
        header = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self.types), len(self.types), len(self.strings))
        return header + self.types + self.strings


def sample() -> bytes:
    """struct page { long flags; const union { int _mapcount; struct { int pad; int order:3; }; }; }; enum kinds."""
    made = Builder()
    made.add(INT, "int", 4, [(32,)])
    made.add(STRUCT, "", 8, [(made.name("pad"), 1, 0), (made.name("order"), 1, 3 << 24 | 32)], flag=1)
    made.add(UNION, "", 8, [(made.name("_mapcount"), 1, 0), (0, 2, 0)])
    made.add(CONST, "", 3, [])
    made.add(STRUCT, "page", 16, [(made.name("flags"), 1, 0), (0, 4, 64)])
    made.add(ENUM, "kinds", 4, [(made.name("KIND_A"), 0), (made.name("KIND_B"), 7)])
    made.add(STRUCT, "page_pool", 4, [(made.name("other"), 1, 0)])
    return made.build()


def test_members_of_unnamed_members_count_as_ones_own() -> None:
    found = parse_btf(sample(), {"page": ("flags", "_mapcount", "order")})
    assert found == {"page": 16, "page.flags": 0, "page._mapcount": 8, "page.order": 12}


def test_enumerators_are_found_by_name() -> None:
    assert parse_btf(sample(), {"kinds": ("KIND_B",)}) == {"kinds": 4, "kinds.KIND_B": 7}


def test_a_missing_structure_is_left_out_and_named_when_needed() -> None:
    layout = Layout(parse_btf(sample(), {"folio": ("_entire_mapcount",)}))
    assert "folio" not in layout
    with pytest.raises(NotSupported, match=r"folio\._entire_mapcount"):
        layout["folio._entire_mapcount"]


@pytest.mark.parametrize("size", [0, 10, 24, 60, 200])
def test_a_file_cut_short_is_an_error(size: int) -> None:
    with pytest.raises(FormatError):
        parse_btf(sample()[:size], {"page": ("flags",)})


def test_another_magic_is_an_error_that_shows_it() -> None:
    with pytest.raises(FormatError, match="0x1234"):
        parse_btf(b"\x34\x12" + sample()[2:], {})


def test_a_kind_that_is_not_known_is_an_error() -> None:
    made = Builder()
    made.add(31, "strange", 4, [])
    with pytest.raises(FormatError, match="kind 31"):
        parse_btf(made.build(), {"page": ()})


def test_without_the_file_the_option_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotSupported, match="CONFIG_DEBUG_INFO_BTF"):
        read_layout(str(tmp_path / "vmlinux"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A BTF file and a cache directory of one's own."""
    (tmp_path / "vmlinux").write_bytes(sample())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SUDO_UID", raising=False)
    return tmp_path / "vmlinux", tmp_path / "cache" / "mematlas"


def test_the_cache_answers_the_second_time(place: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    first = read_layout(str(place[0]))
    monkeypatch.setattr(btf, "parse_btf", lambda *_, **__: pytest.fail("parsed again"))
    assert read_layout(str(place[0])).values == first.values == {"page": 16, "page._mapcount": 8}


def test_the_cache_is_for_its_owner_alone(place: tuple[Path, Path]) -> None:
    read_layout(str(place[0]))
    (file,) = place[1].iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert place[1].stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"version": 0, "layout": {}}',
        '{"version": VERSION, "layout": {"page": -1}}',
        '{"version": VERSION, "layout": {"page": 99999999}}',
        '{"version": VERSION, "layout": {"page": "16"}}',
    ],
)
def test_a_corrupt_cache_is_parsed_again(place: tuple[Path, Path], content: str) -> None:
    read_layout(str(place[0]))
    (file,) = place[1].iterdir()
    file.write_text(content.replace("VERSION", str(btf.CACHE_VERSION)))
    assert read_layout(str(place[0])).values == {"page": 16, "page._mapcount": 8}
    assert json.loads(file.read_text())["layout"] == {"page": 16, "page._mapcount": 8}


def test_another_kernel_does_not_get_this_ones_offsets(place: tuple[Path, Path]) -> None:
    read_layout(str(place[0]))
    place[0].write_bytes(sample().replace(b"_mapcount", b"_mapcounz"))
    assert read_layout(str(place[0])).values == {"page": 16}


def test_a_cache_that_others_can_write_is_not_used(place: tuple[Path, Path]) -> None:
    place[1].mkdir(parents=True)
    place[1].chmod(0o777)
    assert read_layout(str(place[0])).values["page"] == 16
    assert not list(place[1].iterdir())


def test_a_cache_directory_that_is_a_link_is_not_followed(place: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    place[1].parent.mkdir()
    place[1].symlink_to(tmp_path / "elsewhere")
    assert read_layout(str(place[0])).values["page"] == 16
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.root
def test_under_sudo_the_cache_belongs_to_who_called(place: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_UID", "65534")
    monkeypatch.setenv("SUDO_GID", "65534")
    read_layout(str(place[0]))
    (file,) = place[1].iterdir()
    assert file.stat().st_uid == place[1].stat().st_uid == 65534
