"""What a queue that is not there can be told."""

from reclaimd.daemon.schedules.roster import Roster


def test_a_queue_that_is_not_there_is_left_once_no_older_view_is_taken() -> None:
    roster = Roster("mail")
    roster.retire("a", "1-0")
    roster.retire("b", "1-0")
    assert roster.outlasted({"a": "1-0"}, 10.0) == []
    assert list(roster.retiring) == ["b", "a"], "the others had their turn"
    assert roster.outlasted({"b": "1-0"}, 12.0) == []
    assert roster.outlasted(dict(roster.retiring), 14.9) == []
    assert roster.outlasted(dict(roster.retiring), 15.0) == ["a"]
    roster.retired("a")
    # Changed again meanwhile: from then on.
    roster.retire("b", "2-0")
    assert roster.outlasted(dict(roster.retiring), 17.5) == []
    assert roster.outlasted({"b": "2-0"}, 22.5) == ["b"]
