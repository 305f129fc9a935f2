"""The heap of due times, held against a plain dict."""

from hypothesis import given
from hypothesis import strategies as st

from reclaimd.daemon.schedules.timers import SLACK, Timers

names = st.sampled_from("abcdef")
operations = st.lists(
    st.one_of(
        st.tuples(st.just("set"), names, st.integers(0, 20)),
        st.tuples(st.just("remove"), names, st.just(0)),
        st.tuples(st.just("pop"), st.just(""), st.integers(0, 20)),
    ),
    max_size=60,
)


@given(operations)
def test_what_is_due_comes_once_and_in_order(todo: list[tuple[str, str, int]]) -> None:
    timers, expected = Timers(), dict[str, int]()
    for what, name, instant in todo:
        if what == "set":
            timers.set(name, instant)
            expected[name] = instant
        elif what == "remove":
            timers.remove(name)
            expected.pop(name, None)
        else:
            due = sorted((at, who) for who, at in expected.items() if at <= instant)
            assert timers.pop(instant, 3) == [who for _, who in due[:3]]
            for _, who in due[:3]:
                del expected[who]
        assert len(timers) == len(expected)
        assert timers.next_due() == min(expected.values(), default=None)
        assert {name: timers.due(name) for name in "abcdef"} == {name: expected.get(name) for name in "abcdef"}


def test_a_schedule_that_is_set_often_does_not_fill_the_heap() -> None:
    timers = Timers()
    for instant in range(100_000, 0, -1):
        timers.set("a", instant)
    assert len(timers._heap) <= SLACK + 3
    assert timers.pop(1, 5) == ["a"]
    assert timers.next_due() is None
