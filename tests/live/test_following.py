"""A process that is followed is at each look what a fresh look at it finds: its pages, and how much there is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from helpers import PAGE, program, skip_without_tables
from mematlas import Process
from mematlas.analysis.results import VmaUsage
from mematlas.errors import ProcessGone
from mematlas.frozen import replace
from mematlas.kernel.pagemap import PM_MMAP_EXCLUSIVE
from mematlas.kernel.procfs import ProcFS
from mematlas.model.pagetables import followed as module
from mematlas.model.pagetables.room import TableRoom
from mematlas.observe.following import Following
from mematlas.observe.moments import MomentRecorder
from mematlas.timeline import watch as watching
from mematlas.timeline.watch import Watch, followed_words
from mematlas.timeline.words import Followed as followed_file
from mematlas.timeline.words import Sparse, changed, empty, from_parts
from victim import FIXTURES, KINDS, PATH_KINDS, Victim, standing_still

pytestmark = [pytest.mark.root("CAP_SYS_ADMIN", "CAP_SYS_PTRACE"), pytest.mark.machine]
INSTALLED = ("[vdso]", "/usr/", "/lib", sys.base_prefix, sys.prefix)
"""Where files are that others map, too."""
PROGRAM = Path(__file__).resolve().parents[1] / "changing_program.py"


@pytest.fixture(autouse=True)
def tables_can_be_read() -> None:
    with Process(os.getpid()) as process:
        skip_without_tables(process)


class Followed:
    """A process that is followed, and what was told of it so far."""

    def __init__(self, pid: int, room: int = 64) -> None:
        self.process = Process(pid)
        self.following: Following = self.process.follow(TableRoom(room), pages=True)
        self.told = empty()
        self.number = 0

    def look(self) -> tuple[list[VmaUsage], Sparse, set[str]]:
        """Return the VMAs, the words of all pages, as they were told by changes, and the codes of notes."""
        result = self.process.maps("tables", first_pages=False)
        assert self.following.items is result.vmas
        file = followed_words(self.following, has_frames=True)
        self.told = changed(self.told, file.delta) if file.number == self.number + 1 else file.whole()
        self.number = file.number
        assert as_dict(self.told) == as_dict(file.whole())
        assert len(file.delta.indexes) == len(set(file.delta.indexes.tolist()))
        self.assert_accessed_pages_add_up()
        return result.vmas, self.told, {note.code for note in result.reading.notes}

    def assert_accessed_pages_add_up(self) -> None:
        """See that single pages that are accessed add up to the amounts, which are kept in another way."""
        accessed = self.following.pages.accessed()
        assert np.all(accessed[1:] > accessed[:-1])
        for item in self.following.items:
            if item.nr_accessed is not None:
                low, high = np.searchsorted(accessed, np.array([item.start, item.end], np.uint64) // np.uint64(PAGE))
                assert high - low == item.nr_accessed, item


def as_dict(file: Sparse) -> dict[int, int]:
    return dict(zip(file.indexes.tolist(), file.words.tolist(), strict=True))


def fresh(pid: int) -> tuple[list[VmaUsage], Sparse, dict[str, Any]]:
    """Return what a fresh look finds: amounts by page tables, pages by pagemap, and what is unknown of them."""
    with Process(pid) as process:
        vmas = process.maps("tables", first_pages=False).vmas
        recorder = MomentRecorder(process, with_frames=False)
        texts = recorder.take([item.vma for item in vmas])
        return vmas, from_parts(recorder.words["pagemap"]), json.loads(texts["machine.json"])


def is_known(item: VmaUsage) -> bool:
    """Whether nobody else maps what is there, but for the program and its children: not so of libraries."""
    return item.vma.kind not in ("file", "vdso") or not item.path.startswith(INSTALLED)


def as_known(item: VmaUsage) -> VmaUsage:
    """Return a VMA without what others change, who map the same, and without what the kernel ages."""
    if not is_known(item):
        item = replace(item, usage=replace(item.usage, pss=0, uss=0, nr_exclusive=0))
    return replace(item, nr_accessed=0)


def differences(pid: int, followed: Followed) -> list[str]:
    """Return in what a look at a process that stands still differs from a fresh one."""
    (expected, words, facts), (vmas, told, _), (later, _, _) = fresh(pid), followed.look(), fresh(pid)
    rows = zip(map(as_known, vmas), map(as_known, expected), strict=True)
    found = [f"{one}\n{other}" for one, other in rows if one != other]
    # Accessed bits are taken away meanwhile (kswapd, DAMON), and given by nobody.
    counts = [[item.nr_accessed or 0 for item in items] for items in (later, vmas, expected)]
    found += [f"accessed: {numbers}" for numbers in zip(*counts, strict=True) if list(numbers) != sorted(numbers)]
    libraries = [item.vma for item in vmas if not is_known(item)]
    now, then = as_dict(told), as_dict(words)
    for page in sorted(now.keys() | then.keys()):
        differ = now.get(page, 0) ^ then.get(page, 0)
        if differ == PM_MMAP_EXCLUSIVE and any(vma.start <= page * PAGE < vma.end for vma in libraries):
            continue
        if differ:
            name = next((item.path or hex(item.start) for item in vmas if item.start <= page * PAGE < item.end), "?")
            found.append(f"{name}: page {page:#x} is {now.get(page, 0):#x}, should be {then.get(page, 0):#x}")
    recorder = MomentRecorder(followed.process, with_frames=False)
    own = json.loads(recorder.take([item.vma for item in vmas], followed.following)["machine.json"])
    found += [f"{key}: {own[key]}, should be {value}" for key, value in facts.items() if own[key] != value]
    return found


def settle(pid: int, followed: Followed) -> None:
    """Have a look be right, or one of the next: the kernel may age a page between two, or write it back."""
    for _ in range(3):
        with standing_still(pid):
            found = differences(pid, followed)
        if not found:
            return
    raise AssertionError("\n".join(found[:20]))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in PATH_KINDS])
def test_pages_of_every_kind_are_what_a_fresh_look_finds(kind: str, request: pytest.FixtureRequest) -> None:
    if kind in FIXTURES:
        request.getfixturevalue(FIXTURES[kind])
    with Victim(kind) as victim:
        followed = Followed(victim.pid)
        settle(victim.pid, followed)
        settle(victim.pid, followed)
        followed.process.close()


class Changing:
    """`changing_program.py`, told what to do."""

    def __init__(self, directory: Path) -> None:
        line = [sys.executable, "-I", "-S", str(PROGRAM), str(directory)]
        self.process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.areas: dict[str, int] = self.answer()

    @property
    def pid(self) -> int:
        return self.process.pid

    def answer(self) -> Any:
        assert self.process.stdout
        return json.loads(self.process.stdout.readline())

    def do(self, *words: object) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()
        self.answer()


@pytest.fixture
def changing(tmp_path: Path) -> Iterator[Changing]:
    running = Changing(tmp_path)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.communicate()


NR_PAGES = 1543
SMALL = ("anon", "memfd", "file", "private", "moving")


def deeds(random: Random) -> list[tuple[object, ...]]:
    """Return something to do to some pages of some area, with what has to be done before, so that it ends nobody."""
    name = random.choice(SMALL)
    # Few places, so that one deed meets what another has done.
    first = random.choice([0, 3, 500, 1020])
    end = min(first + random.choice([1, 30, 600]), NR_PAGES)
    huge = random.choice([0, 100, 512, 1500])
    behind_huge = min(huge + random.choice([1, 512, 900]), 2048)
    touch = ("touch", name, first, end)
    choices: list[list[tuple[object, ...]]] = [
        [touch],
        [("touch", name, first, end, 7)],
        [("look", name, first, end)],
        [touch, ("advise", name, first, end, "pageout")],
        [touch, ("advise", name, first, end, "pageout"), ("look", name, first, first + 1)],
        [("advise", "huge", 0, 2048, "huge"), ("touch", "huge", huge, behind_huge, 3)],
        [("touch", "huge", huge, behind_huge, 1), ("advise", "huge", 0, 2048, "collapse")],
        [("advise", "huge", huge, behind_huge, random.choice(["free", "pageout", "guard"]))],
        [("protect", "huge", huge, behind_huge, random.choice(["read", "write"]))],
        [("advise", name, first, end, random.choice(["free", "cold", "remove", "guard", "pageout"]))],
        [("protect", name, first, end, random.choice(["read", "none", "write"]))],
        [("remap", name, first, end, random.choice([*SMALL, "nothing"]))],
        [("move", "moving", first, end, first)],
        [("grow", random.choice([1, 40, 700]))],
        [("fork",), touch],
        [("reap",)],
        [("reap",)],
        [("child", "touch", name, first, end, 2)],
        [("child", "look", "memfd", first, end)],
        [("child", "touch", "memfd", first, end), ("child", "advise", "memfd", first, end, "pageout")],
    ]
    return [before for words in random.choice(choices) for before in prepared(words)]


def prepared(words: tuple[object, ...]) -> list[tuple[object, ...]]:
    """Return what gives the right to pages that are to be used, and their use."""
    of_child = words[0] == "child"
    what, *rest = words[1:] if of_child else words
    if what not in ("touch", "look"):
        return [words]
    name, first, end = rest[:3]
    rights: list[tuple[object, ...]] = [
        ("protect", name, first, end, "write"),
        ("advise", name, first, end, "unguard"),
    ]
    return [*((("child", *right) if of_child else right) for right in rights), words]


@pytest.mark.parametrize("seed", range(6))
def test_pages_that_change_are_what_a_fresh_look_finds(seed: int, changing: Changing, swap: Path) -> None:
    random, followed = Random(seed), Followed(changing.pid)
    done: list[tuple[object, ...]] = []
    try:
        for _ in range(40):
            for _ in range(random.randrange(4)):
                for words in deeds(random):
                    done.append(words)
                    changing.do(*words)
            try:
                settle(changing.pid, followed)
            except AssertionError as error:
                raise AssertionError(f"{error}\nafter {done[-12:]}\n{changing.areas}") from None
    finally:
        followed.process.close()


# --- what is not the common case


def test_what_can_be_asked_about_only_in_turn_is_said_and_is_true_in_time(
    changing: Changing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_ASKED", 64)
    followed = Followed(changing.pid)
    changing.do("touch", "anon", 0, 900)
    changing.do("fork")  # all that was written to is another's too now
    assert module.IN_TURN.code not in followed.look()[2]  # all is new: it was asked about
    assert all(module.IN_TURN.code in followed.look()[2] for _ in range(3))
    changing.do("reap")
    with standing_still(changing.pid):
        for _ in range(module.MOST_OLD - 1):
            _, _, codes = followed.look()
        assert module.IN_TURN.code in codes
    settle(changing.pid, followed)
    followed.process.close()


def test_few_pages_are_asked_about_at_each_look_and_no_note_says_otherwise(changing: Changing) -> None:
    followed = Followed(changing.pid)
    changing.do("touch", "anon", 0, 900)
    changing.do("fork")
    first = changing.areas["anon"] // PAGE
    assert as_dict(followed.look()[1])[first] & PM_MMAP_EXCLUSIVE == 0
    changing.do("reap")  # not one entry of ours changes by that
    _, told, codes = followed.look()
    assert as_dict(told)[first] & PM_MMAP_EXCLUSIVE
    assert "counts-in-turn" not in codes
    followed.process.close()


def test_what_is_taken_for_granted_is_tried_and_given_up_where_it_is_wrong(
    changing: Changing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def always(self: Any, number: int, entries: Any) -> Any:
        return np.full(len(entries), self._can_trust)

    monkeypatch.setattr(module.FollowedPages, "_are_own", always)
    followed = Followed(changing.pid)
    settle(changing.pid, followed)
    assert not followed.following.pages._can_trust
    followed.process.close()


def test_a_process_that_starts_another_program_is_followed_on() -> None:
    told = "import os, sys; print(0, flush=True); sys.stdin.readline(); "
    code = told + f"os.execv(sys.executable, [sys.executable, '-c', {told!r} + 'sys.stdin.read()'])"
    with program(code, wait="") as running:
        followed = Followed(running.pid)
        before, _, _ = followed.look()
        assert running.process.stdin
        assert running.process.stdout
        running.process.stdin.write("\n")
        running.process.stdin.flush()
        running.process.stdout.readline()
        number = followed.number
        after, _, _ = followed.look()
        assert followed.number > number + 1  # what changed since is more than can be told
        # Where libraries are is another for each program; a program that is no PIE is always at one address.
        was, now = ({item.start for item in items if ".so" in item.path} for items in (before, after))
        assert was
        assert now
        assert was.isdisjoint(now)
        settle(running.pid, followed)
        followed.process.close()


def test_a_process_that_has_ended_is_gone(changing: Changing) -> None:
    followed = Followed(changing.pid)
    followed.look()
    changing.process.kill()
    changing.process.wait()
    with pytest.raises(ProcessGone):
        followed.look()
    assert not followed.following.is_begun
    followed.process.close()


def test_who_finds_no_room_is_counted_as_ever(changing: Changing) -> None:
    room = TableRoom(64)
    with Process(changing.pid) as process, Process(changing.pid) as other:
        following, none = process.follow(room), other.follow(room)
        found = process.maps("tables", first_pages=False).vmas
        assert following.items is found
        room.most = len(following.pages.tables.regions)
        with standing_still(changing.pid):
            result, expected = other.maps("tables", first_pages=False), process.maps("tables", first_pages=False)
        assert not none.is_begun
        assert list(map(as_known, result.vmas)) == list(map(as_known, expected.vmas))
        following.close()
        assert none.look().source == "tables"  # there is room again


def test_pages_that_are_taken_as_they_are_counted_are_those_of_a_reading_of_their_own(changing: Changing) -> None:
    changing.do("touch", "anon", 0, 900)
    changing.do("touch", "memfd", 3, 600, 7)
    changing.do("advise", "huge", 0, 2048, "huge")
    changing.do("touch", "huge", 0, 2048)
    with standing_still(changing.pid), Process(changing.pid) as process:
        recorder = process.sources.taker = MomentRecorder(process, with_frames=False)
        counted = process.maps("pagemap", first_pages=False).vmas
        process.sources.taker = None
        texts = recorder.take([item.vma for item in counted])
        vmas, words, facts = fresh(changing.pid)
        alone = process.maps("pagemap", first_pages=False).vmas
    told = from_parts(recorder.words["pagemap"])
    assert list(map(as_known, counted)) == list(map(as_known, alone))
    assert json.loads(texts["machine.json"]) == facts
    libraries = [item.vma for item in vmas if not is_known(item)]
    now, then = as_dict(told), as_dict(words)
    differ = {page for page in now.keys() | then.keys() if now.get(page) != then.get(page)}
    assert not {page for page in differ if not any(vma.start <= page * PAGE < vma.end for vma in libraries)}


def test_of_many_huge_pages_amounts_are_of_smaps_and_pages_are_followed(
    changing: Changing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "MANY_PAGES", 100)
    monkeypatch.setattr(module, "MOST_ASKED", 64)
    changing.do("touch", "anon", 0, 900)
    with Watch([str(changing.pid)], ProcFS(), what=["frames"]) as watch, standing_still(changing.pid):
        first, second = (watch.look().seen[0] for _ in range(2))
        _, words, _ = fresh(changing.pid)
        assert second.files
        file = second.files.words["pagemap"]
        assert isinstance(file, followed_file)
        now, then = as_dict(file.whole()), as_dict(words)
    assert first.usage.reading.source == second.usage.reading.source == "smaps"
    assert not [note for note in first.usage.reading.notes if note.code == "counts-in-turn"]
    assert module.PAGES_IN_TURN in second.usage.reading.notes
    assert {page: word & ~PM_MMAP_EXCLUSIVE for page, word in now.items()} == {
        page: word & ~PM_MMAP_EXCLUSIVE for page, word in then.items()
    }


def test_accessed_pages_are_known_of_a_small_process_too_once_somebody_asks() -> None:
    with Victim("anon") as victim, Watch([str(victim.pid)], ProcFS(), what=("pages",)) as watch:
        (before,) = watch.look().seen
        assert before.files
        assert not isinstance(before.files.words["pagemap"], followed_file)

        victim.touch("anon", 0, 1, 2)
        accessed = watch.followed(victim.pid).accessed()

        first = victim["anon"].address // PAGE
        assert {first, first + 1, first + 2} <= set(accessed.tolist())
        (after,) = watch.look().seen
        assert after.files
        told = after.files.words["pagemap"]
        assert isinstance(told, followed_file)
        # Meanwhile the kernel may have aged some (kswapd, DAMON).
        assert as_dict(told.whole()).keys() >= {*accessed.tolist(), *watch.followed(victim.pid).accessed().tolist()}
