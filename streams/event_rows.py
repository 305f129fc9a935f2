"""The rows of events: one a task, schedule or entry. `events` has them all, under the same names.

JSON arrays; columns that a newer program added at the end are ignored.
"""

import msgspec


class _Row(msgspec.Struct, frozen=True, array_like=True, gc=False):
    pass


class EnqueuedRow(_Row, frozen=True):
    """A task that was accepted. `entry_id` is empty and `due` (wall ms) > 0 when it is delayed."""

    task_id: str
    lane: str
    entry_id: str
    due: int


class StartedRow(_Row, frozen=True):
    """A task that was delivered, `wait_ms` after it could first have been."""

    task_id: str
    wait_ms: int
    entry_id: str


class SettledRow(_Row, frozen=True):
    """A task whose handler returned."""

    task_id: str
    run_ms: int
    name: str


class RetriedRow(_Row, frozen=True):
    """A task that goes to `delayed` until `due` (wall ms). `parked`: it was not run at all."""

    task_id: str
    run_ms: int
    name: str
    due: int
    cause: str
    error: str
    parked: bool


class DiedRow(_Row, frozen=True):
    """A task that became the dead letter `entry_id`. `run_ms` is -1 when no handler gave a verdict."""

    task_id: str
    entry_id: str
    cause: str
    error: str
    run_ms: int
    name: str


class MovedRow(_Row, frozen=True):
    """A task that came back: from `old_entry_id` to `entry_id` in `stream` (the key after its tag)."""

    task_id: str
    stream: str
    entry_id: str
    deliveries: int
    handbacks: int
    old_entry_id: str


class StreamEntry(_Row, frozen=True):
    """An entry by its place: the key after its tag, and the entry ID."""

    stream: str
    entry_id: str


class PromotedRow(_Row, frozen=True):
    """A delayed task that entered its lane `late_ms` after it was due."""

    task_id: str
    lane: str
    entry_id: str
    late_ms: int


class RedrivenRow(_Row, frozen=True):
    """A dead letter (`old_entry_id`) that went back to its lane."""

    task_id: str
    lane: str
    entry_id: str
    old_entry_id: str


class PurgedRow(_Row, frozen=True):
    """A dead letter that was deleted."""

    task_id: str
    entry_id: str


class OccurrenceFiredRow(_Row, frozen=True):
    """An instant of a schedule whose task entered its lane, `late_ms` after it was due.

    `queued`: it had waited for its predecessor to end, and `late_ms` counts from `nominal` (wall ms). `generation` is
    `run` for a task that somebody asked for, `nominal` then the moment of that.
    """

    schedule: str
    generation: str
    nominal: int
    task_id: str
    entry_id: str
    late_ms: int
    queued: bool


class OccurrenceQueuedRow(_Row, frozen=True):
    """An instant of a schedule whose task waits for its predecessor to end."""

    schedule: str
    generation: str
    nominal: int
    task_id: str
    late_ms: int


class OccurrenceSkippedRow(_Row, frozen=True):
    """Instants behind `after`, up to and with `upto` (wall ms), that make no task. `number`: -1 when nobody counted."""

    schedule: str
    generation: str
    after: int
    upto: int
    number: int
    reason: str


class OccurrenceRetiredRow(_Row, frozen=True):
    """A schedule that fires here from `generation` on only, and its row as it is now. What was queued is dropped."""

    schedule: str
    generation: str
    last: int
    count: int
    open: str


class OccurrenceClosedRow(_Row, frozen=True):
    """A schedule whose open task has ended, with nothing queued behind it. `generation`: of its row."""

    schedule: str
    generation: str
    task_id: str


class RestoredRow(_Row, frozen=True):
    """A task that came back from the archive to `place`: a key after its tag, `delayed`, `dead` or `queued`.

    `entry_id`: empty when delayed or queued. `old_entry_id`: where the archive had seen it. `due`: of a delayed one.
    """

    task_id: str
    place: str
    entry_id: str
    deliveries: int
    handbacks: int
    old_entry_id: str
    due: int = 0


class DroppedRow(_Row, frozen=True):
    """A task that a rebuild removed from `place`. `why`: settled, purged, buried or superseded."""

    task_id: str
    place: str
    entry_id: str
    why: str


class TaskRef(_Row, frozen=True):
    """A task by its ID alone."""

    task_id: str
