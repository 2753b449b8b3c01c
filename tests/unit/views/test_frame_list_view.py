"""What `ram --list`, `--runs` and `--by flags` show, whole."""

from __future__ import annotations

from mematlas.analysis.frame_list import FlagsResult, FlagsUse, FrameRows
from mematlas.analysis.results import Reading
from mematlas.views.frame_list import flags_table, list_columns, run_columns
from mematlas.views.table import Column, Table

READING = Reading("kpageflags", 0.25, False, ())
ROWS = FrameRows(
    pfns=[4096, 4097],
    nr_pages=[1, 512],
    kinds=["anon", "free"],
    flags=[("uptodate", "lru", "anon"), ("buddy", "bit_27")],
    counts=[3, 0],
    nodes=[0, None],
    cgroups=["/a", None],
    cgroup_inodes=[41, 0],
)


def shown(columns: tuple[Column[FrameRows], ...]) -> list[str]:
    return list(Table("x/1", columns, batches=[[column.get(ROWS) for column in columns]]).lines())


def test_single_frames() -> None:
    assert shown(list_columns(4096, has_nodes=True)) == [
        "     PFN  PHYSICAL        KIND            COUNT  NODE  FLAGS                                 CGROUP",
        "    4096  0x000001000000  anon                3     0  uptodate,lru,anon                     /a",
        "    4097  0x000001001000  free                0     -  buddy,bit_27                          -",
    ]


def test_runs() -> None:
    assert shown(run_columns(4096)) == [
        "FIRST PFN  FIRST AT           PAGES      SIZE  KIND            FLAGS",
        "     4096  0x000001000000         1     4 KiB  anon            uptodate,lru,anon",
        "     4097  0x000001001000       512     2 MiB  free            buddy,bit_27",
    ]


def test_combinations_of_flags_and_a_total() -> None:
    uses = (FlagsUse(0x400, ("buddy",), 512, 512 << 12), FlagsUse(0, (), 3, 3 << 12))
    table = flags_table(FlagsResult(uses, 515, 515 << 12, READING), limit=1)
    assert list(table.lines()) == [
        "WORD    PAGES      SIZE  FLAGS",
        "0x400     512     2 MiB  buddy",
        "others      3    12 KiB",
        "total     515  2.01 MiB",
    ]
    assert table.target == {
        "nr_pages": 515,
        "size": 515 << 12,
        "source": "kpageflags",
        "duration_s": 0.25,
        "torn": False,
    }
