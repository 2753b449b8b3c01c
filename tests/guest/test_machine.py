"""What the runner of guests makes of a console, a host and a path; needs no guest."""

from __future__ import annotations

import pytest

from machine import complaints_in

COMPLAINTS = (
    "WARNING: CPU: 1 PID: 99 at mm/memory.c:123 copy+0x1/0x2",
    "WARNING: mm/memory.c:123 at copy+0x1/0x2, CPU#0: python/99",
    "WARNING: possible circular locking dependency detected",
    "WARNING: suspicious RCU usage",
    "WARNING: lock held when returning to user space!",
    "WARNING: bad unlock balance detected!",
    "WARNING: inconsistent lock state",
    "WARNING: held lock freed!",
    "WARNING: python/99 still has locks held!",
    "WARNING: SOFTIRQ-safe -> SOFTIRQ-unsafe lock order detected",
    "refcount_t: underflow; use-after-free.",
    "INFO: trying to register non-static key.",
    "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
    "rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 1-... } 99 jiffies s: 9 root: 0x2/.",
    "rcu: INFO: rcu_preempt self-detected stall on CPU",
    "INFO: task python:99 blocked for more than 120 seconds.",
    "list_del corruption. prev->next should be 0, but was 1",
    "BUG: kernel NULL pointer dereference, address: 0000000000000008",
    "kernel BUG at mm/memory.c:123!",
    "Oops: 0000 [#1] PREEMPT SMP PTI",
    "Kernel panic - not syncing: Fatal exception",
    "python[99]: segfault at 8 ip 0000000000401000 sp 00007ffc00000000 error 4 in python[400000+1000]",
)
HARMLESS = (
    "Linux version 6.12.1 (gcc 12) #1 SMP PREEMPT_DYNAMIC",
    "Spectre V2 : WARNING: Unprivileged eBPF is enabled with eIBRS on, data leaks possible via Spectre v2 BHB attacks!",
    "RETBleed: WARNING: Spectre v2 mitigation leaves CPU vulnerable to RETBleed attacks, data leaks possible!",
    "mematlas: loading out-of-tree module taints kernel.",
    "Memory failure: 0x12345: recovery action for dirty LRU page: Recovered",
)


@pytest.mark.parametrize("line", COMPLAINTS)
def test_a_line_that_says_what_went_wrong_is_a_complaint(line: str) -> None:
    assert complaints_in(f"[    1.000000] {line}\n") == [f"[    1.000000] {line}"]


@pytest.mark.parametrize("line", HARMLESS)
def test_a_line_that_says_nothing_of_the_kind_is_none(line: str) -> None:
    assert complaints_in(f"[    1.000000] {line}\n") == []
