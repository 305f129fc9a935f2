"""What the daemon can decide to do to a partition, as values. Each carries its cause, also its log field. Pure."""

from enum import StrEnum
from typing import TypeAlias

import msgspec


class Cause(StrEnum):
    """Why an action is due."""

    START = "start"  # the first look at a partition: nobody knows what happened before
    LEASE_EXPIRED = "lease_expired"  # live rows whose lease is over
    UNFINISHED = "unfinished"  # fenced workers that still hold entries: somebody's pass stopped half-way
    UNKNOWN_SCAN = "unknown_scan"  # time to look for entries whose owner has no row
    DUE = "due"  # delayed tasks whose time has come
    LOST_RING = "lost_ring"  # work has waited while the doorbell was silent
    OVER_LIMIT = "over_limit"  # dead letters or events may be more, or older, than the settings allow
    WORKERS_GONE = "workers_gone"  # rows of ended workers, or empty consumers, may have outlived their use


class Reclaim(msgspec.Struct, frozen=True, tag=True):
    """Fence the dead and move what they hold. `unknown`: look for consumers without a worker row too."""

    cause: Cause
    unknown: bool = False


class Promote(msgspec.Struct, frozen=True, tag=True):
    """Bring delayed tasks that are due to their lanes."""

    cause: Cause = Cause.DUE


class Ring(msgspec.Struct, frozen=True, tag=True):
    """Ring the doorbell."""

    cause: Cause = Cause.LOST_RING


class Retain(msgspec.Struct, frozen=True, tag=True):
    """Drop dead letters and events beyond these limits: ages in milliseconds, and numbers of entries."""

    dead_age_ms: int
    dead_max: int
    events_age_ms: int
    events_max: int
    cause: Cause = Cause.OVER_LIMIT


class Cleanup(msgspec.Struct, frozen=True, tag=True):
    """Forget workers that have been gone for `older_than_ms`, and empty consumers without a worker."""

    older_than_ms: int
    cause: Cause = Cause.WORKERS_GONE


Action: TypeAlias = Reclaim | Promote | Ring | Retain | Cleanup
