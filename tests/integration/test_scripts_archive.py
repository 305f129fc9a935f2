"""`adopt` and `tail`: what an archive begins with, and what it reads."""

import pytest
import redis

from property.archived_lab import FIRST, OURS, Archived
from reclaimd.streams import archive_scripts as arc
from reclaimd.streams import events as ev
from reclaimd.streams import scripts
from reclaimd.streams.keys import STREAMS


def test_an_archive_begins_an_epoch_where_there_is_none(lab: Archived) -> None:
    assert lab.adopt() == ("ok", "e", "ok")
    assert lab.facts() == arc.Facts(True, True, "ok", "e", OURS, FIRST, "", "", "", ())
    assert lab.say("HGET", lab.key("epoch"), "events_cap") == "7000"


def test_an_archive_takes_an_epoch_that_it_has_seen(lab: Archived) -> None:
    lab.enqueue("t")
    assert lab.adopt("other") == ("changed", "e", "ok")
    assert lab.adopt("") == ("changed", "e", "ok")
    assert lab.facts().archive_id == ""
    assert lab.adopt("e").status == "ok"
    assert lab.adopt("e", mark="5:00000005").status == "ok", "again, after its own loss"
    assert lab.facts().mark == "5:00000005"
    assert lab.adopt("e", archive="b" * 16) == ("foreign", "e", "ok")
    assert lab.order("lane:normal") == ["t"]


def test_sentinels_are_nobodys_numbers(lab: Archived) -> None:
    lab.adopt()
    view = lab.view()
    assert (view.delayed, view.next_due, view.overdue, view.dead, view.counters) == (0, None, 0, 0, {})
    assert lab.send(scripts.promote(lab.partition, now=lab.now)) == (0, None, False, "ok")
    lab.enqueue("t", delay_ms=50)
    assert (lab.view().delayed, lab.view().next_due) == (1, lab.now + 50)
    lab.now += 60
    assert lab.promote() == 1
    assert lab.view().waiting["lane:normal"] == 1


def test_no_task_takes_a_sentinel_for_its_unique_key(lab: Archived) -> None:
    with pytest.raises(redis.ResponseError, match="RECLAIMD_TASK the unique key"):
        lab.enqueue("a", unique="{archive}")
    assert lab.say("DBSIZE") == 0


@pytest.mark.parametrize("wrong", ["delayed", "delayed:body", "fired", "unique", "dead", "lane:low", "counters"])
def test_a_key_of_another_type_stops_it_before_it_writes(lab: Archived, wrong: str) -> None:
    lab.do("SET", lab.key(wrong), "v")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        lab.adopt()
    assert lab.say("DBSIZE") == 1


def test_the_tail_of_a_life(lab: Archived) -> None:
    """Events in order; then what stands in the streams; nothing twice."""
    lab.adopt()
    lab.enqueue("a", "b")
    lab.enqueue("later", delay_ms=1_000)
    tail = lab.commit()
    assert (tail.drained, tail.more, tail.marked, tail.gap, tail.paused) == (True, False, True, False, False)
    assert [ev.decode_batch(e.at, e.e, e.entry_id).events[0].__class__.__name__ for e in tail.events] == [
        "Enqueued"
    ] * 2
    assert [len(found) for found in tail.streams] == [0, 0, 0, 0, 2, 0, 0]
    assert tail.streams[4][0].fields[:2] == [b"task", b"a"]
    assert tail.counters == {"enqueued": 3}
    assert lab.facts().mark_before == FIRST
    again = lab.commit()
    assert (again.events, list(map(len, again.streams)), again.marked) == ([], [0] * 7, False)
    lab.return_by_crash("w")
    lab.send(scripts.pause(lab.partition, True, now=lab.now))
    tail = lab.commit()
    assert [len(found) for found in tail.streams] == [0, 0, 0, 2, 0, 0, 0]
    assert tail.paused


def test_dead_letters_are_read_too(lab: Archived) -> None:
    lab.adopt()
    lab.enqueue("t", most=1)
    lab.return_by_crash("w")
    (letter,) = lab.commit().dead
    assert letter.fields[:2] == [b"task", b"t"]
    assert letter.entry_id == lab.letters()["t"][0]


def test_letters_that_retention_trims_are_told_by_the_first_that_is_left(lab: Archived) -> None:
    lab.adopt()
    assert lab.commit().first_letter == ""
    lab.enqueue("a", "b", most=1)
    lab.return_by_crash("w")
    assert lab.commit().first_letter == lab.letters()["a"][0]
    lab.do("XTRIM", lab.key("dead"), "MAXLEN", "1")
    assert lab.tail().first_letter == lab.letters()["b"][0]


def test_streams_wait_until_all_events_are_read(lab: Archived) -> None:
    lab.adopt()
    for n in range(5):
        lab.enqueue(f"t{n}")
    tail = lab.commit(entries=3)
    assert (len(tail.events), tail.drained, list(tail.streams), tail.counters) == (3, False, [], {})
    tail = lab.commit(entries=4)
    assert (len(tail.events), tail.drained, tail.more) == (2, True, True)
    assert [len(found) for found in tail.streams] == [0, 0, 0, 0, 2, 0, 0]
    tail = lab.commit()
    assert [len(found) for found in tail.streams] == [0, 0, 0, 0, 3, 0, 0]
    assert not tail.more


def test_bytes_bound_it_and_one_entry_is_always_read(lab: Archived) -> None:
    lab.adopt()
    big = [scripts.NewTask(f"t{n}", "high", 5, b"x" * 5_000) for n in range(20)]
    lab.send(scripts.enqueue(lab.partition, big, epoch_id="e", now=lab.now))
    lab.commit(entries=1)
    read = 0
    for _ in range(20):
        tail = lab.commit(size=12_000)
        found = len(tail.streams[2])
        assert 1 <= found <= 4
        read += found
        if not tail.more:
            break
    assert read == 20


def test_a_commit_that_failed_is_tailed_again(lab: Archived) -> None:
    """The mark went on in Redis; the archive still has the one before."""
    lab.adopt()
    lab.enqueue("t")
    assert lab.tail("2:0000000a").marked
    assert lab.tail("2:0000000b").ok
    assert (lab.facts().mark, lab.facts().mark_before) == ("2:0000000b", FIRST)
    assert lab.tail(mark="2:0000000b").ok, "and the archive may have committed it without knowing"
    assert not lab.tail(mark="2:0000000a").ok
    assert not lab.tail(mark="1:00000001").ok
    assert not lab.tail(mark="").ok


def test_only_the_partition_that_is_expected_is_read(lab: Archived) -> None:
    assert lab.facts() == arc.Facts(False, False, "absent", "", "", "", "", "", "", lab.facts().missing)
    assert len(lab.facts().missing) == 16
    lab.enqueue("t")
    assert not lab.tail("2:0").ok
    lab.adopt("e")
    for field, other in (("id", "x"), ("archive_id", "x"), ("state", "lost")):
        before = lab.say("HGET", lab.key("epoch"), field)
        lab.do("HSET", lab.key("epoch"), field, other)
        tail = lab.tail("2:0")
        assert (tail.ok, tail.events, tail.marked) == (False, (), False)
        lab.do("HSET", lab.key("epoch"), field, before)
    assert lab.facts().mark == FIRST
    assert lab.tail("2:0").ok


GUARDED = (
    *STREAMS,
    "dead",
    "events",
    "delayed:body",
    "fired",
    "fired:queued",
    "unique",
    "control",
    "counters",
    "delayed",
)


def test_each_lost_key_is_told_also_when_traffic_has_made_it_anew(lab: Archived) -> None:
    lab.adopt()
    lab.send(scripts.pause(lab.partition, True, now=lab.now))
    for name in GUARDED:
        kept = lab.client.dump(lab.key(name)) or b""
        lab.do("DEL", lab.key(name))
        for task, options in (("a", {"lane": "low"}), ("b", {"unique": "u"}), ("c", {"delay_ms": 9})):
            lab.enqueue(f"{task}-{name.replace(':', '.')}", **options)
        assert lab.facts().missing == (name,), name
        assert not lab.tail("2:0").ok
        lab.do("DEL", lab.key(name))
        lab.client.restore(lab.key(name), 0, kept)
        assert lab.facts().missing == ()


def test_a_key_of_another_type_is_a_missing_one(lab: Archived) -> None:
    lab.adopt()
    for name in GUARDED:
        lab.do("DEL", lab.key(name))
        lab.do("SET", lab.key(name), "v")
    assert set(lab.facts().missing) == set(GUARDED)


def test_what_trimming_took_before_it_was_read_is_told(lab: Archived) -> None:
    lab.adopt()
    lab.enqueue("a")
    lab.commit()
    lab.enqueue("b")
    assert not lab.tail().gap
    lab.do("XTRIM", lab.key("events"), "MAXLEN", "0")
    assert lab.tail().gap


def test_events_are_not_trimmed_behind_the_archive(lab: Archived) -> None:
    lab.adopt()
    ids = []
    for n in range(400):
        lab.enqueue(f"t{n}")
    ids = [entry for entry, _ in lab.say("XRANGE", lab.key("events"), "-", "+")]

    def retain(age: int, most: int, archived: str) -> int:
        return lab.send(scripts.retain(lab.partition, scripts.Limits(10**9, 10**6, age, most, archived), now=None))[1]

    assert retain(0, 0, "0-0") == 0
    assert retain(10**12, 10**6, ids[-1]) == 0
    assert 0 < retain(10**12, 250, ids[299]) <= 150
    assert retain(0, 0, ids[299]) > 0
    left = [entry for entry, _ in lab.say("XRANGE", lab.key("events"), "-", "+")]
    assert left[0] <= ids[299]
    assert left[-101:] == ids[299:]


def test_the_cap_of_events_is_the_epochs(lab: Archived) -> None:
    lab.adopt()
    lab.do("HSET", lab.key("epoch"), "events_cap", 100)
    for n in range(350):
        lab.enqueue(f"t{n}")
    assert lab.say("XLEN", lab.key("events")) <= 200


def test_an_owner_that_slept_writes_no_mark_after_its_successors(lab: Archived) -> None:
    lab.adopt()
    known = arc.Expected(OURS, "e", lab.mark, "9:awake", fence=8)
    lab.enqueue("one")
    assert lab.send(arc.tail(lab.partition, known, lab.at, now=lab.now)).marked
    # What it has committed is by now the mark before, which whoever follows a killed owner must be able to go on from.
    slept = lab.send(arc.tail(lab.partition, known._replace(next_mark="9:slept", fence=7), lab.at, now=lab.now))
    assert not slept.ok
    assert slept.facts.mark == "9:awake"
    assert lab.send(arc.tail(lab.partition, known._replace(next_mark="", fence=0), lab.at, now=lab.now)).ok
    follows = lab.send(arc.tail(lab.partition, known._replace(next_mark="9:next", fence=9), lab.at, now=lab.now))
    assert follows.marked
