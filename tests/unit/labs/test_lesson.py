"""The engine of the lessons: predictions are understood, graded and kept; whatever is typed, nothing breaks."""

from __future__ import annotations

import io
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from string import Formatter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mematlas.labs.lesson
from helpers import texts
from mematlas.cli.signals import Interrupts
from mematlas.errors import BadInput, Error, FormatError, NotSupported
from mematlas.kernel.buddyinfo import parse_buddyinfo
from mematlas.labs.actor import VERBS, Actor, Verb
from mematlas.labs.answers import choose_answers
from mematlas.labs.lesson import Answer, Asked, Given, Guide, Lesson, Paper, Stage, Step, fill, summary
from mematlas.labs.lessons import LESSONS
from mematlas.labs.question import Interval, Number, OneOf, Question, calculate
from mematlas.labs.running_workload import RunningWorkload
from mematlas.labs.score import Score, ScoreFile, parse_scores, score_of

FACTS = {"page_size": 4096, "address": 0x7F0000123, "nr_pages": 10}
COMMAND = [sys.executable, "-m", "mematlas", "lab"]
DEADLINE = 60.0
RESERVE = {"reserved": 0, "touched": 100, "scattered": "99000 // page_size + 1", "given_back": "b"}


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep scores in a directory of the test; return the file."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("SUDO_UID", "SUDO_GID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(Path(mematlas.labs.lesson.__file__).parents[2]))
    return tmp_path / "state" / "mematlas" / "labs.json"


@pytest.fixture
def answers(tmp_path: Path) -> Callable[[Any], str]:
    def write(content: Any) -> str:
        path = tmp_path / "answers.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return write


# --- questions


@pytest.mark.parametrize(
    ("unit", "text", "value"),
    [
        ("pages", "512", 512),
        ("pages", "1,024 pages", 1024),
        ("pages", "2 MiB", 512),
        ("pages", "2M", 512),
        ("pages", "nr_pages", 10),
        ("bytes", "3 pages", 12288),
        ("bytes", "1.5 KiB", 1536),
        ("bytes", "64 kb", 65536),
        ("bytes", "3 Mi", 3 << 20),
        ("bytes", "7 bytes", 7),
        ("", "0x1B", 27),
        ("", " (address >> 12) * 8 ", 0x7F0000 * 8),
        ("", "address & ((1 << 12) - 1)", 0x123),
        ("", "100000 / 10", 10000),
    ],
)
def test_number_is_understood_in_its_unit(unit: str, text: str, value: int) -> None:
    assert Number(unit).parse(text, FACTS) == value


@pytest.mark.parametrize(
    ("unit", "text"),
    [
        ("pages", "100 bytes"),
        ("", "3 pages"),
        ("", "2 MiB"),
        ("", "lots"),
        ("", ""),
        ("", "-1"),
        ("", "7 / 2"),
        ("", "1 / 0"),
        ("", "9 ** 9"),
        ("", "1 << 999999999"),
        ("", "1 << -1"),
        ("", "1e999"),
        ("", "True"),
        ("", "[1]"),
        ("", "page_size.bit_length()"),
        ("", "__import__('os')"),
        ("", "(" * 190),
        ("", "1 +" * 5000),
        ("", "٣\0"),
    ],
)
def test_what_is_no_number_is_refused(unit: str, text: str) -> None:
    with pytest.raises(BadInput):
        Number(unit).parse(text, FACTS)


@given(st.text(max_size=40))
def test_any_text_is_a_number_or_refused(text: str) -> None:
    for kind in (Number("pages"), Interval("bytes", 4), OneOf(("x", "y"))):
        try:
            kind.parse(text, FACTS)
        except BadInput:
            continue


@given(st.integers(0, 1 << 60), st.integers(0, 1 << 30), st.sampled_from("+-*|&"))
def test_formula_is_arithmetic(left: int, right: int, sign: str) -> None:
    assert calculate(f"{left} {sign} ({right})", {}) == eval(f"{left} {sign} ({right})")


@pytest.mark.parametrize(
    ("unit", "text", "ends"),
    [
        ("bytes", "3-9 MiB", (3 << 20, 9 << 20)),
        ("bytes", "512 KiB to 1 MiB", (512 << 10, 1 << 20)),
        ("pages", "10 to 20", (10, 20)),
        ("pages", "10..20 pages", (10, 20)),
        ("", "10 - 20", (10, 20)),
        ("", "100", (50, 200)),
    ],
)
def test_range_is_understood(unit: str, text: str, ends: tuple[int, int]) -> None:
    assert Interval(unit, 4).parse(text, FACTS) == ends


@pytest.mark.parametrize("text", ["10-100", "20-10", "x-y", "-", "5-"])
def test_bad_range_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        Interval("", 4).parse(text, FACTS)


def test_predictions_hold_within_their_slack() -> None:
    assert Number("", 3).holds(97, 100)
    assert not Number("", 3).holds(96, 100)
    assert Interval("", 4).holds((50, 100), 100)
    assert not Interval("", 4).holds((50, 99), 100)
    choice = OneOf(("No", "Yes, always."))
    assert [choice.parse(text, {}) for text in ("b", "B)", "yes, always")] == [1, 1, 1]
    assert choice.holds(1, "Yes, always.")
    assert not choice.holds(0, "Yes, always.")


# --- the engine


def make_lesson(*steps: Step) -> Lesson:
    return Lesson("made_up", "Made up", "none", "PID {pid}.", steps, "Remember {reality}.")


def make_step(key: str = "one", reality: int = 7, **more: Any) -> Step:
    question = Question(key, "How many?", Number(""))
    return Step("A step", "There are {page_size}.", question, lambda stage: reality, "nowhere", "So {reality}.", **more)


def teach(lesson: Lesson, typed: str) -> tuple[list[Answer], str]:
    """Teach a lesson to somebody who types this."""
    out = io.StringIO()
    return Guide(Paper(out), Asked(io.StringIO(typed), out)).teach(lesson), out.getvalue()


def test_prediction_stands_beside_reality_and_reason() -> None:
    answers, text = teach(make_lesson(make_step()), "5\n")
    assert [(answer.prediction, answer.reality, answer.right) for answer in answers] == [(5, 7, False)]
    assert text.split("How many?")[1] == (
        "\n  [one: a number; Enter for none]\n  > 5\n\n"
        "   prediction  5    not so\n   reality     7\n   seen in     nowhere\n\n  So 7.\n"
        "\nTo remember\n  Remember 7.\n\n  0 of 1 predictions were right.\n"
    )


def test_what_is_not_understood_is_asked_again() -> None:
    answers, text = teach(make_lesson(make_step()), "many\n3-9\n7\n")
    assert answers[0].right is True
    assert "cannot read 'many' as a number" in text
    assert "'3-9' is a range: give one number" in text


def test_empty_line_is_no_prediction_and_no_mistake() -> None:
    answers, text = teach(make_lesson(make_step(), make_step("two")), "\n7\n")
    assert [(answer.prediction, answer.right) for answer in answers] == [(None, False), (7, True)]
    assert "   prediction  none\n   reality     7\n" in text
    assert "1 of 1 predictions were right. 1 question had none: venture a guess" in text


def test_end_of_input_ends_the_lesson_with_a_message() -> None:
    with pytest.raises(Error, match="the input ended before the lesson did"):
        teach(make_lesson(make_step(), make_step("two")), "7\n")


def test_step_that_cannot_be_done_is_left_out_and_does_not_count() -> None:
    def fail(stage: Stage) -> int:
        raise NotSupported("this", "another machine")

    lesson = make_lesson(
        make_step(unless=lambda stage: "we are not root"), make_step("two", prepare=fail), make_step("three")
    )
    answers, text = teach(lesson, "7\n")
    assert [answer.right for answer in answers] == [None, None, True]
    assert answers[0].reason == "we are not root"
    assert "Left out: this: not supported here (needs another machine). It does not count." in text
    assert summary(answers) == "1 of 1 predictions were right. 2 could not be asked here."
    assert score_of(answers) == Score(1, 1)


def test_lesson_that_cannot_be_taken_is_an_error() -> None:
    def check() -> None:
        raise NotSupported("all of it", "swap")

    with pytest.raises(NotSupported):
        teach(Lesson("made_up", "Made up", "none", "", (make_step(),), "", check), "")


def test_facts_are_written_as_people_read_them() -> None:
    assert fill(
        "{a:size} {b:pages} {c:pages} {d:#x} {e:seconds}", {"a": 4096, "b": 1, "c": 2000, "d": 31, "e": 0.5}
    ) == ("4 KiB 1 page 2,000 pages 0x1f 500 ms")


def test_long_text_is_wrapped_and_blocks_are_kept() -> None:
    out = io.StringIO()
    Paper(out, width=20).say("one two three four five six\nseven\n\n kept   as it is, however long it may be\n")
    assert out.getvalue() == ("  one two three four\n  five six seven\n\n   kept   as it is, however long it may be\n")


@pytest.mark.parametrize("lesson", LESSONS.values(), ids=lambda lesson: lesson.name)
def test_every_lesson_is_well_formed(lesson: Lesson) -> None:
    keys = [step.question.key for step in lesson.steps]
    assert len(set(keys)) == len(keys)
    assert all(key.isidentifier() for key in keys)
    assert 3 <= len(keys) <= 7
    for step in lesson.steps:
        assert step.question.text.rstrip().endswith(("?", "."))
        assert step.explain
        if isinstance(step.question.kind, OneOf):
            assert len(set(step.question.kind.options)) == len(step.question.kind.options) > 1


@pytest.mark.parametrize("lesson", LESSONS.values(), ids=lambda lesson: lesson.name)
def test_counts_in_texts_have_their_thousands_apart(lesson: Lesson) -> None:
    texts = [lesson.intro, lesson.outro]
    texts += [text for step in lesson.steps for text in (step.text, step.question.text, step.source, step.explain)]
    fields = [field for text in texts for field in Formatter().parse(text)]
    assert not [name for _, name, form, _ in fields if name and name.startswith(("nr_", "rss")) and not form]


def test_list_fits_80_columns() -> None:
    lines = run()[1].splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["LESSON", "TITLE", "NEEDS", "PASSED"]


def test_workload_ends_with_the_lesson_whatever_happens() -> None:
    pids: list[int] = []

    def fail(stage: Stage) -> int:
        pids.append(stage.workload.pid)
        stage.send("fork")
        pids.append(stage.facts["child"])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        teach(make_lesson(make_step(prepare=fail)), "7\n")
    assert [os.path.exists(f"/proc/{pid}") for pid in pids] == [False, False]


# --- the workload of the lessons


@contextmanager
def actor() -> Iterator[RunningWorkload]:
    with RunningWorkload("actor") as workload:
        yield workload


@pytest.mark.parametrize(
    "line",
    [
        "bogus", "write 0 1", "map", "map x", "map -1", "map 3 purple", "child write 0 1", "evict", "stack 99999999",
        "stack -5", "malloc 0 1", "malloc -1 1", "malloc 99999999999 1", "open /nonexistent 1", "open /dev/null 1",
        "drop 0 1 0", "\x1b", "map 0", "write 0 1 2", "free 1", f"map {10**18}", f"file {10**18}", "map " + 5000 * "9",
        "map ²", "read 0 1", "unmap",
    ],
)  # fmt: skip
def test_line_that_makes_no_sense_is_answered_and_the_next_is_heard(line: str) -> None:
    with actor() as workload:
        assert workload.send(line)["event"] in ("error", "unavailable")
        assert workload.send("map 7")["nr_pages"] == 7


@pytest.mark.parametrize(
    "line", ["write 0 8", "write -1 2", "write 8 -1", "read 7 1", "drop 0 8", "scatter 0 9 4096", "write 0"]
)
def test_pages_beyond_the_end_are_refused(line: str) -> None:
    with actor() as workload:
        workload.send("map 7")
        assert workload.send(line)["event"] == "error"
        assert workload.send("write 0 7")["nr_touched"] == 7


def test_a_mistake_of_ours_is_not_taken_for_one_of_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(actor: Actor) -> None:
        raise TypeError("a bug")

    monkeypatch.setitem(VERBS, "incore", Verb(broken))
    with pytest.raises(TypeError, match="a bug"):
        Actor().obey(["incore"])


def test_a_line_with_a_word_too_many_or_too_few_says_what_it_takes() -> None:
    with actor() as workload:
        assert "write takes 2 words" in workload.send("write 0")["message"]
        assert "map takes 1 word, then huge or shared" in workload.send("map 3 purple")["message"]
        assert "'x' is not a number" in workload.send("map x")["message"]
        assert workload.send("map 7 shared")["nr_pages"] == 7


def test_a_file_that_is_not_mapped_is_not_read() -> None:
    with actor() as workload:
        workload.send("file 7")
        workload.send("unmap")
        assert "remap comes first" in workload.send("read 0 1")["message"]
        workload.send("remap")
        assert workload.send("read 0 1")["event"] == "read"


def test_block_larger_than_the_address_space_is_not_to_be_had() -> None:
    with actor() as workload:
        for line in (f"malloc 1 {1 << 60}", f"thread {1 << 60}"):
            assert workload.send(line)["event"] == "unavailable"
        assert workload.send("malloc 3 0")["event"] == "malloc"


def test_child_answers_for_itself_and_ends_with_its_parent() -> None:
    with actor() as workload:
        workload.send("map 7")
        child = workload.send("fork")["child"]
        assert workload.send("fork")["event"] == "error"
        assert workload.send("child write 0 3")["pid"] == child
        for line in ("child", "child bogus", "child child"):
            assert workload.send(line)["event"] == "error"
        workload.program.kill()
    end = time.monotonic() + DEADLINE
    while os.path.exists(f"/proc/{child}") and time.monotonic() < end:
        time.sleep(0.01)
    assert not os.path.exists(f"/proc/{child}")


@pytest.mark.root("CAP_SYS_ADMIN")
def test_lesson_finds_parent_and_child_in_a_proc_of_another_namespace(answers: Callable[[Any], str]) -> None:
    right = {"own": 0, "sum": 200, "map_count": 2, "frames": 130, "parent": 30}
    words = ["unshare", "--pid", "--fork", "--kill-child", *COMMAND, "fork", "--answers", answers(right)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE)
    if "unshare" in done.stderr:
        pytest.skip(f"needs PID namespaces: {done.stderr}")
    assert done.returncode == 0, done.stdout + done.stderr


def test_pages_in_ram_are_counted_without_their_entries() -> None:
    with actor() as workload:
        workload.send("map 701")
        workload.send("write 0 101")
        assert workload.send("incore")["nr_in_ram"] == 101
        workload.send("drop 0 50")
        assert workload.send("incore")["nr_in_ram"] == 51


def test_every_fault_of_a_write_is_counted() -> None:
    with actor() as workload:
        workload.send("map 701")
        assert 701 <= workload.send("write 0 701")["minor"] <= 706
        assert workload.send("write 0 701")["minor"] <= 5


# --- answers files


def test_answers_are_numbers_text_and_pairs() -> None:
    given_answers = Given({"n": 4, "text": "2 KiB", "pair": [2, 8], "none": None})
    assert given_answers.ask(Question("n", "?", Number("")), {}) == 4
    assert given_answers.ask(Question("text", "?", Number("bytes")), {}) == 2048
    assert given_answers.ask(Question("pair", "?", Interval("", 4)), {}) == (2, 8)
    assert given_answers.ask(Question("none", "?", Number("")), {}) is None
    assert given_answers.ask(Question("missing", "?", Number("")), {}) is None
    bad: tuple[Any, ...] = (True, {}, [1], "many")
    for answer in bad:
        with pytest.raises(BadInput, match="answer 'bad'"):
            Given({"bad": answer}).ask(Question("bad", "?", Number("")), {})


def test_file_may_answer_one_lesson_or_several() -> None:
    zero = {"resident": 0}
    for data, name in ((zero, "zero"), ({"zero": zero}, "zero"), ({"zero": zero}, None)):
        ((lesson, answers),) = choose_answers(data, name, "f")
        assert (lesson.name, answers.answers) == ("zero", zero)
    both = choose_answers({"zero": zero, "reserve": {}}, None, "f")
    assert [lesson.name for lesson, _ in both] == ["zero", "reserve"]


@pytest.mark.parametrize(
    ("data", "name", "message"),
    [
        ([], "zero", "answers are an object"),
        ({"zero": {}, "reserve": 3}, None, "'reserve' has no object of answers"),
        ({}, "zero", "answers are an object"),
        ({"resident": 0}, None, "answers to which lesson"),
        ({"nonsense": {}}, None, "no lesson 'nonsense'"),
        ({"reserve": {}}, "zero", "answers to reserve, and not to zero"),
        ({"residemt": 0}, "zero", "zero does not ask 'residemt': it asks resident, present, frames, written"),
    ],
)
def test_file_that_answers_something_else_is_refused(data: Any, name: str | None, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        choose_answers(data, name, "f")


# --- the command


def run(*words: str, typed: str | None = None) -> tuple[int, str, str]:
    done = subprocess.run([*COMMAND, *words], input=typed or "", capture_output=True, text=True, timeout=DEADLINE)
    return done.returncode, done.stdout, done.stderr


def test_right_answers_exit_0_and_the_score_is_kept(answers: Callable[[Any], str], state: Path) -> None:
    code, out, err = run("reserve", "--answers", answers(RESERVE), "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert result["schema"] == "mematlas.lesson/1"
    assert result["target"] == {"passed": True, "nr_right": 4, "nr_asked": 4}
    row = result["rows"][0]
    assert (row["key"], row["prediction"], row["reality"], row["right"]) == ("reserved", 0, 0, True)
    assert json.loads(state.read_text()) == {"version": 1, "lessons": {"reserve": {"right": 4, "asked": 4}}}
    assert stat.S_IMODE(state.stat().st_mode) == 0o600
    listed = json.loads(run("--json")[1])
    assert listed["schema"] == "mematlas.lab/1"
    assert {row["name"]: row["passed"] for row in listed["rows"]} == dict.fromkeys(LESSONS) | {"reserve": True}
    assert {"name", "title", "rights", "passed"} <= listed["rows"][0].keys()


def test_wrong_and_missing_answers_exit_10(answers: Callable[[Any], str]) -> None:
    code, out, err = run("reserve", "--answers", answers({"reserved": "256 MiB", "touched": 100}), "--json")
    assert code == 10
    assert [row["right"] for row in json.loads(out)["rows"]] == [False, True, False, False]
    assert "3 of 4 predictions were not right: reserve.reserved, reserve.scattered, reserve.given_back" in err
    assert "reserve    Reserved is not used" in run()[1]
    assert "1 of 4" in run()[1]


def test_passed_stays_passed(answers: Callable[[Any], str]) -> None:
    path = answers(RESERVE)
    assert run("reserve", "--answers", path)[0] == 0
    assert run("reserve", "--answers", answers({"touched": 1}))[0] == 10
    assert json.loads(run("--json")[1])["rows"][0]["passed"] is True


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("[1]", 'answers are an object, such as {"reserved": 0}'),
        ('{"resreved": 0}', "answers.json: reserve does not ask 'resreved'"),
    ],
)
def test_damaged_answers_file_is_a_usage_error(answers: Callable[[Any], str], content: str, message: str) -> None:
    code, _, err = run("reserve", "--answers", answers(content))
    assert code == 2
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ([1], "answer 'touched': [1] is neither text nor a number"),
        ("many", "answer 'touched': cannot read 'many' as a number; try 100 or 400 KiB"),
        ("90-110", "answer 'touched': '90-110' is a range: give one number"),
    ],
)
def test_answer_that_is_not_understood_is_wrong_and_hides_no_other(
    answers: Callable[[Any], str], answer: Any, why: str
) -> None:
    path = answers({"reserve": RESERVE | {"touched": answer}})
    code, out, err = run("--answers", path, "--json")
    assert code == 10
    assert err == "mematlas: 1 of 4 predictions were not right: reserve.touched\n"
    rows = {row["key"]: row for row in json.loads(out)["rows"]}
    assert [row["right"] for row in rows.values()] == [True, False, True, True]
    assert (rows["touched"]["prediction"], rows["touched"]["reality"]) == (None, 100)
    assert rows["touched"]["reason"] == why
    assert f"reserve not understood: {why}" in run("--answers", path)[1]


def test_missing_answers_file_and_unknown_lesson_are_usage_errors() -> None:
    assert run("reserve", "--answers", "/nonexistent/answers")[0] == 2
    code, _, err = run("reserv")
    assert code == 2
    assert "choose from reserve, zero" in err
    assert run("reserve", "zero")[0] == 2


def test_lesson_by_pipe_reads_as_a_conversation() -> None:
    code, out, err = run("reserve", typed="256 MiB\n100\n25\nb\n")
    assert (code, err) == (0, "")
    assert "  > 256 MiB\n" in out
    assert "prediction  65,536 pages (256 MiB)    not so\n   reality     0 pages\n" in out


def test_json_of_a_conversation_is_alone_on_standard_output() -> None:
    code, out, err = run("reserve", "--json", typed="0\n100\n25\nb\n")
    assert code == 0
    assert json.loads(out)["target"]["nr_asked"] == 4
    assert "How many of these pages are in RAM?" in err


def test_input_that_ends_early_is_an_error_and_not_a_score(state: Path) -> None:
    code, _, err = run("reserve", typed="0\n")
    assert code == 1
    assert err == "mematlas: the input ended before the lesson did: nothing was recorded\n"
    assert not state.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_it_quietly_and_leaves_no_process(number: signal.Signals, state: Path) -> None:
    # A group of its own, signalled as a terminal does it.
    process = subprocess.Popen(
        [*COMMAND, "reserve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    text = ""
    while "  > " not in text:
        text += process.stdout.read(1)
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, err) == (128 + number, "")
    assert not state.exists()
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_what_nohup_ignores_stays_ignored() -> None:
    with Interrupts(io.StringIO()):
        signal.raise_signal(signal.SIGCONT)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts(io.StringIO()) as ending:
            signal.raise_signal(signal.SIGHUP)
        assert ending.exit_code == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_first_signal_counts_and_cleaning_up_is_not_disturbed() -> None:
    done = []
    with Interrupts(io.StringIO()) as ending:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGHUP)
            done.append("cleaned up")
    assert (ending.exit_code, done) == (128 + signal.SIGTERM, ["cleaned up"])


def test_other_exceptions_pass() -> None:
    with pytest.raises(KeyboardInterrupt), Interrupts(io.StringIO()):
        raise KeyboardInterrupt  # not of a signal
    with pytest.raises(BadInput), Interrupts(io.StringIO()):
        raise BadInput("x")


@pytest.mark.parametrize("words", [["zero", "--temporary-swap", "abc"], ["--temporary-swap", "64M"], ["--width", "x"]])
def test_option_that_makes_no_sense_is_refused_before_anything_begins(words: list[str]) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err.startswith("mematlas: ")


# --- the score


def test_damaged_score_file_is_a_note_and_left_alone(answers: Callable[[Any], str], state: Path) -> None:
    state.parent.mkdir(parents=True)
    state.write_text("{ not json")
    code, _, err = run()
    assert code == 0
    assert "is damaged; to start over: mematlas lab --reset" in err
    assert run("reserve", "--answers", answers(RESERVE), "--json")[0] == 0
    assert state.read_text() == "{ not json"
    assert "is damaged" in run("reserve", "--reset")[2]
    assert state.exists()
    assert run("--reset") == (0, "", "note: all scores are forgotten\n")
    assert not state.parent.exists()
    assert run("--reset") == (0, "", "note: there are no scores\n")


def test_score_of_one_lesson_is_forgotten_alone(state: Path) -> None:
    scores = ScoreFile(str(state))
    for name in ("reserve", "zero"):
        scores.add(name, Score(4, 4))
    assert run("zero", "--reset") == (0, "", "note: the score of zero is forgotten\n")
    assert set(scores.read()) == {"reserve"}
    assert run("fork", "--reset") == (0, "", "note: there is no score of fork\n")
    assert run("zreo", "--reset")[0] == run("--reset", "--answers", "x")[0] == 2
    assert set(scores.read()) == {"reserve"}
    assert run("reserve", "--reset") == (0, "", "note: the score of reserve is forgotten\n")
    assert not state.parent.exists()


def test_a_directory_that_holds_something_else_stays(state: Path) -> None:
    ScoreFile(str(state)).add("zero", Score(4, 4))
    other = state.parent / "other"
    other.write_text("mine")
    assert run("--reset")[0] == 0
    assert other.read_text() == "mine"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b"[" * 60_000,
        b'{"lessons": 3}',
        b'{"lessons": {"x": {"right": "1", "asked": 2}}}',
        b'{"lessons": {"x": {"right": true, "asked": 2}}}',
    ],
)
def test_what_is_no_score_file_is_reported(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_scores(data)


def test_place_that_cannot_be_written_is_a_note(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    scores = ScoreFile(str(tmp_path / "file" / "labs.json"))
    scores.add("reserve", Score(1, 1))
    assert scores.notes
    scores = ScoreFile(str(tmp_path))
    assert scores.read() == {}
    assert "Is a directory" in texts(scores.notes)[0]
    os.mkfifo(tmp_path / "pipe")
    assert ScoreFile(str(tmp_path / "pipe")).read() == {}  # and does not wait


@pytest.mark.root
def test_under_sudo_the_file_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for place in (home, *home.parents[:-1]):
        if place.stat().st_uid == os.geteuid():
            place.chmod(place.stat().st_mode | 0o011)
    os.chown(home, 65534, 65534)
    monkeypatch.setenv("SUDO_UID", "65534")
    monkeypatch.setenv("SUDO_GID", "65534")
    scores = ScoreFile(str(home / "state" / "labs.json"))
    scores.add("reserve", Score(4, 4))
    assert not list(scores.notes)
    found = (home / "state" / "labs.json").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (65534, 65534, 0o600)
    assert os.geteuid() == os.getegid() == 0
    # A link of the user's to a file of root's opens nothing.
    secret = tmp_path / "secret"
    secret.write_text("{}")
    secret.chmod(0o600)
    (home / "link").symlink_to(secret)
    scores = ScoreFile(str(home / "link"))
    assert scores.read() == {}
    assert "Permission denied" in texts(scores.notes)[0]


def test_buddyinfo_is_summed_over_zones() -> None:
    text = b"Node 0, zone      DMA      1      0      2 \nNode 1, zone   Normal      0   1118      5 \n"
    assert parse_buddyinfo(text) == [1, 1118, 7]
    with pytest.raises(Error):
        parse_buddyinfo(b"Node 0, zone Normal 1 x\n")


def test_every_lesson_and_its_keys_are_in_the_document() -> None:
    text = (Path(__file__).parents[3] / "docs" / "labs.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| `")]
    listed = {row[1].strip(" `"): row[3].replace("*", "").split() for row in rows}
    assert listed == {name: [step.question.key for step in lesson.steps] for name, lesson in LESSONS.items()}
