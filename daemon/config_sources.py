"""`[[source]]`: tables of a decoded TOML document as settings, or one error that says which key is wrong. Pure."""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from reclaimd.streams.errors import ConfigError, InvalidSetting
from reclaimd.streams.source_settings import SECTION, SourceSettings, source_options

REQUIRED = ("name", "kind")


def read_sources(tables: object, place: Callable[[str], str]) -> tuple[SourceSettings, ...]:
    """Check what stands under `[[source]]`. `place(key)`: where it stands, for `source`, `source[1]`, `source[1].path`.

    Raises ConfigError.
    """
    if not isinstance(tables, list) or not all(isinstance(table, Mapping) for table in tables):
        raise ConfigError(f"{SECTION} in {place(SECTION)} is one of several: write [[{SECTION}]] and its keys below it")
    sources: dict[str, SourceSettings] = {}
    for i, table in enumerate(tables):
        at = f"{SECTION}[{i}]"
        source = _read(table, at, place)
        if source.name in sources:
            where = place(f"{at}.name")
            raise ConfigError(f"{SECTION}.name = {source.name!r} ({where}): another source has it: choose another name")
        sources[source.name] = source
    return tuple(sources.values())


def _read(table: Mapping[str, object], at: str, place: Callable[[str], str]) -> SourceSettings:
    options = source_options()
    values: dict[str, Any] = {}
    for name, raw in table.items():
        option = options.get(name)
        if option is None:
            raise ConfigError(f"unknown key {SECTION}.{name} in {place(f'{at}.{name}')}{_nearest(name)}")
        try:
            values[option.field] = option.decode(raw, lax=False)
        except InvalidSetting as error:
            shown = f" = {_shown(option.shown(raw) if option.secret and isinstance(raw, str) else raw)}"
            raise ConfigError(f"{SECTION}.{name}{shown} ({place(f'{at}.{name}')}): {error.why}") from None
    missing = [name for name in REQUIRED if name not in values]
    if missing:
        raise ConfigError(f"{SECTION}.{missing[0]} is missing ({place(at)}): every source needs a name and a kind")
    try:
        return SourceSettings(**values)
    except InvalidSetting as error:
        key = error.name.removeprefix(f"{SECTION}.")
        raise ConfigError(f"{error.name} ({place(f'{at}.{key}' if key in table else at)}): {error.why}") from None


def _shown(raw: object) -> str:
    text = repr(raw)
    return text if len(text) <= 80 else text[:77] + "..."


def _nearest(name: str) -> str:
    near = get_close_matches(name, source_options(), n=1)
    if near:
        return f": did you mean {SECTION}.{near[0]}?"
    return f": the keys of [[{SECTION}]] are {', '.join(source_options())}"
