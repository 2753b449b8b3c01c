"""The hand-assembled program, and what a refusal of bpf(2) becomes."""

from __future__ import annotations

import ctypes
import errno
import resource
import struct
from types import SimpleNamespace

import pytest

from mematlas.errors import NotSupported, PermissionDenied
from mematlas.kernel.memory import bpf, bpfcall
from mematlas.kernel.memory.bpf import assemble
from mematlas.kernel.memory.bpfcall import refusal

JUMPS = (0xB5, 0x25)


def decoded(program: bytes) -> list[tuple[int, int, int, int]]:
    """Return (opcode, registers, offset, value) of each instruction."""
    return list(struct.iter_unpack("=BBhi", program))


@pytest.mark.parametrize("nr_slots", [1, 2, 64])
def test_every_jump_lands_on_the_return(nr_slots: int) -> None:
    code = decoded(assemble(3, nr_slots))
    places = [place for place, one in enumerate(code) if one[0] in JUMPS]
    assert len(places) == nr_slots + 1
    assert {place + 1 + code[place][2] for place in places} == {len(code) - 2}
    assert [one[0] for one in code[-2:]] == [0xB7, 0x95]


def test_the_program_calls_two_helpers_only() -> None:
    calls = {value for opcode, _, _, value in decoded(assemble(3)) if opcode == 0x85}
    assert calls == {bpfcall.HELPER_GET_CURRENT_TASK, bpfcall.HELPER_PROBE_READ_KERNEL}


def test_slots_stay_inside_the_map() -> None:
    places = [value for opcode, _, _, value in decoded(assemble(3)) if opcode == 0x07]
    assert places == [bpf.AT_DATA + slot * 4096 for slot in range(bpf.NR_SLOTS)]
    assert bpf.AT_ERRORS + 8 * bpf.NR_SLOTS <= bpf.AT_DATA
    assert places[-1] + 4096 == bpf.VALUE_SIZE


def test_without_the_right_both_capabilities_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpfcall, "effective_capabilities", frozenset)
    error = refusal(PermissionError(errno.EPERM, ""))
    assert isinstance(error, PermissionDenied)
    assert error.text == "CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN"


def test_root_that_is_refused_hears_of_seccomp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpfcall, "effective_capabilities", lambda: frozenset(["CAP_SYS_ADMIN"]))
    assert "seccomp" in str(refusal(PermissionError(errno.EPERM, "")))


def test_who_has_both_capabilities_hears_of_locked_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpfcall, "effective_capabilities", lambda: {"CAP_BPF", "CAP_PERFMON"})
    error = refusal(PermissionError(errno.EPERM, "no"))
    assert isinstance(error, PermissionDenied)
    assert error.needs == {"CAP_SYS_RESOURCE"}
    assert "ulimit -l" in str(error)


def test_what_locked_memory_refuses_is_tried_again_with_more_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    seen: list[tuple[int, int]] = []

    def syscall(*_: object) -> int:
        seen.append(resource.getrlimit(resource.RLIMIT_MEMLOCK))
        ctypes.set_errno(errno.EPERM)
        return -1 if len(seen) == 1 else 7

    resource.setrlimit(resource.RLIMIT_MEMLOCK, (4096, hard))
    try:
        called = bpfcall.Bpf()
        monkeypatch.setattr(called, "_libc", SimpleNamespace(syscall=syscall))
        assert called.call(bpfcall.BPF_PROG_LOAD, b"") == 7
        assert seen[0] == resource.getrlimit(resource.RLIMIT_MEMLOCK) == (4096, hard)
        assert seen[1] in ((hard, hard), (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    finally:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (soft, hard))


def test_a_withheld_helper_is_lockdown() -> None:
    log = "0: (85) call bpf_probe_read_kernel#113\nprogram of this type cannot use helper bpf_probe_read_kernel#113\n"
    error = refusal(OSError(errno.EINVAL, ""), log)
    assert isinstance(error, NotSupported)
    assert "confidentiality" in str(error)


def test_a_kernel_without_bpf_names_the_option() -> None:
    assert "CONFIG_BPF_SYSCALL" in str(refusal(OSError(errno.ENOSYS, "")))


def test_anything_else_shows_what_the_verifier_said() -> None:
    assert "R3 is odd" in str(refusal(OSError(errno.EACCES, ""), "1: ...\nR3 is odd\n"))
