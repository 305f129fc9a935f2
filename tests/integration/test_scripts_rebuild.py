"""`restore`, `drop` and `finish`: a partition is made whole from its archive."""

from typing import Any

import pytest
import redis

from property.archived_lab import FIRST, OURS, Archived, fields_of, refused, restored
from property.lab import NOON, verdict
from reclaimd.streams import archive_scripts as arc
from reclaimd.streams import events as ev
from reclaimd.streams import scripts
from reclaimd.streams.disowning import disown
from reclaimd.streams.keys import STREAMS


def test_every_place_gets_its_tasks(frozen: Archived) -> None:
    letter = [*fields_of("l"), "cause", "failed", "error", "e", "worker", "w", "dead_at", str(NOON)]
    row = "1-0|77|2|s:1-0:76"
    reply = frozen.restore(
        restored("sus", "suspect", fields=fields_of("sus", deliveries="2", handbacks="1"), old_entry_id="5-1"),
        *(
            restored(f"t.{i}", place, fields=fields_of(f"t.{i}", place.partition(":")[2] or "low"))
            for i, place in enumerate(STREAMS[1:])
        ),
        restored("d", "delayed", due=NOON + 9, unique="u", fields=fields_of("d", unique="u")),
        restored("l", "dead", fields=letter),
        restored("s:1-0:77", "queued", schedule="s"),
        to="c1",
    )
    assert reply == ("ok", "c1", 10, 0, "rebuilding")
    look = frozen.look()
    assert {task: [p.where for p in found] for task, found in look.places.items() if found} == {
        "sus": ["suspect"],
        **{f"t.{i}": [place] for i, place in enumerate(STREAMS[1:])},
        "d": ["delayed"],
        "l": ["dead"],
    }
    assert frozen.say("ZSCORE", frozen.key("delayed"), "d") == str(NOON + 9)
    assert frozen.say("HGET", frozen.key("unique"), "u") == "d"
    assert (
        frozen.send(arc.restore_fired(frozen.partition, "r1", ("c1", "c2"), [("s", row)], now=frozen.now)).restored == 1
    )
    (told,) = (event for event in frozen.told() if isinstance(event, ev.Restored))
    entry = frozen.say("XRANGE", frozen.key("suspect"), "-", "+")[0][0]
    assert told.tasks[0] == ev.RestoredRow("sus", "suspect", entry, 2, 1, "5-1", 0)
    assert told.tasks[7] == ev.RestoredRow("d", "delayed", "", 0, 0, "", NOON + 9)
    frozen.finish("c2")
    token = frozen.join("w")
    frozen.settle("w", token, *(verdict(found) for found in frozen.take("w", token)))
    frozen.settle("w", token, *(verdict(found) for found in frozen.take("w", token)))
    assert not frozen.take("w", token)
    frozen.now += 10
    assert frozen.promote() == 1


def test_bodies_come_back_byte_by_byte(frozen: Archived) -> None:
    body = bytes(range(256))
    places = ("recovered:high", "delayed")
    tasks = [restored(f"t{n}", place, fields=fields_of(f"t{n}", "high", body)) for n, place in enumerate(places)]
    frozen.restore(*tasks, to="c")
    frozen.finish("c")
    assert frozen.promote() == 1
    entries = [
        row for name in ("recovered:high", "lane:high") for row in frozen.do("XRANGE", frozen.key(name), "-", "+")
    ]
    assert [fields[-1] for _, fields in entries] == [body, body]


def test_a_step_counts_once(frozen: Archived) -> None:
    assert frozen.restore(restored("a"), at="", to="c1").status == "ok"
    assert frozen.restore(restored("a"), at="", to="c1") == ("moved", "c1", 0, 0, "rebuilding")
    assert frozen.restore(restored("b"), at="c0", to="c2") == ("moved", "c1", 0, 0, "rebuilding")
    assert frozen.restore(restored("b"), at="c1", to="c2", rebuild="r0") == ("moved", "", 0, 0, "rebuilding")
    assert frozen.restore(restored("b"), at="c1", to="c2").status == "ok"
    assert frozen.order("recovered:normal") == ["a", "b"]
    frozen.finish("c2")
    assert frozen.restore(restored("c"), at="c2", to="c3") == ("moved", "c2", 0, 0, "ok")


def test_an_older_row_of_a_schedule_does_not_replace_a_newer_one(frozen: Archived) -> None:
    there = {"a": "1-0|50|3|x", "b": "2-0|50|3|x", "c": "1-0|50|3|x", "d": "1-0|50|3|x", "e": "unreadable"}
    frozen.do("HSET", frozen.key("fired"), *(part for row in there.items() for part in row))
    archived = {
        "a": "1-0|60|4|",
        "b": "1-9|70|9|",
        "c": "1-0|40|2|y",
        "d": "1-0|50|3|",
        "e": "1-0|1|1|",
        "f": "1-0|1|1|",
    }
    reply = frozen.send(arc.restore_fired(frozen.partition, "r1", ("", "c"), list(archived.items()), now=frozen.now))
    assert reply == ("ok", "c", 4, 2, "rebuilding")
    assert frozen.look().fired == archived | {"b": there["b"], "c": there["c"]}


def test_facts_and_seen_ids(frozen: Archived) -> None:
    def restore(step: tuple[str, str], mode: Any, paused: bool) -> arc.Restored:
        counters = {"enqueued": 5, "dead:failed": 2}
        call = arc.restore_facts(
            frozen.partition, "r1", step, paused=paused, counters=counters, mode=mode, now=frozen.now
        )
        return frozen.send(call)

    frozen.enqueue("x")
    assert restore(("", "c1"), "add", False).status == "ok"
    assert (frozen.counter("enqueued"), frozen.counter("dead:failed")) == (6, 2)
    assert restore(("c1", "c2"), "max", True).status == "ok"
    assert (frozen.counter("enqueued"), frozen.counter("dead:failed")) == (6, 2)
    assert frozen.view().paused
    assert restore(("c2", "c3"), "max", False).status == "ok"
    assert frozen.view().paused, "only people resume"
    ids = [f"i{n}" for n in range(1200)]
    assert frozen.send(arc.restore_seen(frozen.partition, "r1", ("c3", "c4"), ids, now=frozen.now)).restored == 1200
    assert frozen.enqueue("i0", "i1199", "new") == ["duplicate", "duplicate", "ok"]


@pytest.mark.parametrize(
    "bad",
    [
        restored("t", "nowhere"),
        restored("t", fields=fields_of("other")),
        restored("t", fields=fields_of("t")[:-2]),
        restored("t", fields=fields_of("t")[:-1]),
        restored("t", fields=["task", "t"]),
        restored("t", "queued"),
        restored("t", "delayed", due=-1),
    ],
)
def test_a_bad_row_restores_nothing(frozen: Archived, bad: arc.RestoreTask) -> None:
    before = frozen.look(), frozen.facts()
    with pytest.raises(redis.ResponseError, match="RECLAIMD_RESTORE bad value in row 2"):
        frozen.restore(restored("good"), bad, to="c")
    assert (frozen.look(), frozen.facts()) == before


def test_a_key_of_another_type_restores_nothing(frozen: Archived) -> None:
    frozen.do("SET", frozen.key("dead"), "v")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        frozen.restore(restored("good"), to="c")
    assert frozen.say("XLEN", frozen.key("recovered:normal")) == 0
    assert frozen.facts().missing == ("dead",)


def drop(lab: Archived, *rows: arc.DropRow, rebuild: str = "r1") -> arc.Dropped:
    return lab.send(arc.drop(lab.partition, rebuild, rows, now=lab.now))


def test_what_is_dropped_is_gone_and_its_unique_key_free(lab: Archived) -> None:
    lab.adopt()
    lab.enqueue("held", "waiting")
    lab.enqueue("keyed", unique="u")
    lab.enqueue("d", delay_ms=5, unique="v")
    lab.enqueue("l", most=1, lane="high")
    lab.return_by_crash("x")
    token = lab.join("w")
    held = lab.take("w", token, 1)[0]
    ids = {task: places[0].entry for task, places in lab.look().places.items() if places}
    rows = [
        arc.DropRow(STREAMS[held.stream - 1], held.entry_id, held.task_id, "", "", "settled"),
        arc.DropRow(lab.where("keyed"), ids["keyed"], "keyed", "", "u", "settled"),
        arc.DropRow("delayed", "", "d", "", "v", "settled"),
        arc.DropRow("dead", ids["l"], "l", "", "", "purged"),
    ]
    assert drop(lab, *rows)[:3] == ("moved", 0, "ok")
    lab.freeze()
    assert drop(lab, *rows, rebuild="r0")[:3] == ("moved", 0, "rebuilding")
    assert drop(lab, *rows)[:3] == ("ok", 4, "rebuilding")
    assert {task for task, places in lab.look().places.items() if places} == {"held", "waiting"} - {held.task_id}
    assert lab.look().unique == {}
    (told,) = (event for event in lab.told() if isinstance(event, ev.Dropped))
    assert [(row.task_id, row.place, row.why) for row in told.tasks] == [(r.task_id, r.place, r.why) for r in rows]
    after = lab.look()
    assert drop(lab, *rows)[:3] == ("ok", 0, "rebuilding")
    assert lab.look() == after
    lab.finish()
    lab.turn("w", token)
    assert lab.send(scripts.leave(lab.partition, "w", token, now=lab.now)).moved == 0


def queue_behind(lab: Archived) -> tuple[str, str]:
    """An occurrence that is open and one that waits for it; returns their task IDs."""
    lab.now = NOON + 10
    lab.fire(lab.occurrence(NOON), lab.occurrence(NOON + 1, after=NOON, overlap="queue_one"))
    return f"s:1-0:{NOON}", f"s:1-0:{NOON + 1}"


def test_what_waits_for_a_dropped_task_goes_to_its_lane(lab: Archived) -> None:
    lab.adopt()
    first, second = queue_behind(lab)
    entry = lab.look().places[first][0].entry
    lab.freeze()
    assert drop(lab, arc.DropRow("lane:normal", entry, first, "s", "", "settled")).dropped == 1
    assert (lab.fired().open, lab.where(second)) == (second, "lane:normal")


def test_a_queued_one_is_dropped_before_what_it_waits_for(lab: Archived) -> None:
    lab.adopt()
    first, second = queue_behind(lab)
    entry = lab.look().places[first][0].entry
    lab.freeze()
    rows = [
        arc.DropRow("lane:normal", entry, first, "s", "", "settled"),
        arc.DropRow("queued", "", second, "s", "", "settled"),
    ]
    assert drop(lab, *rows).dropped == 2
    assert (lab.fired().open, lab.order("lane:normal"), lab.look().queued) == ("", [], {})
    assert [row.task_id for e in lab.told() if isinstance(e, ev.OccurrenceClosed) for row in e.schedules] == [first]


def test_what_is_superseded_stays_open(lab: Archived) -> None:
    lab.adopt()
    first, _ = queue_behind(lab)
    entry = lab.look().places[first][0].entry
    lab.freeze()
    drop(lab, arc.DropRow("lane:normal", entry, first, "s", "", "superseded"))
    assert (lab.fired().open, list(lab.look().queued)) == (first, ["s"])


def test_a_finished_rebuild_opens_the_partition(frozen: Archived) -> None:
    frozen.restore(restored("a"), to="c1")
    assert frozen.finish("c0") == ("moved", "c1", "rebuilding")
    assert frozen.finish("c1", rebuild="r0") == ("moved", "", "rebuilding")
    assert frozen.finish("c1") == ("ok", "c1", "ok")
    assert frozen.finish("c1") == ("ok", "c1", "ok")
    assert frozen.facts() == arc.Facts(True, True, "ok", "e2", OURS, "9:00000009", "", "r1", "c1", ())
    assert frozen.view().bell
    token = frozen.join("w")
    assert [found.task_id for found in frozen.take("w", token)] == ["a"]


def test_redis_is_taken_as_it_is(lab: Archived) -> None:
    lab.adopt()
    lab.enqueue("a")
    lab.do("DEL", lab.key("fired"))
    lab.freeze(state="lost")
    assert lab.finish() == ("moved", "", "lost")
    lab.freeze()
    assert lab.finish().status == "ok"
    assert (lab.order("lane:normal"), lab.facts().missing) == (["a"], ())


@pytest.mark.parametrize("there", [False, True])
def test_a_full_server_lets_an_archive_begin_and_end(lab: Archived, there: bool) -> None:
    if there:
        lab.enqueue("t")
    lab.set_full(True)
    assert lab.adopt("e" if there else "").status == "ok"
    assert lab.facts() == arc.Facts(True, True, "ok", "e", OURS, FIRST, "", "", "", ())
    assert lab.freeze().status == "ok"
    lab.set_full(False)
    assert lab.enqueue("meanwhile") == ["ok"]
    lab.set_full(True)
    keys = lab.key("epoch"), lab.key("rebuild:accepted")
    assert not lab.send(disown("b" * 16, *keys))
    for _ in range(2):
        assert lab.send(disown(OURS, *keys))
        facts = lab.facts()
        assert (facts.state, facts.archive_id, facts.cursor) == ("ok", "", "")
        assert lab.say("EXISTS", lab.key("rebuild:accepted")) == 0
    assert lab.adopt("e2", archive="b" * 16, mark="2:b").status == "ok"


def test_who_slept_while_another_adopted_it_changes_nothing(lab: Archived) -> None:
    lab.enqueue("t")
    seen = lab.facts()

    def adopt(mark: str) -> str:
        ids: dict[str, Any] = {"archive_id": OURS, "seen_epoch_id": seen.epoch_id, "new_epoch_id": "x"}
        call = arc.adopt(lab.partition, **ids, seen_mark=seen.mark, mark=mark, events_cap=7, now=lab.now)
        return lab.send(call).status

    assert adopt("1:a") == "ok"
    assert adopt("1:a") == "ok", "a lost reply"
    lab.mark = "1:a"
    assert lab.commit().marked
    known = lab.facts()
    assert adopt("1:b") == "changed"
    assert lab.facts() == known


def test_a_full_server_refuses_to_restore(lab: Archived) -> None:
    lab.enqueue("t")
    lab.adopt("e")
    lab.set_full(True)
    lab.now += 5
    assert lab.tail("2:00000002").marked
    assert lab.freeze().status == "ok"
    for step in (0, 5):
        lab.now += step
        calls: list[scripts.Call[Any]] = [
            arc.restore_tasks(lab.partition, "r1", ("", "c"), [restored("x")], now=lab.now),
            arc.restore_fired(lab.partition, "r1", ("", "c"), [("s", "1-0|1|1|")], now=lab.now),
            arc.restore_seen(lab.partition, "r1", ("", "c"), ["i"], now=lab.now),
            arc.restore_facts(lab.partition, "r1", ("", "c"), paused=True, counters={}, mode="add", now=lab.now),
            arc.restore_tasks(lab.partition, "r1", ("", "c"), [], now=lab.now),
        ]
        for call in calls:
            assert refused(lab, call)
    entry = lab.look().places["t"][0].entry
    assert drop(lab, arc.DropRow("lane:normal", entry, "t", "", "", "settled")).dropped == 1
    assert lab.finish().status == "ok"
