"""What to do about a partition, and when to look again: a pure function of what was seen and what is remembered."""

import msgspec

from reclaimd.daemon.actions import Action, Cause, Cleanup, Promote, Reclaim, Retain, Ring
from reclaimd.daemon.view import PartitionView
from reclaimd.streams.settings import DaemonSettings

IDLE_MS = 5_000
"""The longest time between two looks. New work, workers and due times wake a partition earlier, through its events."""
WAITING_MS = 1_000
"""How long work may wait beside a silent doorbell: what a lost ring costs at most."""
RECHECK_MS = 50
"""After an action that changes what there is to wait for."""
HOUSEKEEPING_MS = 60_000
SHORTEST_MS = 5
NEVER = float("-inf")


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What a partition's loop carries from one plan to the next. Times are the daemon's own monotonic seconds.

    `silent_since`: since when work has been seen waiting beside a silent doorbell, or None.
    """

    scanned_at: float = NEVER
    rang_at: float = NEVER
    retained_at: float = NEVER
    cleaned_at: float = NEVER
    silent_since: float | None = None


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Actions in the order in which to carry them out, and the longest time until the next look."""

    actions: tuple[Action, ...]
    wake_in_ms: int
    memory: Memory


def plan(view: PartitionView, memory: Memory, settings: DaemonSettings, now: float) -> Plan:
    """Decide. `now`: the daemon's monotonic seconds at which the view was made; the wall clock plays no part.

    Recovery comes first, then due tasks, then the doorbell for whatever those two did not ring it, then housekeeping.
    """
    if view.state == "absent":
        return Plan(actions=(), wake_in_ms=IDLE_MS, memory=memory)
    if view.state != "ok":
        # Frozen until its data are rebuilt: nothing moves. Who rebuilds it wakes its loop.
        actions = _housekeeping(view, memory, settings, now)
        return Plan(actions=tuple(actions), wake_in_ms=IDLE_MS, memory=_remember(memory, actions, now))
    actions = []
    reclaim = _reclaim(view, memory, settings, now)
    if reclaim is not None:
        actions.append(reclaim)
    if view.overdue > 0:
        actions.append(Promote())
    changing = bool(actions)
    memory = _listened(view, memory, now)
    if not changing and _ring_was_lost(view, memory, now):
        actions.append(Ring())
    actions += _housekeeping(view, memory, settings, now)
    return Plan(
        actions=tuple(actions),
        wake_in_ms=_wake_in(view, RECHECK_MS if changing else IDLE_MS),
        memory=_remember(memory, actions, now),
    )


def _reclaim(view: PartitionView, memory: Memory, settings: DaemonSettings, now: float) -> Reclaim | None:
    first = memory.scanned_at == NEVER
    # An entry whose owner has no row is pending, so that a partition with nothing pending needs no scan.
    unknown = first or (view.total_pending > 0 and _passed(memory.scanned_at, settings.unknown_scan_every_ms, now))
    if view.expired > 0:
        return Reclaim(Cause.LEASE_EXPIRED, unknown)
    if view.fenced > 0:
        return Reclaim(Cause.UNFINISHED, unknown)
    if unknown:
        return Reclaim(Cause.START if first else Cause.UNKNOWN_SCAN, unknown=True)
    return None


def _listened(view: PartitionView, memory: Memory, now: float) -> Memory:
    silent = view.total_waiting > 0 and not view.bell and not view.paused
    since = (now if memory.silent_since is None else memory.silent_since) if silent else None
    return msgspec.structs.replace(memory, silent_since=since)


def _ring_was_lost(view: PartitionView, memory: Memory, now: float) -> bool:
    """Ringing for nothing wakes one idle worker for one turn, hence no more proof than this is asked for.

    The age of the oldest entry answers at the first look; two looks answer when a stepped clock has spoilt the age.
    """
    if memory.silent_since is None or not _passed(memory.rang_at, WAITING_MS, now):
        return False
    return (view.oldest_waiting_ms or 0) >= WAITING_MS or _passed(memory.silent_since, WAITING_MS, now)


def _housekeeping(view: PartitionView, memory: Memory, settings: DaemonSettings, now: float) -> list[Action]:
    actions: list[Action] = []
    retain_every = min(HOUSEKEEPING_MS, settings.dead_retention_ms, settings.events_retention_ms)
    if (view.dead > 0 or view.events > 0) and _passed(memory.retained_at, retain_every, now):
        actions.append(
            Retain(settings.dead_retention_ms, settings.dead_max, settings.events_retention_ms, settings.events_max)
        )
    cleanup_every = max(WAITING_MS, min(HOUSEKEEPING_MS, settings.gone_retention_ms))
    if view.gone > 0 and _passed(memory.cleaned_at, cleanup_every, now):
        actions.append(Cleanup(settings.gone_retention_ms))
    return actions


def _remember(memory: Memory, actions: list[Action], now: float) -> Memory:
    done: dict[str, float] = {}
    for action in actions:
        match action:
            case Reclaim(unknown=True):
                done["scanned_at"] = now
            case Ring():
                done["rang_at"] = now
            case Retain():
                done["retained_at"] = now
            case Cleanup():
                done["cleaned_at"] = now
            case _:
                pass
    return msgspec.structs.replace(memory, **done)


def _wake_in(view: PartitionView, at_most: int) -> int:
    spans = [at_most]
    if view.live > 0:
        # Lease time advances by at most `cap` a script: when all workers fall silent, only these looks advance it, and
        # what a look is late beyond the cap is lost. Hence a fifth sooner.
        spans.append(view.cap_ms * 4 // 5)
        if view.next_lease_end is not None:
            spans.append(view.next_lease_end - view.lease_now)
    if view.overdue == 0 and view.next_due is not None:
        spans.append(view.next_due - view.now_ms)
    if view.total_waiting > 0 and not view.paused:
        spans.append(WAITING_MS)
    return max(SHORTEST_MS, min(spans))


def _passed(since: float, span_ms: int, now: float) -> bool:
    return (now - since) * 1000 >= span_ms
