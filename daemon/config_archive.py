"""Where the archive is when nobody said so, and the password of one that needs it."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from reclaimd.streams.addresses import has_password, with_password
from reclaimd.streams.configure import Config
from reclaimd.streams.credentials import password_in
from reclaimd.streams.errors import ConfigError

CREDENTIAL = "archive_password"
"""The name of the systemd credential (`LoadCredential=archive_password:/etc/…`)."""
FILE = "archive.db"
_WHAT = "password of the archive"


def with_archive(config: Config, environ: Mapping[str, str]) -> Config:
    """Fill in `archive.url`: in systemd's state directory if there is one, with the password that belongs to it.

    As with Redis, a password in the URL wins over the credential and contradicts `archive.password_file`. Raises
    ConfigError.
    """
    archive = config.archive
    origins = dict(config.origins)
    state = environ.get("STATE_DIRECTORY", "").split(":")[0]
    url = archive.url
    if url is None and state:
        url = f"sqlite:///{Path(state, FILE)}"
        archive = msgspec.structs.replace(archive, url=url)
        origins["archive.url"] = "systemd state directory"
    if url is None:
        return config
    path = archive.password_file
    if path is not None:
        archive = msgspec.structs.replace(archive, url=_with_file(config, url, path))
    elif not url.startswith("sqlite") and not has_password(url):
        folder = environ.get("CREDENTIALS_DIRECTORY")
        password = password_in(Path(folder, CREDENTIAL), _WHAT) if folder else None
        if folder and password is not None:
            path = str(Path(folder, CREDENTIAL))
            archive = msgspec.structs.replace(archive, url=with_password(url, password), password_file=path)
            origins["archive.password_file"] = f"systemd credential {CREDENTIAL}"
    return msgspec.structs.replace(config, archive=archive, origins=origins)


def _with_file(config: Config, url: str, path: str) -> str:
    origin = f"archive.password_file ({config.origin('archive.password_file')})"
    if url.startswith("sqlite"):
        raise ConfigError(f"{origin} is for PostgreSQL, and the archive is a file: leave it out")
    if has_password(url):
        raise ConfigError(
            f"archive.url ({config.origin('archive.url')}) already holds a password and {origin} names another: keep "
            "one of them"
        )
    password = password_in(Path(path), _WHAT)
    if password is None:
        raise ConfigError(f"the file {path} with the {_WHAT} does not exist: create it, or correct {origin}")
    return with_password(url, password)
