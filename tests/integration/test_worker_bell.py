"""A ring that reaches a worker which cannot use it: somebody else is to hear it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support import task_app
from support.fleet import MAIL, Fleet
from support.proxy import Proxy
from support.servers import Server
from support.waiting import wait_until

pytestmark = pytest.mark.flavours("valkey")


@pytest.fixture
def fleet(server: Server, tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(server, tmp_path) as fleet:
        yield fleet


@pytest.mark.parametrize(("state", "places"), [("full", 1), ("stopping", 2)])
def test_a_worker_without_room_passes_the_ring_on(fleet: Fleet, state: str, places: int) -> None:
    """It began to listen while it had room; an audit brought it a task before the ring was heard."""
    with Proxy(fleet.server.port) as proxy:
        listening = proxy.hold("BLPOP")
        worker = fleet.start(
            "w", concurrency=places, url=fleet.server.url_at(proxy.port), RECLAIMD_WORKER_AUDIT_EVERY="1"
        )
        listening.wait_caught()
        fleet.enqueue(task_app.hold, "gate")
        fleet.wait_journal("start")
        if state == "stopping":
            worker.terminate()
            wait_until(lambda: '"worker ends"' in worker.said(), "it to have heard the signal")
        assert fleet.raw("LLEN", MAIL.key("bell")) == 1
        listening.release()
        wait_until(lambda: fleet.raw("LLEN", MAIL.key("bell")) == 1, "the bell to ring on")
        task = fleet.enqueue(task_app.note, 1)
        fleet.start("heir")
        (line,) = fleet.wait_journal("note", task=task)
        assert line["worker"] == "heir"
        fleet.open_gate("gate")
        fleet.wait_counter("succeeded", 2)
