"""What a frame of RAM is, and which processes map it where: a row for each. Frames that nobody maps say what the
kernel has them for: the cache of a slab, the process of a page table, the size of a free block, the inode of a file.

FRAME is pfn:N or pfn:0xN, a frame number, or phys:0xN, a physical address; a range is START-END (END is not in it),
START+FRAMES or, of addresses, START+LENGTH. Needs CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH.
"""

from __future__ import annotations

from mematlas.cli.command import Command
from mematlas.cli.frame_words import FORMS, parse_frames
from mematlas.cli.options import add_output, add_repeat, parse_count
from mematlas.cli.session import allow_many_files
from mematlas.errors import BadInput
from mematlas.observe.machine import Machine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session
    from mematlas.views.table import Table


def add_arguments(arguments: Arguments) -> None:
    arguments.add_argument("words", nargs="*", metavar="FRAME", help="pfn:N, pfn:0xN or phys:0xN, or a range of them")
    arguments.add_argument("--limit", type=parse_count, metavar="N", help="show N rows")
    add_repeat(arguments)
    add_output(arguments)


def run(args: Namespace, session: Session) -> int:
    if not args.words:
        raise BadInput(f"which frame? {FORMS}")
    spans = [parse_frames(word, session.procfs.page_size) for word in args.words]
    allow_many_files()

    def make() -> Table:
        from mematlas.views.frame_owners import owners_table

        return owners_table(Machine(session.procfs).owners(spans), args.limit)

    session.show(make, args)
    return 0


COMMAND = Command(
    "[options] FRAME...",
    __doc__,
    add_arguments,
    run,
    examples=(
        ("mematlas owner pfn:0x1a2b3c", "who maps this frame, and what it is"),
        ("mematlas owner phys:0x1a2b3c000+64K", "the frames of a range of addresses"),
        ("mematlas owner pfn:0x1a2b3c+16 --json", "16 frames, for a program"),
    ),
)
