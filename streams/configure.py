"""Merging what was given (file, environment, flags) into one checked Config that knows where each value came from.

Pure: callers hand in mappings. "Unset" is not "default": a layer holds only what was given in it, so a default never
overrides a value of a lower layer. Every given value is checked, also one that a higher layer overrides.

Why not pydantic-settings: it ignores unknown environment variables and keys of other prefixes, where we must name them
and the nearest right one; it does not remember which source a value came from; and it would be a second validation
library beside msgspec, which already decodes everything that travels.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

import msgspec

from reclaimd.streams.errors import ConfigError, InvalidSetting
from reclaimd.streams.options import ENV_PREFIX, Option
from reclaimd.streams.settings import (
    SECTIONS,
    ArchiveSettings,
    DaemonSettings,
    SchedulerSettings,
    Settings,
    WorkerSettings,
    all_options,
)

CONFIG_VARIABLE = f"{ENV_PREFIX}CONFIG"
INTERNAL_PREFIX = f"{ENV_PREFIX}INTERNAL_"
LIBRARY_SECTIONS = ("", "worker")

_KUBERNETES_NAME = re.compile(
    r"RECLAIMD_(?:[A-Z0-9_]+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT_[0-9]+_[A-Z]+.*)"
)
_KUBERNETES_PORT = re.compile(r"(?:tcp|udp|sctp)://.*")


class Given(msgspec.Struct, frozen=True):
    """One value that somebody wrote. `origin`: where, in words for a person; `lax`: numbers may be written as text."""

    option: Option
    raw: object
    origin: str
    lax: bool = True


class Config(Settings, frozen=True, kw_only=True):
    """Settings, and where each of them came from (`origins`: full key → words; defaults are not in it)."""

    origins: dict[str, str] = msgspec.field(default_factory=dict)

    def origin(self, key: str) -> str:
        """Where the value of a key (`worker.lease`) came from; `default` when nobody set it. Raises ConfigError."""
        if key not in all_options():
            raise ConfigError(f"unknown key {key}{_nearest_key(key)}")
        return self.origins.get(key, "default")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `describe`: everything a person asks about a setting, safe to print."""

    key: str
    value: str
    default: str
    origin: str
    variable: str
    description: str


def from_environment(environ: Mapping[str, str]) -> list[Given]:
    """Pick the settings out of the environment; an empty variable counts as not set.

    An unknown `RECLAIMD_*` raises ConfigError, except RECLAIMD_CONFIG, RECLAIMD_INTERNAL_* and what Kubernetes injects
    into every pod for a Service whose name begins with "reclaimd".
    """
    known = {option.variable: option for option in all_options().values()}
    given = []
    for variable, raw in environ.items():
        if not variable.startswith(ENV_PREFIX) or variable == CONFIG_VARIABLE or variable.startswith(INTERNAL_PREFIX):
            continue
        option = known.get(variable)
        if option is not None and raw:
            given.append(Given(option, raw, f"environment variable {variable}"))
        elif option is None and not _injected_by_kubernetes(variable, raw):
            names = [name.removeprefix(ENV_PREFIX) for name in known]
            hint = _nearest(variable.removeprefix(ENV_PREFIX), names, ENV_PREFIX + "{}") or ": unset it"
            raise ConfigError(f"unknown environment variable {variable}{hint}")
    return given


def from_flags(flags: Mapping[str, object]) -> list[Given]:
    """Take values by full key (`redis_url`, `worker.concurrency`); None means that the flag was not given."""
    given = []
    for key, raw in flags.items():
        option = all_options().get(key)
        if option is None:
            raise ConfigError(f"unknown flag for key {key}{_nearest_key(key)}")
        if raw is not None:
            given.append(Given(option, raw, f"flag {option.flag_name}"))
    return given


def from_table(table: Mapping[str, object], source: Callable[[str], str]) -> list[Given]:
    """Take a decoded TOML document. `source(key)`: where the key stands, for messages: `/etc/x.toml, line 3`."""
    given = []
    for key, raw in _flattened(table, source):
        option = all_options().get(key)
        if option is None:
            raise ConfigError(f"unknown key {key} in {source(key)}{_nearest_key(key)}")
        given.append(Given(option, raw, f"file {source(key)}", lax=False))
    return given


def merge(*layers: Iterable[Given], sections: Iterable[str] = tuple(SECTIONS)) -> Config:
    """Lay the layers over each other, the last wins, and check the whole.

    `sections`: the ones to fill; what was given for others is ignored. Raises ConfigError, which names key, value,
    origin and what is expected.
    """
    wanted = set(sections)
    winners: dict[str, Given] = {}
    values: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for given in (given for layer in layers for given in layer if given.option.section in wanted):
        try:
            values[given.option.section][given.option.field] = given.option.decode(given.raw, lax=given.lax)
        except InvalidSetting as error:
            raise _complaint(given, error.why) from None
        winners[given.option.key] = given
    try:
        return Config(
            worker=WorkerSettings(**values["worker"]),
            daemon=DaemonSettings(**values["daemon"]),
            scheduler=SchedulerSettings(**values["scheduler"]),
            archive=ArchiveSettings(**values["archive"]),
            origins={key: given.origin for key, given in winners.items()},
            **values[""],
        )
    except InvalidSetting as error:
        if error.name not in winners:
            raise
        raise _complaint(winners[error.name], error.why) from None


def describe(config: Config) -> list[Row]:
    """One row per setting, in the order of the documentation; passwords are hidden."""
    rows = []
    for option in all_options().values():
        holder: object = getattr(config, option.section) if option.section else config
        rows.append(
            Row(
                key=option.key,
                value=option.shown(getattr(holder, option.field)) or option.when_unset,
                default=option.shown(option.default) or option.when_unset,
                origin=config.origin(option.key),
                variable=option.variable,
                description=option.doc,
            )
        )
    return rows


def _flattened(table: Mapping[str, object], source: Callable[[str], str]) -> Iterable[tuple[str, object]]:
    sections = [section for section in SECTIONS if section]
    for key, value in table.items():
        if key in sections:
            if not isinstance(value, Mapping):
                raise ConfigError(f"{key} in {source(key)} is a section: write [{key}] and its keys below it")
            yield from ((f"{key}.{inner}", raw) for inner, raw in value.items())
        elif isinstance(value, Mapping) or (isinstance(value, list) and value and isinstance(value[0], Mapping)):
            known = ", ".join([*(f"[{section}]" for section in sections), "[[source]]"])
            near = ": did you mean [[source]]?" if key == "sources" else _nearest(key, sections, "[{}]")
            hint = near or f": the sections are {known}"
            raise ConfigError(f"unknown section [{key}] in {source(key)}{hint}")
        else:
            yield key, value


def _complaint(given: Given, why: str) -> ConfigError:
    raw = given.option.shown(given.raw) if given.option.secret and isinstance(given.raw, str) else given.raw
    shown = "(hidden)" if given.option.secret and not isinstance(given.raw, str) else repr(raw)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return ConfigError(f"{given.option.key} = {shown} ({given.origin}): {why}")


def _nearest_key(key: str) -> str:
    """The hint for a wrong key: the same name in another section comes before a similar one."""
    options = all_options()
    name = key.rpartition(".")[2]
    elsewhere = [option for option in options.values() if option.name == name]
    if elsewhere:
        section = elsewhere[0].section
        place = f"in section [{section}]" if section else "at the top, above the first section"
        return f": {name} belongs {place}"
    by_name = {option.name: option.key for option in options.values()}
    hint = _nearest(key, list(options))
    if hint:
        return hint
    near = get_close_matches(name, by_name, n=1)
    if near:
        return f": did you mean {by_name[near[0]]}?"
    section = key.rpartition(".")[0]
    names = [option.name for option in options.values() if option.section == section]
    return f": the keys {f'of [{section}]' if section else 'at the top'} are {', '.join(names)}" if names else ""


def _nearest(word: str, words: list[str], form: str = "{}") -> str:
    near = get_close_matches(word, words, n=1)
    return f": did you mean {form.format(near[0])}?" if near else ""


def _injected_by_kubernetes(variable: str, value: str) -> bool:
    if _KUBERNETES_NAME.fullmatch(variable):
        return True
    return variable.endswith("_PORT") and _KUBERNETES_PORT.fullmatch(value) is not None
