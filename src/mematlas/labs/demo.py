"""The tour: what a page of memory goes through, on a program that it starts itself, with the figures of now."""

from __future__ import annotations

from mematlas.labs.running_workload import RunningWorkload
from mematlas.labs.story import SEGMENTS, Story, area_of
from mematlas.notes import Notes
from mematlas.observe.process import Process
from mematlas.views.format import format_size
from mematlas.views.maps import maps_table
from mematlas.views.translate import translate_table
from mematlas.views.usage import Subject, usage_table

PROBED_PAGE = 7
PROBED_BYTE = 0x123


class Tour(Story):
    """The tour, on one output."""

    def run(self) -> None:
        """Give all of it."""
        with RunningWorkload("draw") as workload, Process(workload.pid) as process:
            self.untouched(workload, process)
            self.drawn(workload, process)
            self.translated(workload, process)
            self.counted(workload, process)
            self.given_back(workload, process)

    def untouched(self, workload: RunningWorkload, process: Process) -> None:
        size = format_size(workload.truth["size"])
        self.step("Reserved is not used")
        self.say(
            f"A program of ours, PID {workload.pid}, has mapped {workload.truth['nr_pages']:,} pages, {size}.",
            "It has touched none of them, so no memory stands behind them:",
        )
        self.maps(workload, process)

    def drawn(self, workload: RunningWorkload, process: Process) -> None:
        self.step("Touched is used")
        truth = workload.send(f"Draw {SEGMENTS}")
        self.say(
            f"Now it writes to {truth['nr_touched']:,} pages, in {SEGMENTS} segments: all pages of the first, every",
            "second one of the next two, and again. The kernel gives each page a frame when it is first touched:",
        )
        self.draw_pages(workload, process)

    def translated(self, workload: RunningWorkload, process: Process) -> None:
        self.step("Where a byte really is")
        address = workload.address + PROBED_PAGE * process.page_size + PROBED_BYTE
        translations = process.translate([address])
        translation = translations[0]
        self.say(f"Take the byte at {address:#x}, in page {PROBED_PAGE} of the drawing.")
        table = translate_table(translations, {})
        self.show(f"translate {workload.pid} {address:#x}", self.lines(table))
        if translation.pfn is None:
            self.say("The frame is hidden from us: physical addresses need CAP_SYS_ADMIN, or root.")
            return
        offset = address % process.page_size
        self.say(
            f"Its offset in the page is {offset:#x}. Frame {translation.pfn} x {process.page_size} + {offset:#x}"
            f" = {translation.phys:#x}: there it is in RAM."
        )

    def counted(self, workload: RunningWorkload, process: Process) -> None:
        self.step("Counted twice")
        self.say("The kernel's own sum (smaps), and ours, page by page (pagemap). They agree to the page:")
        for source in ("smaps", "pagemap"):
            usage = process.maps(source, selection=area_of(workload)).vmas[0].usage
            amounts = f"RSS {known(usage.rss)}, USS {known(usage.uss)}, PSS {known(usage.pss)}"
            self.say(f"  {source:<8} {amounts}, {usage.nr_present} pages present")
        truth = workload.truth["nr_touched"]
        self.say(f"  truth    {truth} pages touched, {format_size(truth * process.page_size)}")
        result = process.usage()
        info = {"pid": process.pid, "name": process.stat.name}
        self.say("The whole program, with its interpreter:")
        table = usage_table([Subject(info, result)], Notes())
        self.show(f"usage {workload.pid}", self.lines(table))

    def given_back(self, workload: RunningWorkload, process: Process) -> None:
        self.step("Given back")
        workload.send("Clear")
        self.say("The program gives the pages back, and keeps the addresses:")
        self.maps(workload, process)
        self.say(
            "",
            "That was demand paging. Try the same on a program of your own:",
            "  mematlas                  the largest processes",
            "  mematlas map PID -i 1s    watch one live",
            "  mematlas doctor           what else would work here, and what it needs",
        )

    def maps(self, workload: RunningWorkload, process: Process) -> None:
        result = process.maps(selection=area_of(workload))
        table = maps_table(result, {}, False)
        self.show(f"maps {workload.pid} {workload.address:#x}", self.lines(table))


def known(size: int | None) -> str:
    """Return a size, or that it is not known."""
    return "not known" if size is None else format_size(size)
