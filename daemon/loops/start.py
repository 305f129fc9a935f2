"""Recovery at start-up, before anything else: every partition is looked at until there is nothing left to reclaim."""

import time
from collections.abc import Callable

import anyio
import msgspec

from reclaimd.daemon.loops.events import EventsLoop
from reclaimd.daemon.loops.fleet import Fleet
from reclaimd.daemon.loops.narrator import Narrator
from reclaimd.daemon.loops.partition import PartitionLoop
from reclaimd.daemon.loops.shell import Context
from reclaimd.streams.logs import get_logger

log = get_logger(__name__)


class Recovered(msgspec.Struct, frozen=True):
    """What the start-up recovery did. `failed`: queues where it could not be finished; their loops go on trying."""

    queues: int
    tasks: int
    failed: tuple[str, ...]


async def detect_at_start(context: Context, fleet: Fleet) -> None:
    """Hold Redis against the archive before anything is recovered, and rebuild what was lost, if that is wanted.

    An archive that cannot be reached within a few seconds holds up nothing: it is tried again while the daemon runs.
    """
    archiving = fleet.archiving
    if not archiving.enabled:
        return
    # Queues that Redis has forgotten are to be found too.
    await archiving.loop.insist(archiving.step)
    await fleet.discovery.insist(fleet.discovery.step)
    began = time.monotonic()
    for archiver in list(archiving.members.values()):
        while not archiver.settled and not archiving.behind:
            if not await archiver.loop.insist(archiver.step):
                break
            context.health.progress(fleet.discovery.name)
    log.info("archive compared", queues=len(archiving.members), seconds=round(time.monotonic() - began, 3))


async def recover_at_start(context: Context, fleet: Fleet, events: EventsLoop, narrator: Narrator) -> Recovered:
    """Find all queues, recover each, log each recovered task and the total. A broken queue does not stop the others."""
    began = time.monotonic()

    def alive() -> None:
        """Loops whose turn has not come do not hang."""
        for loop in (fleet.discovery, events.loop, *(member.loop for member in fleet.members.values())):
            context.health.progress(loop.name, loop.queue)

    await fleet.discovery.insist(fleet.discovery.step)
    # Where the events end now is where those of this recovery begin.
    await events.loop.insist(events.find_ends)
    failed: list[str] = []
    for queue, member in list(fleet.members.items()):
        if not await _recover(member, alive):
            failed.append(queue)
        context.instruments.recovered_at_start.labels(queue).set(member.moved)
    await events.loop.insist(events.catch_up)
    await _all_told(narrator, alive)
    done = Recovered(len(fleet.members), sum(member.moved for member in fleet.members.values()), tuple(failed))
    log.info("recovery at start done", **msgspec.structs.asdict(done), seconds=round(time.monotonic() - began, 3))
    return done


async def _all_told(narrator: Narrator, alive: Callable[[], None]) -> None:
    told = False
    while not told:
        alive()
        with anyio.move_on_after(1):
            await narrator.told()
            told = True


async def _recover(member: PartitionLoop, alive: Callable[[], None]) -> bool:
    while await member.loop.insist(member.step):
        alive()
        if member.settled:
            return True
    return False
