"""Overlap: what becomes of the next instant while a task is open, and each way in which that one ends or does not."""

from collections.abc import Callable

import pytest

from property.lab import NOON, Lab, verdict
from reclaimd.streams import scripts
from reclaimd.streams.codec import Outcome
from reclaimd.streams.occurrence_scripts import Fired, FireOverlap
from support.servers import FreshServer

OPEN = f"s:1-0:{NOON}"
NEXT = f"s:1-0:{NOON + 1}"


def fire_two(lab: Lab, overlap: FireOverlap, *, most: int = 5) -> list[str]:
    """The first opens, the next comes while it is open."""
    lab.now = NOON + 10
    first = lab.occurrence(NOON, overlap=overlap, max_deliveries=most)
    following = lab.occurrence(NOON + 1, after=NOON, overlap=overlap, max_deliveries=most, lane="high")
    return [result.status for result in lab.fire(first, following)]


@pytest.mark.parametrize(
    ("overlap", "status", "row"),
    [
        ("allow", "fired", Fired("1-0", NOON + 1, 2, NEXT)),
        ("skip", "skipped", Fired("1-0", NOON + 1, 1, OPEN)),
        ("queue_one", "queued", Fired("1-0", NOON + 1, 2, OPEN)),
        ("wait", "open", Fired("1-0", NOON, 1, OPEN)),
    ],
)
def test_what_becomes_of_an_instant_whose_predecessor_is_open(
    lab: Lab, overlap: FireOverlap, status: str, row: Fired
) -> None:
    assert fire_two(lab, overlap) == ["fired", status]
    assert lab.fired() == row
    assert set(lab.look().queued) == ({"s"} if status == "queued" else set())
    third = lab.occurrence(NOON + 2, after=row.last, overlap=overlap)
    assert lab.fire(third)[0].status == {"queued": "skipped"}.get(status, status)


def by_turn(outcome: Outcome) -> Callable[[Lab], None]:
    def end(lab: Lab) -> None:
        token = lab.join("w")
        (delivery,) = lab.take("w", token)
        lab.settle("w", token, verdict(delivery, outcome, delay_ms=1000))

    return end


def by_crash(lab: Lab) -> None:
    assert lab.take("w", lab.join("w"))
    lab.expire()
    lab.reclaim_all()


def by_takeover(lab: Lab) -> None:
    token = lab.join("w")
    lab.take("w", token)
    lab.join("w", proof=token.partition("-")[2])


def by_release(lab: Lab) -> None:
    lab.return_by_crash("w")


def by_leaving(lab: Lab) -> None:
    token = lab.join("w")
    lab.take("w", token)
    lab.send(scripts.leave(lab.partition, "w", token, now=lab.now))


def by_audit(lab: Lab) -> None:
    token = lab.join("w")
    lab.take("w", token)
    lab.turn("w", token, running=())


def by_ghost(lab: Lab) -> None:
    """Somebody deletes the entry that runs; its worker still gives a verdict."""
    token = lab.join("w")
    (delivery,) = lab.take("w", token)
    lab.do("XDEL", lab.key("lane:normal"), delivery.entry_id)
    lab.settle("w", token, verdict(delivery, "failed"))


# How it ends, its max_deliveries, and whether that closes.
ENDS: dict[str, tuple[Callable[[Lab], None], int, bool]] = {
    "succeeded": (by_turn("succeeded"), 5, True),
    "failed": (by_turn("failed"), 5, True),
    "dead": (by_turn("dead"), 5, True),
    "retry": (by_turn("retry"), 5, False),
    "parked": (by_turn("parked"), 5, False),
    "handback": (by_turn("handback"), 5, False),
    "crash": (by_crash, 5, False),
    "crash, its last": (by_crash, 1, True),
    "takeover": (by_takeover, 5, False),
    "takeover, its last": (by_takeover, 1, True),
    "release": (by_release, 5, False),
    "release, its last": (by_release, 1, True),
    "leave": (by_leaving, 1, False),
    "audit": (by_audit, 1, False),
    "ghost": (by_ghost, 5, True),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("overlap", ["skip", "queue_one", "wait"])
def test_only_what_ends_a_task_closes(lab: Lab, overlap: FireOverlap, end: str) -> None:
    how, most, closes = ENDS[end]
    statuses = fire_two(lab, overlap, most=most)
    counted = 1 + (statuses[1] == "queued")
    last = NOON if overlap == "wait" else NOON + 1
    how(lab)
    following = NEXT if overlap == "queue_one" else ""
    assert lab.fired() == Fired("1-0", last, counted, following if closes else OPEN)
    if overlap == "queue_one":
        assert lab.where(NEXT) == ("lane:high" if closes else "")
        assert set(lab.look().queued) == (set() if closes else {"s"})
    is_open = overlap == "queue_one" or not closes
    closed = {"skip": "skipped", "queue_one": "skipped" if not closes else "queued", "wait": "open"}
    again = lab.occurrence(NOON + 5, after=last, overlap=overlap)
    assert lab.fire(again)[0].status == (closed[overlap] if is_open else "fired")


@pytest.mark.parametrize("end", ["succeeded", "failed"])
def test_what_was_queued_begins_as_a_new_task(lab: Lab, end: str) -> None:
    body = b'{"v":1,"args":{"none":[],"big":9007199254740993,"text":"\xc3\xa9|\\n"}}'
    lab.now = NOON + 10
    lab.fire(lab.occurrence(NOON), lab.occurrence(NOON + 1, after=NOON, overlap="queue_one", body=body, lane="low"))
    lab.now += 500
    token = lab.join("w")
    (delivery,) = lab.take("w", token)
    bell = lab.do("DEL", lab.key("bell"))
    assert bell in (0, 1)
    turned = lab.turn("w", token, 1, settlements=(verdict(delivery, "succeeded" if end == "succeeded" else "failed"),))
    (queued,) = turned.deliveries
    assert (queued.task_id, queued.lane, queued.body, queued.enqueued_at) == (NEXT, "low", body, lab.now)
    assert (queued.schedule, queued.deliveries, queued.history) == ("s", 0, "")
    assert (lab.counter("occurrences:queued"), lab.counter("occurrences:fired")) == (1, 2)
    assert lab.fired().open == NEXT
    lab.settle("w", token, verdict(queued))
    assert lab.fired() == Fired("1-0", NOON + 1, 2, "")


def test_a_retry_that_comes_back_is_still_the_open_one(lab: Lab) -> None:
    fire_two(lab, "skip")
    by_turn("retry")(lab)
    lab.now += 2_000
    lab.promote()
    token = lab.join("v")
    (delivery,) = lab.take("v", token)
    assert lab.fired().open == delivery.task_id == OPEN
    lab.settle("v", token, verdict(delivery))
    assert lab.fired().open == ""


def test_a_settlement_sent_again_closes_once(lab: Lab) -> None:
    fire_two(lab, "queue_one")
    token = lab.join("w")
    (delivery,) = lab.take("w", token, 1)
    done = verdict(delivery)
    lab.settle("w", token, done, done)
    assert lab.fired().open == NEXT
    assert lab.settle("w", token, done).stale == 1
    assert lab.fired().open == NEXT
    assert lab.order("lane:high") == [NEXT]


def test_a_fenced_worker_closes_nothing(lab: Lab) -> None:
    fire_two(lab, "queue_one")
    token = lab.join("w")
    (delivery,) = lab.take("w", token)
    lab.expire()
    lab.reclaim_all()
    assert lab.settle("w", token, verdict(delivery)).status == "fenced"
    assert (lab.fired().open, lab.where(OPEN)) == (OPEN, "recovered:normal")


def test_a_redriven_letter_is_not_the_open_task_again(lab: Lab) -> None:
    fire_two(lab, "skip", most=1)
    by_release(lab)
    letter = lab.letters()[OPEN][0]
    lab.send(scripts.redrive(lab.partition, [letter], now=lab.now))
    assert (lab.fired().open, lab.where(OPEN)) == ("", "lane:normal")
    assert lab.fire(lab.occurrence(NOON + 5, after=NOON + 1))[0].status == "fired"
    token = lab.join("v")
    first, _ = lab.take("v", token)
    assert first.task_id == OPEN
    lab.settle("v", token, verdict(first))
    assert lab.fired().open == f"s:1-0:{NOON + 5}"


def test_purging_a_letter_closes_nothing(lab: Lab) -> None:
    fire_two(lab, "skip", most=1)
    by_release(lab)
    lab.fire(lab.occurrence(NOON + 5, after=NOON + 1))
    row = lab.fired()
    assert lab.send(scripts.purge(lab.partition, [lab.letters()[OPEN][0]], now=lab.now)) == 1
    assert lab.fired() == row


@pytest.mark.parametrize("lost", ["body", "envelope"])
def test_a_delayed_task_that_is_lost_closes(lab: Lab, lost: str) -> None:
    fire_two(lab, "queue_one")
    by_turn("retry")(lab)
    if lost == "body":
        lab.do("HDEL", lab.key("delayed:body"), OPEN)
    else:
        lab.do("HSET", lab.key("delayed:body"), OPEN, "no envelope")
    lab.now += 2_000
    lab.promote()
    assert (lab.fired().open, lab.where(NEXT)) == (NEXT, "lane:high")


def test_an_entry_that_was_damaged_closes_when_it_is_buried(lab: Lab) -> None:
    fire_two(lab, "queue_one")
    ((entry, fields),) = lab.do("XRANGE", lab.key("lane:normal"), "-", "+")
    lab.do("XDEL", lab.key("lane:normal"), entry)
    lab.do("XADD", lab.key("lane:normal"), "*", *fields[:-2], "attempts", "many", *fields[-2:])
    token = lab.join("w")
    lab.take("w", token, 1)
    assert (lab.fired().open, lab.where(NEXT)) == (NEXT, "lane:high")


def test_something_else_in_the_place_of_what_was_queued_is_buried(lab: Lab) -> None:
    fire_two(lab, "queue_one")
    lab.do("HSET", lab.key("fired:queued"), "s", "[no envelope")
    by_turn("succeeded")(lab)
    assert (lab.fired().open, lab.look().queued) == ("", {})
    assert lab.letters()["foreign:queued:s"][1]["x:body"] == "[no envelope"


@pytest.mark.parametrize("wrong", ["fired", "fired:queued"])
def test_a_settlement_outlives_keys_of_another_type(lab: Lab, wrong: str) -> None:
    fire_two(lab, "queue_one")
    lab.enqueue("other")
    token = lab.join("w")
    running = lab.take("w", token)
    lab.do("RENAME", lab.key(wrong), "aside")
    lab.do("RPUSH", lab.key(wrong), "x")
    if wrong == "fired":
        assert lab.settle("w", token, *map(verdict, running)).status == "ok"
    lab.do("DEL", lab.key(wrong))
    lab.do("RENAME", "aside", lab.key(wrong))
    assert lab.look().queued["s"]["task"] == NEXT, "what was queued is still there"


def test_what_is_queued_behind_the_open_one_is_not_forgotten_when_overlap_becomes_allowed(lab: Lab) -> None:
    fire_two(lab, "queue_one")
    assert lab.fire(lab.occurrence(NOON + 2, after=NOON + 1, overlap="allow"))[0].status == "fired"
    assert lab.fired().open == OPEN
    token = lab.join("w")
    deliveries = {d.task_id: d for d in lab.take("w", token)}
    lab.settle("w", token, verdict(deliveries[f"s:1-0:{NOON + 2}"]))
    assert lab.fired().open == OPEN
    lab.settle("w", token, verdict(deliveries[OPEN]))
    assert (lab.fired().open, lab.where(NEXT)) == (NEXT, "lane:high")


def test_tasks_of_one_turn_close_each_their_own(lab: Lab) -> None:
    names = [f"s{i}" for i in range(20)]
    lab.now = NOON + 10
    for at, after in ((NOON, 0), (NOON + 1, NOON)):
        lab.fire(*(lab.occurrence(at, after, schedule=name, overlap="queue_one") for name in names))
    token = lab.join("w")
    lab.settle("w", token, *map(verdict, lab.take("w", token, 20)))
    assert {lab.fired(name).open for name in names} == {f"{name}:1-0:{NOON + 1}" for name in names}
    lab.settle("w", token, *map(verdict, lab.take("w", token, 20)))
    assert {lab.fired(name).open for name in names} == {""}


def test_what_is_open_and_queued_outlives_the_server(fresh_server: FreshServer, flavour: str) -> None:
    server = fresh_server(flavour, appendonly="yes", appendfsync="always")
    lab = Lab(server)
    fire_two(lab, "queue_one")
    token = lab.join("w")
    (delivery,) = lab.take("w", token)
    before = lab.look()
    server.kill9()
    server.start()
    lab.close()
    lab = Lab(server)
    lab.now = NOON + 20
    assert (lab.look().fired, lab.look().queued) == (before.fired, before.queued)
    assert lab.fire(lab.occurrence(NOON + 2, after=NOON + 1, overlap="queue_one"))[0].status == "skipped"
    lab.turns[token] = 1
    lab.settle("w", token, verdict(delivery))
    server.kill9()
    server.start()
    lab.close()
    lab = Lab(server)
    assert (lab.fired().open, lab.where(NEXT), lab.look().queued) == (NEXT, "lane:high", {})
    lab.close()
