"""Scripts are put together from their files."""

import hashlib
import re

import pytest

from reclaimd.streams import lua_source
from reclaimd.streams.keys import STREAMS, Partition
from reclaimd.streams.lua_source import load_script
from reclaimd.streams.scripts import ALL_SCRIPTS


@pytest.mark.parametrize("name", ALL_SCRIPTS)
def test_every_script_is_one_text_with_its_hash_and_its_keys(name: str) -> None:
    script = load_script(name)
    assert script.sha == hashlib.sha1(script.source.encode(), usedforsecurity=False).hexdigest()
    keys = Partition("ns", "q").keys(script.key_names)
    used = {int(number) for number in re.findall(r"KEYS\[(\d+)\]", script.source)}
    assert used == set(range(1, len(keys) + 1))
    assert len(set(keys)) == len(keys)
    assert {key[: key.index("}") + 1] for key in keys} == {"{ns:q:0}"}


@pytest.mark.parametrize("name", ALL_SCRIPTS)
def test_every_key_that_a_script_uses_is_in_its_header(name: str) -> None:
    own = lua_source._read(f"{name}.lua")
    assert set(re.findall(r"\bK\.(\w+)", own)) <= set(load_script(name).key_names)


def test_the_streams_come_in_reading_order() -> None:
    script = load_script("turn")
    table = script.source[: script.source.index("}\n") + 1]
    first = script.key_names.index("streams") + 1
    wanted = ", ".join(f"KEYS[{first + index}]" for index in range(len(STREAMS)))
    assert f"streams = {{ {wanted} }}" in table
    assert Partition("ns", "q").keys(("streams",)) == tuple(f"{{ns:q:0}}:{name}" for name in STREAMS)


def test_a_script_is_read_once() -> None:
    assert load_script("turn") is load_script("turn")


def test_a_script_that_does_not_exist() -> None:
    with pytest.raises(FileNotFoundError):
        load_script("no_such_script")


def test_a_script_without_a_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lua_source, "_read", lambda path: "return 1")
    with pytest.raises(ValueError, match=r"lua/headless\.lua has no KEYS line"):
        load_script("headless")
