"""enqueue, settlements, promote, redrive, purge, pause, cleanup, retain: what each does, and does only once."""

import json

import pytest
import redis

from property.lab import NOON, Lab, verdict
from reclaimd.streams import scripts
from reclaimd.streams.codec import Outcome


def test_an_enqueue_sent_again_is_a_duplicate(lab: Lab) -> None:
    call = lab.enqueue_call("a", "b", unique="")
    assert [r.status for r in lab.send(call)] == ["ok", "ok"]
    before = lab.look()
    assert [r.status for r in lab.send(call)] == ["duplicate", "duplicate"]
    after = lab.look()
    assert (after.places, after.unique) == (before.places, before.unique)
    assert (after.counters["enqueued"], after.counters["duplicates"]) == (2, 2)


def test_a_task_id_is_remembered_after_it_settled_and_across_a_bucket(lab: Lab) -> None:
    token = lab.join("w")
    lab.now += 300_000 - lab.look().clock["lease"] % 300_000 - 100
    lab.do("HSET", lab.key("clock"), "lease", lab.now, "wall", lab.now)
    lab.enqueue("t", unique="u")
    lab.settle("w", token, verdict(lab.take("w", token)[0]))
    lab.now += 200
    assert lab.enqueue("t", unique="u") == ["duplicate"]
    assert lab.look().clock["lease"] // 300_000 == 1 + (lab.now - 200) // 300_000


def test_a_forward_step_of_the_clock_forgets_no_task_id(lab: Lab) -> None:
    lab.enqueue("t")
    lab.now += 86_400_000
    assert lab.enqueue("t") == ["duplicate"]


def test_a_unique_key_leads_to_its_open_task(lab: Lab) -> None:
    lab.enqueue("a", unique="u")
    refused = lab.send(lab.enqueue_call("b", unique="u"))[0]
    assert (refused.status, refused.task_id, refused.entry_id) == ("exists", "a", "")
    assert lab.enqueue("a", unique="u") == ["duplicate"]
    token = lab.join("w")
    lab.settle("w", token, verdict(lab.take("w", token)[0]))
    # What was refused was not remembered as seen.
    assert lab.enqueue("b", unique="u") == ["ok"]


def test_one_call_may_hold_the_same_task_twice(lab: Lab) -> None:
    assert lab.enqueue("a", "a") == ["ok", "duplicate"]


@pytest.mark.parametrize("bad", [("bad id", "normal", 5), ("", "normal", 5), ("x" * 129, "low", 5), ("t", "urgent", 5)])
def test_a_batch_with_a_bad_task_is_refused_whole(lab: Lab, bad: tuple[str, str, int]) -> None:
    good = scripts.NewTask("good", "high", 5, b"{}")
    call = scripts.enqueue(lab.partition, [good, scripts.NewTask(*bad, b"{}")], epoch_id="e", now=lab.now)
    before = lab.look()
    with pytest.raises(redis.ResponseError, match=r"RECLAIMD_TASK .* task 2"):
        lab.send(call)
    assert lab.look() == before


def test_lanes_are_read_in_strict_order_recovered_first(lab: Lab) -> None:
    for lane in ("low", "normal", "high"):
        lab.enqueue(f"back-{lane}", lane=lane)
    lab.return_by_crash("dead")
    for lane in ("low", "normal", "high"):
        lab.enqueue(f"new-{lane}", lane=lane)
    taken = [d.task_id for d in lab.take("w", lab.join("w"))]
    assert taken == ["back-high", "new-high", "back-normal", "new-normal", "back-low", "new-low"]


@pytest.mark.parametrize(
    ("outcome", "where", "counted", "unique_held"),
    [
        ("succeeded", "", {"succeeded": 1}, False),
        ("retry", "delayed", {"retried": 1}, True),
        ("parked", "delayed", {"parked": 1}, True),
        ("failed", "dead", {"failed": 1, "dead": 1, "dead:test": 1}, False),
        ("dead", "dead", {"dead": 1, "dead:test": 1}, False),
        ("handback", "recovered:normal", {"handed_back": 1}, True),
    ],
)
def test_outcomes_and_their_second_arrival(
    lab: Lab, outcome: Outcome, where: str, counted: dict[str, int], unique_held: bool
) -> None:
    token = lab.join("w")
    lab.enqueue("t", unique="u")
    settlement = verdict(lab.take("w", token)[0], outcome, delay_ms=100)
    assert lab.settle("w", token, settlement).stale == 0
    first = lab.look()
    assert lab.where("t") == where
    assert {name: first.counters.get(name) for name in counted} == counted
    assert (first.unique == {"u": "t"}) == unique_held
    assert lab.settle("w", token, settlement).stale == 1
    again = lab.look()
    assert (again.places, again.unique) == (first.places, first.unique)
    assert again.counters == first.counters | {"stale": 1}


@pytest.mark.parametrize("second", ["succeeded", "failed", "retry", "handback"])
@pytest.mark.parametrize("first", ["succeeded", "failed", "retry", "handback"])
def test_two_verdicts_on_one_entry_in_one_batch_are_one(lab: Lab, first: Outcome, second: Outcome) -> None:
    token = lab.join("w")
    lab.enqueue("t")
    delivery = lab.take("w", token)[0]
    assert lab.settle("w", token, verdict(delivery, first), verdict(delivery, second)).stale == 1
    counters = lab.look().counters
    assert sum(counters.get(n, 0) for n in ("succeeded", "failed", "retried", "handed_back")) == 1
    assert counters.get("dead", 0) <= 1
    lab.where("t")


def test_a_success_releases_a_unique_key_only_from_its_own_task(lab: Lab) -> None:
    token = lab.join("w")
    lab.enqueue("t", unique="u")
    delivery = lab.take("w", token)[0]
    lab.do("HSET", lab.key("unique"), "u", "another")
    lab.settle("w", token, verdict(delivery))
    assert lab.look().unique == {"u": "another"}


def test_poison_dies_at_max_deliveries_with_its_history(lab: Lab) -> None:
    lab.enqueue("t", most=3, unique="u")
    lab.return_by_crash("w", 3)
    fields = lab.letters()["t"][1]
    assert (fields["cause"], fields["deliveries"], fields["max"]) == ("max_deliveries", "3", "3")
    assert fields["history"].count("released") == 3
    assert lab.look().unique == {}


def test_delayed_tasks_come_when_they_are_due(lab: Lab) -> None:
    lab.enqueue("late", delay_ms=500)
    lab.enqueue("soon", delay_ms=100, lane="high")
    early = lab.send(scripts.promote(lab.partition, now=lab.now))
    assert early[:2] == (0, NOON + 100)
    lab.now += 500
    call = scripts.promote(lab.partition, limit=1, now=lab.now)
    answers = [lab.send(call) for _ in range(3)]
    assert [a[:2] for a in answers] == [(1, NOON + 500), (1, None), (0, None)]
    assert (lab.where("soon"), lab.where("late")) == ("lane:high", "lane:normal")
    assert lab.look().bodies == {}


def test_a_delayed_body_survives_byte_for_byte(lab: Lab) -> None:
    body = bytes(range(256)) + b'{"n":9007199254740993,"empty":[]}'
    task = scripts.NewTask("t", "normal", 5, body, delay_ms=1)
    lab.send(scripts.enqueue(lab.partition, [task], epoch_id="e", now=lab.now))
    lab.now += 1
    lab.promote()
    token = lab.join("w")
    delivery = lab.take("w", token)[0]
    lab.settle("w", token, verdict(delivery, "retry"))
    lab.promote()
    assert (delivery.body, lab.take("w", token)[0].body) == (body, body)


def bury(lab: Lab, task: str, unique: str = "") -> str:
    token = lab.join(f"w-{task}")
    lab.enqueue(task, unique=unique)
    lab.settle(f"w-{task}", token, verdict(lab.take(f"w-{task}", token)[0], "failed", error="boom"))
    return lab.letters()[task][0]


def test_redrive_begins_again_and_keeps_the_history(lab: Lab) -> None:
    letter = bury(lab, "t", unique="u")
    call = scripts.redrive(lab.partition, [letter], now=lab.now)
    assert [lab.send(call)[0].status for _ in range(2)] == ["ok", "missing"]
    place = lab.look().places["t"][0]
    assert (place.where, place.number("attempts"), place.first != "") == ("lane:normal", 0, True)
    assert '"redriven"' in place.text("history")
    assert (lab.look().unique, lab.counter("redriven")) == ({"u": "t"}, 1)


def test_redrive_is_refused_while_another_task_holds_the_unique_key(lab: Lab) -> None:
    letter = bury(lab, "t", unique="u")
    lab.enqueue("other", unique="u")
    assert lab.send(scripts.redrive(lab.partition, [letter], now=lab.now))[0] == ("exists", "t", "other")
    assert lab.where("t") == "dead"


def test_two_letters_with_one_unique_key_are_not_both_redriven(lab: Lab) -> None:
    letters = [bury(lab, "a", unique="u"), bury(lab, "b", unique="u")]
    statuses = [r.status for r in lab.send(scripts.redrive(lab.partition, letters, now=lab.now))]
    assert statuses == ["ok", "exists"]


def test_purge_deletes_once(lab: Lab) -> None:
    letter = bury(lab, "t")
    call = scripts.purge(lab.partition, [letter, letter], now=lab.now)
    assert [lab.send(call), lab.send(call)] == [1, 0]
    assert (lab.where("t"), lab.counter("purged")) == ("", 1)


def second_letter_of_a_millisecond(lab: Lab) -> str:
    """Redis completes an incomplete ID to a range, in which the letter has another number than 0."""
    letter = bury(lab, "t")
    fields = [part for pair in lab.letters()["t"][1].items() for part in pair]
    lab.do("DEL", lab.key("dead"))
    ms = int(letter.partition("-")[0]) + 1
    lab.do("XADD", lab.key("dead"), f"{ms}-7", *fields)
    return str(ms)


def test_redrive_by_an_incomplete_id_does_not_double_the_task(lab: Lab) -> None:
    short = second_letter_of_a_millisecond(lab)
    assert lab.send(scripts.redrive(lab.partition, [short], now=lab.now))[0].status == "ok"
    assert lab.where("t") == "lane:normal"


def test_purge_by_an_incomplete_id_deletes_what_it_counts(lab: Lab) -> None:
    short = second_letter_of_a_millisecond(lab)
    assert lab.send(scripts.purge(lab.partition, [short], now=lab.now)) == 1
    assert lab.where("t") == ""


def test_a_paused_queue_delivers_nothing_and_settles_on(lab: Lab) -> None:
    token = lab.join("w")
    lab.enqueue("a", "b")
    delivery = lab.take("w", token, 1)[0]
    pause = scripts.pause(lab.partition, True, now=lab.now)
    assert [lab.send(pause), lab.send(pause)] == [True, False]
    turned = lab.turn("w", token, 1, settlements=(verdict(delivery),))
    assert (turned.paused, turned.deliveries, turned.stale) == (True, [], 0)
    lab.do("DEL", lab.key("bell"))
    resume = scripts.pause(lab.partition, False, now=lab.now)
    assert [lab.send(resume), lab.send(resume)] == [True, False]
    assert lab.look().bell == 1
    assert [d.task_id for d in lab.take("w", token)] == ["b"]


def test_whatever_adds_work_rings_once(lab: Lab) -> None:
    def rung() -> bool:
        bell = lab.look().bell
        lab.do("DEL", lab.key("bell"))
        assert bell <= 1
        return bell == 1

    token = lab.join("w")
    assert not rung()
    lab.enqueue("a", "b")
    lab.enqueue("c")
    assert rung()
    lab.take("w", token, 1)
    assert rung(), "a turn that got all it wanted leaves work"
    b, c = lab.take("w", token, 5)
    assert not rung(), "a turn that got less has emptied the lanes"
    lab.settle("w", token, verdict(b, "retry", delay_ms=0))
    assert not rung()
    lab.promote()
    assert rung()
    lab.settle("w", token, verdict(c, "handback"))
    assert rung()
    lab.take("w", token)
    rung()
    lab.turn("w", token, running=())
    assert rung(), "an audit that hands back"
    lab.send(scripts.ring(lab.partition, now=lab.now))
    lab.send(scripts.ring(lab.partition, now=lab.now))
    assert rung()


def test_cleanup_forgets_the_gone_and_leaves_the_rest(lab: Lab) -> None:
    gone, live = lab.join("gone"), lab.join("live")
    lab.send(scripts.leave(lab.partition, "gone", gone, now=lab.now))
    lab.enqueue("t")
    key = lab.key("lane:normal")
    lab.do("XREADGROUP", "GROUP", "workers", "holder", "STREAMS", key, ">")
    lab.do("XREADGROUP", "GROUP", "workers", "empty", "STREAMS", key, ">")
    lab.do("XREADGROUP", "GROUP", "workers", "live", "STREAMS", key, ">")
    lab.do("XGROUP", "CREATECONSUMER", key, "workers", "empty")
    lab.now += 1000

    def clean(older: int, dry: bool) -> scripts.Cleaned:
        return lab.send(scripts.cleanup(lab.partition, older_than_ms=older, dry_run=dry, now=lab.now))

    assert clean(2000, True).workers == []
    before = lab.look()
    assert clean(1000, True) == (["gone"], [("lane:normal", "empty")])
    assert lab.look() == before
    assert clean(1000, False) == (["gone"], [("lane:normal", "empty")])
    assert clean(1000, False) == ([], [])
    seen = lab.look()
    assert seen.pending["lane:normal"] != {}, "a consumer with something pending must stay"
    assert set(seen.workers) == {"live"}
    assert lab.turn("live", live).status == "ok"


def test_retain_trims_letters_and_events_only_beyond_the_limits(lab: Lab) -> None:
    for i in range(300):
        lab.do("XADD", lab.key("dead"), f"{NOON - 1_000_000 + i}-0", "task", f"old{i}", "body", "")
        lab.do("XADD", lab.key("events"), f"{NOON - 1_000_000 + i}-0", "at", "0", "e", "[]")
    keep = scripts.Limits(2_000_000, 1000, 2_000_000, 1000)
    assert lab.send(scripts.retain(lab.partition, keep, now=lab.now)) == (0, 0)
    dead, events = lab.send(scripts.retain(lab.partition, scripts.Limits(1000, 1000, 1000, 1000), now=lab.now))
    assert (dead, events) == (300 - lab.do("XLEN", lab.key("dead")), 300 - lab.do("XLEN", lab.key("events")))
    # Trimming goes by whole nodes of a hundred.
    assert dead >= 200
    assert lab.counter("dead_dropped") == dead


def test_a_promotion_stops_at_a_quarter_megabyte(lab: Lab) -> None:
    tasks = [scripts.NewTask(f"t{i}", "normal", 5, b"x" * 100_000, delay_ms=1) for i in range(7)]
    lab.send(scripts.enqueue(lab.partition, tasks, epoch_id="e", now=lab.now))
    lab.now += 1
    call = scripts.promote(lab.partition, now=lab.now)
    answers = [lab.send(call) for _ in range(3)]
    assert [(answer.promoted, answer.more) for answer in answers] == [(3, True), (3, True), (1, False)]
    assert lab.order("lane:normal") == [f"t{i}" for i in range(7)]


def fill(lab: Lab, stream: str, entries: int, size: int) -> None:
    """So many entries of `size` bytes, a thousand seconds old."""
    script = """
        local value = string.rep('x', ARGV[3])
        for i = 1, ARGV[2] do
          redis.call('XADD', KEYS[1], ARGV[1] .. '-' .. i, 'body', value)
        end
    """
    lab.do("EVAL", script, 1, lab.key(stream), lab.now - 1_000_000, entries, size)


@pytest.mark.parametrize("limits", [(1000, 10**6), (10**9, 10)], ids=["age", "number"])
def test_a_retention_drops_ten_thousand_at_a_time(lab: Lab, limits: tuple[int, int]) -> None:
    for stream in ("dead", "events"):
        fill(lab, stream, 25_000, 1)
    call = scripts.retain(lab.partition, scripts.Limits(*limits, *limits), now=lab.now)
    answers = [lab.send(call) for _ in range(3)]
    for dropped in zip(*answers, strict=True):
        # Trimming goes by whole nodes of a hundred.
        assert all(9_900 <= number <= 10_000 for number in dropped[:2])
        assert 4_900 <= dropped[2] <= 5_200
    assert int(lab.do("HGET", lab.key("counters"), "dead_dropped")) == sum(letters for letters, _ in answers)


@pytest.mark.flavours("valkey", "redis62")
def test_events_are_kept_within_their_bytes_and_dead_letters_are_not(lab: Lab) -> None:
    for stream in ("dead", "events"):
        fill(lab, stream, 160, 1 << 20)
    keep = scripts.Limits(10**9, 10**6, 10**9, 10**6)
    letters, events = lab.send(scripts.retain(lab.partition, keep, now=lab.now))
    assert letters == 0
    assert 100 <= 160 - events <= 128
    assert lab.send(scripts.retain(lab.partition, keep, now=lab.now)) == (0, 0)


def test_view_counts_what_is_there(lab: Lab) -> None:
    token = lab.join("w")
    lab.enqueue("a", "b")
    lab.enqueue("d", delay_ms=100)
    lab.take("w", token, 1)
    lab.now += 200
    view = json.loads(lab.send(scripts.view(lab.partition, now=lab.now)))
    assert (view["waiting"]["lane:normal"], view["pending"]["lane:normal"]) == (1, 1)
    assert (view["delayed"], view["overdue"], view["live"], view["dead"]) == (1, 1, 1, 0)
