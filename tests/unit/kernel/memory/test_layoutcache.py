"""The cache of offsets: what is kept, where, and that nobody else has a say in it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from constructed_btf import sample
from mematlas.errors import Error, NotSupported
from mematlas.kernel.memory import btf, layoutcache
from mematlas.kernel.memory.btf import StructLayout, asked_twice, read_layout
from mematlas.kernel.memory.layoutcache import LayoutCache, is_sane, names_of, values_of
from mematlas.kernel.rights import CALLERS

NOBODY = 65534
WANTED = {"page": ("_mapcount", "mapping")}
VALUES = {"page": 16, "page._mapcount": 8}
"""What `sample` has: no mapping."""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """A BTF file and a cache directory of one's own, for root as for others."""
    (tmp_path / "vmlinux").write_bytes(sample())
    monkeypatch.setattr(btf, "WANTED", WANTED)
    monkeypatch.setattr(layoutcache, "ROOT_CACHE", str(tmp_path / "var"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in CALLERS:
        monkeypatch.delenv(name, raising=False)
    return str(tmp_path / "vmlinux"), tmp_path / "cache" / "mematlas"


def never(*_: object, **__: object) -> Any:
    pytest.fail("parsed again")


def kept_in(directory: Path) -> Path:
    (file,) = directory.iterdir()
    return file


def test_the_cache_answers_the_second_time(place: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    first = read_layout(place[0])
    monkeypatch.setattr(btf, "parse_btf", never)
    second = read_layout(place[0])
    assert second.values == first.values == VALUES
    assert (first.cached_from, second.cached_from) == (None, place[0])


def test_the_cache_is_for_its_owner_alone(place: tuple[str, Path]) -> None:
    read_layout(place[0])
    assert kept_in(place[1]).stat().st_mode & 0o777 == 0o600
    assert place[1].stat().st_mode & 0o777 == 0o700


def test_another_kernel_does_not_get_this_ones_offsets(place: tuple[str, Path]) -> None:
    read_layout(place[0])
    Path(place[0]).write_bytes(sample().replace(b"_mapcount", b"_mapcounz"))
    assert read_layout(place[0]).values == {"page": 16}


LAYOUTS = {
    "nothing": {},
    "a name too few": {"page": 16, "page._mapcount": 8},
    "a name too many": {"page": 16, "page._mapcount": 8, "page.mapping": None, "file": 8},
    "a negative offset": {"page": 16, "page._mapcount": -4, "page.mapping": None},
    "an offset beyond the structure": {"page": 16, "page._mapcount": 16, "page.mapping": None},
    "an offset far beyond": {"page": 65528, "page._mapcount": 65528, "page.mapping": None},
    "an offset that is not aligned": {"page": 16, "page._mapcount": 8, "page.mapping": 4},
    "a size beyond reason": {"page": 99999999, "page._mapcount": 8, "page.mapping": None},
    "no size": {"page": None, "page._mapcount": 8, "page.mapping": None},
    "text": {"page": "16", "page._mapcount": 8, "page.mapping": None},
    "a truth": {"page": 16, "page._mapcount": False, "page.mapping": None},
}
CONTENTS = {
    "empty": "",
    "cut short": "{",
    "no object": "[]",
    "deep": "[" * 60000,
    "too long": " " * (1 << 20),
    "no text": "\ud800",
    "another format": json.dumps({"format": 1, "layout": VALUES | {"page.mapping": None}}),
    "no layout": json.dumps({"format": layoutcache.FORMAT, "layout": 3}),
} | {name: json.dumps({"format": layoutcache.FORMAT, "layout": layout}) for name, layout in LAYOUTS.items()}


@pytest.mark.parametrize("what", CONTENTS)
def test_a_damaged_cache_is_parsed_again_and_put_right(what: str, place: tuple[str, Path]) -> None:
    read_layout(place[0])
    file = kept_in(place[1])
    file.write_bytes(CONTENTS[what].encode("utf-8", "surrogatepass"))
    assert read_layout(place[0]).values == VALUES
    assert json.loads(file.read_text())["layout"] == VALUES | {"page.mapping": None}


def test_a_fifo_in_its_place_does_not_hold_us_up(place: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    read_layout(place[0])
    file = kept_in(place[1])
    file.unlink()
    os.mkfifo(file, 0o600)
    assert read_layout(place[0]).values == VALUES
    assert file.is_file()


def test_a_directory_in_its_place_is_no_cache(place: tuple[str, Path]) -> None:
    read_layout(place[0])
    file = kept_in(place[1])
    file.unlink()
    file.mkdir()
    assert read_layout(place[0]).values == VALUES
    assert list(place[1].iterdir()) == [file]


def test_a_link_in_its_place_is_not_followed(place: tuple[str, Path], tmp_path: Path) -> None:
    read_layout(place[0])
    file = kept_in(place[1])
    wrong = file.read_text().replace("16", "24")
    (tmp_path / "elsewhere").write_text(wrong)
    file.unlink()
    file.symlink_to(tmp_path / "elsewhere")
    assert read_layout(place[0]).values == VALUES
    assert (tmp_path / "elsewhere").read_text() == wrong


@pytest.mark.parametrize("mode", [0o602, 0o620, 0o666])
def test_a_file_that_others_can_write_is_not_believed(mode: int, place: tuple[str, Path]) -> None:
    read_layout(place[0])
    file = kept_in(place[1])
    file.write_text(file.read_text().replace("16", "24"))
    file.chmod(mode)
    assert read_layout(place[0]).values == VALUES
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o702, 0o770, 0o777, 0o1777])
def test_a_directory_that_others_can_write_is_not_used(mode: int, place: tuple[str, Path]) -> None:
    place[1].mkdir(parents=True)
    place[1].chmod(mode)
    assert read_layout(place[0]).values == VALUES
    assert not list(place[1].iterdir())


def test_a_parent_that_others_can_write_is_not_used(place: tuple[str, Path]) -> None:
    place[1].mkdir(parents=True)
    place[1].parent.chmod(0o777)
    assert read_layout(place[0]).values == VALUES
    assert not list(place[1].iterdir())
    # With the sticky bit they cannot replace what is ours.
    place[1].parent.chmod(0o1777)
    read_layout(place[0])
    assert kept_in(place[1])


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_no_component_may_be_a_link(depth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    names = ["a", "cache", "mematlas"]
    link = tmp_path.joinpath(*names[: depth + 1])
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(tmp_path / "elsewhere")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a" / "cache"))
    assert read_layout(str(tmp_path / "vmlinux")).values == VALUES
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("home", ["relative/path", "/proc/none", "/dev/null", "/tmp/../tmp/x"])
def test_where_no_directory_can_be_there_is_no_cache(home: str, place: tuple[str, Path], monkeypatch: Any) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", home)
    assert LayoutCache.open() is None
    assert read_layout(place[0]).values == VALUES


def test_a_full_disk_costs_no_more_than_the_cache(place: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    assert read_layout(place[0]).values == VALUES
    assert not list(place[1].iterdir())


# --- root, and sudo


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache directory of an unprivileged user, who calls sudo and keeps the environment."""
    home = tmp_path / "home"
    (home / ".cache").mkdir(parents=True)
    for directory in (home, home / ".cache"):
        os.chown(directory, NOBODY, NOBODY)
    monkeypatch.setenv("SUDO_UID", str(NOBODY))
    monkeypatch.setenv("SUDO_GID", str(NOBODY))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / ".cache"))
    return home / ".cache"


@pytest.mark.root
def test_under_sudo_root_believes_nothing_of_the_callers(place: tuple[str, Path], theirs: Path, tmp_path: Path) -> None:
    read_layout(place[0])
    kept = kept_in(tmp_path / "var" / "mematlas")
    (theirs / "mematlas").mkdir()
    (theirs / "mematlas" / kept.name).write_text(kept.read_text().replace("16", "24"))
    for made in (theirs / "mematlas", theirs / "mematlas" / kept.name):
        os.chown(made, NOBODY, NOBODY)
    assert read_layout(place[0]).values == VALUES
    assert kept.stat().st_uid == kept.parent.stat().st_uid == 0


@pytest.mark.root
def test_under_sudo_root_writes_nothing_where_the_caller_leads(
    place: tuple[str, Path], theirs: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret").mkdir(mode=0o700)
    theirs.rmdir()
    theirs.symlink_to(tmp_path / "secret")
    assert read_layout(place[0]).values == VALUES
    assert not list((tmp_path / "secret").iterdir())


@pytest.mark.root
def test_under_sudo_the_environment_names_no_directory(
    place: tuple[str, Path], theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "roots").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "roots"))
    read_layout(place[0])
    assert not list((tmp_path / "roots").iterdir())
    assert kept_in(tmp_path / "var" / "mematlas")


@pytest.mark.root
@pytest.mark.parametrize("whose", ["directory", "parent", "file"])
def test_root_uses_nothing_that_is_anothers(whose: str, place: tuple[str, Path]) -> None:
    read_layout(place[0])
    file = kept_in(place[1])
    file.write_text(file.read_text().replace("16", "24"))
    os.chown({"directory": place[1], "parent": place[1].parent, "file": file}[whose], NOBODY, NOBODY)
    assert read_layout(place[0]).values == VALUES


@pytest.mark.root
def test_without_cap_chown_nothing_fails_under_sudo(
    place: tuple[str, Path], theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    monkeypatch.setattr(os, "fchown", refuse)
    assert read_layout(place[0]).values == VALUES


# --- wrong, though nothing shows it


def test_what_is_refused_with_the_cache_is_asked_again_afresh(place: tuple[str, Path]) -> None:
    read_layout(place[0])
    file = kept_in(place[1])
    right = file.read_text()
    file.write_text(right.replace("8", "4"))
    layout = read_layout(place[0])
    seen = []

    def ask() -> str:
        seen.append(layout["page._mapcount"])
        if seen[-1] != 8:
            raise NotSupported("these offsets")
        return "an answer"

    assert asked_twice(layout, ask) == "an answer"
    assert seen == [4, 8]
    assert file.read_text() == right


def test_what_is_refused_for_good_is_parsed_no_more_than_once(place: tuple[str, Path], monkeypatch: Any) -> None:
    read_layout(place[0])
    layout = read_layout(place[0])
    seen = []

    def refuse() -> None:
        seen.append(1)
        raise NotSupported("this kernel")

    for _ in range(2):
        with pytest.raises(NotSupported, match="this kernel"):
            asked_twice(layout, refuse)
        monkeypatch.setattr(btf, "parse_btf", never)
    assert len(seen) == 2


@pytest.fixture
def poisoned(place: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], Path]:
    """Return a function that writes a cache of this very kernel with one value that is wrong."""
    monkeypatch.undo()
    for name in CALLERS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(place[1].parent))

    def poison(name: str, value: int) -> Path:
        try:
            read_layout()
        except Error as error:
            pytest.skip(str(error))
        file = kept_in(place[1])
        content = json.loads(file.read_text())
        content["layout"][name] = value
        assert values_of(content, btf.WANTED) is not None
        file.write_text(json.dumps(content))
        return file

    return poison


def offset_of(name: str, other_than: int) -> int:
    """Return where something is in this kernel; skip where it is not, or there anyway."""
    layout = read_layout()
    if name not in layout.values:
        pytest.skip(f"this kernel has no {name}")
    if layout[name] == other_than:
        pytest.skip(f"{name} is at {other_than} here")
    return layout[name]


@pytest.mark.root("CAP_SYS_ADMIN", "CAP_SYS_PTRACE")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mm_struct.pgd", 0),
        ("mm_struct.pgd", 64),
        ("task_struct.files", 0),
        ("task_struct.files", 1024),
        ("files_struct.fdt", 8),
        ("fdtable.fd", 16),
        ("file.private_data", 0),
        ("file.private_data", 8),
        ("file.private_data", 64),
    ],
)
def test_a_wrong_offset_of_this_kernel_is_put_right(
    name: str, value: int, poisoned: Callable[[str, int], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    from mematlas.cli import main
    from mematlas.kernel.memory.readers import open_kernel_memory

    try:
        open_kernel_memory().close()
    except Error as error:
        pytest.skip(f"no reader of kernel memory works: {error}")
    right = offset_of(name, value)
    file = poisoned(name, value)

    assert main(["tables", str(os.getpid())]) == 0, capsys.readouterr().err
    assert json.loads(file.read_text())["layout"][name] == right


@pytest.mark.root("CAP_SYS_ADMIN", "CAP_SYS_PTRACE")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("page", 128),
        ("page._mapcount", 0),
        ("page._mapcount", 52),
        ("page.compound_head", 0),
        ("page.compound_head", 56),
        ("page.compound_info", 0),
        ("page.compound_info", 56),
        ("folio.mapping", 0),
        ("folio.mapping", 32),
        ("folio._entire_mapcount", 0),
        ("pipe_buffer", 8),
        ("pipe_buffer.page", 8),
    ],
)
def test_a_wrong_offset_of_struct_page_is_put_right(
    name: str, value: int, poisoned: Callable[[str, int], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    from mematlas import Process
    from mematlas.kernel.memory.structpage import StructPages

    try:
        with Process(os.getpid()) as process:
            if not isinstance(process.page_table_access().frames, StructPages):
                pytest.skip("map counts come from kpagecount here")
    except Error as error:
        pytest.skip(f"page tables cannot be read: {error}")
    right = offset_of(name, value)
    file = poisoned(name, value)

    for _ in range(9):
        with Process(os.getpid()) as process:
            assert isinstance(process.page_table_access().frames, StructPages)
        found = json.loads(file.read_text())["layout"][name]
        if found == right:
            return
        # Large folios are counted where we have one ourselves: else others are compared as they come by.
        assert name == "folio._entire_mapcount"
        time.sleep(0.2)
    pytest.skip("no huge page was to be had")


def test_names_are_all_that_is_asked_for() -> None:
    assert names_of(WANTED) == ["page", "page._mapcount", "page.mapping"]
    assert set(StructLayout(VALUES).values) < set(names_of(WANTED))


@pytest.mark.parametrize(
    ("name", "value", "size", "sane"),
    [
        ("page", 64, None, True),
        ("page", 0, None, False),
        ("page._mapcount", 60, 64, True),
        ("page._mapcount", 62, 64, False),
        ("page.mapping", 56, 64, True),
        ("page.mapping", 60, 64, False),
        ("page.mapping", 64, 64, False),
        ("page.mapping", 8, None, False),
    ],
)
def test_an_offset_must_fit_its_structure(name: str, value: int, size: int | None, sane: bool) -> None:
    assert is_sane(name, value, size) == sane
