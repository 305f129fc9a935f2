"""Bodies and envelopes between Python values and bytes. Pure."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from reclaimd.streams.keys import STREAMS, SUSPECT

BODY_VERSION = 1

Outcome = Literal["succeeded", "retry", "parked", "failed", "dead", "handback"]


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """What no script reads: which function, with which keyword arguments."""

    name: str
    args: dict[str, Any] = {}
    trace: dict[str, str] | None = None
    v: int = BODY_VERSION


class RawBody(msgspec.Struct, frozen=True, kw_only=True):
    """A body whose arguments stay undecoded until the task's signature is known."""

    name: str
    args: msgspec.Raw = msgspec.Raw(b"{}")
    trace: dict[str, str] | None = None
    v: int = BODY_VERSION


_body_encoder = msgspec.json.Encoder()
_body_decoder = msgspec.json.Decoder(RawBody)


def encode_body(body: Body) -> bytes:
    """JSON; raises TypeError (msgspec) for what JSON cannot carry."""
    return _body_encoder.encode(body)


def decode_body(data: bytes) -> RawBody:
    """Raises msgspec.DecodeError or ValidationError for what is not a body."""
    return _body_decoder.decode(data)


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """A task as a turn delivered it. `stream`: index in STREAMS, from 1. Times in milliseconds.

    `problem`: why the envelope cannot be read, else empty; then only stream, entry ID and task ID count.
    """

    stream: int
    entry_id: str
    task_id: str
    enqueued_at: int
    lane: str
    max_deliveries: int
    body: bytes
    deliveries: int = 0
    attempts: int = 0
    handbacks: int = 0
    token_base: int = 1
    unique: str = ""
    schedule: str = ""
    history: str = ""
    problem: str = ""

    @property
    def is_suspect(self) -> bool:
        """It came back twice or more without a verdict."""
        return self.stream == SUSPECT

    @property
    def token(self) -> int:
        """The fencing token: each time that the task comes back counts something, so their sum only grows."""
        return self.token_base + self.deliveries + self.attempts + self.handbacks

    @property
    def stream_name(self) -> str:
        """As after the tag, e.g. `lane:high`."""
        return STREAMS[self.stream - 1]


def parse_delivery(stream: int, entry_id: bytes, fields: list[bytes]) -> Delivery:
    """An entry that the turn script found well formed: task, at, lane, max, …, body in this order.

    The optional fields may still be anything; one that cannot be read is a `problem` and never an error, because a
    worker that failed here would take all its other tasks along.
    """
    try:
        return _parse(stream, entry_id, fields)
    except ValueError as error:
        return Delivery(
            stream=stream,
            entry_id=entry_id.decode(),
            task_id=fields[1].decode(),
            enqueued_at=0,
            lane=fields[5].decode(),
            max_deliveries=0,
            body=b"",
            problem=f"unreadable envelope: {error}",
        )


def _parse(stream: int, entry_id: bytes, fields: list[bytes]) -> Delivery:
    if len(fields) == 10:
        return Delivery(
            stream=stream,
            entry_id=entry_id.decode(),
            task_id=fields[1].decode(),
            enqueued_at=int(fields[3]),
            lane=fields[5].decode(),
            max_deliveries=int(fields[7]),
            body=fields[9],
        )
    optional = dict(zip(fields[8:-2:2], fields[9:-2:2], strict=True))
    return Delivery(
        stream=stream,
        entry_id=entry_id.decode(),
        task_id=fields[1].decode(),
        enqueued_at=int(fields[3]),
        lane=fields[5].decode(),
        max_deliveries=int(fields[7]),
        body=fields[-1],
        deliveries=int(optional.get(b"deliveries", 0)),
        attempts=int(optional.get(b"attempts", 0)),
        handbacks=int(optional.get(b"handbacks", 0)),
        token_base=int(optional.get(b"token", 1)),
        unique=optional.get(b"unique", b"").decode(errors="replace"),
        schedule=optional.get(b"schedule", b"").decode(errors="replace"),
        history=optional.get(b"history", b"").decode(errors="replace"),
    )


class Settlement(msgspec.Struct, frozen=True, array_like=True):
    """A worker's verdict on one entry, as the turn script takes it. `run_ms`, `delay_ms`: milliseconds."""

    stream: int
    entry_id: str
    outcome: Outcome
    task_id: str
    unique: str = ""
    run_ms: int = 0
    name: str = ""
    delay_ms: int = 0
    cause: str = ""
    error: str = ""
    schedule: str = ""


def settle(
    delivery: Delivery,
    outcome: Outcome,
    *,
    run_ms: int = 0,
    name: str = "",
    delay_ms: int = 0,
    cause: str = "",
    error: str = "",
) -> Settlement:
    """The verdict on a delivery; `error` is cut to 500 characters, and what UTF-8 cannot carry is replaced."""
    return Settlement(
        delivery.stream,
        delivery.entry_id,
        outcome,
        delivery.task_id,
        delivery.unique,
        run_ms,
        name,
        delay_ms,
        cause,
        error[:500].encode("utf-8", "replace").decode(),
        delivery.schedule,
    )
