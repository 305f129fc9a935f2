"""The protocol with one safeguard removed: the search must find the way to a broken promise, and tell it readably."""

import dataclasses

import pytest

from model.explore import Result, search
from model.rules import Rules
from model.world import Scope

NONE: frozenset[str] = frozenset()
POISON = Scope(faults=0)
ONE_TASK = Scope(faults=1, tasks=("a",), poison=NONE, flaky=NONE, client=False)


def _with(scope: Scope, faults: int, *kinds: str) -> Scope:
    return dataclasses.replace(scope, faults=faults, kinds=frozenset(kinds))


# safeguard → the scope in which its absence shows, and the promise that breaks
MUTANTS: dict[str, tuple[Scope, str]] = {
    "join_respects_lease": (_with(ONE_TASK, 0), "2"),
    "join_same_nonce_is_idempotent": (_with(ONE_TASK, 2, "late-join", "crash"), "2"),
    "join_moves_pending": (dataclasses.replace(POISON, tasks=("p",), client=False), "4"),
    "proof_names_nonce": (_with(ONE_TASK, 2, "late-join", "crash"), "2"),
    "turn_checks_token": (_with(ONE_TASK, 1, "freeze"), "2"),
    "turns_are_numbered": (_with(ONE_TASK, 1, "late"), "2"),
    "retry_checks_pending": (_with(POISON, 1, "lost"), "1"),
    "audit_spares_running": (_with(ONE_TASK, 1, "lost"), "2"),
    "one_suspect_a_worker": (POISON, "4"),
    "reclaim_fences": (_with(ONE_TASK, 1, "freeze"), "2"),
    "one_pass_for_all": (POISON, "3"),
    "takeover_counts_delivery": (dataclasses.replace(POISON, tasks=("p",), client=False), "4"),
    "max_deliveries_holds": (POISON, "4"),
    "delconsumer_only_when_empty": (POISON, "1"),
    "promote_knows_suspects": (POISON, "4"),
    "enqueue_remembers": (_with(dataclasses.replace(ONE_TASK, client=True), 1, "late-enqueue"), "1"),
    "unique_is_released_on_death": (POISON, "1"),
    "clock_is_clamped": (_with(ONE_TASK, 1, "forward"), "2"),
    "clock_follows_backward_steps": (_with(ONE_TASK, 2, "freeze", "backward"), "1"),
    "client_counts_from_sending": (_with(ONE_TASK, 2, "slow-beat", "forward"), "2"),
    "client_fences_itself": (_with(ONE_TASK, 1, "cut"), "2"),
}


def _expect(result: Result, promise: str) -> None:
    print(result)
    assert result.broken, f"not caught: {result}"
    assert result.trace
    assert {line[0] for line in result.broken} == {promise}, str(result)


@pytest.mark.parametrize("safeguard", MUTANTS)
def test_a_missing_safeguard_is_caught(safeguard: str) -> None:
    scope, promise = MUTANTS[safeguard]
    _expect(search(dataclasses.replace(scope, rules=Rules(**{safeguard: False}))), promise)


def test_every_safeguard_has_a_mutant() -> None:
    on = {field.name for field in dataclasses.fields(Rules) if field.default}
    assert on == set(MUTANTS)


def test_known_limit_two_forward_steps_within_one_lease() -> None:
    """Two thirds and *one* clamped step are a lease; the protocol does not promise more."""
    _expect(search(_with(ONE_TASK, 3, "cut", "forward")), "2")


def test_known_limit_fresh_poison_beside_an_innocent_suspect() -> None:
    """Only suspects are kept from suspects: each further poison task may cost its neighbour two deliveries more."""
    two = dataclasses.replace(POISON, tasks=("p", "q", "a"), poison=frozenset("pq"), flaky=NONE, client=False)
    _expect(search(two), "4")
    alone = search(dataclasses.replace(two, rules=Rules(suspect_runs_alone=True)))
    assert alone.complete, str(alone)
    assert not alone.broken, str(alone)
