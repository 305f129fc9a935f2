"""A partition with an archive in the hands of a test."""

from typing import Any

import pytest
import redis

from property.lab import NOON, Lab
from reclaimd.daemon.view import PartitionView, decode_view
from reclaimd.streams import archive_scripts as arc
from reclaimd.streams import events as ev
from reclaimd.streams import scripts
from reclaimd.streams.errors import RedisFull
from reclaimd.streams.keys import STREAMS
from reclaimd.streams.redis_log import translate
from support.servers import Server

OURS = "a" * 16
FIRST = "1:00000000"


class Archived(Lab):
    """A partition with an archive: `at` is what the archive has committed."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.at = arc.Positions()
        self.mark = FIRST

    def adopt(self, seen: str = "", archive: str = OURS, mark: str = FIRST) -> arc.Adopted:
        call = arc.adopt(
            self.partition,
            archive_id=archive,
            seen_epoch_id=seen,
            new_epoch_id="e",
            mark=mark,
            events_cap=7_000,
            now=self.now,
        )
        return self.send(call)

    def tail(self, next_mark: str = "", mark: str | None = None, **limits: Any) -> arc.Tail:
        """Without committing."""
        known = arc.Expected(OURS, "e", self.mark if mark is None else mark, next_mark)
        return self.send(arc.tail(self.partition, known, self.at, now=self.now, **limits))

    def commit(self, **limits: Any) -> arc.Tail:
        """Tail, and go on to the next mark."""
        number = int(self.mark.partition(":")[0]) + 1
        next_mark = f"{number}:{number:08x}"
        tail = self.tail(next_mark, **limits)
        assert tail.ok, tail.facts
        if tail.marked:
            self.mark = next_mark
        streams = tail.streams or [()] * len(STREAMS)
        self.at = arc.Positions(
            _last(tail.events, self.at.events),
            _last(tail.dead, self.at.dead),
            tuple(_last(found, at) for found, at in zip(streams, self.at.streams, strict=True)),
        )
        return tail

    def facts(self) -> arc.Facts:
        return self.tail().facts

    def freeze(self, rebuild: str = "r1", state: Any = "rebuilding", **seen: str) -> arc.Frozen:
        facts = self.facts()
        plain: dict[str, Any] = {
            "archive_id": OURS,
            "seen_epoch_id": facts.epoch_id,
            "seen_mark": facts.mark,
            "new_epoch_id": "e2",
        }
        return self.send(arc.freeze(self.partition, **plain | seen, rebuild_id=rebuild, state=state, now=self.now))

    def restore(self, *tasks: arc.RestoreTask, at: str = "", to: str = "", rebuild: str = "r1") -> arc.Restored:
        return self.send(arc.restore_tasks(self.partition, rebuild, (at, to), tasks, now=self.now))

    def finish(self, cursor: str = "", rebuild: str = "r1") -> arc.Finished:
        call = arc.finish(self.partition, rebuild, cursor=cursor, mark="9:00000009", events_cap=8_000, now=self.now)
        return self.send(call)

    def view(self) -> PartitionView:
        return decode_view("q", 0, self.send(scripts.view(self.partition, now=self.now)))

    def say(self, *command: Any) -> Any:
        """A command, and its reply in words."""
        return _words(self.do(*command))

    def told(self) -> list[Any]:
        """All events since the begin."""
        entries = self.say("XRANGE", self.key("events"), "-", "+")
        batches = (ev.decode_batch(at, e.encode(), entry_id) for entry_id, (_, at, _, e) in entries)
        return [event for batch in batches for event in batch.events]


def _words(reply: Any) -> Any:
    if isinstance(reply, list):
        return [_words(part) for part in reply]
    return reply.decode() if isinstance(reply, bytes) else reply


def _last(found: Any, before: str) -> str:
    return found[-1].entry_id if found else before


def fields_of(task: str, lane: str = "normal", body: str | bytes = b"{}", **more: str) -> list[str | bytes]:
    middle = [part for pair in more.items() for part in pair]
    return ["task", task, "at", str(NOON), "lane", lane, "max", "5", *middle, "body", body]


def restored(task: str, place: str = "recovered:normal", **more: Any) -> arc.RestoreTask:
    return arc.RestoreTask(task, place, more.pop("fields", None) or fields_of(task), **more)


def refused(lab: Archived, call: scripts.Call[Any]) -> bool:
    before = lab.look(), lab.facts()
    with pytest.raises(redis.ResponseError) as caught:
        lab.send(call)
    assert (lab.look(), lab.facts()) == before
    return isinstance(translate(caught.value, "redis://x"), RedisFull)
