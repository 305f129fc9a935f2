"""What the scripts really write is what `events` and `view` read: every type of event, on every server."""

from typing import Any, TypeVar

import pytest
import redis

from reclaimd.daemon.view import PartitionView, decode_view
from reclaimd.metrics.collector import ViewCollector
from reclaimd.metrics.from_events import EventObserver
from reclaimd.metrics.instruments import new_registry
from reclaimd.streams import archive_scripts as arc
from reclaimd.streams import codec, scripts
from reclaimd.streams import events as ev
from reclaimd.streams.keys import Partition
from reclaimd.streams.occurrence_scripts import FireRow, fire, retire
from support.servers import Server

T = TypeVar("T")

MAIL = Partition("reclaimd", "mail")
NOON = 1_763_757_000_000
LEASE = 1_000


class Run:
    """One partition, driven script by script at times of the test's choosing."""

    def __init__(self, client: redis.Redis) -> None:
        self.client: Any = client
        self.now = NOON

    def __call__(self, call: scripts.Call[T]) -> T:
        return call.parse(self.client.eval(call.script.source, len(call.keys), *call.keys, *call.args))

    def enqueue(self, *names: str, delay_ms: int = 0) -> None:
        tasks = [scripts.NewTask(name, "high", 5, b"{}", delay_ms=delay_ms) for name in names]
        results = self(scripts.enqueue(MAIL, tasks, epoch_id="e1", now=self.now))
        assert [result.status for result in results] == ["ok"] * len(names)

    def join(self, worker: str, nonce: str, proof: str = "") -> str:
        who = scripts.Identity(worker, nonce, LEASE, '{"host":"h","pid":7,"lock":"1:2"}', proof)
        joined = self(scripts.join(MAIL, who, epoch_id="e1", now=self.now))
        assert joined.status == "ok"
        return joined.token

    def turn(self, worker: str, token: str, want: int = 0, **ask: Any) -> scripts.Turned:
        return self(scripts.turn(MAIL, worker, token, scripts.Turn(want, True, **ask), now=self.now))

    def expire_leases(self) -> None:
        """Let time pass in small steps, as a daemon's views do."""
        for _ in range(5):
            self.now += LEASE // 3
            self.view()

    def reclaim(self) -> int:
        return self(scripts.reclaim(MAIL, now=self.now)).moved

    def view(self) -> PartitionView:
        return decode_view(MAIL.queue, MAIL.number, self(scripts.view(MAIL, now=self.now)))

    def batches(self) -> list[ev.Batch]:
        entries = self.client.xrange(MAIL.key("events"))
        return [ev.decode_batch(fields[b"at"], fields[b"e"], entry.decode()) for entry, fields in entries]


@pytest.fixture
def run(server: Server) -> Run:
    return Run(server.client())


def live_through_everything(run: Run) -> None:
    """A day in the life of a partition in which every kind of event happens."""
    run.enqueue("good", "bad", "again", "later", "odd", "back", "held", "ghost")
    run.enqueue("delayed", delay_ms=500)
    token = run.join("w", "a1")
    took = {d.task_id: d for d in run.turn("w", token, 8).deliveries}
    assert len(took) == 8
    verdicts = [
        codec.settle(took["good"], "succeeded", run_ms=12, name="send"),
        codec.settle(took["bad"], "failed", run_ms=3, name="send", cause="timeout", error="too slow"),
        codec.settle(took["again"], "retry", run_ms=4, name="send", delay_ms=100, cause="exception", error="x"),
        codec.settle(took["later"], "parked", name="send", delay_ms=100, cause="unknown_task"),
        codec.settle(took["odd"], "dead", cause="bad_arguments", error="to: missing"),
        codec.settle(took["back"], "handback"),
    ]
    run.turn("w", token, settlements=verdicts)
    run.client.xdel(MAIL.key("lane:high"), took["ghost"].entry_id)
    run.expire_leases()
    assert run.reclaim() >= 1
    assert run.turn("w", token, settlements=[codec.settle(took["held"], "succeeded")]).status == "fenced"
    assert run(scripts.promote(MAIL, now=run.now)).promoted == 3
    letters = [entry.decode() for entry, _ in run.client.xrange(MAIL.key("dead"))]
    assert [row.status for row in run(scripts.redrive(MAIL, letters[:1], now=run.now))] == ["ok"]
    assert run(scripts.purge(MAIL, letters[1:], now=run.now)) == 1
    assert run(scripts.pause(MAIL, True, now=run.now))
    assert run(scripts.pause(MAIL, False, now=run.now))


def fire_all_kinds(run: Run) -> None:
    """A schedule that fires, queues behind that, and skips."""
    for nominal in range(3):
        at = run.now + nominal
        row = FireRow("s", "1-0", at - 1 if nominal else 0, at, at, "queue_one", "low", 5, b"{}")
        run(fire(MAIL, [row], seen_at=at, now=at))


def end_schedule(run: Run) -> None:
    """It is retired, and then its open task ends."""
    run.now += 2
    assert run(retire(MAIL, [("s", "2-0")], now=run.now)).status == "ok"
    token = run.join("x", "b1")
    [task] = [d for d in run.turn("x", token, 20).deliveries if d.schedule]
    run.turn("x", token, settlements=[codec.settle(task, "succeeded", run_ms=1, name="fired")])


def rebuild(run: Run) -> None:
    """One task comes back from an archive, and is taken away again."""
    ids: Any = {"archive_id": "a", "seen_epoch_id": "e1", "new_epoch_id": "e2"}
    assert run(arc.adopt(MAIL, **ids, mark="1:0", events_cap=1_000, now=run.now)).status == "ok"
    assert run(arc.freeze(MAIL, **ids, seen_mark="1:0", rebuild_id="r", state="rebuilding", now=run.now)).status == "ok"
    fields = ["task", "lost", "at", "1", "lane", "low", "max", "5", "body", "{}"]
    task = arc.RestoreTask("lost", "recovered:low", fields)
    assert run(arc.restore_tasks(MAIL, "r", ("", "1"), [task], now=run.now)).restored == 1
    entry = run.client.xrevrange(MAIL.key("recovered:low"), count=1)[0][0].decode()
    row = arc.DropRow("recovered:low", entry, "lost", "", "", "settled")
    assert run(arc.drop(MAIL, "r", [row], now=run.now)).dropped == 1


def test_every_event_that_the_scripts_write_is_read(run: Run) -> None:
    live_through_everything(run)
    fire_all_kinds(run)
    end_schedule(run)
    rebuild(run)
    events = [event for batch in run.batches() for event in batch.events]
    assert [event for event in events if isinstance(event, ev.Unreadable)] == []
    assert {type(event) for event in events} == set(ev.Event.__args__)
    assert all(NOON <= batch.at <= run.now for batch in run.batches())
    settled = [event for event in events if isinstance(event, ev.Settled)]
    assert [row.name for event in settled for row in event.tasks] == ["send", "fired"]
    joined = [event for event in events if isinstance(event, ev.WorkerJoined)]
    assert [event.evidence for event in joined] == [{"host": "h", "pid": 7, "lock": "1:2"}] * 2
    assert all(event.late_ms >= 0 for event in events if isinstance(event, ev.Moved | ev.WorkerFenced))


def test_the_view_and_the_metrics_say_what_happened(run: Run) -> None:
    assert run.view().state == "absent"
    live_through_everything(run)
    view = run.view()
    assert view.state == "ok"
    assert view.epoch_id == "e1"
    assert view.as_status() == {
        "waiting": 6,
        "active": 0,
        "delayed": 0,
        "completed": 1,
        "failed": 1,
        "dead": 0,
    }
    registry, instruments = new_registry("1", 1)
    registry.register(ViewCollector(lambda: {"mail": view}))
    observer = EventObserver(instruments)
    for batch in run.batches():
        observer.observe(batch, "mail")

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"reclaimd_{name}", {"queue": "mail", **labels})

    assert value("tasks_enqueued_total") == 9
    assert value("tasks_settled_total", outcome="retried") == 1
    assert value("tasks_settled_total", outcome="parked") == 1
    assert value("tasks_dead_lettered_total", cause="timeout") == 1
    assert value("tasks_dead_lettered_total", cause="other") == 0
    assert value("entries_reclaimed_total", cause="lease_expired") == value(
        "reclaim_latency_seconds_count", cause="lease_expired"
    )
    assert value("settlements_fenced_total") == 1
    assert value("task_run_seconds_sum", outcome="succeeded") == 0.012
    assert value("task_run_seconds_count", outcome="failed") == 1
    assert value("promotion_lateness_seconds_count") == 3
    assert value("workers", state="live") == 0
