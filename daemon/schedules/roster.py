"""The schedules of one queue: what was fired of each, and when each is to be looked at next. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from reclaimd.daemon.schedules.timers import Timers
from reclaimd.streams.occurrence_scripts import VIEW_MS, Fired


def _nobody() -> None:
    """Nobody is to be woken yet."""


@dataclass(eq=False)
class Roster:
    """The schedules that fire in `queue`, by name.

    `fired`: all of them, each with its row of `:fired` as last seen, None for none. `timers`: when to plan each.
    `in_flight`: those whose call is on its way; they are planned again when it comes back. `retiring`: those that fire
    here no more, with the generation that fences them. `refused`: since when that was tried in vain of those (monotonic
    seconds), because the queue is not there. `waiting`: a backlog whose task before is open. `drips`: no backlog before
    that instant, wall ms. `wake` is called when something is due earlier than it was.
    """

    queue: str
    fired: dict[str, Fired | None] = field(default_factory=dict)
    timers: Timers = field(default_factory=Timers)
    in_flight: set[str] = field(default_factory=set)
    retiring: dict[str, str] = field(default_factory=dict)
    refused: dict[str, float] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)
    drips: dict[str, int] = field(default_factory=dict)
    wake: Callable[[], None] = _nobody

    def look_at(self, name: str, due_ms: int) -> None:
        """Plan this schedule at that instant, which replaces any other."""
        if name in self.in_flight:
            return
        earlier = self.timers.next_due()
        self.timers.set(name, due_ms)
        if earlier is None or due_ms < earlier:
            self.wake()

    def forget(self, name: str) -> None:
        """The schedule is none of this queue's any more."""
        self.timers.remove(name)
        self.fired.pop(name, None)
        self.waiting.discard(name)
        self.drips.pop(name, None)

    def retire(self, name: str, generation: str) -> None:
        """Let nothing older than this generation fire here."""
        self.refused.pop(name, None)
        self.retiring[name] = generation
        self.wake()

    def retired(self, name: str) -> None:
        """Nothing older fires here."""
        self.refused.pop(name, None)
        self.retiring.pop(name, None)

    def outlasted(self, batch: Mapping[str, str], monotonic: float) -> list[str]:
        """Of these, which were refused as `retiring` for so long that no view from before that is taken any more.

        A queue that is not there keeps no row that would refuse such a view. The others are tried again after the rest.
        """
        done = []
        for name, generation in batch.items():
            if self.retiring.get(name) != generation:
                continue
            if (monotonic - self.refused.setdefault(name, monotonic)) * 1000 >= VIEW_MS:
                done.append(name)
            else:
                self.retiring[name] = self.retiring.pop(name)
        return done
