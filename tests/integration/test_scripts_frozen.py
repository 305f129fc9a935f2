"""A partition that lost data: `freeze`, and what all other scripts do meanwhile."""

from typing import Any

import pytest
import redis

from property.archived_lab import FIRST, OURS, Archived, restored
from property.lab import NOON
from reclaimd.streams import archive_scripts as arc
from reclaimd.streams import scripts


def test_a_freeze_is_of_what_was_seen(lab: Archived) -> None:
    lab.adopt()
    assert lab.freeze(seen_epoch_id="x")[:2] == ("changed", "")
    assert lab.freeze(seen_mark="x")[:2] == ("changed", "")
    assert lab.freeze(archive_id="b" * 16)[:2] == ("foreign", "")
    assert lab.facts().state == "ok"
    assert lab.freeze(state="lost")[:2] == ("ok", "")
    assert lab.facts()[2:] == ("lost", "e2", OURS, FIRST, "", "r1", "", ())


def test_a_rebuild_goes_on_and_never_back(lab: Archived) -> None:
    lab.adopt()
    lab.freeze(state="lost")
    assert lab.restore(restored("t")) == ("moved", "", 0, 0, "lost")
    assert lab.freeze(seen_epoch_id="e", seen_mark=FIRST)[:2] == ("ok", "")
    assert lab.facts().state == "rebuilding"
    assert lab.restore(restored("t"), to="c1").status == "ok"
    assert lab.freeze(state="lost", seen_epoch_id="whatever")[:2] == ("ok", "c1")
    assert lab.facts().state == "rebuilding"
    assert lab.freeze("r2", new_epoch_id="e3")[:2] == ("ok", ""), "another one, on what is there now"
    assert lab.freeze("r1", seen_epoch_id="e")[:2] == ("changed", "")


def test_who_stands_in_a_rebuild_that_was_lost_itself_is_late(lab: Archived) -> None:
    lab.adopt()
    before = lab.freeze()
    lab.do("FLUSHALL")
    now = lab.freeze(seen_epoch_id="", seen_mark="")
    assert (now.status, now.cursor) == ("ok", "")
    late, of_now = f"r1 {before.nonce}", f"r1 {now.nonce}"
    step = ("", "c1")
    for name, status in ((late, "moved"), (of_now, "ok")):
        call = arc.restore_tasks(lab.partition, name, step, [restored("t")], now=lab.now)
        assert lab.send(call).status == status
        row = arc.DropRow("lane:low", "5-1", "t", "", "", "settled")
        assert lab.send(arc.drop(lab.partition, name, [row], now=lab.now)).status == status
    # Whoever freezes it again goes on.
    assert lab.freeze() == ("ok", "c1", now.nonce)
    for name, status in ((late, "moved"), (of_now, "ok")):
        end = arc.finish(lab.partition, name, cursor="c1", mark="2:b", events_cap=9, now=lab.now)
        assert [lab.send(end).status, lab.send(end).status] == [status, status]


def test_what_is_finished_is_not_frozen_again_by_a_late_call(lab: Archived) -> None:
    lab.adopt()
    lab.freeze()
    assert lab.finish().status == "ok"
    assert lab.freeze()[:2] == ("changed", "")
    assert lab.freeze(seen_epoch_id="e", seen_mark=FIRST)[:2] == ("changed", "")
    assert lab.facts().state == "ok"


def test_two_that_freeze_at_once(lab: Archived) -> None:
    lab.adopt()
    seen = {"seen_epoch_id": "e", "seen_mark": FIRST}
    assert lab.freeze("r1", new_epoch_id="e2", **seen).status == "ok"
    assert lab.freeze("r2", new_epoch_id="e3", **seen).status == "changed"


def test_an_empty_partition_is_frozen(frozen: Archived) -> None:
    facts = frozen.facts()
    assert (facts.epoch, facts.state, facts.epoch_id, facts.mark) == (True, "rebuilding", "e2", "")
    # Planted already, so that what is deleted from here on is missing.
    assert not facts.missing
    assert frozen.say("HGET", frozen.key("epoch"), "lost").split()[:3] == ["dead", "events", "suspect"]
    assert frozen.adopt("e2") == ("state", "e2", "rebuilding")


@pytest.mark.parametrize("state", ["lost", "rebuilding"])
def test_nothing_runs_or_moves_while_it_is_frozen(lab: Archived, state: str) -> None:
    lab.adopt()
    lab.enqueue("held", "waiting", "bad", most=1)
    lab.enqueue("delayed", delay_ms=1)
    token = lab.join("w")
    lab.take("w", token, 1)
    gone = lab.join("gone")
    lab.freeze(state=state)
    places = {task: [place.where for place in found] for task, found in lab.look().places.items()}
    lab.now += 100
    assert lab.turn("w", token, 5).status == "state"
    assert lab.turn("w", token, 5).state == state
    assert lab.send(lab.join_call("new", "f" * 16)) == ("state", "", "", 0, state)
    assert lab.reclaim(unknown=True) == (0, False, 0, state)
    assert lab.send(scripts.promote(lab.partition, now=lab.now)) == (0, None, False, state)
    calls: list[scripts.Call[Any]] = [scripts.redrive(lab.partition, ["1-0"]), scripts.purge(lab.partition, ["1-0"])]
    for call in calls:
        with pytest.raises(redis.ResponseError, match=f"RECLAIMD_STATE .* {state}"):
            lab.send(call)
    reply = lab.send(lab.fire_call(lab.occurrence(NOON)))
    assert (reply.status, reply.state) == ("state", state)
    assert lab.send(scripts.leave(lab.partition, "gone", gone, now=lab.now)) == ("state", 0)
    nonce = token.partition("-")[2]
    assert lab.send(scripts.release(lab.partition, "w", nonce, now=lab.now)) == ("state", 0)
    assert not lab.send(scripts.beat(lab.partition, "w", token, now=lab.now)), "fenced all the same"
    assert {task: [place.where for place in found] for task, found in lab.look().places.items()} == places
    assert lab.view().state == state
    assert lab.enqueue("more") == ["ok"]
    lab.freeze(state="rebuilding")
    lab.finish()
    assert lab.reclaim_all() == 1
    assert lab.where("held") == "dead", "most=1: the release counted as a delivery"


def test_a_fenced_worker_is_told_so_first(lab: Archived) -> None:
    token = lab.join("w")
    lab.do("DEL", lab.key("workers"))
    lab.adopt("e")
    lab.freeze()
    assert lab.turn("w", token).status == "fenced"


def test_nothing_fires_between_a_loss_and_its_detection(lab: Archived) -> None:
    lab.adopt()
    assert lab.fire(lab.occurrence(NOON))[0].status == "fired"
    lab.do("DEL", lab.key("fired"))
    for _ in range(2):
        reply = lab.send(lab.fire_call(lab.occurrence(NOON)))
        assert (reply.status, reply.state) == ("state", "lost")
    assert lab.say("EXISTS", lab.key("fired")) == 0


def test_a_daemon_with_an_archive_fires_only_in_what_that_archive_has(lab: Archived) -> None:
    def fire(archive: str) -> tuple[str, str]:
        reply = lab.send(lab.fire_call(lab.occurrence(NOON), epoch_id=f"={archive}"))
        return reply.status, reply.state

    assert fire(OURS) == ("state", "absent")
    lab.enqueue("t")
    assert fire(OURS) == ("state", "unarchived")
    lab.adopt("e")
    assert fire("b" * 16) == ("state", "foreign")
    assert fire(OURS) == ("ok", "ok")
    lab.do("FLUSHALL")
    lab.enqueue("t")
    assert fire(OURS) == ("state", "unarchived"), "somebody began anew"


def test_what_is_sent_while_it_is_rebuilt_is_not_restored_besides(frozen: Archived) -> None:
    assert frozen.enqueue("a") == ["ok"]
    frozen.do("DEL", frozen.key("seen:0"), frozen.key("seen:1"))
    assert frozen.enqueue("a") == ["duplicate"]
    frozen.enqueue("d", delay_ms=100)
    assert frozen.restore(restored("a"), restored("b"), restored("d"), to="c") == ("ok", "c", 1, 2, "rebuilding")
    assert frozen.order("recovered:normal") == ["b"]
    assert frozen.finish("c").status == "ok"
    assert frozen.say("EXISTS", frozen.key("rebuild:accepted")) == 0


def test_what_is_restored_is_a_duplicate_when_it_is_sent_again(frozen: Archived) -> None:
    frozen.restore(restored("a", seen=True), restored("b"), to="c")
    assert frozen.enqueue("a") == ["duplicate"]
    assert frozen.enqueue("b") == ["ok"], "nobody said that it was seen"
