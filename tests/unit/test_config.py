from collections.abc import Callable
from pathlib import Path

import pytest

from reclaimd.daemon.config import load
from reclaimd.streams.credentials import library_config
from reclaimd.streams.errors import ConfigError

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(text: str) -> Path:
        path = tmp_path / "reclaimd.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


def test_file_then_environment_then_flags(write: Write) -> None:
    path = write('namespace = "file"\nlisten = "127.0.0.1:1"\n[worker]\nlease = "2s"\ngrace = "1s"\n')
    environ = {"RECLAIMD_NAMESPACE": "env", "RECLAIMD_WORKER_LEASE": "3s"}
    config = load(path, environ, {"namespace": "flag", "listen": None, "redis_url": None})
    assert (config.namespace, config.listen) == ("flag", "127.0.0.1:1")
    assert (config.worker.lease_ms, config.worker.grace_ms, config.worker.concurrency) == (3_000, 1_000, 10)
    assert config.origin("namespace") == "flag --namespace"
    assert config.origin("worker.lease") == "environment variable RECLAIMD_WORKER_LEASE"
    assert config.origin("worker.grace") == f"file {path}, line 5"
    assert config.origin("worker.concurrency") == "default"


def test_the_environment_can_name_the_file(write: Write) -> None:
    path = write('namespace = "file"\n')
    assert load(None, {"RECLAIMD_CONFIG": str(path)}, {}).namespace == "file"
    assert load(None, {}, {}).namespace == "reclaimd"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('# a\n\n[worker]\nleas = "2s"\n', "unknown key worker.leas in {path}, line 4: did you mean worker.lease?"),
        ('[worker]\n"lease" = 2\n', "worker.lease = 2 (file {path}, line 2): a number has no unit: say 2s, or 2ms"),
        ('worker.leas = "2s"\n', "unknown key worker.leas in {path}, line 1"),
        ('worker = { leas = "2s" }\n', "unknown key worker.leas in {path}: did you mean worker.lease?"),
        ('[wroker]\nlease = "2s"\n', "unknown section [wroker] in {path}, line 1: did you mean [worker]?"),
        ("a = = 3\n", "{path} is not valid TOML"),
        ('redis_url = "redis://:hun/ter2@h/x"\n', "redis_url = 'redis://:***@h/x' (file {path}, line 1)"),
    ],
)
def test_errors_name_the_file_and_line(write: Write, text: str, message: str) -> None:
    path = write(text)
    with pytest.raises(ConfigError) as caught:
        load(path, {}, {})
    assert message.format(path=path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "ter2" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: No such file"):
        load(tmp_path / "nowhere.toml", {}, {})
    with pytest.raises(ConfigError, match="Is a directory"):
        load(tmp_path, {}, {})
    binary = tmp_path / "b.toml"
    binary.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(binary, {}, {})


def test_the_password_comes_from_its_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("p/w@ü\n", encoding="utf-8")
    environ = {"RECLAIMD_REDIS_URL": "redis://user@h:1/2", "RECLAIMD_REDIS_PASSWORD_FILE": str(secret)}
    for config in (load(None, environ, {}), library_config(environ)):
        assert config.redis_url == "redis://user:p%2Fw%40%C3%BC@h:1/2"
        assert "p%2Fw" not in repr(config)
        assert config.origin("redis_password_file") == "environment variable RECLAIMD_REDIS_PASSWORD_FILE"


def test_the_systemd_credential_is_used_unless_the_url_has_a_password(tmp_path: Path) -> None:
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert load(None, environ, {}).redis_url == "redis://localhost:6379/0"
    (tmp_path / "redis_password").write_text("hunter2")
    config = load(None, environ, {})
    assert config.redis_url == "redis://:hunter2@localhost:6379/0"
    assert config.origin("redis_password_file") == "systemd credential redis_password"
    assert load(None, environ, {"redis_url": "redis://:own@h"}).redis_url == "redis://:own@h"


def test_two_passwords_are_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    with pytest.raises(ConfigError, match="keep one of them") as caught:
        load(None, {"RECLAIMD_REDIS_PASSWORD_FILE": str(secret)}, {"redis_url": "redis://:hunter3@h"})
    assert "hunter" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "one line"), (b"\n", "one line"), (b"a\nb", "one line"), (b"\xff", "not UTF-8")]
)
def test_a_password_file_that_holds_no_password_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load(None, {"RECLAIMD_REDIS_PASSWORD_FILE": str(secret)}, {})
    assert str(secret) in str(caught.value)


def test_a_password_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere does not exist: .*RECLAIMD_REDIS_PASSWORD_FILE"):
        load(None, {"RECLAIMD_REDIS_PASSWORD_FILE": str(tmp_path / "nowhere")}, {})
    with pytest.raises(ConfigError, match="cannot read the Redis password"):
        load(None, {"RECLAIMD_REDIS_PASSWORD_FILE": str(tmp_path)}, {})
