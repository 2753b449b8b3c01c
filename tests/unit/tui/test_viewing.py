"""What all screens share: which moment is looked at, of timelines that do not look at the same time."""

from __future__ import annotations

from mematlas.frozen import replace
from mematlas.timeline.timeline import LiveTimeline
from mematlas.tui.viewing import Viewing
from screens import look_of, shop, timeline_of


def test_what_is_said_of_the_machine_is_of_who_looked_last() -> None:
    viewing = Viewing()
    rested, looking = (replace(look_of(shop(11)), counters={"MemFree": number}) for number in (1, 2))
    viewing.closely = timeline_of([rested])
    viewing.everybody = timeline_of([looking, looking])
    viewing.shifts = {id(viewing.closely): 5.0, id(viewing.everybody): 60.0}

    latest = viewing.latest()

    assert latest
    assert latest.found.counters == {"MemFree": 2}
    assert Viewing().latest() is None


def test_a_moment_that_is_let_go_of_meanwhile_is_the_oldest_that_is_left() -> None:
    timeline = timeline_of([look_of(shop(11, seed=number)) for number in range(1, 4)])

    class Forgetting(LiveTimeline):
        @property
        def times(self) -> list[float]:
            """Return when moments are; the first of them is gone then."""
            found = timeline.times
            if len(found) == 3:
                timeline._moments.popleft()
            return found

    forgetting = Forgetting.__new__(Forgetting)
    forgetting._moments, forgetting._lock = timeline._moments, timeline._lock
    viewing = Viewing()
    viewing.at = 0.0

    moment = viewing.moment(forgetting)

    assert moment is timeline._moments[0][0]
