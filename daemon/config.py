"""The daemon's configuration: a TOML file, then the environment, then flags; each overrides only what it gives.

Decoding, merging and messages are `streams.configure`, which the library shares; see there why it is not
pydantic-settings. Here is what only programs do: reading files.
"""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

from reclaimd.streams import configure
from reclaimd.streams.configure import CONFIG_VARIABLE, Config, Row, describe
from reclaimd.streams.credentials import with_credentials
from reclaimd.streams.errors import ConfigError

__all__ = ["Config", "Row", "describe", "load"]


def load(config_file: Path | None, environ: Mapping[str, str], flags: Mapping[str, object]) -> Config:
    """Read and check the whole configuration.

    `config_file`: the TOML file, else the one that RECLAIMD_CONFIG names, else none. `flags`: full key → value, None
    when not given. The password of a file or a systemd credential is put into `redis_url`. Raises ConfigError.
    """
    named = environ.get(CONFIG_VARIABLE)
    path = config_file if config_file is not None else Path(named) if named else None
    layers = [configure.from_environment(environ), configure.from_flags(flags)]
    if path is not None:
        layers.insert(0, _from_file(path))
    return with_credentials(configure.merge(*layers), environ)


def _from_file(path: Path) -> list[configure.Given]:
    try:
        document = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"cannot read the configuration file {path}: {reason}") from None
    try:
        table = tomllib.loads(document)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    lines = _lines_of_keys(document)
    return configure.from_table(table, lambda key: f"{path}, line {lines[key]}" if key in lines else str(path))


def _lines_of_keys(document: str) -> dict[str, int]:
    """Full key or section → line, as far as a look at each line's beginning can tell: good enough for a message."""
    section, lines = "", dict[str, int]()
    for number, line in enumerate(document.splitlines(), start=1):
        header = re.match(r"\s*\[\[?\s*([\w.-]+)\s*\]", line)
        key = re.match(r"\s*[\"']?([\w.-]+)[\"']?\s*=", line)
        if header:
            section = header[1]
            lines.setdefault(section, number)
        elif key:
            lines.setdefault(f"{section}.{key[1]}" if section else key[1], number)
    return lines
