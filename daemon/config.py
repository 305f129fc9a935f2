"""The daemon's configuration: a TOML file, then the environment, then flags; each overrides only what it gives.

Decoding, merging and messages are `streams.configure`, which the library shares; see there why it is not
pydantic-settings. Here is what only programs do: reading files.
"""

import re
import tomllib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import msgspec

from reclaimd.daemon.config_archive import with_archive
from reclaimd.daemon.config_sources import read_sources
from reclaimd.streams import configure
from reclaimd.streams.configure import CONFIG_VARIABLE, Config, Row, describe
from reclaimd.streams.credentials import with_credentials
from reclaimd.streams.errors import ConfigError
from reclaimd.streams.source_settings import SECTION as SOURCE
from reclaimd.streams.source_settings import SourceSettings

__all__ = ["Config", "Row", "describe", "load"]


def load(config_file: Path | None, environ: Mapping[str, str], flags: Mapping[str, object]) -> Config:
    """Read and check the whole configuration.

    `config_file`: the TOML file, else the one that RECLAIMD_CONFIG names, else none. `flags`: full key → value, None
    when not given. Passwords of files or systemd credentials are put into `redis_url` and `archive.url`, and under
    systemd the archive has its default place. Raises ConfigError.
    """
    named = environ.get(CONFIG_VARIABLE)
    path = config_file if config_file is not None else Path(named) if named else None
    layers = [configure.from_environment(environ), configure.from_flags(flags)]
    sources: tuple[SourceSettings, ...] = ()
    if path is not None:
        given, sources = _from_file(path)
        layers.insert(0, given)
    config = with_archive(with_credentials(configure.merge(*layers), environ), environ)
    return msgspec.structs.replace(config, sources=sources)


def _from_file(path: Path) -> tuple[list[configure.Given], tuple[SourceSettings, ...]]:
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

    def place(key: str) -> str:
        return f"{path}, line {lines[key]}" if key in lines else str(path)

    sources = read_sources(table.pop(SOURCE), place) if SOURCE in table else ()
    return configure.from_table(table, place), sources


def _lines_of_keys(document: str) -> dict[str, int]:
    """Full key or section → line, as far as a look at each line's beginning can tell: good enough for a message.

    Those of the second `[[source]]` are `source[1]` and `source[1].path`.
    """
    section, lines, seen = "", dict[str, int](), Counter[str]()
    for number, line in enumerate(document.splitlines(), start=1):
        header = re.match(r"\s*\[(\[?)\s*([\w.-]+)\s*\]", line)
        key = re.match(r"\s*[\"']?([\w.-]+)[\"']?\s*=", line)
        if header:
            section = f"{header[2]}[{seen[header[2]]}]" if header[1] else header[2]
            seen[header[2]] += 1
            lines.setdefault(section, number)
            lines.setdefault(header[2], number)
        elif key:
            lines.setdefault(f"{section}.{key[1]}" if section else key[1], number)
    return lines
