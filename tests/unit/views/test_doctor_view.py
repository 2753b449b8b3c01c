"""What doctor says: a summary, what is missing first and what to type, then the rest; within the screen."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import mematlas
from mematlas.doctor.bench import MISSING, NEEDED, UNTRIED, WORKS, Reason
from mematlas.doctor.features import PROBES, Feature
from mematlas.views.doctor import NAMES, REASONS, TO_TYPE, detail_of, doctor_view

DOCTOR = Path(mematlas.__file__).parent / "doctor"
SOME = (
    Feature("maps", WORKS),
    Feature("frame-numbers", NEEDED, ("CAP_SYS_ADMIN",)),
    Feature("idle-pages", MISSING, (), Reason("kernel", ("CONFIG_IDLE_PAGE_TRACKING",))),
    Feature("lockdown", UNTRIED, (), Reason("type", ("securityfs",))),
    Feature("numa-maps", WORKS, (), Reason("nodes", (2,))),
    Feature("swap", NEEDED, (), Reason("type", ("swap",))),
)
RIGHTS = ("CAP_BPF", "CAP_CHECKPOINT_RESTORE", "CAP_DAC_READ_SEARCH", "CAP_PERFMON", "CAP_SYS_ADMIN", "CAP_SYS_PTRACE")


def text(*features: Feature, width: int = 80) -> str:
    view = doctor_view(features, frozenset(), "/usr/bin/mematlas", (1000, 100))
    return "\n".join(view.lines(width=width))


def test_what_is_missing_comes_first_with_what_to_type() -> None:
    shown = """\
2 of 6 interfaces work here.
Need a right or a setting (2): frame numbers, swap areas
Cannot be tried (1): lockdown
Missing (1): idle page bitmap

Needs a right or a setting:
  frame numbers             physical addresses
      CAP_SYS_ADMIN
  swap areas                room for pages that are paged out
      sudo sh -c 'fallocate -l 1G /var/tmp/swapfile &&
          chmod 600 /var/tmp/swapfile &&
          mkswap /var/tmp/swapfile &&
          swapon /var/tmp/swapfile'
  all rights, for any command: sudo -- /usr/bin/mematlas COMMAND
  only these rights:
      sudo setpriv --reuid=1000 --regid=100 --init-groups --inh-caps=+sys_admin --ambient-caps=+sys_admin \
-- /usr/bin/mematlas COMMAND
  in a systemd service: AmbientCapabilities=CAP_SYS_ADMIN
  in a container (or podman run): docker run --cap-add SYS_ADMIN --pid host

Cannot be tried as things are:
  lockdown                  whether kernel memory may be read
      sudo mount -t securityfs securityfs /sys/kernel/security

Missing from this kernel:
  idle page bitmap          frames not used since a moment
      CONFIG_IDLE_PAGE_TRACKING

Works:
  /proc/PID/maps            the VMAs
  /proc/PID/numa_maps       pages by NUMA node                   2 nodes"""
    assert text(*SOME) == shown


def test_where_there_is_room_all_stands_in_a_line() -> None:
    lines = text(*SOME, width=0).splitlines()
    assert "  frame numbers             physical addresses                   CAP_SYS_ADMIN" in lines
    assert sum("swapon" in line for line in lines) == 1


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_only_a_line_to_type_alone_in_its_line_is_wider_than_the_screen(width: int) -> None:
    values: dict[str, tuple[object, ...]] = {
        "files": (["maps", "smaps"], ["pagemap"]),
        "not-understood": ("/sys/x: cannot understand 'many' (expected a number)",),
        "pools": ((138, "2048kB"), (1, "1048576kB")),
        "swap-areas": (2, 3 << 30),
        "thp-scattered": ("always", 2 << 20),
        "thp": ("madvise",),
        "type": ("zswap",),
        "unsigned": ("integrity",),
    }
    features = [
        Feature(probe.code, status, RIGHTS if status == NEEDED else (), Reason(code, values.get(code, (1 << 21,))))
        for probe, code in zip(PROBES, [*REASONS, *REASONS], strict=False)
        for status in (NEEDED, UNTRIED, MISSING, WORKS)
        if code != "kernel"
    ]
    wide = [line for line in text(*features, width=width).splitlines() if len(line) > width]
    assert wide
    assert [line for line in wide if not line.lstrip().startswith(("sudo ", "docker ", "Ambient", "echo "))] == []


@pytest.mark.parametrize("setting", TO_TYPE)
def test_a_line_to_type_is_whole_or_goes_on_where_a_shell_reads_on(setting: str) -> None:
    line = TO_TYPE[setting]
    lines = text(Feature("maps", NEEDED, (), Reason("type", (setting,))), width=45).splitlines()
    below = lines[lines.index("  /proc/PID/maps            the VMAs") + 1 :]

    assert " ".join(shown.strip() for shown in below[: 1 + line.count("&&")]) == line


def test_every_interface_has_a_name_and_every_reason_its_words() -> None:
    assert set(NAMES) == {probe.code for probe in PROBES}
    reasons: set[object] = set()
    settings: set[object] = {probe.setting for probe in PROBES if probe.setting}
    for path in DOCTOR.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
            if name == "not_seen" and isinstance(node, ast.Call):
                reasons |= {ast.literal_eval(node.args[0])}
            if name == "Reason" and isinstance(node, ast.Call):
                words = {word.value for word in ast.walk(node.args[0]) if isinstance(word, ast.Constant)}
                reasons |= words
                if words == {"type"}:
                    settings |= {word.value for word in ast.walk(node.args[1]) if isinstance(word, ast.Constant)}

    assert reasons - {"code"} == set(REASONS)
    assert settings | {"perf-all"} == set(TO_TYPE)


@pytest.mark.parametrize(
    ("needs", "reason", "detail"),
    [
        ((), None, None),
        (("CAP_A", "CAP_B"), None, "CAP_A and CAP_B"),
        (("CAP_A",), Reason("type", ("perf",)), "CAP_A, or: sudo sysctl kernel.perf_event_paranoid=2"),
        (("CAP_A",), Reason("files", (["pagemap"], ["maps", "smaps"])), "CAP_A for pagemap, though not maps and smaps"),
        (("CAP_A",), Reason("held"), "CAP_A held, yet refused: by a security module, a namespace or a seccomp filter"),
        ((), Reason("pools", ((2, "2048kB"),)), "2 of 2048kB"),
    ],
)
def test_a_detail_says_what_would_do(needs: tuple[str, ...], reason: Reason | None, detail: str | None) -> None:
    assert detail_of(Feature("maps", NEEDED, needs, reason)) == detail
