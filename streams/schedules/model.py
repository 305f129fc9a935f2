"""Schedules as values: when, what, and what to do when an instant was missed or its predecessor still runs. Pure.

Every instant is in wall milliseconds UTC, every length in milliseconds.
"""

from typing import Any, Final, Literal, TypeAlias

import msgspec

Misfire = Literal["skip", "run_once", "run_all"]
Overlap = Literal["allow", "skip", "queue_one"]

DEFAULT_MISFIRE_CAP: Final = 100
DEFAULT_DRIP_MS: Final = 1_000


class Cron(msgspec.Struct, frozen=True, tag="cron", tag_field="type", omit_defaults=True):
    """Five fields, or six with seconds. `tz`: an IANA zone, in which the fields are read."""

    expr: str
    tz: str = "UTC"


class Every(msgspec.Struct, frozen=True, tag="every", tag_field="type", omit_defaults=True):
    """Every so often, counted from `anchor_ms`; None: from the creation of the schedule."""

    every_ms: int
    anchor_ms: int | None = None


class Once(msgspec.Struct, frozen=True, tag="once", tag_field="type"):
    """One instant."""

    at_ms: int


Trigger: TypeAlias = Cron | Every | Once


class Schedule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A rule that makes tasks.

    `misfire`: what becomes of instants that came due while nobody could fire them; `run_all` fires the last
    `misfire_cap` of them, at least `drip_ms` apart. `overlap`: what becomes of one whose predecessor is still open.
    `jitter_ms`: each occurrence is up to that much later, always the same for the same one. `start_ms` and `end_ms`
    are the first and the last instant allowed; `limit`: how many occurrences at most. `source`: who owns it, empty for
    nobody.
    """

    name: str
    task: str
    queue: str
    trigger: Trigger
    args: dict[str, Any] = {}
    lane: str = "normal"
    max_deliveries: int = 5
    misfire: Misfire = "run_once"
    misfire_cap: int = DEFAULT_MISFIRE_CAP
    drip_ms: int = DEFAULT_DRIP_MS
    overlap: Overlap = "skip"
    jitter_ms: int = 0
    start_ms: int | None = None
    end_ms: int | None = None
    limit: int | None = None
    source: str = ""

    @property
    def timing(self) -> tuple[object, ...]:
        """What decides its instants and where they go: another timing is another generation."""
        return self.trigger, self.start_ms, self.end_ms, self.jitter_ms, self.limit, self.queue


class Outline(msgspec.Struct, frozen=True, gc=False):
    """What decides when and where a schedule fires, decoded from the same JSON for less than all of it."""

    name: str
    queue: str
    trigger: Trigger
    jitter_ms: int = 0
    start_ms: int | None = None
    end_ms: int | None = None
    limit: int | None = None
