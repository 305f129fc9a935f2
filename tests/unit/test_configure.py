from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reclaimd.streams.configure import Config, describe, from_environment, from_flags, from_table, merge
from reclaimd.streams.credentials import library_config
from reclaimd.streams.errors import ConfigError
from reclaimd.streams.options import Kind, Option
from reclaimd.streams.settings import all_options

SOURCES = ("file", "environment", "flags")


def values_of(option: Option) -> st.SearchStrategy[int | str]:
    """Values that the option allows, whatever the others are, in the Struct's unit."""
    if option.key == "worker.heartbeat":
        return st.integers(50, 500 // 4)
    if option.kind in (Kind.DURATION, Kind.SIZE, Kind.INTEGER):
        return st.integers(option.least or 0, option.most)
    if option.kind is Kind.CHOICE:
        return st.sampled_from(option.choices)
    return {
        "redis_url": st.sampled_from(["redis://a", "rediss://b:1/2", "unix:///c"]),
        "redis_password_file": st.sampled_from(["/a", "/b"]),
        "namespace": st.from_regex(r"[a-z][a-z0-9_.-]{0,20}", fullmatch=True),
        "listen": st.integers(0, 65_535).map(lambda port: f"127.0.0.1:{port}"),
        "worker.state_dir": st.sampled_from(["/x", "/y"]),
        "archive.url": st.sampled_from(["sqlite:////a.db", "postgresql://h/d"]),
        "archive.password_file": st.sampled_from(["/a", "/b"]),
    }[option.key]


def layers() -> st.SearchStrategy[dict[str, dict[str, int | str]]]:
    """For each key, by chance, a value from each source."""
    by_key = st.fixed_dictionaries({}, optional={key: values_of(option) for key, option in all_options().items()})
    return st.fixed_dictionaries(dict.fromkeys(SOURCES, by_key))


def as_table(values: Mapping[str, int | str]) -> dict[str, object]:
    table: dict[str, object] = {}
    for key, value in values.items():
        option = all_options()[key]
        section = table.setdefault(option.section, {}) if option.section else table
        assert isinstance(section, dict)
        section[option.name] = value if option.kind is Kind.INTEGER else written(option, value)
    return table


def written(option: Option, value: int | str) -> str:
    return str(value) if option.secret else option.shown(value)


def as_environment(values: Mapping[str, int | str]) -> dict[str, str]:
    return {all_options()[key].variable: written(all_options()[key], value) for key, value in values.items()}


def value_in(config: Config, option: Option) -> object:
    return getattr(getattr(config, option.section) if option.section else config, option.field)


@given(layers())
def test_the_last_source_that_gives_a_key_wins_and_is_remembered(given_by: dict[str, dict[str, int | str]]) -> None:
    config = merge(
        from_table(as_table(given_by["file"]), lambda key: f"x.toml:{key}"),
        from_environment(as_environment(given_by["environment"])),
        from_flags({key: written(all_options()[key], value) for key, value in given_by["flags"].items()}),
    )
    for key, option in all_options().items():
        giver = next((source for source in reversed(SOURCES) if key in given_by[source]), None)
        assert value_in(config, option) == (option.default if giver is None else given_by[giver][key])
        origin = {
            None: "default",
            "file": f"file x.toml:{key}",
            "environment": f"environment variable {option.variable}",
            "flags": f"flag {option.flag_name}",
        }[giver]
        assert config.origin(key) == origin


@given(st.fixed_dictionaries({}, optional={key: values_of(option) for key, option in all_options().items()}))
def test_what_describe_shows_can_be_given_again(values: dict[str, int | str]) -> None:
    config = merge(from_environment(as_environment(values)))
    rows = {row.key: row for row in describe(config)}
    again = merge(from_flags({key: rows[key].value for key in values}))
    assert [value_in(again, option) for option in all_options().values()] == [
        value_in(config, option) for option in all_options().values()
    ]


def test_unset_is_not_default() -> None:
    table = from_table({"worker": {"lease": "2s"}}, str)
    config = merge(table, from_environment({"RECLAIMD_WORKER_GRACE": ""}), from_flags({"worker.lease": None}))
    assert config.worker.lease_ms == 2_000
    assert config.worker.grace_ms == 25_000


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("RECLAIMD_WORKER_LEESE", "2s", "RECLAIMD_WORKER_LEESE: did you mean RECLAIMD_WORKER_LEASE?"),
        ("RECLAIMD_REDIS_PASSWORD", "hunter2", "did you mean RECLAIMD_REDIS_PASSWORD_FILE?"),
        ("RECLAIMD_ZZZ", "1", "unknown environment variable RECLAIMD_ZZZ: unset it"),
        ("RECLAIMD_PORT", "9417", "unknown environment variable RECLAIMD_PORT"),
        ("RECLAIMD_WORKER_LEASE", "15", "variable RECLAIMD_WORKER_LEASE): a bare number has no unit: say 15s"),
        ("RECLAIMD_WORKER_LEASE", "100ms", "from 500ms to 1d"),
        ("RECLAIMD_WORKER_CONCURRENCY", "many", "worker.concurrency = 'many' (environment variable"),
        ("RECLAIMD_DAEMON_LOG_LEVEL", "loud", "expected one of debug, info, warning, error"),
        ("RECLAIMD_REDIS_URL", "http://u:hunter2@h", "redis_url = 'http://u:***@h'"),
        ("RECLAIMD_NAMESPACE", "a:b", "namespace = 'a:b'"),
        ("RECLAIMD_LISTEN", "9417", "listen = '9417' (environment variable RECLAIMD_LISTEN): a listening address is"),
    ],
)  # fmt: skip
def test_a_wrong_variable_is_named(variable: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        merge(from_environment({variable: value}))
    assert message in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PATH", "/bin"),
        ("RECLAIMD_CONFIG", "/etc/x.toml"),
        ("RECLAIMD_INTERNAL_NONCE", "1"),
        ("RECLAIMD_SERVICE_HOST", "10.0.0.1"),
        ("RECLAIMD_SERVICE_PORT_HTTP", "9417"),
        ("RECLAIMD_METRICS_SERVICE_PORT", "9417"),
        ("RECLAIMD_PORT", "tcp://10.0.0.1:9417"),
        ("RECLAIMD_PORT_9417_TCP_ADDR", "10.0.0.1"),
    ],
)
def test_variables_that_are_no_settings_are_left_alone(variable: str, value: str) -> None:
    assert from_environment({variable: value}) == []


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"worker": {"leas": "2s"}}, "unknown key worker.leas in x.toml: did you mean worker.lease?"),
        ({"worker": {"lease_ms": 2_000}}, "did you mean worker.lease?"),
        ({"lease": "2s"}, "lease belongs in section [worker]"),
        ({"max_delivery": 3}, "did you mean worker.max_deliveries?"),
        ({"zzz": 3}, "the keys at the top are redis_url, redis_password_file, namespace, durability"),
        ({"worker": {"redis_url": "redis://h"}}, "redis_url belongs at the top, above the first section"),
        ({"daemon": {"zzz": 1}}, "the keys of [daemon] are dead_retention, dead_max"),
        ({"wroker": {"lease": "2s"}}, "unknown section [wroker] in x.toml: did you mean [worker]?"),
        ({"adopt": [{"group": "a"}]}, "unknown section [adopt] in x.toml: the sections are [worker], [daemon]"),
        ({"worker": 3}, "worker in x.toml is a section"),
        ({"worker": {"lease": 15}}, "worker.lease = 15 (file x.toml): a number has no unit: say 15s, or 15ms"),
        ({"worker": {"lease": True}}, "worker.lease = True (file x.toml): expected a duration such as 15s"),
        ({"worker": {"concurrency": "10"}}, "concurrency = '10' (file x.toml): expected a whole number"),
        ({"worker": {"concurrency": 1.5}}, "expected a whole number"),
        ({"namespace": 3}, "namespace = 3 (file x.toml): expected a text"),
        ({"redis_url": ["redis://:hunter2@h"]}, "redis_url = (hidden) (file x.toml)"),
        ({"worker": {"heartbeat": "5s"}}, "worker.heartbeat = '5s' (file x.toml): expected at most a quarter of"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_named(table: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        merge(from_table(table, lambda _: "x.toml"))
    assert message in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_wrong_value_is_an_error_even_when_overridden() -> None:
    with pytest.raises(ConfigError, match="a bare number"):
        merge(from_table({"worker": {"lease": "15"}}, str), from_flags({"worker.lease": "2s"}))


def test_a_lease_from_one_source_can_break_the_heartbeat_of_another() -> None:
    file = from_table({"worker": {"heartbeat": "3s"}}, lambda key: f"x.toml, {key}")
    with pytest.raises(ConfigError) as caught:
        merge(file, from_environment({"RECLAIMD_WORKER_LEASE": "2s"}))
    assert "worker.heartbeat = '3s' (file x.toml, worker.heartbeat)" in str(caught.value)
    assert "worker.lease (2s): say 500ms or less" in str(caught.value)


def test_an_unknown_flag_or_key_is_named() -> None:
    with pytest.raises(ConfigError, match="lissten: did you mean listen"):
        from_flags({"lissten": "x"})
    with pytest.raises(ConfigError, match=r"did you mean worker\.lease"):
        merge().origin("worker.leas")


def test_describe_hides_the_password_and_covers_every_key() -> None:
    rows = describe(merge(from_flags({"redis_url": "redis://:hunter2@h"})))
    assert [row.key for row in rows] == list(all_options())
    assert "hunter2" not in str(rows)
    assert rows[0].value == "redis://:***@h"
    assert rows[0].origin == "flag --redis-url"


def test_the_library_reads_environment_and_arguments_and_leaves_the_daemon_out() -> None:
    environ = {
        "RECLAIMD_REDIS_URL": "redis://env",
        "RECLAIMD_NAMESPACE": "env",
        "RECLAIMD_WORKER_LEASE": "2s",
        "RECLAIMD_DAEMON_LOG_LEVEL": "a level of a later version",
    }
    config = library_config(environ, namespace="argument")
    assert (config.redis_url, config.namespace, config.worker.lease_ms) == ("redis://env", "argument", 2_000)
    assert config.origin("namespace") == "argument namespace"
    assert config.daemon.log_level == "info"
    assert library_config({}).redis_url == "redis://localhost:6379/0"
    with pytest.raises(ConfigError, match="argument redis_url"):
        library_config({}, redis_url="localhost")
