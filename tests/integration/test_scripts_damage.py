"""What others wrote or deleted: foreign entries, vanished keys and groups, wrong types, another layout."""

import contextlib
from typing import Any

import pytest
import redis

from property.lab import LEASE, Lab, verdict
from reclaimd.streams import archive_scripts as arc
from reclaimd.streams import scripts
from reclaimd.streams.errors import LayoutMismatch
from reclaimd.streams.occurrence_scripts import retire
from reclaimd.streams.redis_log import translate

GOOD = ("task", "f", "at", "1", "lane", "high", "max", "5")
FOREIGN: dict[str, tuple[Any, ...]] = {
    "other fields": ("order", "17", "total", "9.99"),
    "no body": GOOD,
    "no lane": ("task", "f", "at", "1", "max", "5", "body", "{}"),
    "unknown lane": ("task", "f", "at", "1", "lane", "urgent", "max", "5", "body", "{}"),
    "another order": ("at", "1", "task", "f", "lane", "high", "max", "5", "body", "{}"),
    "a time that is none": ("task", "f", "at", "noon", "lane", "high", "max", "5", "body", "{}"),
    "a number of 5,000 digits": ("task", "f", "at", "9" * 5000, "lane", "high", "max", "5", "body", "{}"),
    "max that is none": ("task", "f", "at", "1", "lane", "high", "max", "-1", "body", "{}"),
    "deliveries that are none": (*GOOD, "deliveries", "many", "body", "{}"),
    "a token that is none": (*GOOD, "token", "1.5", "body", "{}"),
    "not UTF-8": (b"\xff\xfe", b"\x80\x81"),
    "a task ID that is not UTF-8": ("task", b"\xff", "at", "1", "lane", "high", "max", "5", "body", "{}"),
    "10 MB": ("blob", b"x" * 10_000_000),
    "3,000 fields": tuple(f"f{i}" for i in range(6000)),
    "an empty field": ("", ""),
}


@pytest.mark.parametrize("stream", ["lane:high", "suspect"])
@pytest.mark.parametrize("what", FOREIGN)
def test_a_foreign_entry_is_buried_with_its_fields_and_work_goes_on(lab: Lab, what: str, stream: str) -> None:
    token = lab.join("w")
    entry = lab.do("XADD", lab.key(stream), "*", *FOREIGN[what]).decode()
    lab.enqueue("good", lane="high")
    assert [d.task_id for d in lab.take("w", token, 10)] == ["good"]
    buried, fields = lab.letters()[f"foreign:{stream}:{entry}"]
    assert fields["cause"] == "foreign"
    kept = lab.do("XRANGE", lab.key("dead"), buried, buried)[0][1]
    for part in FOREIGN[what]:
        raw = part if isinstance(part, bytes) else part.encode()
        assert any(raw in value for value in kept), f"{raw[:20]!r} is not in the dead letter"
    assert lab.look().streams[stream] == [] or stream == "lane:high"
    assert "lane:high" not in lab.look().pending or len(lab.look().owned_by("w")) == 1


def test_a_flood_of_foreign_entries_does_not_hide_the_work_behind_it(lab: Lab) -> None:
    token = lab.join("w")
    for _ in range(50):
        lab.do("XADD", lab.key("lane:high"), "*", "what", "is this")
    lab.enqueue("good", lane="high")
    for _ in range(30):
        lab.do("DEL", lab.key("bell"))
        if lab.take("w", token, 2):
            break
        assert lab.look().bell == 1, "the worker would wait, though work is there"
    assert lab.where("good") == "lane:high"
    assert len(lab.look().dead) == 50


def test_a_foreign_entry_that_is_pending_is_buried_when_it_comes_back(lab: Lab) -> None:
    lab.join("live")
    entry = lab.do("XADD", lab.key("lane:low"), "*", "what", "is this").decode()
    lab.do("XREADGROUP", "GROUP", "workers", "stranger", "STREAMS", lab.key("lane:low"), ">")
    lab.reclaim_all(unknown=True)
    assert f"foreign:lane:low:{entry}" in lab.letters()


def test_an_optional_field_that_is_not_utf8_is_delivered(lab: Lab) -> None:
    token = lab.join("w")
    lab.do("XADD", lab.key("lane:high"), "*", *GOOD, "unique", b"\xff", "body", b"\xff")
    delivery = lab.take("w", token)[0]
    assert (delivery.body, delivery.unique) == (b"\xff", "\N{REPLACEMENT CHARACTER}")
    assert lab.settle("w", token, verdict(delivery)).stale == 0


@pytest.mark.parametrize(
    "body",
    [
        "not json",
        "{}",
        "[1,2]",
        '["task","x"]',
        "[[]]",
        "null",
        '["task",{},"at","1","lane","low","max","5","body",""]',
    ],
)
def test_a_delayed_body_that_nobody_can_read_holds_nobody_up(lab: Lab, body: str) -> None:
    lab.enqueue("good", delay_ms=100)
    lab.do("ZADD", lab.key("delayed"), lab.now, "bad")
    lab.do("HSET", lab.key("delayed:body"), "bad", body)
    lab.now += 100
    assert lab.promote() == 1
    assert lab.where("good") == "lane:normal"
    assert lab.letters()["foreign:delayed:bad"][1]["x:body"] == body
    assert (lab.look().delayed, lab.look().bodies) == ({}, {})


def test_a_delayed_task_without_a_body_is_a_ghost(lab: Lab) -> None:
    lab.enqueue("good", delay_ms=0)
    lab.do("ZADD", lab.key("delayed"), lab.now, "ghost")
    assert (lab.promote(), lab.counter("ghosts"), lab.look().delayed) == (0, 1, {})


@pytest.mark.parametrize("stream", ["suspect", "recovered:high", "lane:high", "lane:normal", "lane:low"])
def test_a_vanished_stream_or_group_is_made_again_by_the_next_turn(lab: Lab, stream: str) -> None:
    token = lab.join("w")
    lab.do("DEL", lab.key(stream))
    lab.enqueue("a", lane="high")
    assert [d.task_id for d in lab.take("w", token, 9)] == ["a"]
    lab.enqueue("b", lane="high")
    lab.do("XGROUP", "DESTROY", lab.key(stream), "workers")
    taken = {d.task_id for d in lab.take("w", token, 9)}
    assert "b" in taken
    # What was pending in a group that is destroyed is delivered again; nothing else can know of it.
    assert taken <= {"a", "b"}


def test_scripts_that_read_go_on_without_streams_and_groups(lab: Lab) -> None:
    token = lab.join("w")
    for stream in ("suspect", "lane:high", "lane:normal"):
        lab.do("DEL", lab.key(stream))
    lab.send(scripts.view(lab.partition, now=lab.now))
    lab.send(scripts.cleanup(lab.partition, now=lab.now))
    lab.turn("w", token, running=())
    lab.expire()
    lab.reclaim_all(unknown=True)
    assert lab.look().leases == {}


def test_a_flushed_partition_fences_its_workers_and_begins_again(lab: Lab) -> None:
    token = lab.join("w")
    lab.do("FLUSHALL")
    assert lab.turn("w", token, 1).status == "fenced"
    assert lab.enqueue("t") == ["ok"]
    assert [d.task_id for d in lab.take("w", lab.join("w"))] == ["t"]


def test_without_an_epoch_a_turn_refuses_to_run(lab: Lab) -> None:
    token = lab.join("w")
    lab.enqueue("t")
    lab.do("DEL", lab.key("epoch"))
    turned = lab.turn("w", token, 1)
    assert (turned.status, turned.state) == ("state", "absent")
    lab.do("HSET", lab.key("epoch"), "id", "e", "state", "rebuilding", "layout", "1")
    assert lab.turn("w", token, 1).state == "rebuilding"
    assert lab.look().pending["lane:normal"] == {}


def all_calls(lab: Lab, token: str) -> dict[str, scripts.Call[Any]]:
    p, now = lab.partition, lab.now
    return {
        "enqueue": lab.enqueue_call("x"),
        "join": lab.join_call("v", "n"),
        "turn": scripts.turn(p, "w", token, scripts.Turn(1, True), now=now),
        "beat": scripts.beat(p, "w", token, now=now),
        "leave": scripts.leave(p, "w", token, now=now),
        "release": scripts.release(p, "w", token.partition("-")[2], now=now),
        "reclaim": scripts.reclaim(p, unknown=True, now=now),
        "promote": scripts.promote(p, now=now),
        "view": scripts.view(p, now=now),
        "ring": scripts.ring(p, now=now),
        "pause": scripts.pause(p, True, now=now),
        "redrive": scripts.redrive(p, ["1-1"], now=now),
        "purge": scripts.purge(p, ["1-1"], now=now),
        "cleanup": scripts.cleanup(p, now=now),
        "retain": scripts.retain(p, scripts.Limits(1, 1, 1, 1), now=now),
        "fire": lab.fire_call(lab.occurrence(now - 1)),
        "retire": retire(p, [("s", "2-0")], now=now),
        **archive_calls(lab),
    }


def archive_calls(lab: Lab) -> dict[str, scripts.Call[Any]]:
    p, now = lab.partition, lab.now
    seen: Any = {"archive_id": "a", "seen_epoch_id": "e", "new_epoch_id": "e2"}
    known = arc.Expected("a", "e", "1:0", "2:0")
    return {
        "adopt": arc.adopt(p, **seen, mark="1:0", events_cap=1_000, now=now),
        "tail": arc.tail(p, known, arc.Positions(), now=now),
        "freeze": arc.freeze(p, **seen, seen_mark="", rebuild_id="r", state="lost", now=now),
        "restore": arc.restore_seen(p, "r", ("", "1"), ["t"], now=now),
        "drop": arc.drop(p, "r", [], now=now),
        "finish": arc.finish(p, "r", cursor="", mark="1:0", events_cap=1_000, now=now),
    }


def test_every_script_refuses_another_layout_before_it_writes(lab: Lab) -> None:
    token = lab.join("w")
    lab.enqueue("t", delay_ms=1)
    lab.do("HSET", lab.key("epoch"), "layout", "2")
    lab.now += LEASE * 2
    before = lab.look()
    calls = all_calls(lab, token)
    assert set(calls) == set(scripts.ALL_SCRIPTS)
    for name, call in calls.items():
        with pytest.raises(redis.ResponseError) as caught:
            lab.send(call)
        ours = translate(caught.value, "redis://x")
        assert isinstance(ours, LayoutMismatch), name
        assert (ours.found, ours.expected) == ("2", "1")
    assert lab.look() == before


WRONG = [
    "epoch",
    "clock",
    "counters",
    "events",
    "bell",
    "unique",
    "dead",
    "workers",
    "leases",
    "turns",
    "control",
    "fired",
    "fired:queued",
    "delayed",
    "delayed:body",
    "seen:0",
    "seen:1",
    "suspect",
    "recovered:high",
    "lane:normal",
]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_key_of_the_wrong_type_loses_no_task(lab: Lab, wrong: str) -> None:
    """Whatever fails half-way: with the key repaired, every accepted task is there or was settled on purpose."""
    lab.enqueue("poison", most=1)
    lab.return_by_crash("p")
    token = lab.join("w")
    lab.enqueue("later", delay_ms=1)
    lab.enqueue("ok", "again", "bad", "back", unique="")
    lab.enqueue("held", unique="u")
    running = lab.take("w", token)
    letter = lab.letters()["poison"][0]
    assert [d.task_id for d in running] == ["ok", "again", "bad", "back", "held"]
    if lab.do("EXISTS", lab.key(wrong)):
        lab.do("RENAME", lab.key(wrong), "aside")
    lab.do(*(("HSET", lab.key(wrong), "f", "v") if wrong == "bell" else ("RPUSH", lab.key(wrong), "v")))
    outcomes = ("succeeded", "retry", "failed", "handback", "succeeded")
    verdicts = tuple(verdict(d, o) for d, o in zip(running, outcomes, strict=True))  # type: ignore[arg-type]
    lab.now += 10
    calls = all_calls(lab, token)
    calls["turn"] = lab.turn_call("w", token, 1, settlements=verdicts, running=())
    calls["redrive"] = scripts.redrive(lab.partition, [letter], now=lab.now)
    del calls["purge"], calls["retain"]
    accepted = {"later", "again", "bad", "back", "poison"}
    for name in ("turn", "enqueue", "redrive", "promote", "release", "reclaim", "join", "leave", *calls):
        with contextlib.suppress(redis.ResponseError):
            reply = lab.send(calls[name])
            if name == "enqueue" and reply[0].status == "ok":
                accepted.add("x")
    lab.do("DEL", lab.key(wrong))
    if lab.do("EXISTS", "aside"):
        lab.do("RENAME", "aside", lab.key(wrong))
    found = lab.look()
    assert accepted <= set(found.places), f"lost: {accepted - set(found.places)}"
    settled = found.places.get("ok", [])
    assert all(p.owner or p.where != "lane:normal" for p in settled), "acknowledged, but still there"
