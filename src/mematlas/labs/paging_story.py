"""The classic demonstration: a program draws on its memory, all of it is paged out, and it draws once more."""

from __future__ import annotations

from mematlas.actions.acts import act
from mematlas.actions.options import Options
from mematlas.actions.plans import plan
from mematlas.actions.refaults import Refaults, watch_refaults
from mematlas.actions.refusals import check_way_back
from mematlas.actions.swap_cache import free_frames
from mematlas.doctor.hints import permission_hint, sudo_line
from mematlas.errors import Error, NotSupported, PermissionDenied
from mematlas.kernel.rights import effective_capabilities
from mematlas.kernel.status import read_faults, read_status, status_bytes
from mematlas.labs.running_workload import RunningWorkload
from mematlas.labs.story import SEGMENTS, SWAP_SIZE, Story
from mematlas.model.address_space import Selection
from mematlas.observe.process import Process
from mematlas.views.effects import Report, effect_table
from mematlas.views.format import format_size
from mematlas.views.plans import plan_table
from mematlas.views.refaults import refault_lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import ExitStack

    from mematlas.actions.effects import Effect
    from mematlas.actions.plans import Plan
    from mematlas.kernel.status import Faults

WORDS = ["demo", "paging"]
WATCHED = 1.0
"""Seconds for which the pages are watched as they come back."""
QUIET = 0.5
"""Seconds of these in which the program does nothing."""


class Paging(Story):
    """The demonstration, on one output."""

    def run(self) -> None:
        """Show all of it, or as much as rights and swap allow."""
        from contextlib import ExitStack

        with RunningWorkload("draw") as self.workload, Process(self.workload.pid) as self.process:
            start, size = self.workload.address, self.workload.truth["size"]
            self.area = f"{start:#x}+{size >> 20}M"
            self.selection = Selection(span=(start, start + size))
            self.drawn()
            with ExitStack() as stack:
                planned = self.planned(stack)
                effect = self.paged_out(planned) if planned else None
                if effect:
                    self.drawn_again(effect)
                    self.given_back()
        self.report(effect)

    def drawn(self) -> None:
        self.step("A drawing in memory")
        truth = self.workload.send(f"Draw {SEGMENTS}")
        self.say(
            f"A program of ours, PID {self.workload.pid}, has mapped {truth['nr_pages']:,} pages and written to"
            f" {truth['nr_touched']:,} of them, in {SEGMENTS}",
            "segments: all pages of the first, every other page of the next two, and again. Each has a frame in RAM:",
        )
        self.draw_pages(self.workload, self.process)

    def planned(self, stack: ExitStack) -> Plan | None:
        """Show what could be moved; return None when nothing could."""
        self.step("Where could it go?")
        self.say("Memory without a file can leave RAM only to swap. The plan reads, and moves nothing:")
        planned = self.plan()
        if not planned.nr_without_swap:
            return planned
        if planned.room.lacking == "cgroup":
            self.say("", "The memory cgroup of the program allows it too little swap.")
            return planned if planned.nr_movable else None
        lack = "too little free swap space" if planned.room.areas else "no swap space"
        if "CAP_SYS_ADMIN" not in effective_capabilities():
            self.say("", f"This machine has {lack}, so the story ends here. As root it makes some for itself:")
            self.say(f"  {sudo_line(WORDS)}")
            return None
        self.say(
            "",
            f"This machine has {lack}. We are allowed to make some, so for the time of this demo there is a swap",
            f"file of {format_size(SWAP_SIZE)}. It is taken away at the end, whatever ends it. Now the plan is:",
        )
        return self.plan() if self.swap_is_made(stack) else None

    def plan(self) -> Plan:
        planned = plan(self.process, "pageout", self.selection)
        table = plan_table(planned, {})
        lines = [*self.lines(table), *self.notes(table)]
        self.show(f"pageout {self.process.pid} {self.area} --dry-run", lines)
        return planned

    def swap_is_made(self, stack: ExitStack) -> bool:
        from mematlas.kernel.swapfile import TemporarySwap

        try:
            stack.enter_context(TemporarySwap(SWAP_SIZE))
        except (PermissionDenied, NotSupported) as error:
            self.say("")
            self.refused(error)
            return False
        return True

    def paged_out(self, planned: Plan) -> Effect | None:
        """Page out, and show what that did; return None when it is not allowed."""
        self.step("Out of RAM")
        try:
            check_way_back()
            effect = free_frames(self.process, act(self.process, planned, Options(exact=True)))
        except (PermissionDenied, NotSupported) as error:
            self.refused(error)
            return None
        self.say(
            "Now it is done. What is written to a disk stays in RAM too at first, in the swap cache. So --free",
            "reads that back and pages it out once more: it is in swap already, and its frames are given up at",
            "once. What moved is found by comparing each page before and after:",
        )
        who = {"pid": self.process.pid, "name": self.process.stat.name}
        view = effect_table(Report(effect, self.process.page_size), who)
        lines = [*self.lines(view), *self.notes(view)]
        self.show(f"pageout {self.process.pid} {self.area} --free", lines)
        self.say("", "Each s is swapped. The addresses stay; the program was not asked, and knows nothing of it:")
        self.draw_pages(self.workload, self.process)
        return effect

    def drawn_again(self, effect: Effect) -> None:
        self.step("Drawn again")
        self.say(
            f"We watch the pages for {WATCHED:g} s. For {QUIET:g} s nobody touches them; then the program draws the"
            " same once more.",
            "At each page it stops, which is a page fault, until the kernel has brought that back:",
        )
        before = read_faults(self.process.dir)
        refaults = self.watch(effect)
        self.write(*refault_lines(refaults, self.process.page_size, False, self.colour, self.room))
        self.say("", *fault_lines(before, read_faults(self.process.dir)))
        self.say("")
        self.draw_pages(self.workload, self.process)

    def watch(self, effect: Effect) -> Refaults:
        """Watch the pages come back while the program draws again."""
        lines = [f"Draw {SEGMENTS}"]

        def draw(seconds: float, nr_returned: int) -> None:
            if seconds >= QUIET and lines:
                self.workload.send(lines.pop())

        return watch_refaults(self.process, effect.moved, WATCHED, progress=draw)

    def given_back(self) -> None:
        self.step("Given back")
        self.workload.send("Clear")
        swap = status_bytes(read_status(self.process.dir), "VmSwap")
        self.say(
            "The program gives all of it back, frames and swap slots. The kernel counts (VmSwap) what it has in swap:",
            f"  {'not known' if swap is None else format_size(swap)}",
        )

    def report(self, effect: Effect | None) -> None:
        """End, when all that we made is gone."""
        ended = "The program has ended, and nothing is left of it." if effect else "The program has ended."
        self.say(
            "",
            ended,
            "Try the same on a program of your own:",
            "  mematlas pageout PID --dry-run                       what could move, what not, and why",
            "  mematlas pageout PID --watch-refaults 10s --undo     which of it is used, and which is cold",
            "  mematlas demo paging --tmux                          this one live, by your own hand",
        )

    def refused(self, error: Error) -> None:
        """Say why it goes no further, and what to type."""
        self.say(f"It cannot go on here: {error}")
        if isinstance(error, PermissionDenied):
            self.say(permission_hint(error, WORDS))


def fault_lines(before: Faults, after: Faults) -> list[str]:
    """Return what the faults between two moments were."""
    return [
        "The page faults of the whole program meanwhile, as /proc/PID/stat counts them:",
        f"  major {after.major - before.major:>5}  the page had to be read from swap",
        f"  minor {after.minor - before.minor:>5}  it was in RAM: read ahead along with a neighbour, or never given up",
    ]
