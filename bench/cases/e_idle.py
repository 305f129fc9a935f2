"""What an idle daemon and an idle worker cost: client commands a second, with 1 and with 100 queues."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from measure import Aim, Figure
from monitor import Monitor
from processes import Process, ending, start_daemon, start_worker, wait_live
from stage import Stage, enqueue

from reclaimd.streams.keys import Partition, queues_key

WINDOW = 20.0
QUICK_WINDOW = 1.0
SETTLING = 10.0


@dataclass(frozen=True, slots=True)
class Idler:
    """One idle system in a namespace of its own. `also`: its daemon has a worker beside it."""

    what: str
    queues: int
    partition: Partition


def measure(stage: Stage) -> list[Figure]:
    """All of them at once, told apart by namespace: what is counted does not depend on the load."""
    window, many = (QUICK_WINDOW, 5) if stage.quick else (WINDOW, 100)
    idlers = [
        Idler(what, queues, stage.partition())
        for what in ("daemon", "worker", "daemon beside one worker")
        for queues in (1, many)
    ]
    rates: dict[Idler, list[float]] = {idler: [] for idler in idlers}
    kinds: dict[Idler, Counter[str]] = {idler: Counter() for idler in idlers}
    processes: list[Process] = []
    with ending(processes):
        for idler in idlers:
            processes += _start(stage, idler)
        # What starting costs is over: everybody has looked around once.
        time.sleep(0 if stage.quick else SETTLING)
        with Monitor(stage.server.port) as monitor:
            for _ in stage.rounds(f"{window:g} s of idleness"):
                monitor.take()
                begun = time.monotonic()
                time.sleep(window)
                counted = monitor.take()
                seconds = time.monotonic() - begun
                for idler in idlers:
                    mine = counted[idler.partition.namespace]
                    kinds[idler] += mine
                    rates[idler].append(mine.total() / seconds)
    return list(_figures(rates, kinds))


def _figures(rates: dict[Idler, list[float]], kinds: dict[Idler, Counter[str]]) -> Iterator[Figure]:
    for idler, values in rates.items():
        total = kinds[idler].total() or 1
        mix = ", ".join(f"{name} {count / total:.0%}" for name, count in kinds[idler].most_common(4))
        together = 2 if "beside" in idler.what else 1
        aim = Aim(10 * together + (idler.queues - 1) * together, at_most=True)
        name = f"commands of an idle {idler.what}, {idler.queues} queue{'s' if idler.queues > 1 else ''}"
        yield Figure("e", name, "/s", values, aim=aim, note=mix)


def _start(stage: Stage, idler: Idler) -> Iterator[Process]:
    namespace = idler.partition.namespace
    queues = [idler.partition.queue, *(f"q{number}" for number in range(1, idler.queues))]
    stage.say(f"starting: {idler.what}, {idler.queues} queues")
    stage.client.sadd(queues_key(namespace), *queues)
    if "worker" in idler.what:
        worker = start_worker(stage, idler.partition, f"w-{namespace}", queues=queues)
        yield worker
        # Queues are joined in this order, so that with the last one all are.
        wait_live(stage, Partition(namespace, queues[-1]), 1, worker)
    else:
        for queue in queues:
            # An absent partition would cost less than one that was used.
            enqueue(stage, Partition(namespace, queue), 1)
            stage.client.delete(Partition(namespace, queue).key("lane:normal"))
    if "daemon" in idler.what:
        yield start_daemon(stage, namespace)
