"""The schedules that a list of events makes, reckoned as plainly as can be: a dict, rebuilt from all events.

Shares no code with the fold: JSON by the standard library, IDs as pairs of numbers, validity by what the generators of
the tests write.
"""

import json
import re
from typing import Any

Entry = tuple[str, bytes]
_FIELDS = {
    "ScheduleRemoved": {"name"},
    "SchedulePaused": {"name"},
    "ScheduleResumed": {"name"},
    "ScheduleRejected": {"name", "field", "reason"},
}
_TIMING = ("trigger", "start_ms", "end_ms", "limit", "queue")


def expected(entries: list[Entry]) -> dict[str, Any]:
    """rows, problems, unreadable (IDs) and position after these entries, in the order in which they were read."""
    rows: dict[str, dict[str, Any]] = {}
    problems: dict[str, tuple[str, bool]] = {}
    unreadable: list[str] = []
    position = (0, 0)
    for entry_id, raw in entries:
        number = _number(entry_id)
        if number <= position:
            continue
        position = number
        name, event = _read(raw)
        if not name:
            unreadable.append(entry_id)
            continue
        row = rows.get(name)
        by_hand = event is not None and event["type"] == "ScheduleRemoved" and not event.get("source")
        if event is None or (row is not None and row["unread"] and not by_hand):
            row = rows.setdefault(name, {"generation": "", "since": 0, "paused": False, "body": None, "unread": []})
            again = event is not None and event["type"] == "ScheduleRemoved" and row["unread"][-1][1] == raw
            row["unread"] += [] if again else [(entry_id, raw)]
        elif event["type"] == "ScheduleUpserted":
            _upsert(rows, problems, entry_id, event["schedule"])
        elif event["type"] == "ScheduleRemoved":
            _remove(rows, problems, event)
        elif event["type"] == "ScheduleRejected":
            _reject(row, problems, event)
        elif row is not None and row["paused"] != (event["type"] == "SchedulePaused"):
            row["paused"] = not row["paused"]
            row["changed"] = entry_id
            if not row["paused"]:
                row["since"] = number[0]
    return {"rows": rows, "problems": problems, "unreadable": unreadable, "position": position}


def _upsert(rows: dict[str, Any], problems: dict[str, Any], entry_id: str, body: dict[str, Any]) -> None:
    name = body["name"]
    if body.get("misfire", "skip") == "perhaps" or "colour" in body or body["trigger"]["every_ms"] < 1000:
        problems[name] = (entry_id, False)
        return
    problems.pop(name, None)
    old = rows.get(name)
    if old is None or [old["body"].get(key) for key in _TIMING] != [body.get(key) for key in _TIMING]:
        paused = old is not None and old["paused"]
        rows[name] = {"generation": entry_id, "since": _number(entry_id)[0], "paused": paused, "unread": []}
    rows[name]["body"] = body
    rows[name]["changed"] = entry_id


def _remove(rows: dict[str, Any], problems: dict[str, Any], event: dict[str, Any]) -> None:
    row = rows.get(event["name"])
    if row is not None and event.get("source") and row["body"].get("source", "") != event["source"]:
        return
    rows.pop(event["name"], None)
    problems.pop(event["name"], None)


def _reject(row: dict[str, Any] | None, problems: dict[str, Any], event: dict[str, Any]) -> None:
    name, entry = event["name"], event.get("entry", "")
    known = problems.get(name)
    if not entry or (known is not None and known[0] == entry):
        problems[name] = (entry, True)
        return
    last = known[0] if known and known[0] else row["changed"] if row else None
    if last is not None and re.fullmatch(r"\d+-\d+", entry) and _number(entry) > _number(last):
        problems[name] = (entry, True)


def _read(raw: bytes) -> tuple[str, dict[str, Any] | None]:
    """The name that an event is about, and the event; None when it is one that version 1 does not have."""
    try:
        event = json.loads(raw)
    except ValueError:
        return "", None
    if not isinstance(event, dict):
        return "", None
    name = event["schedule"].get("name") if isinstance(event.get("schedule"), dict) else event.get("name")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9._-]{1,80}", name):
        return "", None
    kind = event.get("type")
    known = event.get("v", 1) == 1 and (
        (kind in _FIELDS and event.keys() >= _FIELDS[kind]) or (kind == "ScheduleUpserted" and "schedule" in event)
    )
    return name, event if known else None


def _number(entry_id: str) -> tuple[int, int]:
    ms, seq = entry_id.split("-")
    return int(ms), int(seq)
