"""What a handler may know about the run it is in."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Given to a handler that has a parameter annotated `Context`.

    `attempt` counts failed attempts from 1; `deliveries` how often the task came back without a verdict. `token` grows
    with every run of the same task: a store that remembers the highest one it saw can refuse a frozen run that woke up
    (Kleppmann, "How to do distributed locking"). `deadline` is on the event loop's clock (seconds), None without a
    timeout.
    """

    task_id: str
    name: str
    queue: str
    worker: str
    attempt: int
    deliveries: int
    token: int
    deadline: float | None
    stop: threading.Event = field(default_factory=threading.Event)
    noticed: threading.Event = field(default_factory=threading.Event)

    @property
    def cancelled(self) -> bool:
        """True once the run is to end: timeout, shutdown or a lost lease. For sync handlers, which nothing can
        interrupt.

        A handler that has seen it and returns has left early: its task will run again. One that never looked has
        finished.
        """
        if self.stop.is_set():
            self.noticed.set()
        return self.noticed.is_set()
