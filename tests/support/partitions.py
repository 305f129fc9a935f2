"""What a partition holds, read key by key with plain commands, so that two states of it can be compared.

Shares nothing with the programs but the names of the keys.
"""

import json
from dataclasses import dataclass
from typing import Any

SENTINEL = "{archive}"
LANES = ("high", "normal", "low")


@dataclass(frozen=True)
class Task:
    """One task as far as it must outlive a loss. `place`: lane:<lane>, suspect, delayed, dead, queued."""

    task_id: str
    place: str
    lane: str
    most: int
    deliveries: int
    attempts: int
    unique: str
    schedule: str
    body: str
    due: int = 0
    cause: str = ""


@dataclass(frozen=True)
class Held:
    """Everything. `order`: task IDs by place in the order in which workers come to them; `tokens`: fencing tokens."""

    tasks: dict[str, Task]
    order: dict[str, list[str]]
    tokens: dict[str, int]
    unique: dict[str, str]
    fired: dict[str, str]
    paused: bool
    counters: dict[str, int]
    state: str


def held(client: Any, tag: str) -> Held:
    """Read the partition with this tag. Raises AssertionError when a task is in two places."""
    tasks: dict[str, Task] = {}
    order: dict[str, list[str]] = {}
    tokens: dict[str, int] = {}

    def add(place: str, fields: dict[str, str], due: int = 0) -> None:
        task_id = fields["task"]
        assert task_id not in tasks, f"{task_id} is in {tasks[task_id].place} and in {place}"
        order.setdefault(place, []).append(task_id)
        tokens[task_id] = int(fields.get("token", 1)) + sum(
            int(fields.get(name, 0)) for name in ("deliveries", "attempts", "handbacks")
        )
        tasks[task_id] = Task(
            task_id,
            place,
            fields.get("lane", ""),
            int(fields.get("max", 0)),
            int(fields.get("deliveries", 0)),
            int(fields.get("attempts", 0)),
            fields.get("unique", ""),
            fields.get("schedule", ""),
            fields.get("body", ""),
            due,
            fields.get("cause", ""),
        )

    for name in ("suspect", *(f"{kind}:{lane}" for lane in LANES for kind in ("recovered", "lane"))):
        place = "suspect" if name == "suspect" else f"lane:{name.partition(':')[2]}"
        for fields in _entries(client, f"{tag}:{name}"):
            add(place, fields)
    for fields in _entries(client, f"{tag}:dead"):
        add("dead", fields)
    bodies = _hash(client, f"{tag}:delayed:body")
    for member, due in client.zrange(f"{tag}:delayed", 0, -1, withscores=True):
        if member.decode() != SENTINEL:
            add("delayed", _flat(bodies[member.decode()]), int(due))
    for body in _hash(client, f"{tag}:fired:queued").values():
        add("queued", _flat(body))
    return Held(
        tasks=tasks,
        order=order,
        tokens=tokens,
        unique=_hash(client, f"{tag}:unique"),
        fired=_hash(client, f"{tag}:fired"),
        paused=client.hget(f"{tag}:control", "paused") == b"1",
        counters={name: int(value) for name, value in _hash(client, f"{tag}:counters").items()},
        state=(client.hget(f"{tag}:epoch", "state") or b"absent").decode(),
    )


def assert_same(before: Held, after: Held, *, new: frozenset[str] = frozenset(), ordered: bool = True) -> None:
    """What was held is held again, and nothing else but the tasks `new`; tokens may only have grown.

    A task's lane counts, and the order in it (`ordered`); not which of the lane's two streams it is in.
    """
    assert after.state == "ok"
    assert {name: task for name, task in after.tasks.items() if name not in new} == before.tasks
    for place in {*before.order, *after.order} - {"delayed", "queued"} if ordered else ():
        kept = [name for name in after.order.get(place, []) if name not in new]
        assert kept == before.order.get(place, []), f"order of {place}"
    for name, token in before.tokens.items():
        assert after.tokens[name] >= token, f"the token of {name} went back"
    keys_of_new = {key for key, task in after.unique.items() if task in new}
    assert {key: task for key, task in after.unique.items() if key not in keys_of_new} == before.unique
    assert after.fired == before.fired
    assert after.paused == before.paused
    for name in ("enqueued", "succeeded", "dead", "retried"):
        assert after.counters.get(name, 0) >= before.counters.get(name, 0), f"counter {name}"


def _entries(client: Any, key: str) -> list[dict[str, str]]:
    return [{k.decode(): v.decode() for k, v in fields.items()} for _, fields in client.xrange(key)]


def _hash(client: Any, key: str) -> dict[str, str]:
    pairs = {name.decode(): value.decode() for name, value in client.hgetall(key).items()}
    pairs.pop(SENTINEL, None)
    return pairs


def _flat(stored: str) -> dict[str, str]:
    flat: list[Any] = json.loads(stored)
    return {str(flat[i]): str(flat[i + 1]) for i in range(0, len(flat), 2)}
