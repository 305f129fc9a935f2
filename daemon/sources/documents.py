"""Schedules as a TOML or YAML document: what `schedules import` and `export` and sources of kind file speak. Pure.

A document has one key, `schedules`, a list of schedules in plain form: `[[schedules]]` in TOML.
"""

import tomllib
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec
import tomli_w
import yaml

from reclaimd.streams.errors import ConfigError

KEY = "schedules"
Format: TypeAlias = Literal["toml", "yaml"]
FORMATS: dict[str, Format] = {".toml": "toml", ".yaml": "yaml", ".yml": "yaml"}
"""Suffix of a file → its format."""

_LARGEST_TOML_INTEGER = 2**63 - 1


class BadDocument(ConfigError):
    """A text that is no document of schedules. `why`: what is wrong, and where."""


if TYPE_CHECKING:
    _SafeLoader = yaml.SafeLoader
else:
    _SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SafeLoader):
    """Refuses a key that stands twice, which YAML forbids and the library lets through."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    line = key.start_mark.line + 1
                    raise BadDocument(f"line {line}: the key {key.value} stands there twice: delete one")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes a value that stands twice twice, as `parse` wants it."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Quoted where the library would write a line break of Unicode as it is, which reading makes a space of."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _represent_text)


def parse(text: str, form: Format) -> list[dict[str, Any]]:
    """The schedules of a document in plain form, unchecked; instants that TOML and YAML know are texts then.

    Raises BadDocument.
    """
    document = _decoded(text, form)
    if document is None:
        return []
    if not isinstance(document, Mapping):
        raise BadDocument(f"expected the key {KEY} and a list of schedules below it")
    unknown = [key for key in document if key != KEY]
    if unknown:
        raise BadDocument(f"unknown key {unknown[0]}: the only key is {KEY}, a list of schedules")
    rows = document.get(KEY)
    if rows is None:
        return []
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        form_of_one = "[[schedules]]" if form == "toml" else "- name: …"
        raise BadDocument(f"{KEY} is no list of schedules: write {form_of_one}")
    seen: set[int] = set()
    return [{str(key): _plain(value, seen) for key, value in row.items()} for row in rows]


def dump(rows: Iterable[Mapping[str, Any]], form: Format) -> str:
    """The document of these schedules; `parse` gives them back exactly."""
    if form == "yaml":
        document = {KEY: [dict(row) for row in rows]}
        text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)
        return text
    return tomli_w.dumps({KEY: [_for_toml(row) for row in rows]})


def _decoded(text: str, form: Format) -> Any:
    if form == "toml":
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise BadDocument(f"not valid TOML: {error}") from None
        except RecursionError:
            raise BadDocument("not valid TOML: nested too deeply") from None
    try:
        return yaml.load(text, _Loader)  # noqa: S506  (a safe loader)
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise BadDocument(f"not valid YAML: {where}{error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise BadDocument(f"not valid YAML: {error}") from None
    except RecursionError:
        raise BadDocument("not valid YAML: nested too deeply") from None


def _plain(value: Any, seen: set[int]) -> Any:
    """Instants as texts. `seen`: identities of the containers so far, as a few lines of aliases can make gigabytes."""
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if not isinstance(value, Mapping | list):
        return value
    if id(value) in seen:
        raise BadDocument("a list or mapping is used twice (*name): write it out")
    seen.add(id(value))
    if isinstance(value, list):
        return [_plain(inner, seen) for inner in value]
    return {key: _plain(inner, seen) for key, inner in value.items()}


def _for_toml(row: Mapping[str, Any]) -> dict[str, Any]:
    """TOML has no null, and readers of other languages no integers beyond 64 bits: such arguments become JSON text."""
    return {
        key: value if _fits_toml(value) else msgspec.json.encode(value).decode()
        for key, value in row.items()
        if value is not None
    }


def _fits_toml(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_fits_toml, value.values()))
    if isinstance(value, list):
        return all(map(_fits_toml, value))
    if isinstance(value, int):
        return abs(value) <= _LARGEST_TOML_INTEGER
    return value is not None
