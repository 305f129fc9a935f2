"""join, turn, beat, leave, release: who holds a worker ID, for how long, and what a fenced one can still do."""

import pytest

from property.lab import LEASE, NOON, Lab, verdict
from property.snapshot import token_of
from reclaimd.streams import scripts


def nonce(token: str) -> str:
    return token.partition("-")[2]


def test_join_answers_the_same_nonce_the_same_token(lab: Lab) -> None:
    first = lab.send(lab.join_call("w", "n1"))
    again = lab.send(lab.join_call("w", "n1"))
    assert (first.status, again) == ("ok", first)
    assert (lab.counter("joined"), lab.look().clock["term:900"]) == (1, 1)


def test_a_live_identity_is_refused_and_its_holder_named(lab: Lab) -> None:
    lab.join("w")
    lab.now += 300
    refused = lab.send(lab.join_call("w", "other"))
    assert (refused.status, refused.holder, refused.left_ms) == ("live", '{"host":"h"}', LEASE - 300)


def test_proof_takes_over_only_the_incarnation_that_it_names(lab: Lab) -> None:
    token = lab.join("w")
    lab.enqueue("t")
    lab.take("w", token)
    assert lab.send(lab.join_call("w", "n2", proof="somebody else")).status == "live"
    taken = lab.send(lab.join_call("w", "n2", proof=nonce(token)))
    assert taken.status == "ok"
    assert lab.where("t") == "recovered:normal"
    assert not lab.send(scripts.beat(lab.partition, "w", token, now=lab.now))
    # The proof is spent: sent late by the old joiner, it names nobody who lives.
    assert lab.send(lab.join_call("w", "n3", proof=nonce(token))).status == "live"


def test_an_identity_whose_lease_ended_may_be_taken(lab: Lab) -> None:
    old = lab.join("w")
    lab.expire()
    new = lab.join("w")
    assert int(new.partition("-")[0]) > int(old.partition("-")[0])
    assert lab.turn("w", old).status == "fenced"
    assert lab.turn("w", new).status == "ok"


def test_the_counter_grows_though_the_clock_goes_back(lab: Lab) -> None:
    old = lab.join("w")
    lab.now -= 3_600_000
    new = lab.send(lab.join_call("w", "n2", proof=nonce(old))).token
    assert int(new.partition("-")[0]) == NOON + 1


def test_a_fenced_nonce_does_not_come_back(lab: Lab) -> None:
    token = lab.join("w")
    lab.send(scripts.release(lab.partition, "w", nonce(token), now=lab.now))
    assert lab.send(lab.join_call("w", nonce(token))).status == "fenced"


def test_join_moves_in_calls_and_lives_only_when_all_is_moved(lab: Lab) -> None:
    token = lab.join("w")
    lab.enqueue(*(f"t{i}" for i in range(5)))
    lab.take("w", token)
    statuses = [lab.send(lab.join_call("w", "n2", proof=nonce(token), limit=2)).status for _ in range(3)]
    assert statuses == ["more", "more", "ok"]
    assert lab.order("recovered:normal") == ["t0", "t1", "t2", "t3", "t4"]


def test_join_takes_what_is_pending_to_a_name_without_a_row(lab: Lab) -> None:
    lab.enqueue("t")
    lab.do("XGROUP", "CREATE", lab.key("lane:normal"), "workers", "0")
    lab.do("XREADGROUP", "GROUP", "workers", "w", "STREAMS", lab.key("lane:normal"), ">")
    lab.join("w")
    assert lab.where("t") == "recovered:normal"
    assert lab.counter("reclaimed:unknown") == 1


def test_join_with_evidence_that_is_no_json_writes_nothing(lab: Lab) -> None:
    before = lab.look()
    who = scripts.Identity("w", "n", LEASE, "not json")
    with pytest.raises(Exception, match=r"(?i)expected|invalid"):
        lab.send(scripts.join(lab.partition, who, epoch_id="e", now=lab.now))
    assert lab.look() == before


def test_a_number_that_outlived_its_row_does_not_make_new_turns_late(lab: Lab) -> None:
    lab.do("HSET", lab.key("turns"), "w", "1000")
    assert lab.turn("w", lab.join("w")).status == "ok"


def test_a_fenced_turn_settles_nothing_and_says_so(lab: Lab) -> None:
    token = lab.join("w")
    lab.enqueue("t", unique="u")
    delivery = lab.take("w", token)[0]
    lab.expire()
    lab.reclaim_all()
    before = lab.look()
    assert lab.settle("w", token, verdict(delivery)).status == "fenced"
    after = lab.look()
    assert (after.places, after.unique, after.leases) == (before.places, before.unique, before.leases)
    assert lab.counter("fenced") == 1
    assert b"SettlementsRefused" in lab.do("XREVRANGE", lab.key("events"), "+", "-", "COUNT", 1)[0][1][3]


def test_a_late_turn_does_nothing(lab: Lab) -> None:
    """Its audit would hand back what its sender runs by now."""
    token = lab.join("w")
    lab.enqueue("a", "b")
    late = lab.turn_call("w", token, 1, running=())
    delivery = lab.take("w", token, 1)[0]
    before = lab.look()
    assert lab.send(late).status == "late"
    assert lab.look().places == before.places
    assert lab.settle("w", token, verdict(delivery)).stale == 0


def test_a_turn_sent_twice_settles_once(lab: Lab) -> None:
    token = lab.join("w")
    lab.enqueue("t")
    delivery = lab.take("w", token)[0]
    call = lab.turn_call("w", token, settlements=(verdict(delivery),), number=None)
    assert [lab.send(call).stale, lab.send(call).stale] == [0, 1]
    assert (lab.counter("succeeded"), lab.counter("stale")) == (1, 1)


def test_an_audit_hands_back_what_does_not_run_and_names_what_is_lost(lab: Lab) -> None:
    token = lab.join("w")
    lab.enqueue("a", "b")
    a, b = lab.take("w", token)
    lab.settle("w", token, verdict(b))
    turned = lab.turn("w", token, running=((b.stream, b.entry_id),))
    assert (turned.handed_back, turned.lost) == (1, [(b.stream, b.entry_id)])
    assert lab.where(a.task_id) == "recovered:normal"
    assert lab.take("w", token)[0].handbacks == 1


def test_an_audit_keeps_what_runs_beyond_a_page(lab: Lab) -> None:
    token = lab.join("w")
    lab.enqueue(*(f"t{i}" for i in range(1500)))
    deliveries = lab.take("w", token, 1000) + lab.take("w", token, 1000)
    kept = [(d.stream, d.entry_id) for d in deliveries[::3]]
    turned = lab.turn("w", token, running=kept)
    assert (turned.handed_back, turned.lost) == (1000, [])
    assert len(lab.look().owned_by("w")) == 500


def test_an_overdue_lease_that_nobody_fenced_is_renewed(lab: Lab) -> None:
    token = lab.join("w")
    lab.expire()
    assert lab.send(scripts.beat(lab.partition, "w", token, now=lab.now))
    assert lab.reclaim() == scripts.Reclaimed(0, False, 0)


def test_beat_renews_from_lease_time(lab: Lab) -> None:
    token = lab.join("w")
    lab.now += 200
    lab.send(scripts.beat(lab.partition, "w", token, now=lab.now))
    seen = lab.look()
    assert seen.leases["w"] == seen.clock["lease"] + LEASE == NOON + 200 + LEASE


def test_leave_hands_everything_back_and_can_be_sent_again(lab: Lab) -> None:
    token = lab.join("w")
    lab.enqueue("a", "b", "c")
    lab.take("w", token)
    leave = scripts.leave(lab.partition, "w", token, limit=2, now=lab.now)
    answers = [lab.send(leave) for _ in range(3)]
    assert [a.status for a in answers] == ["more", "ok", "ok"]
    assert lab.order("recovered:normal") == ["a", "b", "c"]
    places = lab.look().places
    assert {(p.number("handbacks"), p.number("deliveries")) for found in places.values() for p in found} == {(1, 0)}
    assert (lab.counter("left"), lab.counter("handed_back")) == (1, 3)
    assert lab.look().consumers["lane:normal"] == {}
    assert lab.send(scripts.leave(lab.partition, "w", "1-other", now=lab.now)).status == "fenced"


@pytest.mark.parametrize("asked", [False, True])
def test_release_counts_a_delivery_unless_the_process_was_asked_to_stop(lab: Lab, asked: bool) -> None:
    token = lab.join("w")
    lab.enqueue("t")
    lab.take("w", token)
    release = scripts.release(lab.partition, "w", nonce(token), asked=asked, now=lab.now)
    assert [lab.send(release).status, lab.send(release).status] == ["ok", "gone"]
    place = lab.look().places["t"][0]
    assert (place.number("deliveries"), place.number("handbacks")) == ((0, 1) if asked else (1, 0))


def test_release_of_an_older_nonce_touches_nobody(lab: Lab) -> None:
    old = lab.join("w")
    new = lab.send(lab.join_call("w", "n2", proof=nonce(old))).token
    assert lab.send(scripts.release(lab.partition, "w", nonce(old), now=lab.now)).status == "gone"
    assert lab.turn("w", new).status == "ok"


@pytest.mark.parametrize("step", [3_600_000, -3_600_000])
def test_a_clock_step_expires_nobody_and_strands_nobody(lab: Lab, step: int) -> None:
    tokens = {worker: lab.join(worker) for worker in "ab"}
    lease_time = lab.look().clock["lease"]
    lab.now += step
    assert lab.reclaim().workers == 0
    assert lab.look().clock["lease"] == lease_time + (LEASE // 3 if step > 0 else 0)
    lab.expire(("b", tokens["b"]))
    assert lab.reclaim().workers == 1
    assert lab.turn("b", tokens["b"]).status == "ok"


def test_the_cap_is_a_third_of_the_shortest_live_lease(lab: Lab) -> None:
    def cap() -> int | None:
        return lab.look().clock.get("cap")

    long, short = lab.join("long", lease=15_000), lab.join("short", lease=601)
    assert cap() == 200
    lab.join("short2", lease=601)
    lab.send(scripts.leave(lab.partition, "short", short, now=lab.now))
    assert cap() == 200
    for _ in range(4):
        lab.now += 200
        lab.send(scripts.view(lab.partition, now=lab.now))
    lab.reclaim()
    assert cap() == 5000
    lab.send(scripts.leave(lab.partition, "long", long, now=lab.now))
    assert cap() is None


def test_a_worker_holds_one_suspect_at_a_time(lab: Lab) -> None:
    lab.enqueue("s1", "s2")
    lab.return_by_crash("w", 2)
    lab.enqueue("fresh")
    assert (lab.order("suspect"), lab.where("fresh")) == (["s1", "s2"], "lane:normal")
    token = lab.join("v")
    assert [d.task_id for d in lab.take("v", token, 10)] == ["s1", "fresh"]
    # Even a client that forgot what it runs gets no second one.
    assert lab.take("v", token, 10) == []
    assert [d.task_id for d in lab.take("u", lab.join("u"), 10)] == ["s2"]


def test_a_suspect_that_is_retried_stays_a_suspect(lab: Lab) -> None:
    lab.enqueue("s")
    lab.return_by_crash("w", 2)
    token = lab.join("v")
    lab.settle("v", token, verdict(lab.take("v", token)[0], "retry", delay_ms=100))
    lab.now += 200
    lab.promote()
    assert lab.where("s") == "suspect"


def test_the_fencing_token_of_a_task_grows_with_every_entry(lab: Lab) -> None:
    lab.enqueue("t", most=9)
    token = lab.join("w")
    seen = []
    for outcome in ("handback", "retry", "parked", "failed"):
        delivery = lab.take("w", token)[0]
        seen.append(delivery.token)
        lab.settle("w", token, verdict(delivery, outcome))
        lab.promote()
    letter = lab.letters()["t"]
    seen.append(token_of(letter[1]))
    lab.send(scripts.redrive(lab.partition, [letter[0]], now=lab.now))
    seen.append(lab.take("w", token)[0].token)
    assert seen == sorted(set(seen)), seen


def test_history_keeps_the_last_twenty_rows(lab: Lab) -> None:
    lab.enqueue("t")
    token = lab.join("w")
    for i in range(25):
        lab.settle("w", token, verdict(lab.take("w", token)[0], "handback" if i < 24 else "retry"))
    rows = lab.look().places["t"][0].text("history").split("\n")
    assert len(rows) == 20
    assert '"retried"' in rows[-1]
