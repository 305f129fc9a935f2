"""The workers of a queue as their rows, leases and pending lists show them. Advances no clock, changes nothing."""

from typing import Any, Literal

import msgspec

from reclaimd.daemon.inspect.source import Source
from reclaimd.streams.keys import GROUP, STREAMS

WorkerState = Literal["live", "expired", "fenced", "gone", "unknown"]

DEFAULT_CAP_MS = 5_000
"""What lease time may advance by in one script while nobody lives (docs/protocol.md "Lease time")."""


class Clock(msgspec.Struct, frozen=True, kw_only=True):
    """The partition's clock: `wall` and `lease` when a script last advanced it, `now` by the server; milliseconds."""

    now: int
    wall: int
    lease: int
    cap: int = DEFAULT_CAP_MS

    @property
    def lease_now(self) -> int:
        """Lease time as the next script will set it."""
        return self.lease + min(self.elapsed, self.cap)

    @property
    def elapsed(self) -> int:
        """Wall time since any script ran; more than `cap` when neither a worker nor a daemon was there."""
        return max(0, self.now - self.wall)


class WorkerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One worker ID in one queue.

    `state`: live; expired (lease over, not fenced yet); fenced (its tasks are being moved); gone (only remembered);
    unknown (a consumer that never joined). `lease_left_ms`: of lease time, None unless live; `pending`: tasks that it
    holds; `since_ms`: wall time at which the state began, as well as it is known; `cause`: of its fencing.
    """

    worker: str
    queue: str
    state: WorkerState
    token: str = ""
    lease_ms: int = 0
    lease_left_ms: int | None = None
    lease_end: int | None = None
    pending: int = 0
    host: str = ""
    pid: int | None = None
    version: str = ""
    since_ms: int | None = None
    cause: str = ""

    @property
    def is_dead(self) -> bool:
        """Whether it counts as dead in `status`."""
        return self.state in ("expired", "fenced", "gone")


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """All workers of one queue at one instant."""

    queue: str
    clock: Clock
    workers: list[WorkerInfo]

    def silent(self) -> list[WorkerInfo]:
        """Live ones whose lease would have ended, had lease time not stood still because no script ran."""
        end = self.clock.lease + self.clock.elapsed
        return [w for w in self.workers if w.state == "live" and w.lease_end is not None and w.lease_end <= end]


class _Row(msgspec.Struct, frozen=True):
    state: Literal["live", "fenced", "gone"]
    token: str
    lease_ms: int
    evidence: dict[str, Any]
    cause: str = ""
    ended: int = 0


def parse_row(row: str) -> _Row | None:
    """A row of `:workers` (docs/protocol.md "Worker rows"); None when it is not one."""
    cause, ended = "", "0"
    rest, state = row, "live"
    try:
        if row[:1] in ("!", "~"):
            state = "fenced" if row[0] == "!" else "gone"
            cause, ended, rest = row[1:].split("|", 2)
        token, lease, evidence = rest.split("|", 2)
        fields = {"state": state, "token": token, "lease_ms": int(lease), "cause": cause, "ended": int(ended)}
        return msgspec.convert({**fields, "evidence": msgspec.json.decode(evidence)}, _Row)
    except (ValueError, msgspec.MsgspecError):
        return None


async def read_fleet(source: Source, queue: str) -> Fleet:
    """The workers of a queue, by ID; the whole is one instant."""
    partition = source.partition(queue)

    def commands(pipe: Any) -> None:
        pipe.time()
        pipe.hmget(partition.key("clock"), ["wall", "lease", "cap"])
        pipe.hgetall(partition.key("workers"))
        pipe.zrange(partition.key("leases"), 0, -1, withscores=True)
        for stream in STREAMS:
            pipe.xpending(partition.key(stream), GROUP)

    (seconds, micros), times, rows, leases, *summaries = await source.read(commands, atomic=True)
    clock = _clock(seconds * 1000 + micros // 1000, times)
    scores = {worker.decode(errors="replace"): int(score) for worker, score in leases}
    pending = _pending(summaries)
    known = {worker.decode(errors="replace"): parse_row(row.decode(errors="replace")) for worker, row in rows.items()}
    workers = [
        _worker(queue, worker, known.get(worker), scores.get(worker, 0), pending.get(worker, 0), clock)
        for worker in sorted({*known, *pending})
    ]
    return Fleet(queue=queue, clock=clock, workers=workers)


def _clock(now: int, times: list[bytes | None]) -> Clock:
    wall, lease, cap = (None if value is None else int(float(value)) for value in times)
    if wall is None or lease is None:
        return Clock(now=now, wall=now, lease=max(now, lease or 0))
    return Clock(now=now, wall=wall, lease=lease, cap=DEFAULT_CAP_MS if cap is None else cap)


def _pending(summaries: list[dict[str, Any] | None]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for summary in summaries:
        for consumer in summary["consumers"] if summary else ():
            name = consumer["name"].decode(errors="replace")
            totals[name] = totals.get(name, 0) + consumer["pending"]
    return totals


def _worker(queue: str, worker: str, row: _Row | None, score: int, pending: int, clock: Clock) -> WorkerInfo:
    if row is None:
        return WorkerInfo(worker=worker, queue=queue, state="unknown", pending=pending)
    state: WorkerState = row.state
    since: int | None = row.ended
    left = end = None
    if row.state == "live":
        end, left = score, score - clock.lease_now
        state = "live" if left > 0 else "expired"
        since = _joined_at(row.token) if left > 0 else clock.now + left
    elif row.state == "fenced":
        since = clock.now - max(0, clock.lease_now - row.ended)
    elif pending:
        state = "unknown"
    pid = row.evidence.get("pid")
    return WorkerInfo(
        worker=worker,
        queue=queue,
        state=state,
        token=row.token,
        lease_ms=row.lease_ms,
        lease_left_ms=left if state == "live" else None,
        lease_end=end,
        pending=pending,
        host=str(row.evidence.get("host", "")),
        pid=pid if isinstance(pid, int) else None,
        version=str(row.evidence.get("version", "")),
        since_ms=since,
        cause=row.cause,
    )


def _joined_at(token: str) -> int | None:
    """The counter is the server's time at joining, unless clocks went back."""
    counter = token.partition("-")[0]
    return int(counter) if counter.isdigit() else None
