"""What is dropped, kept and restored, and in which form."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reclaimd.daemon.rebuild import envelopes
from reclaimd.daemon.rebuild.plan import RESENT_MS, FiredPlan, decide, fired, restorable
from reclaimd.daemon.rebuild.rows import birth_ms, delayed_row, letter_row, queued_row, stream_row
from reclaimd.daemon.rebuild.values import (
    DEAD,
    RANKS,
    Decision,
    Ended,
    FiredRow,
    Present,
    Restorable,
    StreamEntry,
    TaskRow,
    Unrestorable,
    entry_ms,
    sort_of_entry,
)

BORN = 1_000_000
NOW = 9_000_000


def fields(task: str = "t", **more: Any) -> list[bytes]:
    plain = {"task": task, "at": BORN, "lane": "low", "max": 5, **more, "body": "{}"}
    return [str(word).encode() for pair in plain.items() for word in pair]


def opened(entry: str = f"{BORN}-0", place: str = "lane:low", **more: Any) -> TaskRow:
    return stream_row(place, StreamEntry(entry, fields(**more)))


def letter(entry: str, dead_at: int, **more: Any) -> TaskRow:
    ending = [b"cause", b"test", b"error", b"", b"worker", b"", b"dead_at", str(dead_at).encode()]
    return letter_row(StreamEntry(entry, [*fields(**more), *ending]))


def present(
    token: int = 1, birth: int = BORN, place: str = "lane:low", entry: str = f"{BORN}-0", base: int = 1
) -> Present:
    return Present(task_id="t", place=place, entry_id=entry, birth_ms=birth, token=token, base=base)


def test_what_the_archive_does_not_know_stays() -> None:
    assert decide(present(), (), None) == Decision()


def test_the_same_state_is_not_restored() -> None:
    assert decide(present(2), (opened(deliveries=1),), None) == Decision(covers=("",))


def test_what_went_to_its_lane_does_not_wait_again() -> None:
    waits, queued = present(place="queued", entry=""), queued_row("t", "s", envelopes.pack(fields(schedule="s")))
    assert decide(waits, (opened(schedule="s"),), None) == Decision(drop="superseded", restore=True)
    assert decide(waits, (queued,), None) == Decision(covers=("",))


def test_a_newer_state_in_redis_stays() -> None:
    assert decide(present(3), (opened(deliveries=1),), None) == Decision(covers=("",))


def test_an_older_state_is_superseded() -> None:
    assert decide(present(1), (opened(deliveries=1),), None) == Decision(drop="superseded", restore=True)


@pytest.mark.parametrize("why", ["settled", "purged"])
def test_what_has_ended_does_not_run_again(why: Any) -> None:
    assert decide(present(), (), Ended(why, BORN + 5)) == Decision(drop=why)


def test_an_id_that_was_sent_again_much_later_is_a_new_task() -> None:
    assert decide(present(birth=BORN + RESENT_MS), (), Ended("settled", BORN)).drop == "settled"
    assert decide(present(birth=BORN + RESENT_MS + 1), (), Ended("settled", BORN)) == Decision()


def test_a_new_task_of_an_ended_id_that_the_archive_knows_is_open() -> None:
    again = opened(f"{BORN + 10}-0")
    ended = Ended("settled", BORN + 5)
    assert decide(present(birth=BORN + 10), (again,), ended) == Decision(covers=("",))
    assert decide(present(birth=BORN), (again,), ended) == Decision(drop="settled", restore=True)


@pytest.mark.parametrize("token", [1, 2, 3])
def test_what_was_buried_is_buried_again_however_often_older_data_have_it_come_back(token: int) -> None:
    buried = letter("2000000-0", 2_000_000, attempts=1)
    assert decide(present(token), (buried,), None) == Decision(drop="buried", restore=True)


def test_what_was_redriven_since_is_open_and_no_letter() -> None:
    buried = letter("2000000-0", 2_000_000, attempts=1)
    assert decide(present(3, base=3), (buried,), None) == Decision(covers=("2000000-0",))


def test_what_was_redriven_of_a_letter_that_came_back_after_it_had_been_purged_is_open() -> None:
    back = letter(f"{BORN + 50}-0", BORN + 10)
    purged, settled = Ended("purged", BORN + 20), Ended("settled", BORN + 20)
    redriven = msgspec.structs.replace(present(2, base=2), redriven_ms=BORN + 50)
    assert decide(redriven, (back,), purged) == Decision(covers=(back.letter,))
    assert decide(redriven, (), purged) == Decision()
    assert decide(redriven, (back,), settled) == Decision(drop="settled")
    before = msgspec.structs.replace(redriven, redriven_ms=BORN + 10)
    assert decide(before, (back,), purged) == Decision(drop="purged")
    older = present(1)
    assert decide(older, (back,), purged).drop


def test_a_new_task_beside_an_old_letter_of_its_id_changes_nothing_of_that() -> None:
    # Rebuilt, the letter is a newer entry than the task.
    buried = letter("9000000-0", 2_000_000, attempts=1)
    assert decide(present(birth=2_000_001 + RESENT_MS), (buried,), None) == Decision()
    assert decide(present(birth=2_000_000 + RESENT_MS), (buried,), None).drop == "buried"


def test_a_letter_is_known_by_its_entry_or_by_the_instant_of_its_death() -> None:
    known = letter("2000000-0", 7)
    there = present(place=DEAD, entry="2000000-0", birth=8)
    restored = present(place=DEAD, entry="3000000-0", birth=7)
    another = present(place=DEAD, entry="3000000-0", birth=8)
    assert decide(there, (known,), None) == Decision(covers=("2000000-0",))
    assert decide(restored, (known,), None) == Decision(covers=("2000000-0",))
    assert decide(another, (known,), None) == Decision()
    # Older data show it where it was before a rebuild.
    assert decide(there, (known, letter("4000000-0", 8)), None) == Decision(covers=("2000000-0", "4000000-0"))
    assert decide(restored, (known, letter("4000000-0", 7)), None) == Decision(covers=("2000000-0", "4000000-0"))


def test_a_letter_that_was_purged_or_redriven_goes() -> None:
    there = present(2, place=DEAD, entry="2000000-0", birth=7)
    assert decide(there, (), Ended("purged", 2_000_000)) == Decision(drop="purged")
    assert decide(there, (), Ended("settled", 1_999_999)) == Decision()
    assert decide(there, (opened(token=3),), None) == Decision(drop="superseded", restore=True)
    assert decide(there, (opened(),), None) == Decision()


def test_what_died_before_the_archive_read_of_it_is_dead() -> None:
    died = Present(task_id="t", place=DEAD, entry_id="5000000-0", birth_ms=5_000_000, began_ms=BORN, token=2)
    assert decide(died, (opened(),), None) == Decision(covers=("",))
    assert decide(died, (opened(attempts=1),), None) == Decision(covers=("",))
    # Redriven since.
    assert decide(died, (opened(token=3),), None) == Decision(drop="superseded", restore=True)
    history = f'[1,"failed","a","test","{BORN}-0"]'
    again = carried(letter("5000000-0", 5_000_000, attempts=1, history=history), "lane:low", "6000000-0")
    assert again.token == died.token
    assert decide(died, (again,), None) == Decision(drop="superseded", restore=True)
    # A new task under the old ID.
    assert decide(died, (opened(f"{BORN + 1}-0"),), None) == Decision()


def restored(row: TaskRow, **options: Any) -> Restorable:
    found = restorable(row, verdict="empty", now_ms=NOW, seen_since_ms=BORN, **options)
    assert isinstance(found, Restorable)
    return found


def values(found: Restorable) -> dict[str, str]:
    words = [word.decode() for word in envelopes.unpack(found.envelope)]
    return dict(zip(words[::2], words[1::2], strict=True))


def test_a_restored_task_counts_a_handback_and_remembers() -> None:
    found = restored(opened("1000000-4", unique="u", deliveries=1, handbacks=2, history='[1,"reclaimed"]'))
    told = values(found)
    assert (found.place, found.unique, found.old_entry_id) == ("recovered:low", "u", "1000000-4")
    assert told["handbacks"] == "3"
    assert json.loads(told["history"].split("\n")[1]) == [NOW, "restored", "", "empty", "1000000-4"]
    assert list(told) == ["task", "at", "lane", "max", "deliveries", "handbacks", "unique", "history", "body"]


@pytest.mark.parametrize(
    ("row", "place", "due"),
    [
        (opened(place="recovered:low", deliveries=1), "recovered:low", 0),
        (opened(place="suspect", deliveries=2), "suspect", 0),
        (opened(place="lane:low", deliveries=2), "suspect", 0),
        (delayed_row("t", 77, envelopes.pack(fields())), "delayed", 77),
    ],
)
def test_a_task_goes_where_it_belongs(row: TaskRow, place: str, due: int) -> None:
    found = restored(row)
    assert (found.place, found.due, values(found)["handbacks"]) == (place, due, "1")


def test_what_is_queued_waits_on_unless_it_waits_for_nothing() -> None:
    row = queued_row("t", "s", envelopes.pack(fields(schedule="s")))
    assert restored(row).envelope == row.envelope
    assert (restored(row).place, restored(row).schedule) == ("queued", "s")
    assert (restored(row, queued=False).place, values(restored(row, queued=False))["handbacks"]) == (
        "recovered:low",
        "1",
    )


def test_a_letter_of_which_only_the_death_is_archived_has_no_cause_but_an_instant() -> None:
    died = carried(opened(unique="u", attempts=2), DEAD, "2000000-0")
    found = restored(died)
    assert envelopes.is_letter(envelopes.unpack(found.envelope))
    assert {name: values(found)[name] for name in ("cause", "dead_at", "attempts", "body")} == {
        "cause": "unknown",
        "dead_at": "2000000",
        "attempts": "2",
        "body": "{}",
    }
    assert birth_ms(died) == 2_000_000
    assert decide(present(3), (died,), None) == Decision(drop="buried", restore=True)


def test_a_letter_of_what_had_settled_before_it_ran_again_goes() -> None:
    later = Present(task_id="t", place=DEAD, entry_id="5000000-0", birth_ms=5_000_000, began_ms=BORN, token=2)
    settled, purged = Ended("settled", BORN + 1), Ended("purged", BORN + 1)
    assert decide(later, (), settled) == Decision(drop="settled")
    # Purged, back with older data, redriven: an operator wanted that.
    assert decide(later, (), purged) == Decision()
    # A new task under the old ID.
    assert decide(msgspec.structs.replace(later, began_ms=BORN + 2), (), settled) == Decision()
    known = letter("5000000-0", 5_000_000)
    assert decide(later, (known,), settled) == Decision(covers=("5000000-0",))


def test_of_a_redriven_task_the_letter_may_be_all_that_is_archived() -> None:
    row = carried(letter("2000000-0", 7, deliveries=1, attempts=2, token=5), "lane:low", "3000000-0")
    found = restored(row)
    told = values(found)
    assert (found.place, row.token, envelopes.token(envelopes.mapping(envelopes.unpack(found.envelope)))) == (
        "recovered:low",
        8,
        10,
    )
    assert list(told) == ["task", "at", "lane", "max", "handbacks", "token", "history", "body"]
    assert [json.loads(line)[:4] for line in told["history"].split("\n")] == [
        [3_000_000, "redriven", "", "test"],
        [NOW, "restored", "", "empty"],
    ]


def carried(row: TaskRow, place: str, entry: str) -> TaskRow:
    """As a commit leaves it that knows of the event, and not yet of the entry."""
    letter = entry if place == DEAD else ""
    where = {"place": place, "rank": RANKS[place], "sort": sort_of_entry(entry), "entry_id": entry}
    return msgspec.structs.replace(row, letter=letter, **where)


def test_a_letter_stays_as_it_is_and_holds_no_unique_key() -> None:
    row = letter("2000000-0", 7, unique="u")
    assert restored(row) == Restorable("t", DEAD, 0, "", "", True, row.envelope, "2000000-0")


def test_only_what_was_enqueued_lately_counts_as_seen() -> None:
    assert restored(opened()).seen
    found = restorable(opened(), verdict="empty", now_ms=NOW, seen_since_ms=BORN + 1)
    assert isinstance(found, Restorable)
    assert not found.seen


@pytest.mark.parametrize(
    "row",
    [
        stream_row("lane:low", StreamEntry("1-0", [b"what", b"is this"])),
        opened(deliveries="many"),
        delayed_row("t", 7, b"{}"),
        delayed_row("another", 7, envelopes.pack(fields())),
    ],
)
def test_what_is_no_task_is_not_restored(row: TaskRow) -> None:
    found = restorable(row, verdict="empty", now_ms=NOW, seen_since_ms=0)
    assert isinstance(found, Unrestorable)
    assert found.what == row.task_id


def plan_fired(archived: FiredRow | None, seen: FiredRow | None, *there: str) -> FiredPlan | None:
    return fired(archived, seen, lambda task: task in there, lambda task: f"{task}?" in there)


def row(last: int = 5, **more: Any) -> FiredRow:
    return FiredRow(schedule="s", generation="1-0", last=last, count=last, **more)


def test_the_newer_row_of_a_schedule_wins() -> None:
    assert plan_fired(None, None) is None
    assert plan_fired(row(5), None) == FiredPlan(row(5))
    assert plan_fired(row(5), row(7)) == FiredPlan(row(7))
    assert plan_fired(row(7), row(5)) == FiredPlan(row(7))
    newer = FiredRow(schedule="s", generation="9-0")
    assert plan_fired(row(7), newer) == FiredPlan(newer)
    assert plan_fired(FiredRow(schedule="s", generation="10-0"), newer) == FiredPlan(
        FiredRow(schedule="s", generation="10-0")
    )


def test_a_schedule_waits_only_for_a_task_that_is_there() -> None:
    assert plan_fired(row(open="a"), None, "a") == FiredPlan(row(open="a"))
    assert plan_fired(row(open="a"), None) == FiredPlan(row())
    assert plan_fired(row(open="a"), row(open="b"), "b") == FiredPlan(row(open="b"))


def test_what_is_queued_is_released_when_it_waits_for_nothing() -> None:
    assert plan_fired(row(open="a", queued="q"), None, "a", "q?") == FiredPlan(row(open="a", queued="q"))
    assert plan_fired(row(open="a", queued="q"), None, "q?") == FiredPlan(row(open="q"), release="q")
    assert plan_fired(row(open="a", queued="q"), None, "a") == FiredPlan(row(open="a"))


TOKENS = st.integers(0, 3)
SOON = st.integers(0, 4).map(lambda n: BORN + n * 100_000)
OPENED = st.builds(lambda at, n: opened(f"{at}-0", handbacks=n), SOON, TOKENS)
LETTERS = st.lists(
    st.builds(lambda at, n: letter(f"{at}-0", at, handbacks=n), SOON, TOKENS), max_size=2, unique_by=lambda r: r.letter
)
ENDED = st.none() | st.builds(Ended, st.sampled_from(["settled", "purged"]), SOON)


def as_present(row: TaskRow, entry: str) -> Present:
    return Present(task_id="t", place=row.place, entry_id=entry, birth_ms=birth_ms(row), token=row.token)


def rebuild(
    redis: list[TaskRow], archived: list[TaskRow], ended: Ended | None
) -> tuple[list[TaskRow], list[Decision], list[TaskRow]]:
    """Returns what is in Redis then, the decisions, and what was restored."""
    decisions = [decide(as_present(row, row.entry_id), archived, ended) for row in redis]
    left = [row for row, decision in zip(redis, decisions, strict=True) if not decision.drop]
    covered = {name for decision in decisions for name in decision.covers}
    back = []
    for number, row in enumerate(row for row in archived if row.letter not in covered):
        found = restored(row)
        entry = StreamEntry(f"{NOW + number}-0", envelopes.unpack(found.envelope))
        back.append(letter_row(entry) if found.place == DEAD else stream_row(found.place, entry))
    return left + back, decisions, back


@given(
    st.tuples(st.none() | OPENED, LETTERS),
    st.tuples(st.none() | OPENED, LETTERS),
    ENDED,
)
def test_a_second_rebuild_changes_nothing(
    redis: tuple[TaskRow | None, list[TaskRow]], archive: tuple[TaskRow | None, list[TaskRow]], ended: Ended | None
) -> None:
    there = [row for row in (redis[0], *redis[1]) if row]
    archived = [row for row in (archive[0], *archive[1]) if row]
    if ended and archive[0] and birth_ms(archive[0]) <= ended.at_ms:
        ended = None
    after, _, _ = rebuild(there, archived, ended)
    again, decisions, back = rebuild(after, archived, ended)
    assert not back
    assert not any(decision.drop for decision in decisions)
    assert again == after


@given(st.tuples(st.none() | OPENED, LETTERS), OPENED, LETTERS)
def test_what_the_archive_has_open_is_open_afterwards_under_a_token_of_its_own(
    redis: tuple[TaskRow | None, list[TaskRow]], own: TaskRow, letters: list[TaskRow]
) -> None:
    there = [row for row in (redis[0], *redis[1]) if row]
    after, _, back = rebuild(there, [own, *letters], None)
    (found,) = [row for row in after if row.place != DEAD]
    assert found.token >= own.token
    if found in back:
        assert found.token > max(own.token, *(row.token for row in there if row.place != DEAD), 0)


@given(LETTERS, ENDED)
def test_what_has_ended_is_not_open_afterwards(letters: list[TaskRow], ended: Ended | None) -> None:
    if ended:
        after, _, _ = rebuild([opened()], [row for row in letters if entry_ms(row.letter) < BORN], ended)
        assert not [row for row in after if row.place != DEAD]
