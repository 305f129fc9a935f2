"""The scripts of an archive as requests to both the model and the server; and what `fire` answers in between."""

from collections.abc import Sequence
from typing import Any

from model import archive
from model.archive import Back, Out
from model.lockstep import PARTITION, Request
from model.normal import Names
from model.partition import Entry, State, Step
from reclaimd.streams import archive_scripts as arc
from reclaimd.streams.disowning import disown as disown_call
from reclaimd.streams.occurrence_scripts import FireRow, fire, retire
from reclaimd.streams.scripts import Call

CAP = 50_000


def facts() -> Request:
    """What an archive sees that knows nothing yet."""
    nobody = arc.Expected("", "", "")
    return Request(
        "look",
        archive.facts,
        lambda now: arc.tail(PARTITION, nobody, arc.Positions(), now=now),
        lambda tail: tuple(tail.facts[2:]),
    )


def adopt(owner: str, seen: tuple[str, str], mark: str) -> Request:
    """`seen`: epoch and mark."""

    def call(now: int) -> Call[arc.Adopted]:
        return arc.adopt(
            PARTITION,
            archive_id=owner,
            seen_epoch_id=seen[0],
            seen_mark=seen[1],
            new_epoch_id="x",
            mark=mark,
            events_cap=CAP,
            now=now,
        )

    return Request(
        f"adopt {owner} of {seen} mark {mark}",
        lambda state, now: archive.adopt(state, now, owner, seen, mark, CAP),
        call,
        tuple,
    )


def disown(owner: str) -> Request:
    """Whoever says so knows that this archive is gone."""
    return Request(
        f"disown {owner}",
        lambda state, now: archive.disown(state, now, owner),
        lambda now: disown_call(owner, PARTITION.key("epoch"), PARTITION.key("accepted")),
        lambda ok: ("ok" if ok else "changed",),
    )


def freeze(owner: str, seen: tuple[str, str], epoch: str, rebuild: str, into: Any) -> Request:
    """`seen`: epoch and mark."""

    def call(now: int) -> Call[arc.Frozen]:
        return arc.freeze(
            PARTITION,
            archive_id=owner,
            seen_epoch_id=seen[0],
            seen_mark=seen[1],
            new_epoch_id=epoch,
            rebuild_id=rebuild,
            state=into,
            now=now,
        )

    return Request(
        f"freeze {owner} of {seen} as {epoch} {rebuild} {into}",
        lambda state, now: archive.freeze(state, now, owner, seen, epoch, rebuild, into),
        call,
        # Nobody knows beforehand what the server makes up.
        lambda frozen: tuple(frozen[:2]),
    )


def _fields(entry: Entry, cause: str) -> list[str | bytes]:
    counts = {name: str(getattr(entry, name)) for name in ("deliveries", "attempts", "handbacks")}
    # What the token is counted from.
    counts["token"] = str(entry.token - entry.deliveries - entry.attempts - entry.handbacks)
    texts = {"task": entry.task, "at": "1", "lane": entry.lane, "max": str(entry.max)}
    texts |= {name: value for name, value in counts.items() if value != "0"}
    texts |= {"unique": entry.unique} if entry.unique else {}
    texts |= {"body": "{}"} | ({"cause": cause} if cause else {})
    return [part for pair in texts.items() for part in pair]


def _row(back: Back) -> arc.RestoreTask:
    entry = back.entry
    fields = _fields(entry, back.cause)
    return arc.RestoreTask(entry.task, back.place, fields, back.due, unique=entry.unique, seen=back.seen)


def restore(rebuild: str, step: tuple[str, str], tasks: tuple[Back, ...]) -> Request:
    """`step`: the cursor as it is, and afterwards."""
    return Request(
        f"restore {rebuild} {step} {' '.join(f'{back.place}/{back.entry.task}/{back.entry.unique}' for back in tasks)}",
        lambda state, now: archive.restore(state, now, rebuild, step, tasks),
        lambda now: arc.restore_tasks(PARTITION, rebuild, step, [_row(back) for back in tasks], now=now),
        tuple,
    )


def restore_seen(rebuild: str, step: tuple[str, str], tasks: tuple[str, ...]) -> Request:
    """These IDs were seen."""
    return Request(
        f"restore {rebuild} {step} seen {tasks}",
        lambda state, now: archive.restore_seen(state, now, rebuild, step, tasks),
        lambda now: arc.restore_seen(PARTITION, rebuild, step, tasks, now=now),
        tuple,
    )


def restore_unique(rebuild: str, step: tuple[str, str], pairs: tuple[tuple[str, str], ...], *, free: bool) -> Request:
    """Keys and their tasks."""
    return Request(
        f"restore {rebuild} {step} {'free' if free else 'unique'} {pairs}",
        lambda state, now: archive.restore_unique(state, now, rebuild, step, pairs, free),
        lambda now: arc.restore_unique(PARTITION, rebuild, step, pairs, free=free, now=now),
        tuple,
    )


def restore_facts(rebuild: str, step: tuple[str, str], *, paused: bool, enqueued: int) -> Request:
    """So many more were enqueued; or, if none were, the total stays what it is."""
    counters = {"enqueued": enqueued or 1}

    def counted(step: Step) -> dict[str, int]:
        return {"enqueued": enqueued} if step.reply[0] == "ok" else {}

    return Request(
        f"restore {rebuild} {step} facts {paused} {enqueued}",
        lambda state, now: archive.restore_facts(state, now, rebuild, step, paused, len(counters)),
        lambda now: arc.restore_facts(
            PARTITION, rebuild, step, paused=paused, counters=counters, mode="add" if enqueued else "max", now=now
        ),
        tuple,
        counted,
    )


def drop(rebuild: str, cursor: str | None, rows: tuple[Out, ...], names: Names) -> Request:
    """`cursor`: None for wherever it stands."""

    def row(out: Out) -> arc.DropRow:
        entry: Any = "" if out.place == "delayed" else names.real(out.entry)
        why: Any = out.why
        return arc.DropRow(out.place, entry, out.task, "", out.unique, why)

    real: Sequence[arc.DropRow] = [row(out) for out in rows]
    return Request(
        f"drop {rebuild} {cursor} {' '.join(f'{out.place}/{out.task}@{out.entry}/{out.why}' for out in rows)}",
        lambda state, now: archive.drop(state, now, rebuild, cursor, rows),
        lambda now: arc.drop(PARTITION, rebuild, real, cursor=arc.ANYWHERE if cursor is None else cursor, now=now),
        tuple,
    )


def finish(rebuild: str, cursor: str, mark: str) -> Request:
    """`cursor`: where it stands."""
    return Request(
        f"finish {rebuild} {cursor} mark {mark}",
        lambda state, now: archive.finish(state, now, rebuild, cursor, mark, CAP),
        lambda now: arc.finish(PARTITION, rebuild, cursor=cursor, mark=mark, events_cap=CAP, now=now),
        tuple,
    )


def fire_while_frozen(now_due: int) -> Request:
    """The model knows no schedules, only that none fires in such a state."""
    row = FireRow("s", "1-0", 0, now_due, now_due, "allow", "normal", 5, b"{}")
    return Request(
        "fire",
        _refused,
        lambda now: fire(PARTITION, [row], seen_at=now, epoch_id="e", now=now),
        lambda reply: (reply.status, reply.state),
    )


def retire_while_frozen() -> Request:
    """The same for schedules that fire here no more."""
    return Request(
        "retire",
        _refused,
        lambda now: retire(PARTITION, [("s", "9-0")], now=now),
        lambda reply: (reply.status, reply.state),
    )


def _refused(state: State, now: int) -> Step:
    return Step(state, ("state", state.mode), ())
