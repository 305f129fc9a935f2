"""One partition as the daemon saw it at one instant: the value that plans, metrics and `status` are made from."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec


class PartitionView(msgspec.Struct, frozen=True, kw_only=True):
    """What the `view` script answered for one partition.

    Times are milliseconds: `now_ms` and `next_due` of the server's wall clock, `lease_now` and `next_lease_end` of
    lease time, `cap_ms` and the `oldest_…` ages as spans. `waiting` and `pending` count tasks by stream (the key after
    its tag: `suspect`, `recovered:high`, `lane:high`, …). `live`, `fenced` (waiting for a pass, or in one), `expired`
    (live row, lease over) and `gone` count worker rows. `dead` and `events` are lengths. `counters`: docs/protocol.md.
    """

    queue: str
    partition: int
    now_ms: int
    lease_now: int
    cap_ms: int
    epoch_id: str
    state: Literal["ok", "absent", "lost", "rebuilding"]
    next_lease_end: int | None
    live: int
    fenced: int
    expired: int
    gone: int
    delayed: int
    next_due: int | None
    overdue: int
    waiting: Mapping[str, int]
    pending: Mapping[str, int]
    oldest_pending_ms: int | None
    oldest_waiting_ms: int | None
    dead: int
    events: int
    bell: bool
    paused: bool
    counters: Mapping[str, int]

    @property
    def total_waiting(self) -> int:
        """Tasks that no worker has taken yet, in any stream; delayed ones not among them."""
        return sum(self.waiting.values())

    @property
    def total_pending(self) -> int:
        """Tasks that a worker has taken and not settled, orphans among them."""
        return sum(self.pending.values())

    @property
    def open_tasks(self) -> int:
        """Tasks that still have to run: waiting, pending and delayed."""
        return self.total_waiting + self.total_pending + self.delayed

    @property
    def dead_workers(self) -> int:
        """Workers whose lease has ended or who were fenced: what they hold waits for a reclaim."""
        return self.fenced + self.expired

    @property
    def has_orphans(self) -> bool:
        """Whether a reclaim pass has something to do."""
        return self.dead_workers > 0

    def counter(self, name: str) -> int:
        """A total since the epoch began; 0 when it never counted."""
        return self.counters.get(name, 0)

    def as_status(self) -> dict[str, int]:
        """The queue's numbers as `reclaimd status --json` prints them."""
        return {
            "waiting": self.total_waiting,
            "active": self.total_pending,
            "delayed": self.delayed,
            "completed": self.counter("succeeded"),
            "failed": self.counter("failed"),
            "dead": self.dead,
        }


_OPTIONAL = dict.fromkeys(("next_lease_end", "next_due", "oldest_pending_ms", "oldest_waiting_ms"))


def decode_view(queue: str, partition: int, reply: bytes) -> PartitionView:
    """The view in the `view` script's JSON reply; raises msgspec.ValidationError or DecodeError.

    Lua's cjson writes no nil, turns a missing string into `false`, and may write an integer as `3.0` or `1e+15`.
    """
    fields: dict[str, Any] = _OPTIONAL | msgspec.json.decode(reply, type=dict[str, Any])
    fields["epoch_id"] = fields.get("epoch_id") or ""
    return msgspec.convert(_whole(fields) | {"queue": queue, "partition": partition}, PartitionView)


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return {key: _whole(inner) for key, inner in value.items()} if isinstance(value, dict) else value
