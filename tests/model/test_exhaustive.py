"""Every interleaving of small worlds, and no promise broken. What is in scope: `world.py`.

The searches of `make test` see 40,000 worlds and 170,000 transitions in about half a minute of one core; three tasks
with one fault of any kind (in `make soak`) are about 110,000 worlds; larger ones are cut short by `--soak-minutes`.
"""

import dataclasses

import pytest

from model.explore import search
from model.world import ALL_FAULTS, Scope

NONE: frozenset[str] = frozenset()
FULL = Scope(faults=0)
THREE = Scope(faults=1, flaky=NONE, client=False)
TWO = Scope(faults=2, tasks=("a",), poison=NONE, flaky=NONE, client=False)

SCOPES = {
    "no fault, poison, a flaky task, a client": FULL,
    "poison, one crash": dataclasses.replace(THREE, kinds=frozenset({"crash"}), concurrency=1),
    "poison, one freeze, one task at a time": dataclasses.replace(THREE, kinds=frozenset({"freeze"}), concurrency=1),
    "poison, one late turn or reply lost": dataclasses.replace(THREE, kinds=frozenset({"late", "lost"})),
    "two faults: freezes, cuts and one clock step": dataclasses.replace(
        TWO, kinds=frozenset({"freeze", "cut", "forward"})
    ),
    "two faults: backward steps, leaving, slow replies": dataclasses.replace(
        TWO, kinds=frozenset({"backward", "leave", "slow-beat"})
    ),
    "a reply frozen away": dataclasses.replace(TWO, faults=1, kinds=frozenset({"deaf"})),
    "two faults: late turns, late joins and crashes": dataclasses.replace(
        TWO, kinds=frozenset({"late", "late-join", "crash"})
    ),
    "two faults: the client": dataclasses.replace(
        TWO, kinds=frozenset({"late-enqueue", "lost", "late"}), tasks=("b",), client=True
    ),
}

SOAK = {
    "poison, one crash or clock step": dataclasses.replace(THREE, kinds=frozenset({"crash", "forward"})),
    "three tasks, one fault of any kind": THREE,
    "three tasks with a flaky one and a client, one fault of any kind": Scope(faults=1),
    "one task, two faults of any kind": dataclasses.replace(TWO, flaky=frozenset({"a"})),
    "two tasks, two faults of any kind": dataclasses.replace(
        TWO, tasks=("a", "b"), kinds=ALL_FAULTS - {"late-enqueue"}
    ),
}


@pytest.mark.parametrize("name", SCOPES)
def test_no_promise_breaks(name: str) -> None:
    result = search(SCOPES[name])
    print(f"{name}: {result}")
    assert not result.broken, str(result)
    assert result.complete


@pytest.mark.soak
@pytest.mark.parametrize("name", SOAK)
def test_no_promise_breaks_in_larger_worlds(name: str, pytestconfig: pytest.Config) -> None:
    minutes = float(pytestconfig.getoption("--soak-minutes"))
    result = search(SOAK[name], max_states=int(minutes * 200_000 / len(SOAK)))
    print(f"{name}: {result}{'' if result.complete else ' (cut short)'}")
    assert not result.broken, str(result)
