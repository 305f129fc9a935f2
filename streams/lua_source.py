"""Reads the Lua files and makes one script of each: its keys by name, the shared parts it uses, its own text."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

from reclaimd.streams.keys import STREAMS

_HEADER = re.compile(r"^-- (KEYS|USES): (.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """A script as the server gets it. `key_names`: in the order of KEYS, `streams` standing for all seven."""

    name: str
    source: str
    sha: str
    key_names: tuple[str, ...]


def _read(path: str) -> str:
    return resources.files("reclaimd.streams").joinpath("lua").joinpath(path).read_text("utf-8")


def _key_table(names: tuple[str, ...]) -> str:
    lines = []
    position = 1
    for name in names:
        if name == "streams":
            keys = ", ".join(f"KEYS[{position + i}]" for i in range(len(STREAMS)))
            lines.append(f"  streams = {{ {keys} }},")
            position += len(STREAMS)
        else:
            lines.append(f"  {name} = KEYS[{position}],")
            position += 1
    streams = ", ".join(f"'{name}'" for name in STREAMS)
    return "\n".join(["local K = {", *lines, "}", f"local STREAM_NAMES = {{ {streams} }}"])


@cache
def load_script(name: str) -> Script:
    """The script in `lua/<name>.lua`; raises FileNotFoundError or ValueError (a header is missing)."""
    own = _read(f"{name}.lua")
    header = {key: tuple(value.split()) for key, value in _HEADER.findall(own)}
    if "KEYS" not in header:
        raise ValueError(f"lua/{name}.lua has no KEYS line")
    parts = [_read(f"lib/{part}.lua") for part in ("base", *header.get("USES", ()))]
    source = "\n".join([_key_table(header["KEYS"]), *parts, own])
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest(), header["KEYS"])
