"""Acting on the process: what is to be done with which pages, the plan, a question, and then what came of it."""

from __future__ import annotations

from mematlas.model.address_space import EVERYTHING, Selection
from mematlas.tui.drawing import sentence
from mematlas.tui.page import Page
from mematlas.views.format import fold_message, format_address, format_message, format_path, format_size
from mematlas.views.picture import short_name
from mematlas.views.plans import DO, plan_table, verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from mematlas.actions.plans import Plan
    from mematlas.kernel.madvise import AdviceName
    from mematlas.timeline.timeline import LiveTimeline
    from mematlas.tui.drawing import Row
    from mematlas.tui.viewing import Viewing
    from mematlas.views.effects import Report
    from mematlas.views.table import Table

ABOUT: dict[AdviceName, str] = {
    "pageout": "out of RAM: memory to swap, pages of files back to these",
    "cold": "the first to go when memory is short; nothing leaves RAM now",
    "willneed": "what is in swap, or in files only, back into RAM",
    "collapse": "small pages together into huge ones",
}
LETTERS: dict[str, AdviceName] = {"p": "pageout", "c": "cold", "w": "willneed", "o": "collapse"}
REFAULTS = 10.0
"""Seconds for which pages that were moved out are watched."""
PLAN, EFFECT = "act-plan", "act-effect"


class ActPage(Page):
    """Lies over a page until what was asked for is done, or is not to be."""

    name = "Act"
    is_sheet = True

    def __init__(self, viewing: Viewing) -> None:
        super().__init__(viewing)
        self.advice: AdviceName | None = None
        """What is to be done; None while that is asked."""
        self.spans = spans_of(viewing)
        self.at = 0
        """Which of these is meant."""
        self.is_confirmed = False
        self.top = 0
        self._is_stopped = False
        for name in (PLAN, EFFECT):
            viewing.answers.pop(name, None)

    @property
    def keys(self) -> tuple[tuple[str, str], ...]:  # type: ignore[override]
        """What can be done next."""
        if self.advice is None:
            other = (("v", "which pages"),) if len(self.spans) > 1 else ()
            return (*((letter, DO[advice]) for letter, advice in LETTERS.items()), *other, ("Esc", "back"))
        if self.is_confirmed:
            report = self._report()
            return (("Esc", "stop, and back" if report is None or is_watched(report) else "back"),)
        return (("y", "do it"), ("Esc", "do nothing"))

    # What is drawn

    def draw(self, width: int, height: int) -> Sequence[Row]:
        """Return what is asked, planned, or done."""
        head: list[Row] = [[(f" Act on {self._who()}", "title")], [(f" {self.spans[self.at][0]}", "text")]]
        head.append([(f" {self._question()}", "title")])
        room = height - len(head)
        if self.advice is None:
            return [*head, *self._choices()][:height]
        text = self._text(width - 2)
        if text is None:
            what = "doing it ..." if self.is_confirmed else "looking what can be done ..."
            return [*head, *sentence(what, width, room)][:height]
        self.top = max(min(self.top, len(text) - room), 0)
        return [*head, *([(f" {line}", "text")] for line in text[self.top : self.top + room])]

    def _question(self) -> str:
        """Return what is asked now: where there is a plan, whether to do it."""
        planned: Plan | None = self.viewing.answer(PLAN)
        if self.advice is None or self.is_confirmed or planned is None:
            return ""
        if not planned.nr_movable:
            return "Nothing would come of it: Esc goes back."
        return f"{verdict(planned).partition(';')[0].replace('could', 'y will')}; Esc does nothing."

    def _who(self) -> str:
        seen = self.viewing.seen()
        return f"{format_path(seen.name)}, PID {seen.pid}" if seen else "nobody"

    def _choices(self) -> list[Row]:
        rows: list[Row] = []
        for letter, advice in LETTERS.items():
            rows.append([(f"   {letter}  ", "title"), (f"{DO[advice]:<14}", "text"), (ABOUT[advice], "muted")])
        rows += [[], [(" First the plan is shown, and nothing is done before you have said so.", "muted")]]
        if len(self.spans) > 1:
            rows.append([(" v: other pages", "muted")])
        return rows

    def _text(self, width: int) -> list[str] | None:
        """Return the lines of the plan, or of what was done; None while that is waited for."""
        viewing = self.viewing
        name = EFFECT if self.is_confirmed else PLAN
        if why := viewing.why_not(name):
            return fold_message(why, width)
        if self.is_confirmed:
            report = self._report()
            if report is None:
                return None
            lines = self._lines(effect_of(report, self._target()), width)
            if is_watched(report) and not self._is_stopped:
                lines += ["", f"Watching for {REFAULTS:g} s what comes back ... Esc ends that."]
            return lines
        planned: Plan | None = viewing.answer(PLAN)
        return None if planned is None else self._lines(plan_table(planned, self._target()), width)

    def _report(self) -> Report | None:
        report: Report | None = self.viewing.answer(EFFECT)
        return report

    def _target(self) -> dict[str, Any]:
        seen = self.viewing.seen()
        return {"name": seen.name, "pid": seen.pid} if seen else {"name": "", "pid": 0}

    def _lines(self, table: Table, width: int) -> list[str]:
        notes = [line for note in table.notes for line in fold_message(f"note: {format_message(note.text)}", width)]
        return [*table.lines(in_bytes=False, colour=False, width=width), *notes]

    # What is done

    def press(self, key: str) -> bool:
        """Choose, confirm, or scroll; return False to go back."""
        step = {"down": 1, "j": 1, "up": -1, "k": -1, "pagedown": 10, "pageup": -10}.get(key)
        if step:
            self.top += step
        elif self.advice is None and key == "v":
            self.at = (self.at + 1) % len(self.spans)
        elif self.advice is None and key in LETTERS:
            self.advice = LETTERS[key]
            self._ask(PLAN, self._plan)
        elif self.advice is not None and not self.is_confirmed and key == "y":
            self._confirm()
        else:
            self._is_stopped = key in ("escape", "q", "backspace")
            return key not in ("escape", "q", "backspace")
        return True

    def wheel(self, x: int, y: int, step: int) -> None:
        """Scroll."""
        self.top += 3 * step

    def _confirm(self) -> None:
        planned: Plan | None = self.viewing.answer(PLAN)
        if planned is None or not planned.nr_movable:
            return
        self.is_confirmed = True
        self.top = 0
        self._ask(EFFECT, lambda timeline: self._do(timeline, planned))

    def _ask(self, name: str, question: Callable[[LiveTimeline], Any]) -> None:
        if self.viewing.ask:
            self.viewing.ask(name, question)

    def _plan(self, timeline: LiveTimeline) -> Plan:
        """Return what would come of it. Called by the thread that looks."""
        from mematlas.actions.plans import plan
        from mematlas.actions.refusals import check_target

        assert self.advice
        assert self.viewing.focus
        process = timeline.watch.process(self.viewing.focus[0])
        check_target(process)
        span = self.spans[self.at][1]
        return plan(process, self.advice, EVERYTHING if span is None else Selection(span=span))

    def _do(self, timeline: LiveTimeline, planned: Plan) -> Report:
        """Do it; return what came of it. Called by the thread that looks."""
        from mematlas.actions.acts import act
        from mematlas.actions.options import Options
        from mematlas.actions.refaults import watch_refaults
        from mematlas.views.effects import Report

        assert self.viewing.focus
        process = timeline.watch.process(self.viewing.focus[0])
        effect = act(process, planned, Options(stop=self._stop))
        report = Report(effect=effect, page_size=process.page_size)
        if not is_watched(report) or self._stop():
            return report
        self.viewing.answers[EFFECT] = report  # what was done is shown while it is watched what comes back
        refaults = watch_refaults(process, effect.moved, REFAULTS, stop=self._stop)
        return Report(effect=effect, page_size=process.page_size, refaults=refaults)

    def _stop(self) -> bool:
        return self._is_stopped

    def command(self) -> str:
        """Return the command line that does the same."""
        span = self.spans[self.at][1]
        where = "" if span is None else f" {format_address(span[0])}+{span[1] - span[0]:#x}"
        return f"mematlas {self.advice or 'pageout'} {self.viewing.target}{where} --dry-run"


def is_watched(report: Report) -> bool:
    """Whether what was moved out is still watched."""
    return report.effect.advice == "pageout" and not report.effect.gone and report.refaults is None


def effect_of(report: Report, target: dict[str, Any]) -> Table:
    """Return what an act did, as its command shows it."""
    from mematlas.views.effects import effect_table

    return effect_table(report, target)


def spans_of(viewing: Viewing) -> list[tuple[str, tuple[int, int] | None]]:
    """Return which pages can be meant, in words, with their addresses: all, and the VMA that the cursor is in."""
    found: list[tuple[str, tuple[int, int] | None]] = [("all of its memory", None)]
    seen = viewing.seen()
    at = viewing.address
    for item in (seen.vmas or ()) if seen and at is not None else ():
        vma = item.vma
        if at is not None and vma.start <= at < vma.end:
            text = f"the VMA {short_name(vma)} at {format_address(vma.start)}, {format_size(vma.size)}"
            found.insert(0, (text, (vma.start, vma.end)))
    return found
