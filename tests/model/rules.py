"""What the protocol's safety rests on, one switch each: the mutants of `test_checker_can_fail.py` turn one off."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rules:
    """The sound protocol by default. A switch that is off is a hole that the search must find."""

    join_respects_lease: bool = True
    join_same_nonce_is_idempotent: bool = True
    join_moves_pending: bool = True
    proof_names_nonce: bool = True
    turn_checks_token: bool = True
    turns_are_numbered: bool = True
    retry_checks_pending: bool = True
    audit_spares_running: bool = True
    one_suspect_a_worker: bool = True
    reclaim_fences: bool = True
    one_pass_for_all: bool = True
    takeover_counts_delivery: bool = True
    max_deliveries_holds: bool = True
    delconsumer_only_when_empty: bool = True
    promote_knows_suspects: bool = True
    enqueue_remembers: bool = True
    unique_is_released_on_death: bool = True
    clock_is_clamped: bool = True
    clock_follows_backward_steps: bool = True
    client_counts_from_sending: bool = True
    client_fences_itself: bool = True
    # Beyond the design: a suspect shares a worker with nothing at all, not only with no other suspect.
    suspect_runs_alone: bool = False


SOUND = Rules()
