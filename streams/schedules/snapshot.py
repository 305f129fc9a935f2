"""A folded state as stream entries and back: a header, chunks of at most 1,000 rows, a commit. Pure.

A snapshot counts once its commit is there and everything that the commit promises is too. Several may be on their way
in one stream: each chunk says which header it belongs to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

import msgspec

from reclaimd.streams.ids import EntryID
from reclaimd.streams.schedules.fold import Problem, Row, Schedules, Unread

VERSION: Final = 1
CHUNK_ROWS: Final = 1_000
CHUNK_BYTES: Final = 1_000_000
"""A chunk ends when it has this many bytes, or rows: a reader pages by entries and must know what one may weigh."""

Fields: TypeAlias = dict[str, str | bytes]


class _Row(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A row as it is written. `changed` is empty when it equals `generation`, `unread` holds bytes as base64."""

    name: str
    generation: str
    since_ms: int
    paused: bool
    definition: msgspec.Raw
    changed: str = ""
    unread: tuple[Unread, ...] = ()


_Problem: TypeAlias = tuple[str, Problem]


class Whole(NamedTuple):
    """A snapshot that can be used. `of`: the ID of its header."""

    of: str
    state: Schedules


class Damaged(NamedTuple):
    """A snapshot that was committed and cannot be used."""

    of: str
    why: str


class Commit(msgspec.Struct, frozen=True):
    """The end of a snapshot. `covers`: the last event in it; `checksum`: of the chunks' payloads in order."""

    of: str
    chunks: int
    rows: int
    checksum: str
    covers: str


def header(state: Schedules) -> Fields:
    """The first entry of a snapshot of this state; the others need the ID that it gets."""
    return {"kind": "header", "v": str(VERSION), "covers": str(state.position)}


def rest(state: Schedules, of: str) -> Iterator[Fields]:
    """The other entries, the commit last. `of`: the header's ID. The state must not change meanwhile: copy it."""
    checksum = _Checksum()
    number = 0
    for what, payload in _payloads(state):
        checksum.add(what, payload)
        yield {"kind": "chunk", "of": of, "n": str(number), "what": what, "rows": payload}
        number += 1
    yield {
        "kind": "commit",
        "of": of,
        "chunks": str(number),
        "rows": str(len(state.rows)),
        "checksum": checksum.text(),
        "covers": str(state.position),
    }


def _payloads(state: Schedules) -> Iterator[tuple[str, bytes]]:
    written = (_encoder.encode(_written(name, row)) for name, row in state.rows.items())
    yield from (("rows", payload) for payload in _joined(written))
    problems = (_encoder.encode(item) for item in state.problems.items())
    yield from (("problems", payload) for payload in _joined(problems))
    unreadable = (_encoder.encode(item) for item in state.unreadable)
    yield from (("unreadable", payload) for payload in _joined(unreadable))


def _joined(items: Iterator[bytes]) -> Iterator[bytes]:
    batch: list[bytes] = []
    size = 0
    for item in items:
        if batch and (len(batch) >= CHUNK_ROWS or size + len(item) > CHUNK_BYTES):
            yield b"[" + b",".join(batch) + b"]"
            batch, size = [], 0
        batch.append(item)
        size += len(item)
    if batch:
        yield b"[" + b",".join(batch) + b"]"


def _written(name: str, row: Row) -> _Row:
    changed = "" if row.changed == row.generation else row.changed
    definition = msgspec.Raw(row.definition or b"null")
    return _Row(name, row.generation, row.since_ms, row.paused, definition, changed, row.unread)


class _Checksum:
    """blake2b over the payloads in order, each with what it is and its length."""

    __slots__ = ("_hash",)

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, what: str, payload: bytes) -> None:
        self._hash.update(b"%s %d\n" % (what.encode(), len(payload)))
        self._hash.update(payload)

    def text(self) -> str:
        return self._hash.hexdigest()


@dataclass(slots=True)
class _Open:
    """A snapshot on its way. `why`: what is wrong with it, after which its entries are not looked at any more."""

    covers: str = ""
    state: Schedules = field(default_factory=Schedules)
    chunks: int = 0
    checksum: _Checksum = field(default_factory=_Checksum)
    why: str = ""

    def fail(self, why: str) -> None:
        self.why = self.why or why
        self.state = Schedules()


class Decoder:
    """Entries in the order of their IDs → the snapshots that they end. `only`: the header of the one wanted, or all.

    Holds what is not committed yet, so that a reader that wants one should say which.
    """

    def __init__(self, only: str | None = None) -> None:
        self._only = only
        self._open: dict[str, _Open] = {}

    def feed(self, entry_id: str, fields: Mapping[bytes, bytes]) -> Whole | Damaged | None:
        """A snapshot if this entry ends one. Entries that are none of ours are passed over."""
        kind = fields.get(b"kind", b"")
        of = entry_id if kind == b"header" else _text(fields, b"of")
        if self._only is not None and of != self._only:
            return None
        if kind == b"header":
            self._open[of] = _begun(fields)
        elif kind == b"chunk" and of in self._open:
            _take(self._open[of], fields)
        elif kind == b"commit":
            return _end(of, self._open.pop(of, None), fields)
        return None


def read_commit(fields: Mapping[bytes, bytes]) -> Commit | None:
    """The commit that these fields are; None when they are another entry or cannot be read."""
    if fields.get(b"kind") != b"commit":
        return None
    try:
        known = {name: fields[name.encode()].decode() for name in Commit.__struct_fields__}
        commit = msgspec.convert(known, Commit, strict=False)
        EntryID.parse(commit.of)
        EntryID.parse(commit.covers)
    except (KeyError, ValueError):
        return None
    return commit


def _begun(fields: Mapping[bytes, bytes]) -> _Open:
    opened = _Open(covers=_text(fields, b"covers"))
    version = _text(fields, b"v")
    if version != str(VERSION):
        opened.fail(f"its version is {version or 'missing'}, this program knows {VERSION}")
        return opened
    try:
        opened.state.position = EntryID.parse(opened.covers)
    except ValueError:
        opened.fail("its header does not say what it covers")
    return opened


def _take(opened: _Open, fields: Mapping[bytes, bytes]) -> None:
    if opened.why:
        return
    if _text(fields, b"n") != str(opened.chunks):
        opened.fail(f"chunk {opened.chunks} is missing")
        return
    what, payload = _text(fields, b"what"), fields.get(b"rows", b"")
    opened.checksum.add(what, payload)
    try:
        _add(opened.state, what, payload)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        opened.fail(f"chunk {opened.chunks} cannot be read: {error}")
    opened.chunks += 1


def _add(state: Schedules, what: str, payload: bytes) -> None:
    if what == "rows":
        rows = state.rows
        for read in _rows.decode(payload):
            generation, definition = read.generation, bytes(read.definition)
            row = Row(
                generation=generation,
                since_ms=read.since_ms,
                definition=b"" if definition == b"null" else definition,
                changed=read.changed or generation,
            )
            if read.paused or read.unread:
                row = msgspec.structs.replace(row, paused=read.paused, unread=read.unread)
            rows[read.name] = row
    elif what == "problems":
        state.problems.update(_problems.decode(payload))
    elif what == "unreadable":
        state.unreadable += _unreadable.decode(payload)
    else:
        raise ValueError(f"it holds {what!r}")


def _end(of: str, opened: _Open | None, fields: Mapping[bytes, bytes]) -> Whole | Damaged:
    commit = read_commit(fields)
    if commit is None:
        return Damaged(of, "its commit cannot be read")
    if opened is None:
        return Damaged(of, "its header is missing")
    if not opened.why:
        found = (opened.chunks, len(opened.state.rows), opened.checksum.text(), opened.covers)
        if found != (commit.chunks, commit.rows, commit.checksum, commit.covers):
            opened.fail(_difference(opened, commit))
    return Damaged(of, opened.why) if opened.why else Whole(of, opened.state)


def _difference(opened: _Open, commit: Commit) -> str:
    if opened.chunks != commit.chunks:
        return f"{opened.chunks} of {commit.chunks} chunks are there"
    if opened.covers != commit.covers:
        return f"its header covers {opened.covers}, its commit {commit.covers}"
    return "its checksum is another"


def _text(fields: Mapping[bytes, bytes], name: bytes) -> str:
    return fields.get(name, b"").decode(errors="replace")


_encoder = msgspec.json.Encoder()
_rows = msgspec.json.Decoder(list[_Row])
_problems = msgspec.json.Decoder(list[_Problem])
_unreadable = msgspec.json.Decoder(list[Unread])
