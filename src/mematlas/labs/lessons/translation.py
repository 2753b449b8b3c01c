"""The lesson on addresses: from a virtual one to a physical one, by hand."""

from __future__ import annotations

from mematlas.kernel.pagemap import ENTRY_SIZE, PM_PFRAME, PM_PRESENT, Pagemap
from mematlas.labs.lesson import Lesson, Stage, Step, hidden_frames
from mematlas.labs.question import Number, OneOf, Question

NR_PAGES, PROBED_PAGE, PROBED_BYTE = 16, 5, 0x123

NUMBER = Number("", hexadecimal=True)
NO_FRAME, FRAME_0, HIDDEN = (
    "The page has no frame",
    "The page lies in frame 0",
    "The kernel does not show us the number",
)


def choose(stage: Stage) -> None:
    stage.send(f"map {NR_PAGES}")
    stage.send(f"write 0 {NR_PAGES}")
    stage.know(byte=stage.facts["address"] + PROBED_PAGE * stage.facts["page_size"] + PROBED_BYTE)


def page_number(stage: Stage) -> int:
    stage.know(page_number=stage.facts["byte"] // stage.facts["page_size"])
    return int(stage.facts["page_number"])


def page_offset(stage: Stage) -> int:
    stage.know(page_offset=stage.facts["byte"] % stage.facts["page_size"])
    return int(stage.facts["page_offset"])


def file_offset(stage: Stage) -> int:
    with Pagemap(stage.process().dir) as pagemap:
        entry = pagemap.entry(stage.facts["byte"])
    stage.know(file_offset=stage.facts["page_number"] * ENTRY_SIZE, entry=entry)
    return int(stage.facts["file_offset"])


def frame(stage: Stage) -> int:
    (pfn,) = stage.frames(PROBED_PAGE, 1)
    stage.know(pfn=pfn)
    return pfn


def physical(stage: Stage) -> int:
    translation = stage.process().translate([stage.facts["byte"]])[0]
    assert translation.phys is not None
    return translation.phys


def why_no_frame(stage: Stage) -> str:
    entry = stage.facts["entry"]
    stage.know(rss=stage.rss())
    if not entry & PM_PRESENT:
        return NO_FRAME
    return FRAME_0 if entry & PM_PFRAME else HIDDEN


def shown_frames(stage: Stage) -> str:
    """Return why the step for those who see no frames is left out; empty for them."""
    return "" if hidden_frames(stage) else "it is for those who cannot see frame numbers, and we can"


TRANSLATE = Lesson(
    name="translate",
    title="Translate an address by hand",
    rights="none; CAP_SYS_ADMIN shows the frame",
    intro="""\
Every address in a program is virtual. Where in RAM is the byte? We find out as the kernel's own file
/proc/PID/pagemap has it, one step at a time. The workload is PID {pid}.

Numbers can be decimal or hexadecimal (0x...), or formulas: + - * // % << >> & | with the names byte, page_size and,
once they are known, page_number, page_offset, file_offset, entry, pfn.""",
    steps=(
        Step(
            title="The page number",
            text="Take the byte at {byte:#x}. A page has {page_size} = {page_size:#x} bytes here.",
            question=Question(
                "page_number", "What is the number of the page that it lies in, counted from address 0?", NUMBER
            ),
            measure=page_number,
            source="byte // page_size",
            explain="""\
The address divided by the size of a page, without the remainder. With pages of 0x1000 bytes that is the address
without its last three hexadecimal digits, with pages of 0x10000 bytes without the last four.""",
            prepare=choose,
        ),
        Step(
            title="The offset in the page",
            text="",
            question=Question("page_offset", "And where in that page does it lie?", NUMBER),
            measure=page_offset,
            source="byte % page_size",
            explain="""\
The remainder: with pages of 0x1000 bytes the last three hexadecimal digits. Translation replaces the page by a frame
and leaves the offset as it is.""",
        ),
        Step(
            title="The offset in pagemap",
            text="/proc/{pid}/pagemap is a file with one entry of 8 bytes for each page, in order, from page 0 on.",
            question=Question("file_offset", "At which byte of that file is the entry of this page?", NUMBER),
            measure=file_offset,
            source="page_number * 8",
            explain="""\
We read 8 bytes there. The entry is {entry:#018x}. Bit 63, the highest, says present. Bit 56 says that no other entry
leads to this frame. Bits 0 to 54 hold the number of the frame, for those who may know it.""",
        ),
        Step(
            title="The frame",
            text="The entry is {entry:#018x}; its bits 0 to 54 are the number of the frame (PFN).",
            question=Question("pfn", "What is that number?", NUMBER),
            measure=frame,
            source="mematlas translate {pid} {byte:#x}",
            explain="entry & ((1 << 55) - 1). Frames are what RAM is divided into, of the same size as pages.",
            unless=hidden_frames,
        ),
        Step(
            title="The physical address",
            text="The page is in frame {pfn:#x}, the byte at offset {page_offset:#x} of it.",
            question=Question("physical", "What is the physical address of the byte?", NUMBER),
            measure=physical,
            source="mematlas translate {pid} {byte:#x}",
            explain="""\
pfn * page_size + page_offset. The page before this one may be anywhere else in RAM: what is contiguous for the
program need not be so in memory.""",
            unless=hidden_frames,
        ),
        Step(
            title="The hidden frame",
            text="""\
The entry is {entry:#018x}. Bit 63 is set: the page is present. But bits 0 to 54, where the number of the frame
should be, are all 0.""",
            question=Question("hidden", "Why?", OneOf((NO_FRAME, FRAME_0, HIDDEN))),
            measure=why_no_frame,
            source="bit 63 of the entry, and RSS of the VMA: {rss:pages} in RAM",
            explain="""\
Whoever knows where pages lie in RAM can attack the memory of others through the hardware (rowhammer), so since
Linux 4.2 the kernel fills in the frame only for readers with CAP_SYS_ADMIN. All other bits are shown. Run this lesson
as root for the last steps.""",
            unless=shown_frames,
        ),
    ),
    outro="""\
Page number and offset; the page table replaces the page by a frame; the offset stays.

 mematlas translate PID ADDRESS     all of it at once
 mematlas pages PID ADDRESS         the entry, decoded""",
)
