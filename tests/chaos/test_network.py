"""Workers behind a proxy that cuts replies, and a network that swallows everything."""

import os
import signal
from collections.abc import Iterator

import pytest

from chaos.history import check_one_owner, runs_of
from reclaimd.streams.lua_source import load_script
from support import task_app
from support.fleet import MAIL, Fleet, is_alive, process_state
from support.proxy import Proxy, Request
from support.waiting import wait_until

pytestmark = pytest.mark.flavours("valkey")
TURN = load_script("turn")


@pytest.fixture
def proxy(fleet: Fleet) -> Iterator[Proxy]:
    with Proxy(fleet.server.port) as proxy:
        yield proxy


def is_turn(request: Request) -> bool:
    return request[0].upper() == b"EVALSHA" and request[1].decode() == TURN.sha


def settles(request: Request) -> bool:
    """A turn with settlements: `["succeeded"…` stands in one argument."""
    return is_turn(request) and any(b'"succeeded"' in word for word in request)


@pytest.mark.parametrize("after", [0, 20])
def test_a_turns_reply_cut_in_the_middle_loses_and_doubles_nothing(fleet: Fleet, proxy: Proxy, after: int) -> None:
    fleet.raw("SCRIPT", "LOAD", TURN.source)
    # Of the audits that come by themselves, none comes in time.
    worker = fleet.start("w", url=fleet.server.url_at(proxy.port), RECLAIMD_WORKER_AUDIT_EVERY="1000")
    # Its first turns are audits in any case.
    fleet.enqueue(task_app.noop)
    fleet.wait_counter("succeeded")
    wait_until(lambda: not sum(fleet.view()["pending"].values()), "the first turns to be over")
    cut = proxy.cut_reply(after, match=is_turn, times=4)
    ids = [fleet.enqueue(task_app.note, n) for n in range(50)]
    fleet.wait_counter("succeeded", 51)
    assert cut.done == 4
    lines = fleet.journal("note")
    assert sorted(line["task"] for line in lines) == sorted(ids)
    counters = fleet.counters()
    # What came with a lost reply was handed back by an audit before it ran anywhere.
    assert counters["succeeded"] == 51
    assert all(line["token"] == 1 or counters["handed_back"] for line in lines)
    assert len(worker.children) == 1
    assert counters["joined"] == 1


def test_a_settlements_reply_that_is_lost_settles_once(fleet: Fleet, proxy: Proxy) -> None:
    fleet.raw("SCRIPT", "LOAD", TURN.source)
    fleet.start("w", url=fleet.server.url_at(proxy.port))
    cut = proxy.cut_reply(match=settles, times=3)
    fleet.enqueue(task_app.note, 1)
    fleet.wait_counter("succeeded")
    cut.wait_done(1)
    for n in range(2, 6):
        fleet.enqueue(task_app.note, n)
        fleet.wait_counter("succeeded", n)
    wait_until(lambda: not sum(fleet.view()["pending"].values()), "everything to be settled")
    assert fleet.counters()["succeeded"] == 5
    assert len(fleet.journal("note")) == 5


def test_a_turn_that_arrives_late_hands_nothing_back(fleet: Fleet, proxy: Proxy) -> None:
    """The worker gave it up and went on with another; what it would audit runs by now."""
    fleet.raw("SCRIPT", "LOAD", TURN.source)
    held = proxy.hold(is_turn)
    fleet.start("w", url=fleet.server.url_at(proxy.port))
    held.wait_caught()
    proxy.cut_all()
    task = fleet.enqueue(task_app.hold, "gate")
    fleet.wait_journal("start", task=task)
    held.release()
    assert sum(fleet.view()["pending"].values()) == 1
    fleet.open_gate("gate")
    fleet.wait_counter("succeeded")
    assert len(fleet.journal("start")) == 1
    assert "handed_back" not in fleet.counters()


def test_what_a_frozen_process_was_given_is_not_started_when_it_wakes(fleet: Fleet, proxy: Proxy) -> None:
    """The reply that delivers lies in its socket while it is frozen; by then another one has run the task."""
    fleet.raw("SCRIPT", "LOAD", TURN.source)
    # Busy for now, and there at once when it is needed: the reply must not have become too old to be read at all.
    fleet.start("heir", concurrency=1)
    fleet.enqueue(task_app.hold, "gate")
    fleet.wait_journal("start")
    worker = fleet.start("frozen", url=fleet.server.url_at(proxy.port))
    (child,) = worker.children
    held = proxy.hold(is_turn)
    held.wait_caught()
    os.kill(child, signal.SIGSTOP)
    wait_until(lambda: process_state(child) == "T", "it to be stopped")
    task = fleet.enqueue(task_app.note, 1)
    held.release()
    assert fleet.counters()["started"] == 2
    fleet.open_gate("gate")
    with fleet.keeper():
        (line,) = fleet.wait_journal("note", task=task)
        assert (line["worker"], line["token"]) == ("heir", 2)
        os.kill(child, signal.SIGCONT)
        fleet.wait_counter("joined", 3)
    assert len(fleet.journal("note")) == 1


def test_a_worker_that_is_cut_off_stops_its_handlers_before_others_run_them(fleet: Fleet, proxy: Proxy) -> None:
    worker = fleet.start("lonely", url=fleet.server.url_at(proxy.port))
    ids = {fleet.enqueue(task, "gate") for task in (task_app.hold, task_app.hold_sync)}
    fleet.wait_journal("start", 2)
    children = worker.children
    fleet.start("heir")
    with fleet.keeper():
        proxy.black_hole()
        fleet.wait_journal("cancelled", 2)
        lines = fleet.wait_journal("start", 2, worker="heir")
        assert {line["task"] for line in lines} == ids
        # Both were told in time, so there was no need to kill.
        assert worker.children == children
        proxy.cut_all()
        proxy.heal()
        fleet.wait_counter("joined", 3)
        fleet.open_gate("gate")
        fleet.wait_counter("succeeded", 2)
    check_one_owner(runs_of(fleet.journal("start", "end", "cancelled"), {}), frozen=())
    assert fleet.counters()["false_reclaims"] == 1


def test_a_worker_that_is_cut_off_kills_a_handler_that_will_not_stop(fleet: Fleet, proxy: Proxy) -> None:
    worker = fleet.start("lonely", url=fleet.server.url_at(proxy.port))
    task = fleet.enqueue(task_app.deaf_sync_for_ever, "gate", max_deliveries=9)
    fleet.wait_journal("start", task=task)
    (child,) = worker.children
    fleet.start("heir")
    with fleet.keeper():
        proxy.black_hole()
        wait_until(lambda: not is_alive(child), "the process to have killed itself")
        assert fleet.view()["live"] == 2, "it died before its lease ended"
        first, second = fleet.wait_journal("start", 2, task=task)
    assert second["worker"] == "heir"
    late = [line for line in fleet.journal("alive") if line["pid"] == first["pid"] and line["at"] > second["at"]]
    assert late == []
    assert "kills its group" in worker.said()
    fleet.open_gate("gate")
    fleet.wait_counter("succeeded")


def test_a_reply_that_takes_longer_than_the_lease_starts_nothing(fleet: Fleet, proxy: Proxy) -> None:
    fleet.raw("SCRIPT", "LOAD", TURN.source)
    fleet.start("slow", url=fleet.server.url_at(proxy.port))
    task = fleet.enqueue(task_app.hold, "first")
    fleet.wait_journal("start", task=task)
    with fleet.keeper():
        proxy.delay_replies(1.5)
        second = fleet.enqueue(task_app.hold, "gate")
        fleet.open_gate("first")
        fleet.wait_counter("fenced_workers:lease_expired")
        proxy.delay_replies(0)
        fleet.start("heir")
        fleet.wait_journal("start", task=second, timeout=20)
        fleet.open_gate("gate")
        fleet.wait_counter("succeeded", 2, timeout=20)
    check_one_owner(runs_of(fleet.journal("start", "end", "cancelled"), {}), frozen=())
    assert fleet.raw("EXISTS", MAIL.key("dead")) == 0
