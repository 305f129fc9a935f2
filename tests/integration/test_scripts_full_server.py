"""A server at maxmemory that evicts nothing: new work is refused whole, everything that frees memory goes on."""

from collections.abc import Callable
from typing import Any

import pytest
import redis

from property.lab import Lab, verdict
from reclaimd.streams import scripts
from reclaimd.streams.codec import Outcome
from reclaimd.streams.errors import RedisFull
from reclaimd.streams.redis_log import translate


def refused(lab: Lab, call: scripts.Call[Any]) -> bool:
    """The call fails as RedisFull and changes nothing."""
    before = lab.look()
    with pytest.raises(redis.ResponseError) as caught:
        lab.send(call)
    assert lab.look() == before
    return isinstance(translate(caught.value, "redis://x"), RedisFull)


@pytest.mark.parametrize("first", ["XADD", "ZADD", "HSET"])
def test_a_script_whose_first_write_grows_memory_is_refused(lab: Lab, first: str) -> None:
    """The server's rule on which the scripts stand."""
    writes = {"XADD": "'XADD', 's', '*', 'f', 'v'", "ZADD": "'ZADD', 'z', 1, 'm'", "HSET": "'HSET', 'h', 'f', 'v'"}
    lab.set_full(True)
    with pytest.raises(redis.ResponseError):
        lab.do("EVAL", f"redis.call({writes[first]}) return 1", 0)
    assert lab.do("DBSIZE") == 0


@pytest.mark.parametrize("first", ["HDEL", "ZREM", "XACK", "XDEL"])
def test_a_script_whose_first_write_frees_memory_may_write_anything_after_it(lab: Lab, first: str) -> None:
    writes = {
        "HDEL": "'HDEL', 'none', 'f'",
        "ZREM": "'ZREM', 'none', 'm'",
        "XACK": "'XACK', 'none', 'g', '1-1'",
        "XDEL": "'XDEL', 'none', '1-1'",
    }
    lab.set_full(True)
    grow = "redis.call('XADD', 's', '*', 'f', 'v') redis.call('HSET', 'h', 'f', 'v') return 1"
    assert lab.do("EVAL", f"redis.call({writes[first]}) {grow}", 0) == 1


def test_enqueue_is_refused_whole(lab: Lab) -> None:
    lab.enqueue("old", unique="u")
    lab.set_full(True)
    for call in (
        lab.enqueue_call("a", "b"),
        lab.enqueue_call("d", delay_ms=100),
        lab.enqueue_call("old"),
        lab.enqueue_call("b", unique="u"),
    ):
        assert refused(lab, call)
    lab.now += 5
    assert refused(lab, lab.enqueue_call("a"))
    lab.set_full(False)
    assert lab.enqueue("a", "b") == ["ok", "ok"]


def test_the_first_enqueue_ever_is_refused_whole(lab: Lab) -> None:
    lab.set_full(True)
    assert refused(lab, lab.enqueue_call("a"))
    assert lab.do("DBSIZE") == 0


def test_an_enqueue_at_the_turn_of_a_bucket_is_refused(lab: Lab) -> None:
    """Deleting the older set of seen task IDs must not open the door to the writes after it."""
    lab.enqueue("a")
    boundary = (lab.now // 300_000 + 1) * 300_000
    lab.do("HSET", lab.key("clock"), "lease", boundary, "wall", boundary)
    lab.now = boundary
    lab.set_full(True)
    assert refused(lab, lab.enqueue_call("b"))


def test_redrive_is_refused_whole(lab: Lab) -> None:
    lab.enqueue("t", most=1)
    lab.return_by_crash("w")
    letter = lab.letters()["t"][0]
    lab.set_full(True)
    assert refused(lab, scripts.redrive(lab.partition, [letter], now=lab.now))


@pytest.mark.parametrize("outcome", ["succeeded", "retry", "parked", "failed", "dead", "handback"])
def test_a_turn_settles_and_takes(lab: Lab, outcome: Outcome) -> None:
    token = lab.join("w")
    lab.enqueue("a", "b")
    delivery = lab.take("w", token, 1)[0]
    lab.set_full(True)
    lab.now += 10
    turned = lab.turn("w", token, 1, settlements=(verdict(delivery, outcome, delay_ms=100),))
    assert (turned.status, turned.stale, len(turned.deliveries)) == ("ok", 0, 1)
    assert lab.look().leases["w"] == lab.look().clock["lease"] + 900


def test_recovery_goes_on(lab: Lab) -> None:
    """join, beat, leave, release, reclaim, promote: nobody's death waits for memory."""
    tokens = {worker: lab.join(worker) for worker in ("left", "killed", "silent", "alive")}
    for worker, token in tokens.items():
        lab.enqueue(f"t-{worker}", most=5)
        lab.take(worker, token)
    lab.enqueue("delayed", delay_ms=10)
    lab.set_full(True)
    lab.now += 20
    send: list[Callable[[], object]] = [
        lambda: lab.send(scripts.leave(lab.partition, "left", tokens["left"], now=lab.now)),
        lambda: lab.send(scripts.release(lab.partition, "killed", tokens["killed"].partition("-")[2], now=lab.now)),
        lambda: lab.expire(("alive", tokens["alive"])),
        lab.reclaim_all,
        lab.promote,
        lambda: lab.join("new"),
        lambda: lab.send(scripts.pause(lab.partition, True, now=lab.now)),
        lambda: lab.send(scripts.pause(lab.partition, False, now=lab.now)),
        lambda: lab.send(scripts.ring(lab.partition, now=lab.now)),
        lambda: lab.send(scripts.cleanup(lab.partition, now=lab.now)),
        lambda: lab.send(scripts.retain(lab.partition, scripts.Limits(10**9, 10**6, 10**9, 10**6), now=lab.now)),
    ]
    for step in send:
        step()
    found = {task: places[0].where for task, places in lab.look().places.items()}
    assert found == {
        "t-left": "recovered:normal",
        "t-killed": "recovered:normal",
        "t-silent": "recovered:normal",
        "t-alive": "lane:normal",
        "delayed": "lane:normal",
    }


def test_purging_frees_memory(lab: Lab) -> None:
    lab.enqueue("t", most=1)
    lab.return_by_crash("w")
    letter = lab.letters()["t"][0]
    lab.set_full(True)
    assert lab.send(scripts.purge(lab.partition, [letter], now=lab.now)) == 1
