"""Promises 1 to 4 and 7 at the level of the scripts, under any interleaving that hypothesis finds."""

from collections.abc import Iterator
from typing import ClassVar

import hypothesis
import pytest
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from property.machine import MOVES, Move, Partition
from support.servers import FreshServer, Server

NOT_SLOW = [hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.filter_too_much]


def explore(machine: type[RuleBasedStateMachine], examples: int, steps: int) -> None:
    """Run `examples` histories of up to `steps` rules."""
    settings = hypothesis.settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=NOT_SLOW, print_blob=True
    )
    run_state_machine_as_test(machine, settings=settings)


def on(server: Server, base: type[Partition] = Partition) -> type[Partition]:
    """The machine bound to a server."""
    return type(base.__name__, (base,), {"server": server})


class RestartingPartition(Partition):
    """The server is killed with -9 now and then, and comes back from its append-only file."""

    moves: ClassVar[dict[str, Move]] = MOVES | {"restart": Move(3, "", {})}

    def restart(self) -> None:
        self.world.restart_server()


@pytest.mark.flavours("valkey")
def test_promises_hold_under_any_interleaving(server: Server) -> None:
    explore(on(server), examples=30, steps=60)


@pytest.mark.flavours("valkey")
def test_promises_hold_when_the_server_restarts(fresh_server: FreshServer, flavour: str) -> None:
    server = fresh_server(flavour, appendonly="yes", appendfsync="always")
    explore(on(server, RestartingPartition), examples=4, steps=40)


@pytest.mark.soak
def test_soak(server: Server, soak_rounds: Iterator[int]) -> None:
    for _ in soak_rounds:
        explore(on(server), examples=25, steps=120)
