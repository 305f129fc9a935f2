"""What becomes of a task for each way in which its handler can end: real worker processes, real servers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import task_app
from support.fleet import MAIL, Fleet
from support.servers import Server
from support.waiting import wait_until


@pytest.fixture
def fleet(server: Server, tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(server, tmp_path) as fleet:
        yield fleet


def letters(fleet: Fleet) -> dict[str, dict[str, str]]:
    return {letter["task"]: letter for letter in fleet.dead()}


# name: (task, arguments, cause in the dead letter, a part of its error, failed attempts)
FAILURES: dict[str, tuple[Any, tuple[Any, ...], str, str, int]] = {
    "raises": (task_app.raises, ("no luck",), "raised", "ValueError: no luck", 2),
    "not-retryable": (task_app.raises_what_is_never_retried, (), "not_retryable", "KeyError: 'gone'", 1),
    "unprintable": (task_app.raises_unprintable, (), "raised", "Unprintable: it cannot be printed", 1),
    "surrogates": (task_app.raises_surrogates, (), "raised", "ValueError: caf?", 1),
    "cancels-itself": (task_app.raises_cancelled, (), "raised", "the handler raised CancelledError", 1),
    "hangs": (task_app.hangs, (), "timeout", "still running after its timeout of 0.2 s", 2),
    "told": (task_app.hangs_until_told, (), "timeout", "still running after its timeout of 0.2 s", 1),
    "object": (task_app.returns_an_object, (), "unencodable_result", "object", 1),
    "endless": (task_app.returns_itself, (), "unencodable_result", "recursion", 1),
}


def test_each_verdict(fleet: Fleet) -> None:
    fleet.start("w", processes=2)
    good = [fleet.enqueue(task_app.noop, n) for n in range(20)]
    for name, (task, arguments, *_) in FAILURES.items():
        fleet.enqueue(task, *arguments, task_id=name, unique=name)
    with fleet.keeper():
        wait_until(lambda: len(fleet.dead()) == len(FAILURES), "every failure to be a dead letter", 20)
        fleet.wait_counter("succeeded", len(good))
    dead = letters(fleet)
    for name, (_, _, cause, error, attempts) in FAILURES.items():
        letter = dead[name]
        assert (letter["cause"], int(letter["attempts"])) == (cause, attempts), letter
        assert error in letter["error"]
        assert "deliveries" not in letter
    counters = fleet.counters()
    retries = sum(attempts - 1 for *_, attempts in FAILURES.values())
    assert (counters["failed"], counters["retried"], counters["promoted"]) == (len(FAILURES), retries, retries)
    # No handler's end was its process's end, and every key is free again.
    assert counters["joined"] == 2
    assert fleet.raw("EXISTS", MAIL.key("unique"), MAIL.key("delayed"), MAIL.key("delayed:body")) == 0
    view = fleet.view()
    assert (sum(view["waiting"].values()), sum(view["pending"].values())) == (0, 0)
