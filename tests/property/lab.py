"""One partition in the hands of a test: every script under a short name, at times of the test's choosing."""

from typing import Any, TypeVar

from property.snapshot import STREAMS, Snapshot, raw_client, take
from reclaimd.streams import scripts
from reclaimd.streams.codec import Delivery, Outcome, Settlement, settle
from reclaimd.streams.keys import Partition
from reclaimd.streams.occurrence_scripts import Fired, FireReply, FireResult, FireRow, Row, fire, fired_rows
from reclaimd.streams.redis_log import connect_sync, send_sync
from support.servers import Server

T = TypeVar("T")

NOON = 1_763_757_000_000
LEASE = 900


class Lab:
    """`now` is the server's wall clock in milliseconds."""

    def __init__(self, server: Server) -> None:
        self.partition = Partition("t", "q")
        self.tag = self.partition.tag
        self.client = connect_sync(server.url, reply_timeout=20)
        self.raw = raw_client(server.port, timeout=20)
        self.now = NOON
        self.nonces = 0
        self.turns: dict[str, int] = {}

    def close(self) -> None:
        self.set_full(False)
        self.client.close()
        self.raw.close()

    def send(self, call: scripts.Call[T]) -> T:
        return send_sync(self.client, call)

    def look(self) -> Snapshot:
        return take(self.raw, self.tag)

    def do(self, *command: Any) -> Any:
        return self.raw.execute_command(*command)

    def key(self, name: str) -> str:
        return f"{self.tag}:{name}"

    def set_full(self, full: bool) -> None:
        self.do("CONFIG", "SET", "maxmemory", "1" if full else "0")

    def counter(self, name: str) -> int:
        return self.look().counters.get(name, 0)

    def where(self, task: str) -> str:
        """The stream (or delayed, dead) that holds the task; empty when it is settled."""
        places = self.look().places.get(task, [])
        assert len(places) <= 1, f"{task} is in several places: {places}"
        return places[0].where if places else ""

    def enqueue_call(
        self,
        *tasks: str,
        lane: str = "normal",
        most: int = 5,
        unique: str = "",
        delay_ms: int = 0,
    ) -> scripts.Call[list[scripts.Enqueued]]:
        new = [scripts.NewTask(t, lane, most, b"{}", unique, "", delay_ms) for t in tasks]
        return scripts.enqueue(self.partition, new, epoch_id="e", now=self.now)

    def enqueue(self, *tasks: str, **options: Any) -> list[str]:
        """Returns the statuses."""
        return [r.status for r in self.send(self.enqueue_call(*tasks, **options))]

    def join_call(
        self, worker: str, nonce: str, *, proof: str = "", lease: int = LEASE, limit: int = 500
    ) -> scripts.Call[scripts.Joined]:
        who = scripts.Identity(worker, nonce, lease, '{"host":"h"}', proof)
        return scripts.join(self.partition, who, epoch_id="e", limit=limit, now=self.now)

    def join(self, worker: str, **options: Any) -> str:
        """A new incarnation; returns its token."""
        self.nonces += 1
        joined = self.send(self.join_call(worker, f"{self.nonces:016x}", **options))
        assert joined.status == "ok", joined
        return joined.token

    def turn_call(self, worker: str, token: str, want: int = 0, **ask: Any) -> scripts.Call[scripts.Turned]:
        """Numbered, unless `number` is given."""
        if "number" not in ask:
            self.turns[token] = self.turns.get(token, 0) + 1
            ask["number"] = self.turns[token]
        ask.setdefault("suspect_ok", True)
        return scripts.turn(self.partition, worker, token, scripts.Turn(want, **ask), now=self.now)

    def turn(self, worker: str, token: str, want: int = 0, **ask: Any) -> scripts.Turned:
        return self.send(self.turn_call(worker, token, want, **ask))

    def take(self, worker: str, token: str, want: int = 100) -> list[Delivery]:
        return list(self.turn(worker, token, want).deliveries)

    def settle(self, worker: str, token: str, *verdicts: Settlement) -> scripts.Turned:
        return self.turn(worker, token, settlements=verdicts)

    def reclaim(self, **options: Any) -> scripts.Reclaimed:
        return self.send(scripts.reclaim(self.partition, now=self.now, **options))

    def reclaim_all(self, **options: Any) -> int:
        """Call until there is no more; returns how many entries were moved."""
        moved = 0
        while True:
            reply = self.reclaim(**options)
            moved += reply.moved
            if not reply.more:
                return moved

    def expire(self, *alive: tuple[str, str]) -> None:
        """A lease's time passes, in which only those (worker, token) renew."""
        for _ in range(8):
            self.now += LEASE // 4
            self.send(scripts.view(self.partition, now=self.now))
            for worker, token in alive:
                assert self.send(scripts.beat(self.partition, worker, token, now=self.now))

    def promote(self) -> int:
        return self.send(scripts.promote(self.partition, now=self.now))[0]

    def occurrence(self, nominal: int, after: int = 0, **options: Any) -> FireRow:
        """A row for schedule `s`, generation `1-0`, due when it is nominal, unless `options` say otherwise."""
        options.setdefault("due", nominal)
        plain: dict[str, Any] = {"schedule": "s", "generation": "1-0", "overlap": "skip", "lane": "normal"}
        return FireRow(**plain | {"max_deliveries": 5, "body": b"{}"} | options, nominal=nominal, after=after)

    def fire_call(self, *rows: Row, **options: Any) -> scripts.Call[FireReply]:
        """By a view of this very moment, unless `seen_at` says otherwise."""
        plain: dict[str, Any] = {"seen_at": self.now, "epoch_id": "e", "now": self.now}
        return fire(self.partition, rows, **plain | options)

    def fire(self, *rows: Row, **options: Any) -> list[FireResult]:
        reply = self.send(self.fire_call(*rows, **options))
        assert reply.status == "ok", reply
        return list(reply.rows)

    def fired(self, schedule: str = "s") -> Fired:
        """The row of a schedule as it stands."""
        return fired_rows([(b"", self.do("HGET", self.key("fired"), schedule))]).get("", Fired())

    def letters(self) -> dict[str, tuple[str, dict[str, str]]]:
        """Dead letters by task: entry ID and fields."""
        return {fields["task"]: (entry, fields) for entry, fields in self.look().dead}

    def order(self, stream: str) -> list[str]:
        """Task IDs in a stream."""
        assert stream in STREAMS
        return [fields.get("task", "?") for _, fields in self.look().streams[stream]]

    def return_by_crash(self, worker: str, times: int = 1) -> None:
        """Everything that waits is taken by incarnations of `worker`, which die with it."""
        for _ in range(times):
            token = self.join(worker)
            self.take(worker, token)
            nonce = token.partition("-")[2]
            assert self.send(scripts.release(self.partition, worker, nonce, now=self.now)).status == "ok"


def verdict(delivery: Delivery, outcome: Outcome = "succeeded", **details: Any) -> Settlement:
    details.setdefault("cause", "" if outcome == "succeeded" else "test")
    return settle(delivery, outcome, **details)
