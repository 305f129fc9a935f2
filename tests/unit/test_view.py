"""A partition's view: sums, and the status of the command line."""

from support.views import make_view


def test_totals_add_up_the_streams() -> None:
    view = make_view(
        waiting={"suspect": 1, "lane:high": 3}, pending={"recovered:low": 2}, delayed=4, fenced=1, expired=2
    )
    assert (view.total_waiting, view.total_pending, view.open_tasks) == (4, 2, 10)
    assert (view.dead_workers, view.has_orphans) == (3, True)
    assert not make_view(live=3, gone=2).has_orphans


def test_status_has_exactly_the_states_of_the_command_line() -> None:
    view = make_view(
        waiting={"lane:normal": 5},
        pending={"lane:normal": 2},
        delayed=3,
        dead=1,
        counters={"succeeded": 7, "failed": 4, "enqueued": 99},
    )
    assert view.as_status() == {"waiting": 5, "active": 2, "delayed": 3, "completed": 7, "failed": 4, "dead": 1}
    assert make_view(state="absent").as_status() == dict.fromkeys(view.as_status(), 0)
