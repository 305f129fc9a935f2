"""The events loop on a real server: positions, gaps, and streams that are none."""

import time
from dataclasses import dataclass, field
from typing import Self

import pytest
from prometheus_client import CollectorRegistry

from reclaimd.daemon.connectivity import Connectivity
from reclaimd.daemon.health import Health
from reclaimd.daemon.links import Link, Links
from reclaimd.daemon.loops.events import EventsLoop, reading_timeout
from reclaimd.daemon.loops.narrator import Narrator
from reclaimd.daemon.loops.shell import Context
from reclaimd.metrics.instruments import Instruments
from reclaimd.streams.events import Batch
from support.daemons import captured, in_loop, lines_of, queue_on, settings_for
from support.servers import Server


@dataclass
class Heard:
    """Hints that remember what they were given."""

    batches: list[Batch] = field(default_factory=list)

    def happened(self, _queue: str, batches: list[Batch]) -> None:
        self.batches += batches

    def observes(self, _queue: str) -> bool:
        return True

    def server_now(self, _queue: str) -> float | None:
        return None

    def tasks(self) -> list[str]:
        return [row.task_id for batch in self.batches for event in batch.events for row in getattr(event, "tasks", ())]


class Reader:
    """An events loop by itself; the test makes its steps."""

    def __init__(self, server: Server) -> None:
        settings, connectivity = settings_for(server), Connectivity()
        links = Links(settings.redis_url, connectivity)
        health = Health(monotonic=time.monotonic, wall=time.time)
        context = Context(settings, links, connectivity, health, Instruments(CollectorRegistry()))
        self.link = Link(settings.redis_url, connectivity, reply_timeout=reading_timeout())
        self.heard = Heard()
        self.events = EventsLoop(
            context, self.link, self.heard, Narrator(links, context.stolen, context.instruments.events_gaps)
        )
        self.health = health
        self.context = context

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.link.aclose()


@in_loop
async def test_reading_goes_on_where_it_was(server: Server) -> None:
    async with queue_on(server) as mail, Reader(server) as reader:
        mail.enqueue(2)
        reader.events.watch(mail.partition)
        await reader.events.step()
        mail.enqueue(1)
        await reader.events.catch_up()
        assert reader.heard.tasks() == ["mail-0", "mail-1", "mail-2"]


@in_loop
async def test_an_open_position_is_the_end_as_it_is_then(server: Server) -> None:
    async with queue_on(server) as mail, Reader(server) as reader:
        mail.enqueue(2)
        reader.events.watch(mail.partition, None)
        await reader.events.find_ends()
        mail.enqueue(1)
        await reader.events.catch_up()
        assert reader.heard.tasks() == ["mail-2"]


@in_loop
async def test_a_reader_that_fell_behind_does_not_pause(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reclaimd.daemon.loops.events.AT_ONCE", 2)
    async with queue_on(server) as mail, Reader(server) as reader:
        for _ in range(3):
            mail.enqueue()
        reader.events.watch(mail.partition)
        assert await reader.events.step() == 0.0
        assert 0.0 < await reader.events.step() <= 0.1
        assert len(reader.heard.batches) == 3


@in_loop
async def test_trimmed_events_are_counted_and_told_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reclaimd.daemon.loops.events.AT_ONCE", 1)
    async with queue_on(server) as mail, Reader(server) as reader:
        for _ in range(4):
            mail.enqueue()
        reader.events.watch(mail.partition)
        await reader.events.step()
        mail.raw("XTRIM", mail.partition.key("events"), "MAXLEN", 2)
        with captured() as lines:
            await reader.events.catch_up()
        assert len(lines_of(lines, "events were trimmed before they were read")) == 1
        assert reader.context.instruments.events_gaps.labels("mail")._value.get() == 1
        assert reader.heard.tasks() == ["mail-0", "mail-2", "mail-3"]


@in_loop
async def test_a_key_of_another_type_stops_nobody_else(server: Server) -> None:
    async with queue_on(server, "bad") as bad, queue_on(server, "good") as good, Reader(server) as reader:
        bad.raw("SET", bad.partition.key("events"), "poison")
        for queue in (bad, good):
            reader.events.watch(queue.partition)
        good.enqueue()
        await reader.events.catch_up()
        await reader.events.catch_up()
        assert reader.heard.tasks() == ["good-0"]
        assert [problem.queue for problem in reader.health.problems() if problem.queue] == ["bad"]


@in_loop
async def test_what_cannot_be_read_as_an_event_is_carried(server: Server) -> None:
    async with queue_on(server) as mail, Reader(server) as reader:
        mail.raw("XADD", mail.partition.key("events"), "*", "other", "field")
        mail.enqueue()
        reader.events.watch(mail.partition)
        await reader.events.catch_up()
        assert len(reader.heard.batches) == 2
        assert reader.heard.tasks() == ["mail-0"]
