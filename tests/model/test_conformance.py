"""The scripts do what the model does: the same histories on both, compared after every step.

What the search proves of the model is worth as much as the model resembles the scripts.
"""

import time
from collections.abc import Iterator

import hypothesis
import pytest
from hypothesis import strategies as st

from model.history import DRAWN, History
from model.lockstep import ConformanceError
from support.servers import Server

Steps = list[tuple[str, int]]

# Not `integers`: those are mostly small, so that a step's last choices would nearly always be the first of their lists.
NUMBERS = st.binary(min_size=20, max_size=20).map(int.from_bytes)
STEPS = st.lists(st.tuples(st.sampled_from(DRAWN), NUMBERS), min_size=30, max_size=60)
SLOW = [
    hypothesis.HealthCheck.too_slow,
    hypothesis.HealthCheck.data_too_large,
    hypothesis.HealthCheck.large_base_example,
]
NO_SHRINKING = [hypothesis.Phase.explicit, hypothesis.Phase.reuse, hypothesis.Phase.generate]
SHORTEN_FOR_S = 20.0


def conform(server: Server, examples: int) -> None:
    """Run `examples` histories. Raises ConformanceError with a short one that shows the first difference found."""
    failing: list[Steps] = []

    @hypothesis.settings(
        max_examples=examples, deadline=None, suppress_health_check=SLOW, phases=NO_SHRINKING, print_blob=True
    )
    @hypothesis.given(STEPS)
    def histories(steps: Steps) -> None:
        failing[:] = [steps]
        History(server).run(steps)

    try:
        histories()
    except ConformanceError as error:
        raise shortest(server, failing[0], error) from error


def shortest(server: Server, steps: Steps, error: ConformanceError) -> ConformanceError:
    """Leaves steps out while model and server still differ; Hypothesis would take minutes over a server."""
    deadline = time.monotonic() + SHORTEN_FOR_S
    for size in (16, 4, 1, 1):
        at = len(steps) - size
        while at >= 0 and time.monotonic() < deadline:
            fewer = steps[:at] + steps[at + size :]
            try:
                History(server).run(fewer)
            except ConformanceError as again:
                steps, error = fewer, again
            at -= size
    return error


@pytest.mark.flavours("valkey")
def test_scripts_do_what_the_model_does(server: Server) -> None:
    conform(server, 120)


@pytest.mark.flavours("redis62", "redis70")
def test_scripts_do_the_same_on_older_servers(server: Server) -> None:
    conform(server, 25)


@pytest.mark.soak
def test_soak(server: Server, soak_rounds: Iterator[int]) -> None:
    for _ in soak_rounds:
        conform(server, 500)
