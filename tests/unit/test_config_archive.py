"""Where the archive is, and where its password comes from."""

from pathlib import Path

import pytest

from reclaimd.daemon.config import describe, load
from reclaimd.streams.errors import ConfigError


def test_there_is_none_unless_somebody_says_where() -> None:
    assert load(None, {}, {}).archive.url is None


def test_systemd_gives_it_a_place() -> None:
    config = load(None, {"STATE_DIRECTORY": "/var/lib/a:/var/lib/b"}, {})
    assert config.archive.url == "sqlite:////var/lib/a/archive.db"
    assert config.origin("archive.url") == "systemd state directory"


def test_what_somebody_said_wins_over_the_state_directory() -> None:
    environ = {"STATE_DIRECTORY": "/var/lib/a", "RECLAIMD_ARCHIVE_URL": "sqlite:////b.db"}
    assert load(None, environ, {}).archive.url == "sqlite:////b.db"
    config = load(None, environ, {"archive.url": "postgresql://u:hunter2@h/d"})
    assert config.archive.url == "postgresql://u:hunter2@h/d"
    assert config.origin("archive.url") == "flag --archive-url"
    assert "hunter2" not in repr(config)
    assert "hunter2" not in str(describe(config))


def test_the_password_of_a_file_or_a_credential(tmp_path: Path) -> None:
    secret = tmp_path / "archive_password"
    secret.write_text("hun/ter2\n")
    url = {"RECLAIMD_ARCHIVE_URL": "postgresql://u@h/d"}
    by_file = load(None, {**url, "RECLAIMD_ARCHIVE_PASSWORD_FILE": str(secret)}, {})
    by_credential = load(None, {**url, "CREDENTIALS_DIRECTORY": str(tmp_path)}, {})
    assert by_file.archive.url == by_credential.archive.url == "postgresql://u:hun%2Fter2@h/d"
    assert by_credential.origin("archive.password_file") == "systemd credential archive_password"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite:////a.db", "is for PostgreSQL"),
        ("postgresql://u:p@h/d", "keep one of them"),
        ("postgresql://u@h/d", "does not exist"),
        ("mysql://h/d", "begins with sqlite:// or postgresql://"),
    ],
)
def test_what_contradicts_itself_is_refused(url: str, message: str) -> None:
    environ = {"RECLAIMD_ARCHIVE_URL": url, "RECLAIMD_ARCHIVE_PASSWORD_FILE": "/nowhere/password"}
    with pytest.raises(ConfigError, match=message):
        load(None, environ, {})
