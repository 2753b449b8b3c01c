"""One run of a command: its target, its output, its repetition."""

from __future__ import annotations

import sys
from itertools import chain, islice

from mematlas.cli.options import form_of, repetition
from mematlas.errors import AssertionNotMet, BadInput, NoAddressSpace, ProcessGone, TargetNotFound
from mematlas.kernel.procfs import ProcFS
from mematlas.model.target import is_group
from mematlas.notes import Note, Notes
from mematlas.views.format import fold_message, format_message
from mematlas.views.table import target_of
from mematlas.views.terminal import screen_width, wants_colour

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, TextIO

    from mematlas.analysis.results import Reading
    from mematlas.cli.arguments import Namespace
    from mematlas.cli.launch import Launched
    from mematlas.cli.moments import Moment
    from mematlas.cli.signals import Interrupts
    from mematlas.cli.watchdog import Watchdog
    from mematlas.kernel.brokered import Lender
    from mematlas.model.target import Target
    from mematlas.observe.process import Process
    from mematlas.observe.process_set import ProcessSet
    from mematlas.timeline.unpacking import Unpacked
    from mematlas.timeline.writing import RecordingWriter
    from mematlas.views.table import Table

HEADING = 6
"""Lines that a heading, folded, and the first row below it may take."""


class Session:
    """One run of the command line: where it reads, what it looks at, where it writes."""

    def __init__(self, procfs: ProcFS, out: TextIO, err: TextIO, command: list[str] | None) -> None:
        self.procfs = procfs
        self.out = out
        self.err = err
        self.command = command
        """What followed ``--``; None without it."""
        self.launched: Launched | None = None
        self.watchdog: Watchdog | None = None
        """What may end us while we wait for the kernel."""
        self.lender: Lender | None = None
        """What keeps our rights, where we have left them."""
        self.words: list[str] = []
        """The words after the target."""
        self.text = ""
        self.named: list[str] = []
        """The targets as they were named: `text` may be where a moment of a recording was unpacked."""
        self.more: list[str] = []
        """Further targets, of a command that takes several."""
        self.recorded: dict[str, Any] | None = None
        """The machine that a recording is of, which is shown in the place of this one."""
        self.moments: dict[str, Unpacked] = {}
        """Moments of recordings that were named, unpacked."""
        self.why_now = ""
        """Why targets have to be of now; empty where they need not."""
        self.writer: RecordingWriter | None = None
        """What writes a recording, where that was made before rights were given up."""
        self.ending: Interrupts | None = None
        """What has signals end us in order, where there is something to take away."""
        self._will_repeat = False
        self._processes: list[Process] = []
        self._sets: list[ProcessSet] = []
        self._search_notes = Notes()

    def take_target(self, args: Namespace, default: str | None = None) -> None:
        """Find the target in the arguments, or start it. With a default, the words are not it."""
        self.words = list(args.words)
        interval, count = repetition(args)
        self._will_repeat = interval is not None and count != 1
        if self.command is not None:
            self.text = self._start(self.command, args.after)
            self.named = [self.text, *self.words]
            return
        text = args.pid or default
        if text is None:
            if not self.words:
                raise BadInput("which process? Give a PID, a name, or -- COMMAND")
            text = self.words.pop(0)
        self.named = [text, *self.words]
        places = self._places(text)
        self.text = places[0] if len(places) == 1 else text

    def _places(self, text: str) -> list[str]:
        """Return what stands for a target: of a moment of a recording the directories that it is unpacked to.

        Raises:
            BadInput: it is that, or a capture, and has to be of now.
        """
        if self.why_now and "/" in text:
            from mematlas.model.search import is_capture

            if is_capture(text):
                raise BadInput(f"{text} is a capture: {self.why_now}")
        if ("@" not in text and not text.endswith(".mematlas")) or self.command is not None:
            return [text]
        from mematlas.cli.moments import parse_moment

        moment = parse_moment(text)
        if moment and self.why_now:
            raise BadInput(f"{text} is a moment of a recording: {self.why_now}")
        return [text] if moment is None else list(self._unpack(moment).captures.values())

    def is_moment(self, text: str) -> bool:
        """Whether a text names a moment of a recording."""
        if "@" not in text and not text.endswith(".mematlas"):
            return False
        from mematlas.cli.moments import parse_moment

        return parse_moment(text) is not None

    def machine_at(self, text: str) -> str:
        """Return the directory that has what was recorded of the machine at a moment.

        Raises:
            BadInput: the text names no moment.
        """
        from mematlas.cli.moments import parse_moment

        if (moment := parse_moment(text)) is None:
            raise BadInput(f"{text!r} is no moment of a recording: FILE@30s, FILE@end")
        directory = self._unpack(moment, of_machine=True).directory
        self.procfs = ProcFS(directory)
        return directory

    def _unpack(self, moment: Moment, of_machine: bool = False) -> Unpacked:
        """Unpack a moment, unless it is; what it is unpacked to is taken away at the end."""
        from mematlas.cli.moments import about, unpack_moment

        text = moment.text
        if self.ending is None:
            from mematlas.cli.signals import Interrupts

            self.ending = Interrupts(self.err)
            self.ending.__enter__()
        if text not in self.moments:
            self.moments[text] = unpack_moment(moment, of_machine)
            self.write_notes([Note("moment", about(moment, self.moments[text]))])
        return self.moments[text]

    def _start(self, command: list[str], after: float) -> str:
        """Start a program to look at; return its PID, as a target."""
        from mematlas.cli.launch import Launched

        self.launched = Launched(command, after)
        return str(self.launched.pid_in_proc)

    @property
    def process(self) -> Process:
        """The one target, opened once for all repetitions, so that it stays the same process."""
        if not self._processes:
            from mematlas.model.target import by_number

            self.refuse_several()
            if (target := by_number(self.text, self.procfs)) is None:
                from mematlas.model.search import resolve

                target = resolve(self.text, self.procfs)
            try:
                self._open([target])
            except NoAddressSpace as error:
                if self.launched:
                    raise ProcessGone(error.pid) from None
                raise
        return self._processes[0]

    def take_more_targets(self) -> None:
        """Take the words that are left for further targets."""
        self.text, *self.more = [place for text in (self.text, *self.words) for place in self._places(text)]
        self.words = []

    def refuse_several(self) -> None:
        """Refuse moments of recordings that have several processes, where one is wanted.

        Raises:
            TargetAmbiguous: one has.
        """
        for text, moment in self.moments.items():
            if len(moment.captures) > 1:
                from mematlas.cli.moments import refuse_several

                refuse_several(text, moment.captures)

    @property
    def is_list(self) -> bool:
        """Whether several targets were named, one by one: each of them must be there."""
        return bool(self.more)

    @property
    def has_group(self) -> bool:
        """Whether any of the targets is a group: it may be any number of processes."""
        return any(map(is_group, (self.text, *self.more)))

    def find_sets(self) -> list[ProcessSet]:
        """Return the processes of each target, found now, and held until the next search."""
        from mematlas.observe.process_set import ProcessSet

        allow_many_files()
        self._let_go_of_sets()
        for text in dict.fromkeys((self.text, *self.more)):
            self._sets.append(ProcessSet(text, self.procfs))
        return list(self._sets)

    def _let_go_of_sets(self) -> None:
        while self._sets:
            self._sets.pop().close()

    @property
    def processes(self) -> list[Process]:
        """The targets, each once, for commands that take several or a whole group; any other text must name one."""
        if not self._processes and (self.more or is_group(self.text)):
            from mematlas.model.search import distinct

            allow_many_files()  # each process is held open
            targets: list[Target] = []
            try:
                for text in (self.text, *self.more):
                    targets += self._named(text)
            except BaseException:
                for target in targets:
                    target.close()
                raise
            self._open(distinct(targets))
        return self._processes or [self.process]

    def _named(self, text: str) -> list[Target]:
        """Return the processes that a text names: of a group all that answer, else the one."""
        from mematlas.model.search import find

        named = find(text, self.procfs)
        self._search_notes += named.notes
        return list(named)

    def _open(self, targets: list[Target]) -> None:
        from mematlas.observe.process import Process  # lists of many processes do without

        for target in targets:
            self._search_notes += target.notes
        self.write_notes(self._search_notes)  # before anything is done with what was found
        for target in targets:
            try:
                self._processes.append(Process(target.dir))
            except (ProcessGone, TargetNotFound, NoAddressSpace):
                target.close()
                if len(targets) == 1 or self.is_list:
                    raise
        for process in self._processes if self._will_repeat else ():
            process.expect_more_looks()
        if not self._processes:
            raise TargetNotFound(f"every process of {self.text} has ended")
        self.procfs = targets[0].procfs

    def no_more_words(self, why: str = "") -> None:
        """Refuse words that nobody asked for."""
        if self.words:
            raise BadInput(f"unexpected argument {self.words[0]!r}" + (f" ({why})" if why else ""))

    def close(self) -> None:
        """Let go of the target; wait for it when we started it."""
        self._let_go_of_sets()
        for process in self._processes:
            process.close()
        for moment in self.moments.values():
            moment.close()
        if self.ending:
            self.ending.__exit__(None)
        if self.launched:
            self.launched.wait()

    def target_info(self, reading: Reading | None = None, process: Process | None = None) -> dict[str, Any]:
        """Return the ``target`` of a result: who, and how long the reading took."""
        return target_of((process or self.process).stat, reading)

    def machine(self) -> dict[str, Any]:
        """Return the ``machine`` of a result."""
        from mematlas.model.machine import machine_of

        if self.recorded is not None:
            return self.recorded
        return machine_of(self.procfs)

    def show(self, make: Callable[[], Table], args: Namespace) -> None:
        """Write a result, once or at intervals; its notes go to standard error when it is text.

        Raises:
            AssertionNotMet: A check that was asked for found something, which has been written.
        """
        form = form_of(args)
        interval, count = repetition(args)
        if form != "table":
            failures = self._write(make, form, interval, count)
        elif interval is None:
            failures = self._show_once(make(), args)
        else:
            failures = self._repeat(make, interval, count, args)
        self.fail(failures)

    def fail(self, failures: list[str]) -> None:
        """End with what a check that was asked for has found, a line each, if it has found anything."""
        if failures:
            raise AssertionNotMet("\n".join(failures))

    def write_bytes(self, parts: Iterable[bytes]) -> None:
        """Write bytes as they are, to anything but a terminal."""
        if self.out.isatty():
            raise BadInput("not writing bytes to a terminal: redirect them to a file, or pipe them into xxd")
        self.out.flush()
        for part in parts:
            self.out.buffer.write(part)
        self.out.buffer.flush()

    def _write(self, make: Callable[[], Table], form: str, interval: float | None, count: int | None) -> list[str]:
        """Write results for programs; return what the last one failed in."""
        from mematlas.timeline.sampler import Sampler
        from mematlas.views.live import WHOLE
        from mematlas.views.writers import format_time, write

        failures: list[str] = []
        for snapshot in Sampler(make, interval or 0, count=1 if interval is None else count, budget=WHOLE):
            table = snapshot.found
            time = None if interval is None else format_time()
            write(table, form, self.out, self.machine(), is_first=not snapshot.elapsed, time=time)
            if form == "csv":
                self.write_notes(table.notes)
            self.out.flush()
            failures = table.failures
        return failures

    def _show_once(self, table: Table, args: Namespace) -> list[str]:
        """Write a result as text; return what it failed in."""
        width = self._width(args)
        lines = table.lines(in_bytes=args.bytes, colour=wants_colour(args.color, self.out), width=width)
        # The heading waits for what is below it: a target that is refused shows none. On a screen it may be folded.
        first = list(islice(lines, HEADING if width else 2))
        self.out.writelines(f"{line}\n" for line in chain(first, lines))
        self.out.flush()
        self.write_notes(table.notes)
        return table.failures

    def _width(self, args: Namespace) -> int:
        """Return the columns that text has to fit in; 0 for any number."""
        return 0 if args.wide else screen_width(self.out)

    def write_notes(self, notes: Iterable[Note]) -> None:
        """Write notes to standard error, each once."""
        self.write_lines([f"note: {format_message(self.as_named(note.text))}" for note in notes])

    def as_named(self, text: str) -> str:
        """Return a message with the moments of recordings as they were named, not where they are unpacked."""
        for name, moment in self.moments.items():
            text = text.replace(moment.directory, name)
        return text

    def write_lines(self, lines: list[str]) -> None:
        """Write lines to standard error, folded where that is a screen."""
        width = screen_width(self.err)
        self.err.writelines(f"{part}\n" for line in lines for part in fold_message(line, width))
        self.err.flush()

    def _repeat(self, make: Callable[[], Table], interval: float, count: int | None, args: Namespace) -> list[str]:
        """Write results as text at intervals; return what the last one failed in."""
        from mematlas.views.live import Changes, repeat

        colour = wants_colour(args.color, self.out)
        changes = Changes()
        notes = Notes()
        failures: list[str] = []

        def frame(height: int) -> Iterable[str]:
            nonlocal notes, failures
            table = make()
            notes, failures = table.notes, table.failures
            lines = table.lines(in_bytes=args.bytes, colour=colour, width=self._width(args), height=height)
            # Elsewhere than on a screen, which shows few of them, the lines may be more than memory holds.
            return changes.marked(lines) if colour and self.out.isatty() else lines

        repeat(frame, self.out, interval, count, colour)
        self.write_notes(notes)
        return failures


def allow_many_files() -> None:
    """Raise our bound of open files as far as it goes: it is low for the sake of programs that use select(2)."""
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def standard_session(command: list[str] | None) -> Session:
    """Return a session on the live /proc and the standard streams."""
    for stream in (sys.stdout, sys.stderr):
        # What cannot be encoded is written as an escape instead of ending in an error half-way.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="surrogateescape")  # what is no text is for us to refuse, as any bad address
    return Session(ProcFS(), sys.stdout, sys.stderr, command)
