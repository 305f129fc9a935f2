"""The scripts do what the model does: the same histories on both, compared after every step.

What the search proves of the model is worth as much as the model resembles the scripts.
"""

import time

import hypothesis
import pytest
from hypothesis import strategies as st

from model.history import DRAWN, History
from support.servers import Server

STEPS = st.lists(st.tuples(st.sampled_from(DRAWN), st.integers(0, 10**12)), min_size=30, max_size=60)
SLOW = [hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large, hypothesis.HealthCheck.large_base_example]


def conform(server: Server, examples: int) -> None:
    """Run `examples` histories."""

    @hypothesis.settings(max_examples=examples, deadline=None, suppress_health_check=SLOW, print_blob=True)
    @hypothesis.given(STEPS)
    def histories(steps: list[tuple[str, int]]) -> None:
        History(server).run(steps)

    histories()


@pytest.mark.flavours("valkey")
def test_scripts_do_what_the_model_does(server: Server) -> None:
    conform(server, 120)


@pytest.mark.flavours("redis62", "redis70")
def test_scripts_do_the_same_on_older_servers(server: Server) -> None:
    conform(server, 30)


@pytest.mark.soak
def test_soak(server: Server, soak_seconds: float) -> None:
    deadline = time.monotonic() + soak_seconds
    while time.monotonic() < deadline:
        conform(server, 500)
