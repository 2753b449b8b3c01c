"""What `ram --kernel` shows, whole."""

from __future__ import annotations

from mematlas.analysis.kernel_memory import KernelItem, KernelPart, KernelResult
from mematlas.analysis.results import Reading
from mematlas.kernel.fdinfo import DrmRegion
from mematlas.views.kernel_memory import kernel_table

KIB, MIB = 1 << 10, 1 << 20
READING = Reading("struct pages", 0.25, False, ())
CACHES = (
    KernelItem("dentry", 160 * KIB, 150 * KIB, 800),
    KernelItem("kmalloc-64", 40 * KIB, 20 * KIB, 320, aliases=("bio", "cred", "fs_cache", "io", "skb", "xfs_icr")),
    KernelItem("a", 8 * KIB, 4 * KIB, 2),
    KernelItem("b", 4 * KIB, 1 * KIB, 1),
)
REGIONS = (DrmRegion("gtt", 2 * MIB, 1 * MIB, None), DrmRegion("vram0", 4 * MIB, 0, 3 * MIB))
PARTS = (
    KernelPart("slab", 300 * KIB, CACHES, 175 * KIB, 1123),
    KernelPart("stack", 64 * KIB, (KernelItem("shop", 48 * KIB, nr=3, pids=(7,)),), nr=3),
    KernelPart("zswap", 0),
    KernelPart("other", 1 * MIB),
    KernelPart("dmabuf", None, is_summed=False),
    KernelPart(
        "drm", 5 * MIB, (KernelItem("xe 0000:03:00.0 5", 5 * MIB, pids=(7, 8), regions=REGIONS),), nr=1, is_summed=False
    ),
)
RESULT = KernelResult(PARTS, 1388 * KIB, True, READING)


def test_parts_with_what_they_are_made_of() -> None:
    assert list(kernel_table(RESULT, 2).lines()) == [
        "PART                     SIZE   IN USE  NUMBER  WHAT IT IS",
        "slab                  300 KiB  175 KiB    1123  objects, by cache",
        "  dentry              160 KiB  150 KiB     800",
        "  kmalloc-64           40 KiB   20 KiB     320  also bio, cred, fs_cache, io and 2 more",
        "  2 others             12 KiB    5 KiB       3",
        "  rest                 88 KiB        -       -  objects too large for any",
        "stack                  64 KiB        -       3  of tasks, by process",
        "  shop                 48 KiB        -       3  PID 7",
        "  rest                 16 KiB        -       -  not seen here, or new",
        "other                   1 MiB        -       -  of drivers and the network",
        "dmabuf                      -        -       -  not in the total: shared",
        "drm                     5 MiB        -       1  not in the total: graphics",
        "  xe 0000:03:00.0 5     5 MiB        -       -  "
        "gtt: 2 MiB total, 1 MiB shared; vram0: 3 MiB resident, 4 MiB total, 0 shared",
        "total                1.36 MiB",
    ]


def test_programs_get_every_item_and_the_parts_that_are_nothing() -> None:
    table = kernel_table(RESULT, None)
    rows = list(table.records())
    assert [row["name"] for row in rows if row["part"] == "slab"] == [None, *(item.name for item in CACHES), "rest"]
    assert [row["size"] for row in rows if row["part"] in ("zswap", "dmabuf")] == [0, None]
    client = next(row for row in rows if row["regions"])
    assert client["pids"] == [7, 8]
    assert client["regions"]["vram0"] == {"total": 4 * MIB, "shared": 0, "resident": 3 * MIB}
    total = table.total_record()
    assert total
    assert total["size"] == 1388 * KIB


def test_without_frames_what_no_counter_has_is_not_the_kernels_alone() -> None:
    result = KernelResult(PARTS, 1388 * KIB, False, READING)
    table = kernel_table(result, 2, "sudo mematlas ram --kernel")
    assert any("drivers, network, swap cache" in line for line in table.lines())
    assert [note.text for note in table.notes] == ["to see all of it: sudo mematlas ram --kernel"]
