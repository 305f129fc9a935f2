"""`retire`: schedules that fire in a partition no more; and full servers, for `fire` and `retire`."""

import pytest
import redis

from property.lab import NOON, Lab, verdict
from reclaimd.streams.errors import RedisFull
from reclaimd.streams.keys import Partition
from reclaimd.streams.occurrence_scripts import Fired, RetireReply, Row, RunRow, SkipRow, retire
from reclaimd.streams.redis_log import translate

OPEN = f"s:1-0:{NOON}"


def put(lab: Lab, *pairs: tuple[str, str]) -> RetireReply:
    return lab.send(retire(lab.partition, pairs, now=lab.now))


def queue_one(lab: Lab) -> None:
    """One open, one queued."""
    lab.now = NOON + 10
    lab.fire(lab.occurrence(NOON), lab.occurrence(NOON + 1, after=NOON, overlap="queue_one"))


def test_what_is_retired_keeps_its_row_and_drops_what_is_queued(lab: Lab) -> None:
    queue_one(lab)
    before = Fired("1-0", NOON + 1, 2, OPEN)
    assert put(lab, ("s", "2-0"), ("never", "3-0")) == ("ok", [before, Fired()], "ok")
    assert lab.look().fired == {"s": f"2-0|{NOON + 1}|2|{OPEN}", "never": "3-0|0|0|"}
    assert lab.look().queued == {}
    assert lab.counter("occurrences:skipped:removed") == 1
    after = lab.look()
    assert put(lab, ("s", "2-0"), ("never", "3-0")).before[0] == Fired("2-0", NOON + 1, 2, OPEN)
    assert lab.look() == after, "again it does nothing"


def test_what_fires_already_is_not_retired_by_a_late_call(lab: Lab) -> None:
    queue_one(lab)
    before = lab.look()
    for generation in ("1-0", "0-9"):
        assert put(lab, ("s", generation)).before == [Fired("1-0", NOON + 1, 2, OPEN)]
    assert lab.look() == before


def test_who_was_stopped_cannot_fire_what_was_removed(lab: Lab) -> None:
    lab.enqueue("t")
    put(lab, ("s", "5-0"))
    assert lab.fire(lab.occurrence(NOON))[0].status == "stale"
    assert lab.fire(lab.occurrence(NOON, generation="5-1"))[0].status == "fired"


def test_a_schedule_that_was_removed_and_made_again_waits_for_its_old_task(lab: Lab) -> None:
    queue_one(lab)
    put(lab, ("s", "5-0"))
    again = lab.occurrence(NOON + 5, generation="6-0", overlap="queue_one")
    assert lab.fire(again)[0].status == "queued"
    token = lab.join("w")
    (delivery,) = lab.take("w", token)
    assert delivery.task_id == OPEN
    lab.settle("w", token, verdict(delivery))
    assert lab.fired() == Fired("6-0", NOON + 5, 1, f"s:6-0:{NOON + 5}")


def test_a_move_to_another_queue(lab: Lab) -> None:
    """The old row is retired by the new generation; a stale daemon then fires in neither."""
    queue_one(lab)
    old, new = lab.partition, Partition("t", "other")
    put(lab, ("s", "7-0"))
    lab.partition = new
    assert lab.fire(lab.occurrence(NOON + 2, generation="7-0"))[0].status == "fired"
    assert lab.fire(lab.occurrence(NOON + 2, after=NOON + 1))[0].status == "stale"
    lab.partition = old
    assert lab.fire(lab.occurrence(NOON + 2, after=NOON + 1))[0].status == "stale"
    put(lab, ("s", "7-0"))
    assert lab.order("lane:normal") == [OPEN]
    # And back: the row of the first time begins anew.
    assert lab.fire(lab.occurrence(NOON + 4, generation="8-0", overlap="allow"))[0].fired.last == NOON + 4


def test_only_a_partition_that_is_ok_retires(lab: Lab) -> None:
    assert put(lab, ("s", "1-0")) == ("state", (), "absent")
    assert lab.do("DBSIZE") == 0


def test_a_bad_row_retires_nothing(lab: Lab) -> None:
    queue_one(lab)
    before = lab.look()
    for bad in (("a:b", "1-0"), ("b", "soon")):
        with pytest.raises(redis.ResponseError, match="RECLAIMD_SCHEDULE"):
            put(lab, ("s", "2-0"), bad)
    assert lab.look() == before


def test_a_row_that_nobody_can_read_is_replaced(lab: Lab) -> None:
    lab.enqueue("t")
    lab.do("HSET", lab.key("fired"), "s", "soon")
    lab.do("HSET", lab.key("fired:queued"), "s", "[no envelope")
    assert put(lab, ("s", "2-0")).before == [Fired()]
    assert lab.look().fired == {"s": "2-0|0|0|"}
    assert lab.letters()["foreign:queued:s"][1]["x:body"] == "[no envelope"


@pytest.mark.parametrize("wrong", ["fired", "fired:queued", "events", "counters", "dead"])
def test_a_key_of_the_wrong_type_stops_it_before_it_writes(lab: Lab, wrong: str) -> None:
    queue_one(lab)
    before = lab.look()
    if lab.do("EXISTS", lab.key(wrong)):
        lab.do("RENAME", lab.key(wrong), "aside")
    lab.do("SET", lab.key(wrong), "v")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        put(lab, ("s", "2-0"), ("t", "2-0"))
    lab.do("DEL", lab.key(wrong))
    if lab.do("EXISTS", "aside"):
        lab.do("RENAME", "aside", lab.key(wrong))
    assert lab.look() == before


def test_a_full_server_refuses_to_fire_and_lets_tasks_end(lab: Lab) -> None:
    queue_one(lab)
    token = lab.join("w")
    (delivery,) = lab.take("w", token)
    lab.set_full(True)
    rows: list[Row] = [
        lab.occurrence(NOON, schedule="new"),
        lab.occurrence(NOON, schedule="s", generation="2-0", overlap="queue_one"),
        SkipRow("s", "1-0", NOON + 1, NOON + 5, 4, "misfire"),
        RunRow("s", "r", "low", 1, b""),
    ]
    before = lab.look()
    for step in (0, 7):
        lab.now += step
        for row in (*rows, None):
            with pytest.raises(redis.ResponseError) as caught:
                lab.fire(*([row] if row else rows))
            assert isinstance(translate(caught.value, "redis://x"), RedisFull)
            assert lab.look() == before
    lab.settle("w", token, verdict(delivery))
    assert (lab.fired().open, lab.where(f"s:1-0:{NOON + 1}")) == (f"s:1-0:{NOON + 1}", "lane:normal")
    assert put(lab, ("s", "9-0")).status == "ok"
    lab.set_full(False)
    assert lab.fire(rows[0])[0].status == "fired"


def test_the_first_to_fire_into_nothing_is_refused_too(lab: Lab) -> None:
    lab.set_full(True)
    with pytest.raises(redis.ResponseError):
        lab.fire(lab.occurrence(NOON))
    assert lab.do("DBSIZE") == 0
