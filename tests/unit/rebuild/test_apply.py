"""Each rule of the fold by itself; tests/property/test_archive_fold.py holds all of them against Redis."""

from typing import Any

import msgspec

from reclaimd.daemon.rebuild import envelopes
from reclaimd.daemon.rebuild.apply import batches, changes, positions_after, scanned, wanted
from reclaimd.daemon.rebuild.values import (
    RANKS,
    Bodies,
    Carried,
    Changes,
    EventEntry,
    FiredRow,
    StreamEntry,
    Tail,
    TaskRow,
    Wanted,
    sort_of_due,
    sort_of_entry,
)


def fields(task: str = "t", **more: Any) -> list[bytes]:
    plain = {"task": task, "at": 17, "lane": "low", "max": 5, **more, "body": "{}"}
    return [str(word).encode() for pair in plain.items() for word in pair]


def event(kind: str, *rows: list[Any], column: str = "tasks", **more: Any) -> dict[str, Any]:
    if kind in {"Settled", "Retried"}:
        more = {"worker": "w", "token": "1-a", **more}
    if kind in {"Died", "Ghost"}:
        more = {"worker": "w", **more}
    return {"type": kind, "v": 1, column: list(rows), **more}


def told(*events: dict[str, Any]) -> tuple[EventEntry, ...]:
    """One batch for each."""
    return tuple(EventEntry(f"{n}-0", 17, msgspec.json.encode([e])) for n, e in enumerate(events, 1))


def entries(**streams: list[StreamEntry]) -> dict[str, tuple[StreamEntry, ...]]:
    return {name.replace("_", ":"): tuple(found) for name, found in streams.items()}


def fold(*events: dict[str, Any], bodies: Bodies | None = None, fired: Any = None, **tail: Any) -> Changes:
    return changes(Tail(events=told(*events), **tail), bodies or Bodies(), fired or {})


def delayed(**bodies: bytes) -> Bodies:
    return Bodies(delayed=bodies)


STORED = envelopes.pack(fields())
DIED = ["t", "5-0", "test", "", -1, ""]


def test_an_entry_is_a_row() -> None:
    found = fold(drained=True, entries=entries(lane_low=[StreamEntry("3-1", fields(unique="u", deliveries=2))]))
    assert found.upserts == (
        TaskRow(
            task_id="t",
            place="lane:low",
            rank=RANKS["lane:low"],
            sort=sort_of_entry("3-1"),
            envelope=envelopes.pack(fields(unique="u", deliveries=2)),
            entry_id="3-1",
            lane="low",
            unique="u",
            token=3,
            at=17,
        ),
    )


def test_a_foreign_entry_has_the_name_of_its_letter() -> None:
    found = fold(drained=True, entries=entries(lane_low=[StreamEntry("3-1", [b"what", b"\xff"])]))
    assert [row.task_id for row in found.upserts] == ["foreign:lane:low:3-1"]
    assert envelopes.unpack(found.upserts[0].envelope) == [b"what", b"\xff"]


def test_an_entry_wins_over_what_events_say_of_its_task() -> None:
    settled = event("Settled", ["t", 5, "name"])
    found = fold(settled, drained=True, entries=entries(lane_low=[StreamEntry("9-0", fields())]))
    assert [row.entry_id for row in found.upserts] == ["9-0"]
    assert found.deletes == ()


def test_what_settled_is_gone() -> None:
    assert fold(event("Settled", ["t", 5, "name"], ["u", 5, "name"])).deletes == (("t", ""), ("u", ""))


def test_a_delayed_task_needs_its_envelope() -> None:
    enqueued = event("Enqueued", ["t", "low", "", 900], ["plain", "low", "3-0", 0])
    assert wanted(batches(Tail(events=told(enqueued)))) == Wanted(delayed=("t",))
    found = fold(enqueued, bodies=delayed(t=STORED))
    assert [(row.place, row.due, row.sort) for row in found.upserts] == [("delayed", 900, sort_of_due(900))]
    assert fold(enqueued) == Changes(events=told(enqueued))


def test_a_retry_is_delayed_and_leaves_its_row_when_it_has_gone_on() -> None:
    retried = event("Retried", ["t", 5, "name", 900, "cause", "", 0])
    assert wanted(batches(Tail(events=told(retried)))) == Wanted(delayed=("t",))
    assert fold(retried, bodies=delayed(t=STORED)).upserts[0].due == 900
    assert fold(retried) == Changes(events=told(retried))


def test_what_settled_after_its_retry_is_gone() -> None:
    retried = event("Retried", ["t", 5, "name", 900, "cause", "", 0])
    found = fold(retried, event("Settled", ["t", 5, "name"]), bodies=delayed(t=STORED))
    assert (found.upserts, found.deletes) == ((), (("t", ""),))


def test_the_dead_are_their_letters() -> None:
    letter = StreamEntry("5-0", [*fields(), b"cause", b"test", b"dead_at", b"77"])
    found = fold(event("Died", DIED), drained=True, entries=entries(dead=[letter]))
    assert [(row.task_id, row.letter, row.place) for row in found.upserts] == [("t", "5-0", "dead")]
    assert (found.deletes, found.carried) == ((("t", ""),), ())


def test_the_dead_are_not_open_before_their_letter_is_read() -> None:
    assert fold(event("Died", DIED)).carried == (Carried("t", "", "dead", "5-0"),)


def test_a_redriven_letter_is_open_before_its_entry_is_read() -> None:
    redriven = event("Redriven", ["t", "low", "9-0", "5-0"])
    assert fold(redriven).carried == (Carried("t", "5-0", "lane:low", "9-0"),)
    found = fold(redriven, drained=True, entries=entries(lane_low=[StreamEntry("9-0", fields(token=3))]))
    assert (found.carried, found.deletes, found.upserts[0].token) == ((), (("t", "5-0"),), 3)


def test_a_purged_letter_is_gone_and_only_that() -> None:
    assert fold(event("Purged", ["t", "5-0"])).deletes == (("t", "5-0"),)


def test_ghosts_are_gone_by_their_place() -> None:
    found = fold(event("Ghost", ["lane:low", "3-0"], ["delayed", "t"], ["elsewhere", "x"], column="entries"))
    assert found.gone == ((RANKS["lane:low"], sort_of_entry("3-0")),)
    assert found.deletes == (("t", ""),)


def test_a_foreign_letter_ends_what_looked_like_a_task() -> None:
    found = fold(event("Died", ["foreign:lane:low:3-0", "5-0", "foreign", "", -1, ""]))
    assert found.carried == (Carried("foreign:lane:low:3-0", "", "dead", "5-0"),)
    assert found.gone == ((RANKS["lane:low"], sort_of_entry("3-0")),)
    found = fold(event("Died", ["foreign:delayed:t", "5-0", "foreign", "", -1, ""]))
    assert ("t", "") in found.deletes


def test_letters_that_retention_trimmed_are_forgotten() -> None:
    assert fold(drained=True, dead_first="5-0").dead_from == sort_of_entry("5-0")
    assert fold(drained=True, dead_first="").dead_from > sort_of_entry("9" * 19 + "-0")
    assert fold(drained=True, more=True, dead_first="5-0").dead_from == ""
    assert fold(drained=False, dead_first="5-0").dead_from == ""
    assert fold(drained=True).dead_from == ""


def test_what_is_queued_by_now_is_not_taken_for_what_was_queued_then() -> None:
    waits = event("OccurrenceQueued", ["s", "1-0", 7, "s:1-0:7", 0])
    assert wanted(batches(Tail(events=told(waits)))) == Wanted(queued=("s",), fired=("s",))
    then, later = (envelopes.pack(fields(task, schedule="s")) for task in ("s:1-0:7", "s:1-0:9"))
    found = fold(waits, bodies=Bodies(queued={"s": then}))
    assert [(row.task_id, row.place, row.schedule) for row in found.upserts] == [("s:1-0:7", "queued", "s")]
    assert fold(waits, bodies=Bodies(queued={"s": later})).upserts == ()
    assert [row.queued for row in fold(waits).fired] == ["s:1-0:7"]


def test_what_a_rebuild_restored_is_where_it_says() -> None:
    restored = event(
        "Restored",
        ["a", "delayed", "", 0, 1, "", 900],
        ["b", "dead", "9-0", 0, 0, "5-0"],
        ["s:1-0:7", "queued", "", 0, 0, ""],
        ["c", "lane:low", "8-0", 0, 1, "4-0"],
    )
    queued = envelopes.pack(fields("s:1-0:7", schedule="s"))
    assert wanted(batches(Tail(events=told(restored)))) == Wanted(("a",), ("s",), ("s",))
    found = fold(restored, bodies=Bodies(delayed={"a": envelopes.pack(fields("a"))}, queued={"s": queued}))
    assert [(row.task_id, row.place, row.due) for row in found.upserts] == [
        ("a", "delayed", 900),
        ("s:1-0:7", "queued", 0),
    ]
    assert found.carried == (Carried("b", "5-0", "dead", "9-0"),)
    assert found.fired == (FiredRow(schedule="s", queued="s:1-0:7"),)


def test_what_a_rebuild_dropped_is_gone_unless_the_archive_knows_better() -> None:
    dropped = event(
        "Dropped",
        ["a", "lane:low", "3-0", "settled"],
        ["b", "dead", "5-0", "purged"],
        ["c", "lane:low", "4-0", "superseded"],
        ["d", "delayed", "", "buried"],
        ["s:1-0:7", "queued", "", "superseded"],
    )
    assert wanted(batches(Tail(events=told(dropped)))).fired == ("s",)
    found = fold(dropped, fired={"s": FiredRow(schedule="s", queued="s:1-0:7")})
    assert found.fired == (FiredRow(schedule="s"),)
    assert found.deletes == (("a", ""), ("b", "5-0"))
    assert found.gone == ((RANKS["lane:low"], sort_of_entry("4-0")),)


def test_what_cannot_be_read_changes_nothing() -> None:
    strange = (EventEntry("1-0", 0, b"{"), EventEntry("2-0", 5, b'[{"type":"Later","v":9}]'))
    assert changes(Tail(events=strange), Bodies(), {}) == Changes(events=strange)


def test_totals_are_those_of_the_tail() -> None:
    found = fold(drained=True, counters={"enqueued": 3}, paused=True)
    assert (found.counters, found.paused) == ({"enqueued": 3}, True)
    assert (fold().counters, fold().paused) == (None, None)


def test_positions_move_to_what_was_read_last() -> None:
    tail = Tail(events=told(event("Purged")), entries=entries(lane_low=[StreamEntry("3-0", fields())], dead=[]))
    assert positions_after(tail, {"events": "0-0", "dead": "2-0"}) == {
        "events": "1-0",
        "dead": "2-0",
        "lane:low": "3-0",
    }


def test_a_scan_tells_what_events_do_not() -> None:
    queued = envelopes.pack(fields("s:1-0:7", schedule="s"))
    rows = [FiredRow(schedule="s", generation="1-0", last=7, count=2, open="s:1-0:6"), FiredRow(schedule="z")]
    found = scanned([("t", 900, STORED)], [("s", queued), ("bad", b"{}")], rows)
    assert [(row.task_id, row.place) for row in found.upserts] == [("t", "delayed"), ("s:1-0:7", "queued")]
    assert [row.queued for row in found.fired] == ["s:1-0:7", ""]
