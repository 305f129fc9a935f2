import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reclaimd.streams.errors import InvalidSetting
from reclaimd.streams.options import Kind, Option
from reclaimd.streams.settings import (
    SECTIONS,
    DaemonSettings,
    Settings,
    WorkerSettings,
    all_options,
    options_of_settings,
)


def test_the_promised_defaults() -> None:
    worker = WorkerSettings()
    assert (worker.lease_ms, worker.heartbeat_ms, worker.heartbeat) == (15_000, None, 3_000)
    assert (worker.grace_ms, worker.concurrency, worker.max_deliveries) == (25_000, 10, 5)
    assert (worker.park_for_ms, worker.payload_limit, worker.audit_every) == (3_600_000, 1_000_000, 3)
    daemon = DaemonSettings()
    assert daemon.dead_retention_ms == 30 * 86_400_000
    assert daemon.events_retention_ms == 24 * 3_600_000
    settings = Settings()
    assert (settings.namespace, settings.listen) == ("reclaimd", "127.0.0.1:9417")


@given(st.integers(500, 86_400_000))
def test_an_unset_heartbeat_is_a_fifth_of_any_lease_and_always_allowed(lease: int) -> None:
    settings = WorkerSettings(lease_ms=lease)
    assert settings.heartbeat == lease // 5
    assert settings.heartbeat >= 50


@given(st.integers(500, 60_000), st.integers(0, 60_000))
def test_a_heartbeat_is_allowed_from_50_ms_to_a_quarter_of_the_lease(lease: int, heartbeat: int) -> None:
    if 50 <= heartbeat <= lease // 4:
        assert WorkerSettings(lease_ms=lease, heartbeat_ms=heartbeat).heartbeat == heartbeat
    else:
        with pytest.raises(InvalidSetting) as caught:
            WorkerSettings(lease_ms=lease, heartbeat_ms=heartbeat)
        assert caught.value.name == "worker.heartbeat"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lease_ms": 499}, "worker.lease: expected a duration such as 15s, from 500ms to 1d"),
        (
            {"lease_ms": 1_000, "heartbeat_ms": 251},
            "a quarter of worker.lease (1s): say 250ms or less, or leave it out",
        ),
        ({"concurrency": 0}, "worker.concurrency: expected a whole number, from 1 to 10000"),
        ({"concurrency": True}, "worker.concurrency: expected a whole number"),
        ({"lease_ms": None}, "worker.lease: expected a duration"),
        ({"state_dir": "locks"}, "worker.state_dir: expected an absolute path"),
        ({"state_dir": ""}, "worker.state_dir: expected a text, not empty"),
    ],
)
def test_a_wrong_worker_setting_says_what_is_expected(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        WorkerSettings(**wrong)  # type: ignore[arg-type]
    assert message in str(caught.value)


@pytest.mark.parametrize("namespace", ["", "a:b", "{a}", "a b", "-a", "é", "a" * 65, "a\n"])
def test_a_namespace_cannot_break_the_hash_tag(namespace: str) -> None:
    with pytest.raises(InvalidSetting, match=r"^namespace: "):
        Settings(namespace=namespace)


def test_settings_do_not_show_their_password() -> None:
    assert "hunter2" not in repr(Settings(redis_url="redis://:hunter2@h"))
    assert "hunter2" not in str(Settings(redis_url="redis://:hunter2@h"))


@pytest.mark.parametrize("struct", SECTIONS.values(), ids=lambda struct: struct.__name__)
def test_every_field_is_described(struct: type[msgspec.Struct]) -> None:
    described = {option.field for option in options_of_settings(struct)}
    sections = {*filter(None, SECTIONS), "sources"} if struct is Settings else set()
    assert described | sections == set(struct.__struct_fields__)


@pytest.mark.parametrize("option", all_options().values(), ids=lambda option: option.key)
def test_names_follow_from_the_field(option: Option) -> None:
    assert option.field.endswith("_ms") is (option.kind is Kind.DURATION)
    assert not option.name.endswith("_ms")
    assert option.doc.endswith(".")
    assert (option.default is None) is bool(option.when_unset)


def test_no_two_settings_share_an_environment_variable() -> None:
    variables = [option.variable for option in all_options().values()]
    assert len(set(variables)) == len(variables)
    assert {"RECLAIMD_REDIS_URL", "RECLAIMD_NAMESPACE", "RECLAIMD_LISTEN", "RECLAIMD_WORKER_LEASE"} <= set(variables)
