"""The engine of the lessons: predict, do, measure, explain.

A `Lesson` is data: texts with ``{facts}`` in them, and a few small functions that act on a `Stage`. The stage is
where it happens: a workload of our own, driven by lines, and mematlas looking at it. A `Guide` teaches the lesson on
one output and takes the predictions from a person or from a file.
"""

from __future__ import annotations

import string
import time

from mematlas.errors import BadInput, Error, NotSupported, PermissionDenied
from mematlas.frozen import record
from mematlas.kernel.rights import effective_capabilities
from mematlas.labs.question import OneOf
from mematlas.labs.running_workload import RunningWorkload
from mematlas.model.address_space import Selection
from mematlas.model.pages import STATE_OF_BYTE, Hole
from mematlas.observe.process import Process
from mematlas.views.format import format_seconds, format_size
from mematlas.views.terminal import paint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Protocol, Self, TextIO

    from mematlas.analysis.results import VmaUsage
    from mematlas.labs.question import Prediction, Question, Reality

    class Predictions(Protocol):
        """Who predicts."""

        def ask(self, question: Question, facts: Mapping[str, Any]) -> Prediction | None:
            """Return the prediction; None when there is none."""


DEADLINE = 10.0
"""Seconds for what the kernel does in its own time."""


@record
class Step:
    """One thing to predict, and what is really so."""

    title: str
    text: str
    """What is there before the question."""
    question: Question
    measure: Callable[[Stage], Reality]
    """Does what the question is about, and returns what is measured then."""
    source: str
    """Where the number comes from."""
    explain: str
    prepare: Callable[[Stage], object] | None = None
    """Brings about what the text says."""
    unless: Callable[[Stage], str] | None = None
    """Returns why this step must be left out here; empty when it need not."""


@record
class Lesson:
    """A few steps on one subject."""

    name: str
    title: str
    rights: str
    """What it needs, or shows more with."""
    intro: str
    steps: tuple[Step, ...]
    outro: str
    """What to remember, and what to try."""
    check: Callable[[], None] | None = None
    """Raises `NotSupported` or `PermissionDenied` when nothing of it can be done here."""


@record
class Answer:
    """What became of one question."""

    lesson: str
    key: str
    question: str
    prediction: Any
    """A number, the two ends of a range, the words of a choice; None without one."""
    reality: Any
    shown: tuple[str, str]
    """Both for people, in short."""
    right: bool | None
    """None when the question could not be asked here."""
    reason: str
    """Why it could not, or what of the prediction was not understood."""


def unasked(lesson: Lesson, question: Question, reason: str) -> Answer:
    """Return the answer to a question that could not be asked."""
    return Answer(
        lesson=lesson.name,
        key=question.key,
        question=question.text,
        prediction=None,
        reality=None,
        shown=("-", "-"),
        right=None,
        reason=reason,
    )


class LeftOut(Exception):
    """A step that makes no sense here; the text says why."""


class Stage:
    """Where a lesson happens: its workloads, and what is known by now."""

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        self.workloads: list[RunningWorkload] = []
        self._processes: dict[int, Process] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for process in self._processes.values():
            process.close()
        while self.workloads:
            self.workloads.pop().end()

    def know(self, **facts: Any) -> None:
        """Add to what texts and formulas may name."""
        self.facts.update(facts)

    # The workload

    def start(self) -> RunningWorkload:
        """Start one more workload. The first one is what the lesson is about."""
        self.workloads.append(RunningWorkload("actor"))
        return self.workloads[-1]

    @property
    def workload(self) -> RunningWorkload:
        """The workload that the lesson is about."""
        return self.workloads[0] if self.workloads else self.start()

    def send(self, line: str, workload: RunningWorkload | None = None) -> dict[str, Any]:
        """Have a workload do something; return what it says is true. What the first one says is known from then on.

        Raises:
            NotSupported: it cannot be done here.
        """
        sender = workload or self.workload
        truth = sender.send(line)
        if truth["event"] == "unavailable":
            raise NotSupported(truth["what"], truth["needs"])
        if truth["event"] == "error":
            raise BadInput(truth["message"])
        for name in ("address", "block"):
            if name in truth:
                truth[name] = int(truth[name], 16)
        if sender is self.workload and not line.startswith("child"):
            self.know(**truth)
        return truth

    # What is measured

    def process(self, pid: int | None = None) -> Process:
        """Return a process to look at: the workload's unless ``pid`` says which."""
        pid = pid or self.workload.pid
        if pid not in self._processes:
            self._processes[pid] = Process(pid)
        return self._processes[pid]

    def vma(self, address: int | None = None, pid: int | None = None) -> VmaUsage:
        """Return the VMA at an address, that of the workload's memory by default, as the kernel counts it in smaps."""
        start = self.facts["address"] if address is None else address
        vmas = self.process(pid).maps("smaps", selection=Selection(span=(start, start + 1))).vmas
        if not vmas:
            raise NotSupported(f"a VMA at {start:#x}", "the workload to keep it")
        return vmas[0]

    def nr_pages(self, amount: int | None) -> int:
        """Return an amount in pages. Raises `NotSupported` when it is not known."""
        if amount is None:
            raise NotSupported("this number", "a kernel that reports it")
        return amount // int(self.facts["page_size"])

    def rounded_pages(self, amount: int | None) -> int:
        """Return an amount in pages, to the nearest: of PSS the kernel rounds parts of pages down."""
        return self.nr_pages((amount or 0) + int(self.facts["page_size"]) // 2)

    def rss(self, address: int | None = None, pid: int | None = None) -> int:
        """Return the resident pages of the VMA at an address."""
        return self.nr_pages(self.vma(address, pid).usage.rss)

    def states(self, pid: int | None = None) -> list[str]:
        """Return the state of each page of the workload's memory, as pagemap has it."""
        start = self.facts["address"]
        states: list[str] = []
        for _, piece in self.process(pid).pages(start, start + self.facts["size"]):
            if isinstance(piece, Hole):
                states += [STATE_OF_BYTE[piece.byte]] * len(piece)
            else:
                states += [STATE_OF_BYTE[byte] for byte in piece.states]
        return states

    def frames(self, first: int, count: int) -> list[int]:
        """Return the frames of pages of the workload's memory. Raises `PermissionDenied` where they are hidden."""
        size = self.facts["page_size"]
        start = self.facts["address"] + first * size
        pages = self.process().translate(range(start, start + count * size, size))
        if any(page.state == "present" and page.pfn is None for page in pages):
            raise PermissionDenied("frame numbers", "CAP_SYS_ADMIN")
        return [page.pfn for page in pages if page.pfn is not None]

    def wait(self, look: Callable[[], int], wanted: int) -> int:
        """Return what is seen once it is as wanted; in any case after some seconds."""
        end = time.monotonic() + DEADLINE
        while (seen := look()) != wanted and time.monotonic() < end:
            time.sleep(0.01)
        return seen


class Given:
    """Predictions out of an answers file."""

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self.answers = answers

    def ask(self, question: Question, facts: Mapping[str, Any]) -> Prediction | None:
        """Return what the file says. Raises `BadInput` for what is no answer to this question."""
        answer = self.answers.get(question.key)
        if answer is None:
            return None
        if isinstance(answer, list) and len(answer) == 2:
            answer = f"{answer[0]} to {answer[1]}"
        if isinstance(answer, bool) or not isinstance(answer, (int, float, str)):
            raise BadInput(f"answer {question.key!r}: {answer!r} is neither text nor a number")
        try:
            return question.kind.parse(str(answer), facts)
        except BadInput as error:
            raise BadInput(f"answer {question.key!r}: {error}") from None


class Asked:
    """Predictions of whoever types: a line each. An empty line is no prediction."""

    def __init__(self, reader: TextIO, writer: TextIO) -> None:
        self.reader = reader
        self.writer = writer

    def ask(self, question: Question, facts: Mapping[str, Any]) -> Prediction | None:
        """Ask until the answer is understood. Raises `Error` when the input ends."""
        while True:
            self.writer.write("  > ")
            self.writer.flush()
            line = self.reader.readline()
            if not line or not self.reader.isatty():
                # A terminal shows what is typed, a pipe does not.
                self.writer.write(line.rstrip("\n") + "\n")
            if not line:
                raise Error("the input ended before the lesson did: nothing was recorded")
            if not line.strip():
                return None
            try:
                return question.kind.parse(line.strip(), facts)
            except BadInput as error:
                self.writer.write(f"  {error}\n")


class Paper:
    """Text on one output, wrapped to its width."""

    def __init__(self, out: TextIO, width: int = 80, colour: bool = False) -> None:
        self.out = out
        self.width = width
        self.colour = colour

    def title(self, text: str) -> None:
        """Write a heading."""
        self.out.write("\n" + paint(text, "title", self.colour) + "\n")

    def say(self, text: str, style: str | None = None) -> None:
        """Write paragraphs, parted by empty lines. Lines that begin with a blank stay as they are."""
        import textwrap

        for number, paragraph in enumerate(text.strip("\n").split("\n\n")):
            lines = paragraph.split("\n")
            if not paragraph.startswith(" "):
                lines = textwrap.wrap(" ".join(lines), self.width - 2, break_on_hyphens=False)
            self.out.write("\n" if number else "")
            self.out.writelines(paint(f"  {line}", style, self.colour) + "\n" for line in lines)
        self.out.flush()

    def gap(self) -> None:
        """Write an empty line."""
        self.out.write("\n")


class Guide:
    """Teaches lessons on one output, and takes the predictions from somebody."""

    def __init__(self, paper: Paper, predictions: Predictions) -> None:
        self.paper = paper
        self.predictions = predictions

    def teach(self, lesson: Lesson) -> list[Answer]:
        """Teach one lesson from beginning to end; return what became of its questions.

        Raises:
            NotSupported, PermissionDenied: nothing of it can be done here.
        """
        if lesson.check:
            lesson.check()
        with Stage() as stage:
            stage.know(pid=stage.workload.pid, page_size=stage.workload.truth["page_size"])
            self.paper.title(lesson.title)
            self.paper.say(f"[{lesson.name}; needs: {lesson.rights}]", "dim")
            self.paper.gap()
            self.paper.say(fill(lesson.intro, stage.facts))
            answers = []
            for number, step in enumerate(lesson.steps, 1):
                answers.append(self._step(lesson, number, step, stage))
            self._end(lesson, answers, stage)
            return answers

    def _step(self, lesson: Lesson, number: int, step: Step, stage: Stage) -> Answer:
        paper, question = self.paper, step.question
        paper.title(f"{number} of {len(lesson.steps)}. {step.title}")
        try:
            if step.unless and (why := step.unless(stage)):
                raise LeftOut(why)
            if step.prepare:
                step.prepare(stage)
            asked = fill(question.text, stage.facts)
            if step.text:
                paper.say(fill(step.text, stage.facts))
                paper.gap()
            self._pose(question, asked)
            prediction, misfit = self._predicted(question, stage)
            reality = step.measure(stage)
        except (LeftOut, NotSupported, PermissionDenied) as error:
            paper.say(f"Left out: {error}. It does not count.")
            return unasked(lesson, question, str(error))
        right = prediction is not None and question.kind.holds(prediction, reality)
        self._compare(step, prediction, misfit, reality, right, stage)
        blank = "not understood" if misfit else "-"
        predicted = blank if prediction is None else question.kind.short(prediction, stage.facts)
        real = question.kind.short(reality, stage.facts)
        meant: Any = prediction
        if isinstance(question.kind, OneOf) and isinstance(prediction, int):
            meant = question.kind.options[prediction]
        return Answer(
            lesson=lesson.name,
            key=question.key,
            question=asked,
            prediction=meant,
            reality=reality,
            shown=(predicted, real),
            right=right,
            reason=misfit,
        )

    def _predicted(self, question: Question, stage: Stage) -> tuple[Prediction | None, str]:
        """Return the prediction, or what is wrong with it: one mistake in a file must not hide the other answers."""
        try:
            return self.predictions.ask(question, stage.facts), ""
        except BadInput as error:
            return None, str(error)

    def _pose(self, question: Question, asked: str) -> None:
        self.paper.say(asked)
        if isinstance(question.kind, OneOf):
            kind = question.kind
            lines = [f"  {kind.show(index, {})}" for index in range(len(kind.options))]
            self.paper.say("\n".join(lines))
        self.paper.say(f"[{question.key}: {question.kind.form}; Enter for none]", "dim")

    def _compare(
        self, step: Step, prediction: Prediction | None, misfit: str, reality: Reality, right: bool, stage: Stage
    ) -> None:
        paper, kind = self.paper, step.question.kind
        stage.know(reality=reality)
        paper.gap()
        if prediction is not None:
            verdict, style = ("right", "good") if right else ("not so", "bad")
            said = f"{kind.show(prediction, stage.facts)}    {verdict}"
        else:
            said, style = "none", "dim"
            if misfit:
                said, style = f"not understood: {misfit}", "bad"
        paper.say(f" prediction  {said}", style)
        paper.say(f" reality     {kind.show(reality, stage.facts)}")
        paper.say(f" seen in     {fill(step.source, stage.facts)}", "dim")
        paper.gap()
        paper.say(fill(step.explain, stage.facts))

    def _end(self, lesson: Lesson, answers: list[Answer], stage: Stage) -> None:
        self.paper.title("To remember")
        self.paper.say(fill(lesson.outro, stage.facts))
        self.paper.gap()
        self.paper.say(summary(answers))


def summary(answers: list[Answer]) -> str:
    """Return how many predictions were right."""
    asked = [answer for answer in answers if answer.right is not None]
    open_ones = sum(answer.prediction is None and not answer.reason for answer in asked)
    left_out = len(answers) - len(asked)
    nr_right = sum(bool(answer.right) for answer in asked)
    text = f"{nr_right} of {len(asked) - open_ones} predictions were right."
    if open_ones:
        questions = "1 question" if open_ones == 1 else f"{open_ones} questions"
        text += f" {questions} had none: venture a guess next time."
    if left_out:
        text += f" {left_out} could not be asked here."
    return text


class Filler(string.Formatter):
    """Fills facts into texts. Beside Python's formats there are ``size``, ``pages`` and ``seconds``."""

    def format_field(self, value: Any, format_spec: str) -> str:
        """Return one fact as text."""
        if format_spec == "size":
            return format_size(value)
        if format_spec == "seconds":
            return format_seconds(value)
        if format_spec == "pages":
            return f"{value:,} page{'' if value == 1 else 's'}"
        text: str = super().format_field(value, format_spec)
        return text


def fill(text: str, facts: Mapping[str, Any]) -> str:
    """Return a text with its facts.

    >>> fill("{size:size} are {nr:pages}", {"size": 1 << 20, "nr": 256})
    '1 MiB are 256 pages'
    """
    return Filler().vformat(text, (), facts)


def hidden_frames(stage: Stage) -> str:
    """Return why frame numbers cannot be asked about; empty when they are shown to us."""
    shown = "CAP_SYS_ADMIN" in effective_capabilities()
    return "" if shown else "the kernel shows frame numbers only with CAP_SYS_ADMIN (root)"
