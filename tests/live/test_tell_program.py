"""What frames are, told in the kernel: of struct pages made by hand, in a huge page of ours, and of all there are."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator

import numpy as np
import pytest

from constructed_frames import BASE, RAM, SIZE, ConstructedFrames, machine
from mematlas.arrays import Bytes
from mematlas.errors import Error, NotSupported
from mematlas.kernel.memory import tellprogram
from mematlas.kernel.memory.framearray import FrameArray
from mematlas.kernel.memory.memory import KernelMemory
from mematlas.kernel.memory.ownpages import OwnPages
from mematlas.kernel.memory.tellcode import LOST, UNREAD
from mematlas.kernel.memory.tellprogram import TellProgram
from mematlas.kernel.memory.x86 import PAGE, PMD_SIZE
from mematlas.kernel.procfs import ProcFS
from mematlas.model.census.decode import Decoder
from mematlas.model.census.kinds import KIND_MASK, Kind
from mematlas.model.census.sample import PAUSES, check_against_kernel
from mematlas.model.census.tell import Teller
from mematlas.observe.frames import DecoderHeld, open_decoder

pytestmark = [pytest.mark.root("CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"), pytest.mark.machine]


@pytest.fixture(scope="module")
def held() -> Iterator[DecoderHeld]:
    try:
        held = open_decoder(ProcFS(), "bpf", in_kernel=True)
    except Error as error:
        pytest.skip(f"struct pages cannot be read with BPF: {error}")
    with held:
        yield held


@pytest.fixture(scope="module")
def huge(held: DecoderHeld) -> Iterator[tuple[int, int]]:
    """Yield where a huge page of ours is, for us and for the kernel."""
    with OwnPages(ProcFS()) as own:
        pfns = own.pfns_at(range(own.huge_start, own.huge_start + PMD_SIZE, PAGE))
        if not pfns[0] or pfns != list(range(pfns[0], pfns[0] + len(pfns))):
            pytest.skip("no transparent huge page (/sys/kernel/mm/transparent_hugepage/enabled)")
        yield own.huge_start, held.memory.base + pfns[0] * PAGE


def told(made: ConstructedFrames, huge: tuple[int, int], skips: bool, has_masks: bool = False) -> Bytes:
    """Return what the program tells of struct pages made by hand, of those that are RAM; with tails that lead to their
    heads by masks, as on Linux 7.2, where these are asked for.
    """
    ours, kernels = huge
    words = made.words.copy()
    tails = words[:, 1] & np.uint64(1) == 1
    if has_masks:
        lengths = np.bincount((words[tails, 1].astype(np.uint64) - np.uint64(BASE + 1)).astype(np.intp) // SIZE)
        for head in np.flatnonzero(lengths).tolist():
            of_head = tails & (words[:, 1] == np.uint64(BASE + head * SIZE + 1))
            words[of_head, 1] = np.uint64((1 << 64) - (SIZE << int(lengths[head]).bit_length()) | 1)
    else:
        words[tails, 1] += np.uint64(kernels - BASE & (1 << 64) - 1)  # to where their heads are now
    ctypes.memmove(ours, words.ctypes.data, words.nbytes)
    array = made.array()
    array.base, array.memory = kernels, _Named("bpf")  # type: ignore[assignment]
    rows = np.empty((len(words) * SIZE // PAGE, PAGE // SIZE), np.uint8)
    with contextlib.closing(TellProgram(array, Decoder(array).tables())) as program:
        program.tell(np.arange(len(rows), dtype=np.uint64), rows, skips)
    flat = rows.reshape(-1)
    return np.concatenate([flat[first:end] for first, end in RAM])


class _Named:
    def __init__(self, name: str) -> None:
        self.name = name


@pytest.mark.parametrize("skips", [False, True])
@pytest.mark.parametrize("nr_pages", [256, 32], ids=["one call", "many calls"])
@pytest.mark.parametrize("has_masks", [False, True], ids=["addresses", "masks"])
def test_every_byte_is_what_is_true(
    skips: bool, nr_pages: int, has_masks: bool, huge: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tellprogram, "NR_PAGES", nr_pages)  # of which a gigantic page takes several
    made = machine()
    made.share_pages(0x800, 9)
    made.share_pages(0x2000, 12)
    seen, truth = told(made, huge, skips, has_masks), made.expected()
    wrong = np.flatnonzero(seen != truth)
    assert [(int(at), int(seen[at]), int(truth[at])) for at in wrong[:5]] == []


def test_a_tail_whose_head_is_gone_is_marked(huge: tuple[int, int]) -> None:
    made = machine()
    made.put(0x180, Kind.SLAB)
    seen = told(made, huge, True)
    differ = np.flatnonzero(seen != made.expected())
    frames = np.concatenate([np.arange(first, end) for first, end in RAM])[differ]
    assert frames.tolist() == list(range(0x181, 0x190))
    assert set(seen[differ].tolist()) == {LOST}


@pytest.mark.parametrize("skips", [False, True])
def test_frames_are_what_their_struct_pages_say_here(skips: bool, held: DecoderHeld) -> None:
    assert held.teller.program
    here = Teller(held.decoder, in_kernel=False)
    nr_same = nr_left_out = 0
    for lot in held.array.lots(held.array.granules(500)):
        for _ in PAUSES:  # a frame may have changed and changed back
            before, seen, after = (one.rows(lot, skips) for one in (here, held.teller, here))
            same = before == after
            is_told = same & (before & KIND_MASK != Kind.CHANGED)
            if (before == seen)[is_told].all():
                break
        assert (before == seen)[is_told].all(), lot[:1]
        nr_same += int(np.count_nonzero(is_told))
        nr_left_out += int(np.count_nonzero(~is_told))
    assert nr_left_out < 0.1 * nr_same


@pytest.mark.parametrize("member", ["mapping", "page_type", "flags"])
def test_offsets_that_are_wrong_are_refused(member: str, held: DecoderHeld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(held.array.at, member, held.array.at[member] ^ 8)
    with contextlib.closing(Teller(held.decoder)) as wrong:
        assert wrong.program
        with pytest.raises(NotSupported, match=r"frame 0x[0-9a-f]+ is another thing"):
            check_against_kernel(wrong, ProcFS())


def test_pages_that_cannot_be_read_are_said_to_be_so(held: DecoderHeld, monkeypatch: pytest.MonkeyPatch) -> None:
    program = held.teller.program
    assert program
    rows = np.empty((3, 1 << held.array.shift), np.uint8)
    monkeypatch.setattr(held.array, "base", 0)
    assert program.tell(np.arange(3, dtype=np.uint64), rows)
    assert (rows == UNREAD).all()


def test_where_no_program_can_be_loaded_frames_are_told_here(
    held: DecoderHeld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KernelMemory, "name", "kcore")
    array = FrameArray(held.array.struct_pages)
    teller = Teller(Decoder(array))
    assert teller.program is None
    assert teller.census().nr_frames == held.teller.census().nr_frames


@pytest.mark.parametrize("error", [NotSupported("bpf_loop", "Linux 5.17"), KeyboardInterrupt()])
def test_a_program_that_is_not_loaded_leaves_nothing_open_and_says_why(
    error: BaseException, held: DecoderHeld, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object) -> int:
        raise error

    monkeypatch.setattr(TellProgram, "_load", load)
    array = FrameArray(held.array.struct_pages)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(type(error)):
        TellProgram(array, Decoder(array).tables())
    assert os.listdir("/proc/self/fd") == before
