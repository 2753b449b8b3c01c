"""The parts of a charge add up, and what is not known is not 0."""

from __future__ import annotations

import pytest

from mematlas.analysis.charge import HARD, Charge, Held, Oom, parts_of, tightest_of, unsure_of
from mematlas.analysis.results import Reading
from mematlas.kernel.memcg import Limit

VERSION_2 = {
    "anon": 5000,
    "file": 3000,
    "shmem": 1000,
    "mapped_file": 700,
    "lru": 8600,
    "lru_anon": 6500,
    "kernel": 900,
    "slab": 300,
    "stacks": 100,
    "tables": 200,
    "percpu": 50,
    "vmalloc": 10,
    "zswap": 40,
    "sock": 70,
    "hugetlb": 0,
    "inactive_file": 1500,
}
VERSION_1 = {
    "anon": 5000,
    "file": 3000,
    "shmem": 1000,
    "mapped_file": 700,
    "lru": 8600,
    "lru_anon": 6500,
    "kernel": 900,
    "sock": 0,
    "hugetlb": 0,
    "swap": 400,
}
HELD = Held(anon=4900, shmem=300, file=2500, elsewhere=(("/init", 512), (None, 64)), uncharged=8)


def charge(amounts: dict[str, int], charged: int | None = 9600, held: Held | None = None, **more: object) -> Charge:
    return Charge(
        **{  # type: ignore[arg-type]
            "cgroup": "/a",
            "version": 2,
            "charged": charged,
            "swap": None,
            "peak": None,
            "unsure": 128,
            "parts": parts_of(amounts, held),
            "mapped_file": amounts.get("mapped_file"),
            "held": held,
            "nr_processes": 1,
            "limits": (),
            "events": {},
            "pressure": None,
            "oom": Oom(None, None, 0, 0, None, False),
            "reading": Reading("memory.stat", 0.001, False, ()),
            **more,
        }
    )


def sizes(one: Charge) -> dict[str, int | None]:
    return {part.kind: part.size for part in one.parts}


def test_parts_of_version_2_add_up_to_all_but_the_rest() -> None:
    one = charge(VERSION_2)

    assert sizes(one) == {
        "anon": 5000,
        "shmem": 1000,
        "file": 2000,
        "unmapped": 600,
        "hugetlb": 0,
        "slab": 300,
        "stacks": 100,
        "tables": 200,
        "percpu": 50,
        "vmalloc": 10,
        "zswap": 40,
        "kernel": 200,
        "sock": 70,
    }
    assert (one.rest, one.unknown) == (9600 - 8000 - 600 - 900 - 70, ())


def test_version_1_says_only_what_the_kernel_takes_in_all() -> None:
    one = charge(VERSION_1)

    assert (sizes(one)["kernel"], sizes(one)["slab"], sizes(one)["tables"]) == (900, None, None)
    assert (one.rest, one.unknown) == (100, ())


def test_what_an_old_kernel_does_not_say_is_in_the_rest() -> None:
    old = {name: size for name, size in VERSION_2.items() if name not in ("kernel", "tables", "vmalloc", "zswap")}

    one = charge(old)

    assert one.unknown == ("tables", "vmalloc", "zswap", "kernel")
    assert one.rest == 9600 - 8000 - 600 - 300 - 100 - 50 - 70


def test_what_processes_map_is_told_from_what_they_do_not() -> None:
    one = charge(VERSION_2, held=HELD)

    assert {part.kind: part.left for part in one.parts[:3]} == {"anon": 100, "shmem": 700, "file": 0}
    # More frames of files than memory.stat has counted so far.
    assert one.mapped == 4900 + 300 + 2000
    assert (one.unmapped_file, one.by_others) == (2300, 0)
    assert HELD.charged_elsewhere == 576


def test_without_frames_it_is_not_known_what_they_map() -> None:
    one = charge(VERSION_2)

    assert (one.mapped, one.by_others, one.held) == (None, None, None)
    assert one.unmapped_file == 2300


def test_pages_that_only_others_map() -> None:
    one = charge(VERSION_2, held=Held(anon=5000, shmem=0, file=100, elsewhere=(), uncharged=0))

    assert one.by_others == 600


def test_root_has_parts_and_no_rest() -> None:
    one = charge(VERSION_2, charged=None)

    assert (one.charged, one.rest, one.headroom) == (None, None, None)
    assert sizes(one)["anon"] == 5000


@pytest.mark.parametrize("amounts", [{}, {"anon": 1}, {"hugetlb": 0}])
def test_no_memory_stat_is_no_parts(amounts: dict[str, int]) -> None:
    one = charge(amounts)

    assert (one.parts, one.rest, one.mapped, one.unmapped_file, one.by_others) == ((), None, None, None, None)


def test_tightest_limit_is_that_with_the_least_room_and_high_is_none_that_kills() -> None:
    # The first is used up, but by page cache that goes at once.
    roomy = Limit("memory.max", "/a", 9000, 9000, 5000)
    tight = Limit("memory.max", "/", 20000, 19000, 0)
    high = Limit("memory.high", "/a", 10, 10, 0)

    one = charge(VERSION_2, limits=(roomy, high, tight))

    assert (one.tightest, one.headroom) == (tight, 1000)
    assert tightest_of([high], HARD) is None


@pytest.mark.parametrize(("nr_groups", "batches"), [(1, 1), (3, 3), (50, 7)])
def test_each_processor_charges_ahead_for_seven_groups_at_most(nr_groups: int, batches: int) -> None:
    assert unsure_of({}, {}, nr_groups, 4, 4096) == (64 * batches + 128) * 4 * 4096


def test_what_changes_meanwhile_is_unsure() -> None:
    after = {**VERSION_2, "anon": 6000, "shmem": 900}

    assert unsure_of(VERSION_2, after, 1, 0, 4096) == 1100
