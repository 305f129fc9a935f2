"""The longest test: everything is harmed at random while tasks flow, and then the books are checked."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.history import check_one_owner, check_settled_once, runs_of, verdicts
from chaos.storm import POISON_DELIVERIES, Producer, Storm
from support.fleet import MAIL, Fleet
from support.proxy import Proxy
from support.servers import FreshServer

SETTLES_WITHIN = 90


def weather(fleet: Fleet, seed: int, seconds: float) -> None:
    """A storm of that length, and all that must hold afterwards."""
    print(f"seed {seed}")
    with Proxy(fleet.server.port) as proxy:
        storm = Storm(fleet, proxy, seed)
        producer = Producer(fleet, seed)
        producer.start()
        try:
            storm.rage(seconds)
        finally:
            producer.end()
        storm.calm()
        storm.wait_settled(len(producer.accepted), SETTLES_WITHIN)
        check(fleet, storm, producer)


def check(fleet: Fleet, storm: Storm, producer: Producer) -> None:
    counters = fleet.counters()
    check_settled_once(producer.accepted, verdicts(fleet.raw("XRANGE", MAIL.key("events"), "-", "+")))
    check_one_owner(runs_of(fleet.journal("start", "end"), storm.deaths), storm.frozen)
    dead = fleet.dead()
    assert {letter["task"] for letter in dead} == set(producer.poison)
    for letter in dead:
        assert (letter["cause"], int(letter["deliveries"])) == ("max_deliveries", POISON_DELIVERIES), letter
        starts = fleet.journal("start", task=letter["task"])
        assert len(starts) <= POISON_DELIVERIES + int(letter.get("handbacks", 0))
    assert counters["enqueued"] == len(producer.accepted)
    assert counters["succeeded"] == len(producer.accepted) - len(producer.poison)
    view = fleet.view()
    assert (sum(view["waiting"].values()), sum(view["pending"].values()), view["delayed"]) == (0, 0, 0)
    print(f"{len(producer.accepted)} tasks through {storm.done}")


@pytest.mark.flavours("valkey")
@pytest.mark.parametrize("seed", [1])
def test_storm(fresh_server: FreshServer, flavour: str, tmp_path: Path, seed: int) -> None:
    server = fresh_server(flavour, appendonly="yes", appendfsync="always")
    with Fleet(server, tmp_path) as fleet:
        weather(fleet, seed, seconds=12)


@pytest.mark.soak
def test_soak(fresh_server: FreshServer, flavour: str, tmp_path: Path, soak_rounds: Iterator[int]) -> None:
    for _ in soak_rounds:
        seed = random.SystemRandom().randrange(1 << 32)
        folder = tmp_path / str(seed)
        folder.mkdir()
        server = fresh_server(flavour, appendonly="yes", appendfsync="always")
        with Fleet(server, folder) as fleet:
            weather(fleet, seed, seconds=45)
        server.stop()
