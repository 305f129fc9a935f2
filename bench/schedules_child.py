"""A process of its own for h_schedules and i_fire: `write URL NAMESPACE N` makes a snapshot, `load URL NAMESPACE`
reads it, `fired URL NAMESPACE N` lets all of them have fired once.

Prints JSON: rows, seconds, rss_mb (of the whole process, once it holds them), definition_bytes.
"""

from __future__ import annotations

import json
import sys
import time

import anyio
from cases.f_memory import resident
from msgspec import json as fast

from reclaimd.streams.ids import EntryID
from reclaimd.streams.keys import Partition, queues_key, schedule_events_key
from reclaimd.streams.redis_log import connect
from reclaimd.streams.schedules.events import SchedulePaused, encode
from reclaimd.streams.schedules.fold import Row, Schedules
from reclaimd.streams.schedules.log import ScheduleLog
from reclaimd.streams.schedules.model import Cron, Schedule

QUEUE = "reports"
AT_ONCE = 5_000


def made(count: int, born_ms: int) -> Schedules:
    """Schedules as teams have them: a cron expression with a zone, two arguments."""
    state = Schedules(position=EntryID(born_ms, count))
    for number in range(count):
        schedule = Schedule(
            name=f"customer-{number:07}.report",
            task="send_report",
            queue=QUEUE,
            trigger=Cron(f"{number % 60} {number // 60 % 24} * * 1-5", tz="Europe/Paris"),
            args={"customer": number, "to": f"somebody-{number}@example.org"},
        )
        generation = f"{born_ms}-{number}"
        state.rows[schedule.name] = Row(
            generation=generation, since_ms=born_ms, definition=fast.encode(schedule), changed=generation
        )
    return state


async def write(url: str, namespace: str, count: int) -> dict[str, float]:
    """The time is that of the snapshot alone."""
    # Born just now, or a daemon would find all of them overdue.
    state = made(count, int(time.time() * 1000))
    client = connect(url, reply_timeout=60)
    last = encode(SchedulePaused(name="nobody"))
    await client.xadd(schedule_events_key(namespace), {"e": last}, id=str(state.position))
    begun = time.perf_counter()
    await ScheduleLog(client, namespace).write_snapshot(state)
    spent = time.perf_counter() - begun
    await client.aclose()
    return {"rows": count, "seconds": spent}


async def fired(url: str, namespace: str, count: int) -> dict[str, float]:
    """As `fire` leaves them when each has fired once."""
    client = connect(url, reply_timeout=60)
    await client.sadd(queues_key(namespace), QUEUE)
    loaded = await ScheduleLog(client, namespace).load()
    key = Partition(namespace, QUEUE).key("fired")
    rows = {
        name: f"{row.generation}|{row.since_ms}|1|{name}:{row.generation}:{row.since_ms}"
        for name, row in loaded.state.rows.items()
    }
    names = list(rows)
    begun = time.perf_counter()
    for start in range(0, len(names), AT_ONCE):
        await client.hset(key, mapping={name: rows[name] for name in names[start : start + AT_ONCE]})
    spent = time.perf_counter() - begun
    await client.aclose()
    assert len(rows) == count
    return {"rows": count, "seconds": spent}


async def load(url: str, namespace: str) -> dict[str, float]:
    """The time is that of the load alone."""
    client = connect(url, reply_timeout=60)
    await client.ping()
    begun = time.perf_counter()
    loaded = await ScheduleLog(client, namespace).load()
    spent = time.perf_counter() - begun
    assert loaded.problems == [], loaded.problems
    rows = loaded.state.rows
    size = sum(len(row.definition) for row in rows.values()) / max(1, len(rows))
    await client.aclose()
    return {"rows": len(rows), "seconds": spent, "rss_mb": resident("self"), "definition_bytes": size}


def main() -> None:
    """As the arguments say."""
    what, url, namespace, *count = sys.argv[1:]
    if what == "load":
        done = anyio.run(load, url, namespace)
    else:
        done = anyio.run(write if what == "write" else fired, url, namespace, int(count[0]))
    print(json.dumps(done))


if __name__ == "__main__":
    main()
