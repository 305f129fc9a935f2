"""What a worker does with entries that it cannot run: dead letters with a cause, or parked; and it goes on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from reclaimd.streams import scripts
from reclaimd.streams.codec import Body, encode_body
from support import newer_app, task_app
from support.fleet import MAIL, Fleet
from support.servers import Server
from support.waiting import wait_until

# The scripts' side of each case is tried on all servers elsewhere.
pytestmark = pytest.mark.flavours("valkey", "redis62")
# Levels: deeper than any decoder recurses.
DEEP = 100_000


@pytest.fixture
def fleet(server: Server, tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(server, tmp_path) as fleet:
        yield fleet


def put(fleet: Fleet, *bodies: tuple[str, bytes], lane: str = "normal") -> None:
    """Enqueue raw bodies, as a program in another language might."""
    tasks = [scripts.NewTask(task_id, lane, 5, body) for task_id, body in bodies]
    fleet.call(scripts.enqueue(MAIL, tasks, epoch_id="e"))


def add(fleet: Fleet, *fields: str | bytes, lane: str = "normal") -> None:
    """XADD straight into a lane, past every check."""
    fleet.raw("XADD", MAIL.key(f"lane:{lane}"), "*", *fields)


def test_foreign_entries_are_buried_with_their_fields_and_the_work_goes_on(fleet: Fleet) -> None:
    start = ("task", "odd", "at", "1", "lane", "normal")
    add(fleet, "hello", "world")
    add(fleet, *start, "max", "5")
    add(fleet, *start, "max", "many", "body", "{}")
    add(fleet, "task", "no spaces allowed", "at", "1", "lane", "normal", "max", "5", "body", "{}")
    add(fleet, "blob", b"\x00\xff" * 5_000_000)
    add(fleet, *(str(n) for n in range(6000)))
    add(fleet, *start, "max", "5", "attempts", "many", "body", encode_body(Body(name="noop")))
    worker = fleet.start("w", concurrency=3)
    good = [fleet.enqueue(task_app.note, n) for n in range(5)]
    wait_until(lambda: len(fleet.dead()) == 7, "all strangers to be buried", 20)
    fleet.wait_journal("note", len(good))
    dead = fleet.dead()
    assert {letter["cause"] for letter in dead} == {"foreign"}
    assert dead[0]["x:hello"] == "world"
    assert len(dead[4]["x:blob"]) == 10_000_000
    assert dead[5]["x"].startswith('["0","1"')
    assert dead[6]["x:attempts"] == "many"
    assert fleet.counters()["joined"] == 1
    assert len(worker.children) == 1


def test_bodies_and_arguments_that_do_not_fit_never_run(fleet: Fleet) -> None:
    put(
        fleet,
        ("not-json", b"{"),
        ("binary", b"\xff\xfe\x00"),
        ("empty", b""),
        ("a-list", b"[]"),
        ("no-name", b'{"args":{}}'),
        ("large", b'{"name":"typed","args":{"n":"' + b"x" * 10_000_000 + b'"}}'),
        ("missing", b'{"name":"typed","args":{}}'),
        ("unknown", b'{"name":"typed","args":{"n":1,"m":2}}'),
        ("wrong", b'{"name":"typed","args":{"n":"1"}}'),
        ("a-list-of-args", b'{"name":"typed","args":[1]}'),
    )
    fleet.start("w")
    good = fleet.enqueue(task_app.note, 1)
    wait_until(lambda: len(fleet.dead()) == 10, "all of them to be dead letters", 20)
    fleet.wait_journal("note", task=good)
    causes = {letter["task"]: letter["cause"] for letter in fleet.dead()}
    bad_arguments = {"large", "missing", "unknown", "wrong", "a-list-of-args"}
    assert {task for task, cause in causes.items() if cause == "bad_arguments"} == bad_arguments
    assert {cause for task, cause in causes.items() if task not in bad_arguments} == {"bad_body"}
    errors = {letter["task"]: letter["error"] for letter in fleet.dead()}
    assert "missing required field `n`" in errors["missing"]
    assert all("attempts" not in letter for letter in fleet.dead())
    assert fleet.counters()["joined"] == 1


def test_bodies_on_which_a_decoder_gives_up_in_its_own_way_never_run(fleet: Fleet) -> None:
    """Not UTF-8, or nested without end: neither is an error of the decoder's own kind."""
    deep = b"[" * DEEP + b"]" * DEEP
    bodies = {
        "name-not-utf8": b'{"name":"no\xffop","args":{}}',
        "key-not-utf8": b'{"name":"typed","args":{"n\xff":1}}',
        "value-not-utf8": b'{"name":"typed","args":{"n":1,"name":"\xff"}}',
        "extra-not-utf8": b'{"name":"noop","args":{"n":1},"trace":"\xff"}',
        "deep": deep,
        "deep-args": b'{"name":"typed","args":' + deep + b"}",
        "deep-value": b'{"name":"typed","args":{"n":' + deep + b"}}",
        "deep-any": b'{"name":"anything","args":{"value":' + deep + b"}}",
        "deep-trace": b'{"name":"noop","args":{},"trace":{"t":' + deep + b"}}",
    }
    put(fleet, *bodies.items())
    worker = fleet.start("w")
    fleet.wait_journal("note", task=fleet.enqueue(task_app.note, 1))
    wait_until(lambda: len(fleet.dead()) == len(bodies), "all of them to be dead letters")
    assert {letter["task"]: letter["cause"] for letter in fleet.dead()} == dict.fromkeys(bodies, "bad_body")
    assert all("attempts" not in letter and "deliveries" not in letter for letter in fleet.dead())
    assert fleet.counters()["joined"] == 1
    assert len(worker.children) == 1


def test_a_task_that_only_a_newer_worker_knows_waits_for_it(fleet: Fleet) -> None:
    old = fleet.start("old")
    task = fleet.enqueue(newer_app.newcomer, 7)
    put(fleet, ("next-version", b'{"v":2,"name":"noop","args":{"n":[]}}'))
    fleet.wait_counter("parked", 2)
    fleet.start("new", target="support.newer_app:app")
    old.terminate()
    assert old.wait() == 0
    with fleet.keeper():
        (line,) = fleet.wait_journal("note", task=task, timeout=20)
    assert line["worker"] == "new"
    assert fleet.dead() == []
    assert "retried" not in fleet.counters()


def test_parking_ends(fleet: Fleet) -> None:
    fleet.start("w", RECLAIMD_WORKER_PARK_FOR="0s")
    put(fleet, ("nobody-knows", b'{"name":"no_such_task"}'), ("next-version", b'{"v":2,"name":"noop"}'))
    wait_until(lambda: len(fleet.dead()) == 2, "both to be given up")
    causes = {letter["task"]: (letter["cause"], letter["error"]) for letter in fleet.dead()}
    assert causes["nobody-knows"][0] == "unknown_task"
    assert "no task 'no_such_task' is registered" in causes["nobody-knows"][1]
    assert causes["next-version"][0] == "newer_body"
    assert "parked" not in fleet.counters()


def test_an_entry_that_was_deleted_while_it_ran(fleet: Fleet) -> None:
    fleet.start("w")
    task = fleet.enqueue(task_app.hold, "gate")
    fleet.wait_journal("start", task=task)
    ((entry, _),) = fleet.raw("XRANGE", MAIL.key("lane:normal"), "-", "+")
    fleet.raw("XDEL", MAIL.key("lane:normal"), entry)
    fleet.open_gate("gate")
    fleet.wait_counter("succeeded")
    assert sum(fleet.view()["pending"].values()) == 0
