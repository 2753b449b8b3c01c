"""The screen itself: which page is shown, what keys mean everywhere, what is watched for it."""

from __future__ import annotations

import asyncio
import select
import signal
import threading
import time
from contextlib import contextmanager, suppress

from textual import events
from textual.app import App
from textual.binding import Binding
from textual.message import Message
from textual.widgets import Input

from mematlas.errors import Error, NotSupported
from mematlas.tui.colours import Colours
from mematlas.tui.frame import FOOT, HEAD, Status, foot_row, machine_row, tabs_row
from mematlas.tui.help import HelpPage
from mematlas.tui.looking import Looker, Purse, mistake_of
from mematlas.tui.stage import RowStage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any, ClassVar, Protocol

    from textual.app import ComposeResult

    from mematlas.timeline.watch import Watch
    from mematlas.tui.drawing import Row
    from mematlas.tui.page import Page
    from mematlas.tui.viewing import Viewing

    Opened = Callable[[], Watch]

    class Recorder(Protocol):
        """What records a process when it is told to."""

        is_recording: bool
        why_not: str

        def begin(self, pid: int) -> None:
            """Begin."""

        def end(self) -> None:
            """End."""

        def heard(self) -> str:
            """Return what there is to say of it."""


SAID_SECONDS = 6.0
"""For which what was said stands."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
LEAST = 3
"""Rows of a page, with less than which nothing stands around it."""
FAR = 10
"""How much farther than brackets braces move the moment."""
BACK = ("escape", "backspace", "enter", "q", "f10", "?", "f1")
"""What leads back from what lies over a page; any other key that means nothing there is for the page."""


class Top(App[int]):
    """The live screen."""

    ENABLE_COMMAND_PALETTE = False
    AUTO_FOCUS = None
    ALLOW_SELECT = False
    """Rows have no text to select; a press where a prompt has just been taken away would fall over that."""
    BINDINGS: ClassVar = [Binding("ctrl+c", "quit", show=False, priority=True)]
    CSS = """
    Screen { layout: vertical; overflow: hidden; }
    RowStage { height: 1fr; }
    Input { dock: bottom; height: 1; border: none; padding: 0 1; }
    """

    class News(Message):
        """A thread that looks has something new."""

    def __init__(
        self,
        viewing: Viewing,
        pages: Sequence[Page],
        colours: Colours,
        openers: Mapping[str, tuple[Opened, float]],
        open_closely: Callable[[int], Opened] | None,
        interval: float,
        budget: float,
        rights: str,
        cost_of_all: Callable[[], float],
        recorder: Recorder | None = None,
    ) -> None:
        """``openers`` open what is watched, of all or of the machine, each with the seconds between two looks;
        ``open_closely`` opens the process of a PID. The threads that look do so; a recording has nothing to open.

        ``cost_of_all`` returns the processor seconds that all of this has taken so far; ``recorder`` records.
        """
        super().__init__(ansi_color=True)
        self.viewing = viewing
        self.pages = list(pages)
        self.page = self.pages[1 if viewing.focus else 0]
        self.colours = colours
        self.sheet: Page | None = None
        """What lies over the page: help, or a question."""
        self._openers, self._open_closely = openers, open_closely
        self._interval, self._budget = interval, budget
        self._rights = rights
        self._cost_of_all = cost_of_all
        self._recorder = recorder
        self._purse = Purse()
        self._beat_at = self._began = time.monotonic()
        self._drawn = 0.0
        """Processor seconds of this thread up to then."""
        self._is_used = False
        """Whether a key was pressed since then."""
        self._lookers: dict[str, Looker] = {}
        self._focused: tuple[int, int] | None = None
        """Who is looked at closely just now."""
        self._way: list[Page] = []
        """The pages that have led to this one, which escape leads back to."""
        self._places: list[tuple[int, int]] = []
        self._said_at = 0.0
        self._prompted = ""
        """What was asked for last: to search for, or to filter by."""
        self._field: Input | None = None
        """In which that is typed, as long as it is there."""
        self._searched = ""
        self._costs: list[tuple[float, float]] = []
        viewing.ask, viewing.ask_aside = self.ask, self.ask_aside
        self._aside: threading.Thread | None = None

    # What is there

    def compose(self) -> ComposeResult:
        """Return what is on the screen."""
        self.stage = RowStage(self.colours)
        yield self.stage

    def on_mount(self) -> None:
        """Begin to look."""
        if not self.is_headless:
            self._heed_signals()
        self.stage.focus()
        self._beat_at, self._drawn = time.monotonic(), time.thread_time()
        self.set_interval(1.0, self.beat)
        self.watch_what_is_needed()

    def _heed_signals(self) -> None:
        """End as with ``q`` where a signal says so, with the terminal as it was. What is ignored stays so: nohup(1)."""
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                asyncio.get_running_loop().add_signal_handler(number, self.exit, 128 + number)

    def beat(self) -> None:
        """Draw what changes with time alone; end where the terminal is gone, and nobody has told us (SIGHUP)."""
        if not self.is_headless and is_hung_up():
            self.exit(0)
        self._pay()
        self.draw()

    def _pay(self) -> None:
        """Have what was drawn by itself count against the budget: what keys have drawn is not to make looks fewer, and
        half of it is left for these.
        """
        now, drawn = time.monotonic(), time.thread_time()
        if not self._is_used:
            self._purse.take(min(drawn - self._drawn, self._budget / 2 * (now - self._beat_at)))
        self._beat_at, self._drawn, self._is_used = now, drawn, False

    def on_resize(self) -> None:
        """Draw for another size."""
        self.call_after_refresh(self.draw)

    def on_unmount(self) -> None:
        """Look no more."""
        for looker in self._lookers.values():
            looker.stop()
        for looker in self._lookers.values():
            looker.join(1.0)

    # What is watched

    def watch_what_is_needed(self) -> None:
        """Have looked at what the page needs, and at nothing else."""
        needs = self.page.needs.split()
        for name, (open_watch, interval) in self._openers.items():
            if name in needs and name not in self._lookers:
                self._look(name, open_watch, max(self._interval, interval))
        viewing = self.viewing
        if self._open_closely and viewing.focus != self._focused:
            if (old := self._lookers.pop("closely", None)) is not None:
                old.stop()
            viewing.closely, viewing.answers, self._focused = None, {}, viewing.focus
        if self._open_closely and viewing.focus and "closely" in needs and "closely" not in self._lookers:
            self._look("closely", self._open_closely(viewing.focus[0]), self._interval)
        for name, looker in self._lookers.items():
            looker.want(name in needs and not viewing.is_frozen)

    def _look(self, name: str, open_watch: Opened, interval: float) -> None:
        began = time.monotonic() - self._began

        def tell(looker: Looker) -> None:
            if looker.timeline is not None and self._lookers.get(name) is looker:
                self.viewing.shifts[id(looker.timeline)] = began
                setattr(self.viewing, name, looker.timeline)
            self.post_message(self.News())

        def answer(what: str, found: Any) -> None:
            # Who was looked at before may have been asked: that is no answer about who is now.
            if self._lookers.get(name) is looker:
                self.viewing.answers[what] = found
                self.post_message(self.News())

        looker = self._lookers[name] = Looker(open_watch, interval, self._budget, self._purse, tell, answer)
        looker.start()

    def ask(self, name: str, question: Any, is_each_time: bool = False) -> None:
        """Have something asked by the thread that looks closely: a function of its timeline."""
        looker = self._lookers.get("closely")
        if looker is None:
            self.viewing.answers[name] = NotSupported("this", "a live process")
            return
        looker.ask(name, question, is_each_time)

    def ask_aside(self, name: str, question: Any) -> bool:
        """Have something asked by a thread of its own, one thing at a time; return whether it is."""
        timeline = self.viewing.closely
        if self._aside is not None and self._aside.is_alive():
            self.say("still looking for what was asked before")
            return False
        self.viewing.answers.pop(name, None)

        def run() -> None:
            try:
                found = question(timeline)
            except Error as error:
                found = error
            except Exception as error:  # in a thread it would look like silence
                found = mistake_of(error)
            self.viewing.answers[name] = found
            self.post_message(self.News())

        self._aside = threading.Thread(target=run, daemon=True)
        self._aside.start()
        return True

    def on_top_news(self) -> None:
        """Show what is new."""
        viewing = self.viewing
        closely = self._lookers.get("closely")
        if viewing.focus is None and viewing.closely is not None and (moment := viewing.moment(viewing.closely)):
            one = moment.found.seen[0] if moment.found.seen else None
            viewing.focus = self._focused = (one.pid, one.start_time) if one else None
        if closely and closely.error:
            self.say(str(closely.error))
        elif closely and closely.is_over and viewing.focus:
            self.say(f"process {viewing.focus[0]} has ended: what was seen of it stays; 1 leads to the others")
        self.draw()

    # Drawing

    def draw(self) -> None:
        """Draw all anew; what is as it was is not sent to the terminal again."""
        width, height = self.stage.size
        if not width or not height:
            return
        self.stage.show(self.rows(width, height))

    @property
    def is_bare(self) -> bool:
        """Whether there is no room for more than the page."""
        return self.stage.size.height < HEAD + FOOT + LEAST

    def rows(self, width: int, height: int) -> list[Row]:
        """Return all rows of the screen."""
        status = self.status()
        shown = self.sheet or self.page
        tabs, self._places = tabs_row(self.pages, self.page, status, width)
        room = height if self.is_bare else height - HEAD - FOOT
        try:
            rows = list(shown.draw(width, room))[:room]
        except Error as error:
            from mematlas.tui.drawing import sentence

            rows = sentence(str(error), width, room)
        if self.is_bare:
            return rows
        rows += [[] for _ in range(room - len(rows))]
        return [machine_row(status, width), tabs, *rows, foot_row(shown, status, width)]

    def status(self) -> Status:
        """Return what stands around the page."""
        viewing = self.viewing
        if self._recorder and (said := self._recorder.heard()):
            what, is_whole, _ = said.partition("; next: ")  # the rest has no room, and is said when this ends
            self.say(f"recorded {what}; mematlas top opens it" if is_whole else said)
        if viewing.said and time.monotonic() - self._said_at > SAID_SECONDS:
            viewing.said, self._said_at = "", 0.0
        counters: Mapping[str, int] = {}
        with suppress(Error):  # what is wrong with a recording is said by the page
            moment = viewing.latest()
            counters = moment.found.counters if moment else {}
        at = viewing.clock
        when = f"{at:.1f} of {viewing.reach[1]:.1f} s"
        if viewing.is_live and viewing.at is None:
            when = "as captured" if viewing.captured else "live"
        if viewing.is_frozen:
            when = f"frozen at {at:.1f} s"
        if self._recorder and self._recorder.is_recording:
            when = f"recording, {when}"
        if viewing.compared is not None:
            when += f" vs {viewing.compared:.1f} s"
        cost = f"{self.pause():g} s · {100 * self.cost():.1f} % of a core" if viewing.is_live else ""
        return Status(viewing.place, counters, self._rights, cost, when, viewing.said)

    def pause(self) -> float:
        """Return the seconds between two looks at what is shown, as they are just now."""
        looker = self._lookers.get(self.page.needs.partition(" ")[0])
        seconds = looker.pause if looker else self._interval
        return round(seconds, 1 if seconds < 10 else None)

    def cost(self) -> float:
        """Return the part of a processor that all of this takes, of the last ten seconds."""
        now, spent = time.monotonic(), self._cost_of_all()
        if not self._costs or now - self._costs[-1][0] >= 1:
            self._costs.append((now, spent))
            while len(self._costs) > 2 and now - self._costs[1][0] >= 10:
                self._costs.pop(0)
        first, before = self._costs[0]
        return (spent - before) / (now - first) if now > first else 0.0

    def say(self, text: str) -> None:
        """Say something in the last row, for a while."""
        self.viewing.said, self._said_at = text, time.monotonic()

    # Keys and mouse

    def on_key(self, event: events.Key) -> None:
        """Do what a key means."""
        if self._field is not None:
            self._key_of_prompt(event, self._field)
            return
        key = event.character if event.character and event.character.isprintable() else event.key
        key = "space" if key == " " else key
        event.stop()
        event.prevent_default()
        with self.saying_why_not():
            if self.sheet:
                if not self.sheet.press(key):
                    self.sheet = None
                    if key not in BACK:
                        self.press_on_page(key)
            else:
                self.press_on_page(key)
        if self.is_running:
            self.follow()

    @contextmanager
    def saying_why_not(self) -> Iterator[None]:
        """Say why something cannot be done: what a key asks for may be what is wrong with a recording."""
        try:
            yield
        except Error as error:
            self.say(str(error))

    def follow(self) -> None:
        """Go where a page leads to, have looked at what is needed there, and draw."""
        self._is_used = True
        if self.viewing.leads_to:
            self.go_to(self.viewing.leads_to)
            self.viewing.leads_to = ""
        if self.viewing.said and not self._said_at:
            self._said_at = time.monotonic()
        self.watch_what_is_needed()
        self.draw()
        if self.page.rests:
            self.set_timer(self.page.rests, self.draw)

    def press_on_page(self, key: str) -> None:
        """Do what a key means on the page that is shown, or on every one."""
        if not self.page.press(key):
            self.press(key)

    def press(self, key: str) -> None:
        """Do what a key means on every page."""
        viewing = self.viewing
        if key in ("q", "f10"):
            self.exit(0)
        elif key.isdecimal() and 0 < int(key) <= len(self.pages):
            self.turn_to(self.pages[int(key) - 1])
        elif key in ("tab", "shift+tab"):
            step = 1 if key == "tab" else -1
            self.turn_to(self.pages[(self.pages.index(self.page) + step) % len(self.pages)])
        elif key in ("escape", "backspace") and self._way:
            self.page = self._way.pop()
        elif key in ("?", "f1"):
            self.sheet = HelpPage(viewing, self.page)
        elif key in ("z", "space"):
            viewing.is_frozen = not viewing.is_frozen
            viewing.at = viewing.clock if viewing.is_frozen else None
        elif key in ("[", "]", "{", "}"):
            is_newest = viewing.at is None
            viewing.step((1 if key in "[]" else FAR) * (-1 if key in "[{" else 1))
            if is_newest and viewing.at is not None:
                self.say("all pages show this moment: [ { earlier, ] } later, z twice the newest")
        elif key == "s":
            viewing.compared = viewing.clock
            self.say(f"all is compared with {viewing.compared:.1f} s from here on: d ends that")
        elif key == "d":
            self.compare()
        elif key == "a":
            self.act()
        elif key == "r":
            self.record()
        elif key == "y":
            line = self.page.command()
            self.copy_to_clipboard(line)
            self.say(f"copied: {line}")
        elif key in ("/", "f3", "\\", "f4"):
            self.prompt("search" if key in ("/", "f3") else "filter")
        elif key in ("n", "N"):
            self.search(1 if key == "n" else -1)

    def act(self) -> None:
        """Ask what to do to the process, unless nothing may be done to it."""
        from mematlas.tui.act import ActPage

        viewing = self.viewing
        if viewing.why_no_act:
            self.say(viewing.why_no_act)
        elif "closely" not in self._lookers:
            self.say("act on whom? Choose a process, and Enter")
        elif viewing.closely is None:
            self.say("the process is looked at first: once more in a moment")
        else:
            self.sheet = ActPage(viewing)

    def record(self) -> None:
        """Record the process from here on, or no longer."""
        viewing = self.viewing
        if self._recorder is None:
            self.say("a recording, or a capture: nothing goes on that could be recorded")
        elif self._recorder.is_recording:
            self._recorder.end()
            self.say("the recording ends ...")
        elif self._recorder.why_not:
            self.say(self._recorder.why_not)
        elif viewing.focus is None:
            self.say("record whom? Choose a process, and Enter")
        else:
            self._recorder.begin(viewing.focus[0])
            self.say(f"recording process {viewing.focus[0]} from here on: r ends it")

    def compare(self) -> None:
        """Compare with the snapshot, or no more."""
        viewing = self.viewing
        if viewing.compared is None:
            self.say("nothing to compare with yet: s takes a snapshot")
        else:
            viewing.compared = None
            self.say("compared with nothing")

    def go_to(self, name: str) -> None:
        """Show the page of a name, where another one has led."""
        self._way.append(self.page)
        self.page = next(page for page in self.pages if page.name == name)

    def turn_to(self, page: Page) -> None:
        """Show a page that was asked for itself: there is no way back."""
        self._way.clear()
        self.page = page

    def prompt(self, what: str) -> None:
        """Ask for a text to search for, or to filter by."""
        self._prompted = what
        self.stage.can_focus = False  # Tab would lead there, and what is typed nowhere
        self._field = Input(placeholder=f"{what}: Enter, or Esc", id="prompt", select_on_focus=False)
        self.mount(self._field)
        self._field.focus()

    def _key_of_prompt(self, event: events.Key, field: Input) -> None:
        """Do what a key means that the field has not taken: all of them, until a moment later it has the keys."""
        event.stop()
        if event.key == "escape":
            self.end_prompt()
        elif self.focused is field:
            return
        elif event.key == "enter":
            self.answer_prompt(field.value)
        elif event.character and event.is_printable:
            field.value += event.character
            field.cursor_position = len(field.value)

    def end_prompt(self) -> None:
        """Take the prompt away."""
        if self._field is not None:
            self._field.remove()
        self._field = None
        self.stage.can_focus = True
        self.stage.focus()
        self.call_after_refresh(self.draw)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Search, or filter."""
        self.answer_prompt(event.value)

    def answer_prompt(self, text: str) -> None:
        """Search for a text, or filter by it."""
        self.end_prompt()
        with self.saying_why_not():
            if self._prompted == "filter":
                self.page.filter(text)
            elif text:
                self._searched = text
                self.search(1)

    def search(self, step: int) -> None:
        """Go to the next place that has what is searched for."""
        if not self._searched:
            self.say("nothing to search for yet: / asks for it")
        elif not self.page.search(self._searched, step):
            self.say(f"no {self._searched!r} here")

    def on_click(self, event: events.Click) -> None:
        """Do what a click means: on a screen's name, or on the page."""
        if self._field is not None:
            self.end_prompt()
        head, foot = (0, 0) if self.is_bare else (HEAD, FOOT)
        with self.saying_why_not():
            if event.y == head - 1:
                for page, (first, end) in zip(self.pages, self._places, strict=True):
                    if first <= event.x < end:
                        self.turn_to(page)
                        self.sheet = None
            elif self.sheet:
                self.sheet.click(event.x, event.y - head, event.chain > 1)
            elif head <= event.y < self.stage.size.height - foot:
                self.page.click(event.x, event.y - head, event.chain > 1)
        self.follow()

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Scroll."""
        self._wheel(event.x, event.y, -1)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Scroll."""
        self._wheel(event.x, event.y, 1)

    def _wheel(self, x: int, y: int, step: int) -> None:
        self._is_used = True
        with self.saying_why_not():
            (self.sheet or self.page).wheel(x, y - (0 if self.is_bare else HEAD), step)
        self.draw()


def is_hung_up() -> bool:
    """Whether the terminal that we read from is gone."""
    poll = select.poll()
    poll.register(0, select.POLLHUP)
    return any(event & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, event in poll.poll(0))
