"""A process of its own for h_schedules: `write URL NAMESPACE N` makes a snapshot, `load URL NAMESPACE` reads it.

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
from reclaimd.streams.keys import schedule_events_key
from reclaimd.streams.redis_log import connect
from reclaimd.streams.schedules.events import SchedulePaused, encode
from reclaimd.streams.schedules.fold import Row, Schedules
from reclaimd.streams.schedules.log import ScheduleLog
from reclaimd.streams.schedules.model import Cron, Schedule

FIRST_MS = 1_790_000_000_000


def made(count: int) -> Schedules:
    """Schedules as teams have them: a cron expression with a zone, two arguments."""
    state = Schedules(position=EntryID(FIRST_MS + count, 0))
    for number in range(count):
        schedule = Schedule(
            name=f"customer-{number:07}.report",
            task="send_report",
            queue="reports",
            trigger=Cron(f"{number % 60} {number // 60 % 24} * * 1-5", tz="Europe/Paris"),
            args={"customer": number, "to": f"somebody-{number}@example.org"},
        )
        generation = f"{FIRST_MS + number}-0"
        state.rows[schedule.name] = Row(
            generation=generation, since_ms=FIRST_MS + number, definition=fast.encode(schedule), changed=generation
        )
    return state


async def write(url: str, namespace: str, count: int) -> dict[str, float]:
    """The time is that of the snapshot alone."""
    state = made(count)
    client = connect(url, reply_timeout=60)
    last = encode(SchedulePaused(name="nobody"))
    await client.xadd(schedule_events_key(namespace), {"e": last}, id=str(state.position))
    begun = time.perf_counter()
    await ScheduleLog(client, namespace).write_snapshot(state)
    spent = time.perf_counter() - begun
    await client.aclose()
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
    done = anyio.run(write, url, namespace, int(count[0])) if what == "write" else anyio.run(load, url, namespace)
    print(json.dumps(done))


if __name__ == "__main__":
    main()
