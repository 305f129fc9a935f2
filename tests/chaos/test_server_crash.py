"""The server itself is killed with -9 while producers and workers are busy."""

import threading
from pathlib import Path

import pytest

from chaos.history import check_one_owner, check_settled_once, runs_of, verdicts
from reclaimd.streams.errors import EnqueueUncertain, RedisUnreachable
from support import task_app
from support.fleet import MAIL, Fleet
from support.servers import FreshServer
from support.waiting import wait_until


@pytest.mark.flavours("valkey", "redis62")
def test_nothing_accepted_is_lost_when_the_server_is_killed(
    fresh_server: FreshServer, flavour: str, tmp_path: Path
) -> None:
    server = fresh_server(flavour, appendonly="yes", appendfsync="always")
    with Fleet(server, tmp_path, lease="2s") as fleet:
        fleet.start("a", processes=2, concurrency=3)
        accepted: list[str] = []
        end = threading.Event()

        def produce() -> None:
            number = 0
            while not end.is_set():
                name = f"t{number}"
                try:
                    fleet.app.enqueue_sync(task_app.work, 20, False, task_id=name, max_deliveries=50)
                except (EnqueueUncertain, RedisUnreachable):
                    continue
                accepted.append(name)
                number += 1

        producer = threading.Thread(target=produce)
        producer.start()
        with fleet.keeper():
            for round_number in range(1, 4):
                goal = 40 * round_number
                wait_until(lambda n=goal: len(accepted) >= n, f"{goal} accepted tasks", 20)  # type: ignore[misc]
                server.kill9()
                server.start()
            end.set()
            producer.join(20)
            goal = len(accepted)
            wait_until(lambda: fleet.counters().get("succeeded", 0) >= goal, f"all {goal} to be settled", 30)
        check_settled_once(accepted, verdicts(fleet.raw("XRANGE", MAIL.key("events"), "-", "+")))
        check_one_owner(runs_of(fleet.journal("start", "end"), {}), frozen=())
        assert {line["task"] for line in fleet.journal("end")} >= set(accepted)
        assert fleet.counters()["enqueued"] == goal
