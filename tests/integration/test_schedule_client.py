"""`app.schedules` against real servers, with no daemon anywhere."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from reclaimd.streams import Cron, Every, Once, Reclaimd, Schedule, every, once
from reclaimd.streams.app import Reclaimd as App
from reclaimd.streams.errors import (
    EnqueueUncertain,
    InvalidSchedule,
    ReclaimdError,
    RedisUnreachable,
    UnknownSchedule,
)
from reclaimd.streams.ids import EntryID
from reclaimd.streams.keys import Partition, queues_key, schedule_events_key
from reclaimd.streams.redis_log import connect
from reclaimd.streams.schedules.client import ScheduleClient
from reclaimd.streams.schedules.events import ScheduleRejected
from reclaimd.streams.schedules.log import ScheduleLog
from support.daemons import NAMESPACE, in_loop
from support.proxy import Proxy
from support.servers import Server, free_port

EVENTS = schedule_events_key(NAMESPACE)
NINE = Cron("0 9 * * 1-5", tz="Europe/Paris")


async def send(to: str, subject: str = "hi") -> None:
    """A task of the app."""


@asynccontextmanager
async def app_on(url: str, timeout: float = 10.0) -> AsyncIterator[App]:
    async with Reclaimd(url, NAMESPACE) as app:
        app.task(queue="mail", lane="high", max_deliveries=3)(send)
        app.schedules = ScheduleClient(lambda: app.config, app.tasks, timeout=timeout)
        yield app


def events_on(server: Server) -> list[Any]:
    with server.client() as client:
        entries: Any = client.xrange(EVENTS)
    return [msgspec.json.decode(fields[b"e"]) for _, fields in entries]


@in_loop
async def test_what_was_put_is_got(server: Server) -> None:
    async with app_on(server.url) as app:
        event_id = await app.schedules.put(
            "digest", app.tasks["send"], NINE, args={"to": "a@example.org"},
            jitter="5s", drip=2, overlap="queue_one", misfire="run_all", misfire_cap=7,
            start="2027-03-01T09:00:00", end="2027-06-01T00:00:00+00:00", limit=10, source="me",
        )  # fmt: skip
        found = await app.schedules.get("digest")
    assert found.schedule == Schedule(
        name="digest", task="send", queue="mail", trigger=NINE, args={"to": "a@example.org"}, lane="high",
        max_deliveries=3, misfire="run_all", misfire_cap=7, drip_ms=2000, overlap="queue_one", jitter_ms=5000,
        start_ms=1_803_888_000_000, end_ms=1_811_808_000_000, limit=10, source="me",
    )  # fmt: skip
    assert (found.generation, found.since_ms) == (event_id, int(event_id.split("-")[0]))
    assert (found.paused, found.suspended, found.problem) == (False, "", None)


@in_loop
async def test_a_task_by_name_needs_a_queue_unless_it_is_registered(server: Server) -> None:
    async with app_on(server.url) as app:
        await app.schedules.put("known", "send", every("15m"), args={"to": "x"})
        await app.schedules.put("foreign", "elsewhere", once("2030-01-01T00:00:00Z"), queue="far", args={"any": [1]})
        with pytest.raises(InvalidSchedule, match="queue: task elsewhere is not registered here"):
            await app.schedules.put("nowhere", "elsewhere", NINE)
        foreign, known = [found.schedule for found in await app.schedules.list()]
    assert foreign is not None
    assert known is not None
    assert (known.queue, known.lane, known.max_deliveries, known.trigger) == ("mail", "high", 3, Every(900_000))
    assert (foreign.queue, foreign.lane, foreign.max_deliveries) == ("far", "normal", 5)
    assert foreign.trigger == Once(1_893_456_000_000)


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"name": "a:b"}, "name", "use 1 to 80"),
    ({"trigger": Cron("0 9 30 2 *")}, "cron", "never fires"),
    ({"trigger": Cron("0 9 * * *", tz="Europe/Atlantis")}, "tz", "no IANA zone"),
    ({"trigger": "0 9 * * *"}, "trigger", ""),
    ({"trigger": Every(5)}, "every", "1s or more"),
    ({"args": {"too": 1}}, "args", "too"),
    ({"args": {"to": 5}}, "args", "Expected `str`"),
    ({"args": {"to": object()}}, "args", ""),
    ({"args": {"to": "x" * 1_000_001}}, "args", "the limit is 1000000"),
    ({"lane": "fast"}, "lane", "say one of high, normal, low"),
    ({"misfire": "perhaps"}, "misfire", "say one of"),
    ({"overlap": 5}, "overlap", "say one of"),
    ({"misfire_cap": 0}, "misfire_cap", "say 1 to"),
    ({"max_deliveries": 0}, "max_deliveries", "say 1 to 1000"),
    ({"limit": "ten"}, "limit", "expected int"),
    ({"jitter": "soon"}, "jitter", "is not a duration"),
    ({"jitter": -1}, "jitter", "negative"),
    ({"drip": None}, "drip", ""),
    ({"start": "tomorrow"}, "start", "no time or no date"),
    ({"start": "2027-03-02T00:00:00Z", "end": "2027-03-01T00:00:00Z"}, "end", "later than start"),
    ({"queue": "a b"}, "queue", "use 1 to 64"),
]


@pytest.mark.parametrize(("wrong", "field", "why"), WRONG, ids=[f"{case[1]}-{n}" for n, case in enumerate(WRONG)])
@pytest.mark.flavours("valkey")
def test_each_wrong_field_is_named_and_nothing_is_sent(
    server: Server, wrong: dict[str, Any], field: str, why: str
) -> None:
    app = Reclaimd(server.url, NAMESPACE)
    app.task(queue="mail")(send)
    rules: dict[str, Any] = {"name": "digest", "trigger": NINE, "args": {"to": "x"}} | wrong
    name, trigger = rules.pop("name"), rules.pop("trigger")
    with pytest.raises(InvalidSchedule) as caught:
        app.schedules.put_sync(name, app.tasks["send"], trigger, **rules)
    assert (caught.value.name, caught.value.field) == (name, field)
    assert why in caught.value.why
    assert events_on(server) == []


@in_loop
async def test_one_wrong_of_many_sends_none(server: Server) -> None:
    async with app_on(server.url) as app:
        good = app.schedules.build("good", "send", NINE, args={"to": "x"})
        with pytest.raises(InvalidSchedule, match="bad"):
            await app.schedules.put_all([good, msgspec.structs.replace(good, name="bad", task="")])
        assert await app.schedules.list() == []
        ids = await app.schedules.put_all(
            [good, *(msgspec.structs.replace(good, name=f"n{number}") for number in range(1200))]
        )
        assert len(set(ids)) == len(await app.schedules.list()) == 1201


@in_loop
async def test_pause_resume_remove(server: Server) -> None:
    async with app_on(server.url) as app:
        first = await app.schedules.put("digest", "send", NINE, args={"to": "x"})
        await app.schedules.pause("digest")
        assert (await app.schedules.get("digest")).paused
        resumed = await app.schedules.resume("digest")
        found = await app.schedules.get("digest")
        assert (found.paused, found.generation, found.since_ms) == (False, first, int(resumed.split("-")[0]))
        await app.schedules.remove("digest")
        assert await app.schedules.list() == []


@in_loop
async def test_an_unknown_name_is_said_and_nothing_is_sent(server: Server) -> None:
    async with app_on(server.url) as app:
        for act in (app.schedules.get, app.schedules.remove, app.schedules.pause, app.schedules.resume):
            with pytest.raises(UnknownSchedule, match="there is no schedule 'digest'"):
                await act("digest")
        with pytest.raises(UnknownSchedule):
            await app.schedules.run_now("digest")
    assert events_on(server) == []


@in_loop
async def test_the_list_shows_what_is_wrong(server: Server) -> None:
    async with app_on(server.url) as app:
        for name in ("good", "newer", "refused"):
            await app.schedules.put(name, "send", NINE, args={"to": "x"})
        with server.client() as client:
            client.xadd(EVENTS, {"e": b'{"type":"ScheduleTagged","name":"newer"}'})
            client.xadd(EVENTS, {"e": b'{"type":"ScheduleUpserted","schedule":{"name":"refused","task":"t"}}'})
            client.xadd(EVENTS, {"e": b'{"type":"ScheduleUpserted","schedule":{"name":"alone","task":"t"}}'})
        alone, good, newer, refused = await app.schedules.list()
        assert (good.suspended, good.problem) == ("", None)
        assert "unknown type 'ScheduleTagged'" in newer.suspended
        assert newer.schedule is not None
        assert refused.problem is not None
        assert (refused.schedule, refused.problem.field) == (good_of(good.schedule, "refused"), "queue")
        assert (alone.name, alone.schedule) == ("alone", None)
        assert alone.problem is not None
        for name in ("newer", "alone"):
            with pytest.raises(InvalidSchedule):
                await app.schedules.run_now(name)
        await app.schedules.remove("alone")
        await app.schedules.remove("newer")
        assert [found.name for found in await app.schedules.list()] == ["good", "refused"]


def good_of(schedule: Schedule | None, name: str) -> Schedule:
    assert schedule is not None
    return msgspec.structs.replace(schedule, name=name)


@in_loop
async def test_a_rejection_by_somebody_else_is_shown(server: Server) -> None:
    client = connect(server.url)
    rejected = ScheduleRejected(name="row-7", field="cron", reason="the column is empty")
    await ScheduleLog(client, NAMESPACE).append([rejected])
    await client.aclose()
    async with app_on(server.url) as app:
        [found] = await app.schedules.list()
    assert found.problem is not None
    assert (found.name, found.problem.reason) == ("row-7", "the column is empty")


@in_loop
async def test_run_now_makes_one_task_for_a_request(server: Server) -> None:
    async with app_on(server.url) as app:
        await app.schedules.put("digest", "send", NINE, args={"to": "x"})
        await app.schedules.pause("digest")
        assert await app.schedules.run_now("digest", "r1") == "digest:run:r1"
        assert await app.schedules.run_now("digest", "r1") == "digest:run:r1"
        other = await app.schedules.run_now("digest")
        assert other.startswith("digest:run:")
        with pytest.raises(InvalidSchedule, match="request_id"):
            await app.schedules.run_now("digest", "a b")
    with server.client() as client:
        tasks: Any = client.xrange(Partition(NAMESPACE, "mail").key("lane:high"))
        queues: Any = client.smembers(queues_key(NAMESPACE))
    assert [fields[b"task"].decode() for _, fields in tasks] == ["digest:run:r1", other]
    assert msgspec.json.decode(tasks[0][1][b"body"]) == {
        "name": "send", "args": {"to": "x"}, "trace": None, "v": 1,
    }  # fmt: skip
    assert tasks[0][1][b"max"] == b"3"
    assert queues == {b"mail"}


@pytest.mark.flavours("valkey")
@in_loop
async def test_run_now_into_a_queue_that_is_rebuilt_is_refused(server: Server) -> None:
    async with app_on(server.url) as app:
        await app.schedules.put("digest", "send", NINE, args={"to": "x"})
        await app.schedules.run_now("digest")
        with server.client() as client:
            client.hset(Partition(NAMESPACE, "mail").key("epoch"), "state", "rebuilding")
        with pytest.raises(ReclaimdError, match="queue mail is rebuilding"):
            await app.schedules.run_now("digest")


@pytest.mark.flavours("valkey")
@in_loop
async def test_a_put_whose_answer_is_lost_is_sent_again_and_counts_once(server: Server) -> None:
    with Proxy(server.port) as proxy:
        async with app_on(server.url_at(proxy.port)) as app:
            proxy.cut_reply(match="XADD")
            again = await app.schedules.put("digest", "send", NINE, args={"to": "x"})
            assert len(events_on(server)) == 2
            found = await app.schedules.get("digest")
            assert EntryID.parse(found.generation) < EntryID.parse(again)


@pytest.mark.flavours("valkey")
@in_loop
async def test_a_run_whose_answer_is_lost_is_one_task(server: Server) -> None:
    with Proxy(server.port) as proxy:
        async with app_on(server.url_at(proxy.port)) as app:
            await app.schedules.put("digest", "send", NINE, args={"to": "x"})
            await app.schedules.run_now("digest", "warm")
            rule = proxy.cut_reply(match="EVALSHA")
            assert await app.schedules.run_now("digest", "r1") == "digest:run:r1"
            assert rule.done == 1
    with server.client() as client:
        assert client.xlen(Partition(NAMESPACE, "mail").key("lane:high")) == 2


@pytest.mark.flavours("valkey")
@in_loop
async def test_a_run_whose_answers_stay_lost_is_uncertain(server: Server) -> None:
    with Proxy(server.port) as proxy:
        async with app_on(server.url_at(proxy.port), timeout=0.3) as app:
            await app.schedules.put("digest", "send", NINE, args={"to": "x"})
            proxy.cut_reply(match="EVALSHA", times=100)
            with pytest.raises(EnqueueUncertain) as caught:
                await app.schedules.run_now("digest", "r1")
            assert caught.value.task_id == "digest:run:r1"


@pytest.mark.flavours("valkey")
def test_without_redis_it_says_so_in_time(server: Server) -> None:
    app = Reclaimd(f"redis://127.0.0.1:{free_port()}", NAMESPACE)
    client = ScheduleClient(lambda: app.config, app.tasks, timeout=0.3)
    begun = time.monotonic()
    with pytest.raises(RedisUnreachable):
        client.put_sync("digest", "t", NINE, queue="q")
    with pytest.raises(RedisUnreachable):
        client.list_sync()
    assert time.monotonic() - begun < 5


@pytest.mark.flavours("valkey")
def test_without_asyncio_it_is_the_same(server: Server) -> None:
    app = Reclaimd(server.url, NAMESPACE)
    app.task(queue="mail")(send)
    schedules = app.schedules
    event_id = schedules.put_sync("digest", "send", NINE, args={"to": "x"})
    schedules.pause_sync("digest")
    assert schedules.get_sync("digest").paused
    schedules.resume_sync("digest")
    assert schedules.run_now_sync("digest", "r1") == "digest:run:r1"
    [found] = schedules.list_sync()
    assert (found.name, found.generation) == ("digest", event_id)
    schedules.remove_sync("digest")
    assert schedules.list_sync() == []
