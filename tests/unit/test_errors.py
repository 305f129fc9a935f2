import pickle

import pytest

from reclaimd.streams import errors
from reclaimd.streams.errors import ReclaimdError, Unusable

EXAMPLES: list[tuple[ReclaimdError, int, str]] = [
    (errors.ConfigError("x = 1: say 2"), 2, "say 2"),
    (errors.InvalidDuration("15", "say 15s"), 2, "say 15s"),
    (errors.InvalidSize("15", "say 15B"), 2, "say 15B"),
    (errors.InvalidSetting("worker.lease", "expected more"), 2, "worker.lease: expected more"),
    (errors.InvalidSchedule("digest", "cron", "say five fields"), 2, "schedule 'digest': cron: say five"),
    (errors.UnknownSchedule("digest"), 1, "no schedule 'digest'"),
    (errors.RedisUnreachable("redis://:hunter2@h:1/0", "Connection\nrefused"), 3, "Connection refused"),
    *[(errors.RedisUnusable(reason, "ERR x"), 3, reason.cure) for reason in Unusable],
    (errors.LayoutMismatch("2", "1"), 3, "found 2, expected 1"),
    (errors.RedisFull(), 1, "raise maxmemory"),
    (errors.PartitionFrozen("mail", "lost"), 1, "reclaimd rebuild"),
    (errors.EnqueueUncertain("t-1"), 1, "task_id='t-1'"),
    (errors.DurabilityUnavailable("fsync", "no\nfile", "set appendonly yes"), 3, "(no file): set appendonly yes"),
    (errors.DurabilityUnconfirmed("t-1", "replicated", "no\nreplica"), 1, "t-1 was accepted"),
    (errors.PartitionFrozen("mail", "lost"), 1, "bring them back with `reclaimd rebuild`"),
    (errors.InvalidTask("queue name is empty"), 2, "queue name"),
    (errors.InvalidArguments("send", "Expected `str`"), 2, "task send"),
    (errors.PayloadTooLarge(2_000_000, 1_000_000), 2, "RECLAIMD_WORKER_PAYLOAD_LIMIT"),
    (errors.WorkerIdInUse("w-1", "host a, pid 3"), 1, "--id"),
    (errors.Fenced("w-1"), 1, "restart it"),
]


@pytest.mark.parametrize(("error", "exit_code", "part"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_each_error_is_one_line_with_a_cure_and_an_exit_code(error: ReclaimdError, exit_code: int, part: str) -> None:
    assert part in str(error)
    assert "\n" not in str(error)
    assert error.exit_code == exit_code


@pytest.mark.parametrize("error", [row[0] for row in EXAMPLES], ids=lambda value: type(value).__name__)
def test_each_error_survives_the_way_to_another_process(error: ReclaimdError) -> None:
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 our own bytes
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.args == error.args


def test_every_error_has_an_example() -> None:
    declared = {
        value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, ReclaimdError)
    } - {ReclaimdError}
    assert declared == {type(row[0]) for row in EXAMPLES}


def test_a_password_is_never_shown() -> None:
    error = errors.RedisUnreachable("redis://:hunter2@h:1/0", "refused")
    assert "hunter2" not in str(error) + repr(error) + error.where


def test_a_daemon_knows_where_waiting_helps() -> None:
    assert errors.RedisUnusable(Unusable.READ_ONLY).waiting_helps
    assert not errors.RedisUnusable(Unusable.PASSWORD).waiting_helps
    assert not errors.LayoutMismatch("2", "1").waiting_helps
