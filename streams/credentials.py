"""The Redis password from a file or a systemd credential, and the library's way to its Config.

Apart from the daemon's own file this is the only place of the configuration that reads anything.
"""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from reclaimd.streams import configure
from reclaimd.streams.addresses import has_password, with_password
from reclaimd.streams.configure import Config
from reclaimd.streams.errors import ConfigError

CREDENTIAL = "redis_password"
"""The name of the systemd credential (`LoadCredential=redis_password:/etc/…`)."""


def library_config(
    environ: Mapping[str, str],
    *,
    redis_url: str | None = None,
    namespace: str | None = None,
    durability: str | None = None,
) -> Config:
    """The Config of a producer or worker: the arguments, else the environment, else the defaults.

    Variables of the daemon's own sections are left alone. Raises ConfigError.
    """
    flags = [
        configure.Given(given.option, given.raw, f"argument {given.option.key}")
        for given in configure.from_flags({"redis_url": redis_url, "namespace": namespace, "durability": durability})
    ]
    environment = configure.from_environment(environ)
    return with_credentials(configure.merge(environment, flags, sections=configure.LIBRARY_SECTIONS), environ)


def with_credentials(config: Config, environ: Mapping[str, str]) -> Config:
    """Put the password into `redis_url`: from `redis_password_file`, else from the systemd credential if there is one.

    A password in the URL wins over the credential; beside `redis_password_file` it is an error, because nobody could
    tell which was meant. Raises ConfigError.
    """
    if config.redis_password_file is not None:
        if has_password(config.redis_url):
            raise ConfigError(
                f"redis_url ({config.origin('redis_url')}) already holds a password and redis_password_file "
                f"({config.origin('redis_password_file')}) names another: keep one of them"
            )
        password = password_in(Path(config.redis_password_file), "Redis password")
        if password is None:
            raise ConfigError(
                f"the Redis password file {config.redis_password_file} does not exist: create it, or correct "
                f"redis_password_file ({config.origin('redis_password_file')})"
            )
        return msgspec.structs.replace(config, redis_url=with_password(config.redis_url, password))
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if not folder or has_password(config.redis_url):
        return config
    password = password_in(Path(folder, CREDENTIAL), "Redis password")
    if password is None:
        return config
    return msgspec.structs.replace(
        config,
        redis_url=with_password(config.redis_url, password),
        redis_password_file=str(Path(folder, CREDENTIAL)),
        origins={**config.origins, "redis_password_file": f"systemd credential {CREDENTIAL}"},
    )


def password_in(path: Path, what: str) -> str | None:
    """The password in a file; None when there is no such file. `what` it is, for messages. Raises ConfigError."""
    try:
        password = path.read_text(encoding="utf-8").rstrip("\r\n")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"cannot read the {what} from {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"cannot read the {what} from {path}: it is not UTF-8 text") from None
    if not password or "\n" in password:
        raise ConfigError(f"the {what} file {path} must hold one line, the password")
    return password
