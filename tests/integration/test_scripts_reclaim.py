"""A reclaim pass: its order, its bounds, who is in it, and that its cost follows the damage."""

from typing import Any

import pytest

from property.lab import Lab, verdict
from reclaimd.streams import scripts
from support.servers import FreshServer


def deal(lab: Lab, tokens: dict[str, str], tasks: int, lane: str = "normal", first: int = 0) -> None:
    """Tasks go to the workers one by one in turns, so that each dead one has every n-th."""
    lab.enqueue(*(f"{lane[0]}{i:03}" for i in range(first, first + tasks)), lane=lane)
    for i in range(tasks):
        worker = list(tokens)[i % len(tokens)]
        assert len(lab.take(worker, tokens[worker], 1)) == 1


@pytest.mark.parametrize("limit", [1, 3, 7, 500])
def test_a_pass_merges_all_dead_workers_by_entry_id(lab: Lab, limit: int) -> None:
    tokens = {worker: lab.join(worker) for worker in ("a", "b", "c")}
    deal(lab, tokens, 20)
    deal(lab, tokens, 8, lane="high")
    lab.expire()
    assert lab.reclaim_all(limit=limit) == 28
    assert lab.order("recovered:normal") == [f"n{i:03}" for i in range(20)]
    assert lab.order("recovered:high") == [f"h{i:03}" for i in range(8)]
    assert (lab.look().leases, lab.counter("reclaimed:lease_expired")) == ({}, 28)


def test_what_was_recovered_before_comes_before_what_is_new(lab: Lab) -> None:
    tokens = {worker: lab.join(worker) for worker in ("a", "b")}
    deal(lab, tokens, 4)
    lab.expire()
    lab.reclaim_all()
    tokens = {worker: lab.join(worker) for worker in ("a", "b")}
    lab.enqueue("new")
    assert [d.task_id for d in lab.take("b", tokens["b"], 5)] == ["n000", "n001", "n002", "n003", "new"]
    lab.expire()
    lab.reclaim_all()
    assert lab.order("suspect") == ["n000", "n001", "n002", "n003"]
    assert lab.order("recovered:normal") == ["new"]


def test_later_deaths_wait_for_the_next_pass(lab: Lab) -> None:
    a, b = lab.join("a"), lab.join("b")
    lab.enqueue("a1", "b1", "a2", "b2")
    for _ in range(2):
        lab.take("a", a, 1)
        lab.take("b", b, 1)
    lab.expire(("b", b))
    assert lab.reclaim(limit=1) == scripts.Reclaimed(1, True, 1)
    lab.expire()
    lab.reclaim_all(limit=1)
    assert lab.order("recovered:normal") == ["a1", "a2", "b1", "b2"]


@pytest.mark.parametrize("how", ["join", "leave", "release"])
def test_whoever_has_a_dead_worker_helps_the_running_pass_first(lab: Lab, how: str) -> None:
    a, b = lab.join("a"), lab.join("b")
    lab.enqueue("a1", "b1", "a2", "b2")
    for _ in range(2):
        lab.take("a", a, 1)
        lab.take("b", b, 1)
    lab.expire(("b", b))
    lab.reclaim(limit=1)
    nonce = b.partition("-")[2]
    calls = {
        "join": lambda: lab.send(lab.join_call("b", "fresh", proof=nonce, limit=1)).status,
        "leave": lambda: lab.send(scripts.leave(lab.partition, "b", b, limit=1, now=lab.now)).status,
        "release": lambda: lab.send(scripts.release(lab.partition, "b", nonce, limit=1, now=lab.now)).status,
    }
    statuses = [calls[how]()]
    while statuses[-1] == "more":
        statuses.append(calls[how]())
    assert statuses[-1] == "ok"
    assert lab.order("recovered:normal") == ["a1", "a2", "b1", "b2"]


def test_a_reclaim_sent_again_moves_nothing_twice(lab: Lab) -> None:
    token = lab.join("w")
    lab.enqueue("a", "b")
    lab.take("w", token)
    lab.expire()
    call = scripts.reclaim(lab.partition, now=lab.now)
    assert [lab.send(call) for _ in range(2)] == [scripts.Reclaimed(2, False, 1), scripts.Reclaimed(0, False, 0)]
    assert lab.counter("fenced_workers:lease_expired") == 1


def test_a_call_stops_at_a_quarter_megabyte(lab: Lab) -> None:
    token = lab.join("w")
    tasks = [scripts.NewTask(f"t{i}", "normal", 5, b"x" * 100_000) for i in range(6)]
    lab.send(scripts.enqueue(lab.partition, tasks, epoch_id="e", now=lab.now))
    lab.take("w", token)
    lab.expire()
    assert lab.reclaim() == scripts.Reclaimed(3, True, 1)


def test_consumers_without_a_row_are_reclaimed_when_asked_for(lab: Lab) -> None:
    lab.join("w")
    lab.enqueue("t")
    lab.do("XREADGROUP", "GROUP", "workers", "stranger", "STREAMS", lab.key("lane:normal"), ">")
    assert lab.reclaim().moved == 0
    assert lab.reclaim(unknown=True).moved == 1
    place = lab.look().places["t"][0]
    assert (place.where, place.number("deliveries")) == ("recovered:normal", 1)
    assert "stranger" not in lab.look().consumers["lane:normal"]


def test_a_lost_row_or_lease_strands_nothing(lab: Lab) -> None:
    for worker in ("norow", "nolease"):
        lab.enqueue(f"t-{worker}")
        lab.take(worker, lab.join(worker))
    lab.do("HDEL", lab.key("workers"), "norow")
    lab.do("ZREM", lab.key("leases"), "nolease")
    lab.do("HDEL", lab.key("workers"), "nolease")
    lab.expire()
    lab.reclaim_all(unknown=True)
    lab.reclaim_all(unknown=True)
    assert (lab.where("t-norow"), lab.where("t-nolease")) == ("recovered:normal", "recovered:normal")


def test_more_dead_workers_than_a_pass_has_room_for_are_reclaimed_in_several(lab: Lab) -> None:
    """Each pass keeps its own order, whatever the limit of its calls; the next one begins when it is over."""
    tokens = {f"w{n:03}": lab.join(f"w{n:03}") for n in range(130)}
    # Backwards, so that the passes' order and the entries' differ.
    deal(lab, dict(reversed(tokens.items())), 2 * len(tokens))
    held = {worker: [f"n{i:03}", f"n{i + 130:03}"] for i, worker in enumerate(reversed(tokens))}
    lab.expire()
    answers = [lab.reclaim(limit=50)]
    while answers[-1].more and len(answers) < 20:
        answers.append(lab.reclaim(limit=50))
    workers = list(tokens)
    passes = [workers[:64], workers[64:128], workers[128:]]
    assert lab.order("recovered:normal") == [
        task for those in passes for task in sorted(task for worker in those for task in held[worker])
    ]
    assert {answer.workers for answer in answers} - {0} == {64, 2}
    found = lab.look()
    assert (found.leases, found.pending["lane:normal"], found.consumers["lane:normal"]) == ({}, {}, {})
    assert lab.counter("reclaimed:lease_expired") == 260


@pytest.mark.parametrize("row", ["lost", "gone"])
def test_a_lease_without_a_live_row_holds_nobody_up(fresh_server: FreshServer, flavour: str, row: str) -> None:
    """What a partial loss of data leaves: a score that says live, which no pass takes and no script may wait for."""
    lab = Lab(fresh_server(flavour))
    old = lab.join("w")
    nonce = old.partition("-")[2]
    gone = f"~left|{lab.now}|{old}|900|{{}}"
    lab.do(*(("HDEL", lab.key("workers"), "w") if row == "lost" else ("HSET", lab.key("workers"), "w", gone)))
    lease_end = lab.look().leases["w"]
    assert lease_end > lab.look().clock["lease"]
    assert lab.send(scripts.release(lab.partition, "w", nonce, now=lab.now)).status == "gone"
    assert lab.send(scripts.leave(lab.partition, "w", old, now=lab.now)).status == ("fenced" if row == "lost" else "ok")
    assert lab.reclaim(unknown=True) == scripts.Reclaimed(0, False, 0)
    assert lab.look().leases == {"w": lease_end}
    assert lab.send(lab.join_call("w", "new")).status == "ok"
    lab.enqueue("t")
    lab.take("w", lab.look().workers["w"].token)
    lab.expire()
    lab.reclaim_all()
    assert (lab.where("t"), lab.look().leases) == ("recovered:normal", {})
    lab.close()


def test_the_consumer_of_a_dead_worker_goes_and_nothing_with_it(lab: Lab) -> None:
    a, b = lab.join("a"), lab.join("b")
    deal(lab, {"a": a, "b": b}, 10)
    lab.expire(("b", b))
    lab.reclaim(limit=2)
    assert lab.look().consumers["lane:normal"] == {"a": 3, "b": 5}
    lab.reclaim_all(limit=2)
    assert lab.look().consumers["lane:normal"] == {"b": 5}


def test_a_ghost_is_acknowledged_with_an_event(lab: Lab) -> None:
    token = lab.join("w")
    lab.enqueue("a", "b")
    gone = lab.take("w", token)[0]
    lab.do("XDEL", lab.key("lane:normal"), gone.entry_id)
    lab.expire()
    lab.reclaim_all()
    assert lab.order("recovered:normal") == ["b"]
    assert (lab.counter("ghosts"), lab.look().pending["lane:normal"]) == (1, {})
    events = b"".join(flat[3] for _, flat in lab.do("XRANGE", lab.key("events"), "-", "+"))
    assert f'[["lane:normal","{gone.entry_id}"]]'.encode() in events
    assert b'"Ghost"' in events


def test_a_ghost_is_no_obstacle_to_settling_and_auditing(lab: Lab) -> None:
    token = lab.join("w")
    lab.enqueue("a", "b", "c")
    a, b, c = lab.take("w", token)
    for delivery in (a, b):
        lab.do("XDEL", lab.key("lane:normal"), delivery.entry_id)
    turned = lab.turn("w", token, settlements=(verdict(a, "retry"), verdict(c)), running=())
    assert (turned.stale, turned.handed_back) == (1, 0)
    assert lab.look().pending["lane:normal"] == {}


def commands(lab: Lab) -> dict[str, int]:
    """What ran since the last reset, inside scripts too, as the server counts it; the test's own commands left out."""
    stats: dict[str, int] = {}
    for line in lab.do("INFO", "commandstats").decode().splitlines():
        if line.startswith("cmdstat_"):
            name, _, rest = line.removeprefix("cmdstat_").partition(":")
            stats[name] = int(rest.partition("calls=")[2].partition(",")[0])
    own = {"info", "config|resetstat", "config", "eval", "evalsha"}
    return {name: calls for name, calls in stats.items() if name not in own}


def calls_of(lab: Lab, call: scripts.Call[Any]) -> dict[str, int]:
    lab.send(call)
    lab.do("CONFIG", "RESETSTAT")
    lab.send(call)
    return commands(lab)


def cost_of_reclaiming(lab: Lab, orphans: int, pending: int) -> dict[str, int]:
    """Commands for the reclaim of one dead worker's orphans beside a live worker with `pending` entries."""
    live, dead = lab.join("live", lease=600_000), lab.join("dead")
    for i in range(pending // 1000):
        lab.enqueue(*(f"p{i}-{n}" for n in range(1000)))
        lab.take("live", live, 1000)
    lab.enqueue(*(f"o{n}" for n in range(orphans)))
    lab.take("dead", dead)
    lab.expire(("live", live))
    lab.do("CONFIG", "RESETSTAT")
    assert lab.reclaim_all() == orphans
    ran = commands(lab)
    lab.do("FLUSHALL")
    return ran


def test_the_cost_of_a_reclaim_follows_the_orphans_not_what_is_pending(lab: Lab) -> None:
    alone = cost_of_reclaiming(lab, 50, 0)
    beside = cost_of_reclaiming(lab, 50, 20_000)
    assert beside == alone
    twice = cost_of_reclaiming(lab, 100, 0)
    grown = {name: twice[name] - alone[name] for name in twice if twice[name] != alone[name]}
    assert set(grown) <= {"xadd", "xreadgroup", "xack", "xdel"}
    assert grown["xadd"] == 50


def test_idle_calls_cost_the_same_whatever_is_pending(lab: Lab) -> None:
    token = lab.join("w", lease=600_000)
    calls: dict[str, scripts.Call[Any]] = {
        "reclaim": scripts.reclaim(lab.partition, now=lab.now),
        "promote": scripts.promote(lab.partition, now=lab.now),
        "view": scripts.view(lab.partition, now=lab.now),
        "beat": scripts.beat(lab.partition, "w", token, now=lab.now),
    }
    lab.enqueue("first")
    lab.take("w", token)
    lab.enqueue("waits")
    empty = {name: calls_of(lab, call) for name, call in calls.items()}
    for i in range(5):
        lab.enqueue(*(f"t{i}-{n}" for n in range(1000)))
        lab.take("w", token, 1000)
    assert {name: calls_of(lab, call) for name, call in calls.items()} == empty
