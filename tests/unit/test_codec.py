"""Envelopes and bodies between bytes and values."""

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reclaimd.streams import codec
from reclaimd.streams.codec import Body, Delivery, decode_body, encode_body, parse_delivery, settle

REQUIRED = {"task": "t-1", "at": "1763757000000", "lane": "high", "max": "5"}
OPTIONAL = {
    "deliveries": "1",
    "attempts": "2",
    "handbacks": "3",
    "token": "4",
    "unique": "key",
    "schedule": "nightly",
    "history": "[1]",
}


def fields(body: bytes = b"{}", /, **more: Any) -> list[bytes]:
    flat: list[bytes] = []
    for name, value in {**REQUIRED, **more}.items():
        flat += (name.encode(), value.encode() if isinstance(value, str) else value)
    return [*flat, b"body", body]


def read(delivery: Delivery, names: Iterable[str]) -> dict[str, str]:
    return {name: str(getattr(delivery, "token_base" if name == "token" else name)) for name in names}


def test_the_short_form_has_the_defaults() -> None:
    delivery = parse_delivery(3, b"7-0", fields(b"body bytes"))
    assert delivery == Delivery(
        stream=3,
        entry_id="7-0",
        task_id="t-1",
        enqueued_at=1763757000000,
        lane="high",
        max_deliveries=5,
        body=b"body bytes",
    )
    assert (delivery.token, delivery.deliveries, delivery.problem) == (1, 0, "")
    assert delivery.stream_name == "lane:high"
    assert not delivery.is_suspect
    assert parse_delivery(1, b"7-0", fields()).is_suspect


def test_every_optional_field_is_read() -> None:
    delivery = parse_delivery(3, b"7-0", fields(**OPTIONAL))
    assert read(delivery, OPTIONAL) == OPTIONAL


def test_the_token_counts_on_from_its_base_with_each_return() -> None:
    assert parse_delivery(3, b"7-0", fields(**OPTIONAL)).token == 4 + 1 + 2 + 3


@given(st.sets(st.sampled_from(sorted(OPTIONAL))))
def test_any_of_them_may_be_missing(present: set[str]) -> None:
    given_fields = {name: value for name, value in OPTIONAL.items() if name in present}
    delivery = parse_delivery(3, b"7-0", fields(**given_fields))
    assert read(delivery, present) == given_fields
    assert delivery.body == b"{}"


@pytest.mark.parametrize(
    ("name", "value"),
    [("deliveries", "many"), ("attempts", ""), ("token", "1.5"), ("max", "9" * 5000)],
    ids=["deliveries", "attempts", "token", "max"],
)
def test_what_cannot_be_read_is_a_problem_and_no_error(name: str, value: str | bytes) -> None:
    delivery = parse_delivery(3, b"7-0", fields(**{name: value}))
    assert delivery.problem.startswith("unreadable envelope: ")
    assert (delivery.task_id, delivery.entry_id, delivery.stream) == ("t-1", "7-0", 3)


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.binary(max_size=20), max_size=5))
def test_no_field_of_a_stranger_raises(strange: dict[str, bytes]) -> None:
    flat = fields()
    for name, value in strange.items():
        flat[-2:-2] = [name.encode("utf-8", "replace"), value]
    assert parse_delivery(3, b"7-0", flat).task_id == "t-1"


def test_bodies_keep_empty_lists_and_large_integers() -> None:
    body = decode_body(encode_body(Body(name="send", args={"empty": [], "large": 9007199254740993})))
    assert (body.name, body.v, body.trace) == ("send", codec.BODY_VERSION, None)
    assert msgspec.json.decode(body.args) == {"empty": [], "large": 9007199254740993}


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"7", b'{"args":{}}', b'{"name":7}', b"\xff", b'{"name":"a","v":"x"}']
)
def test_what_is_no_body_is_refused(data: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode_body(data)


def test_arguments_stay_undecoded_until_the_signature_is_known() -> None:
    assert bytes(decode_body(b'{"name":"a","args":{"n":1e400}}').args) == b'{"n":1e400}'


def test_a_settlement_is_what_the_script_takes() -> None:
    delivery = parse_delivery(3, b"7-0", fields(unique="key"))
    verdict = settle(delivery, "retry", run_ms=5, name="send", delay_ms=9, cause="raised", error="x" * 900)
    assert msgspec.json.decode(msgspec.json.encode(verdict)) == [
        3, "7-0", "retry", "t-1", "key", 5, "send", 9, "raised", "x" * 500, "",
    ]  # fmt: skip


def test_the_words_of_an_error_always_fit_json() -> None:
    verdict = settle(parse_delivery(3, b"7-0", fields()), "failed", error="caf\udce9")
    assert msgspec.json.encode(verdict)
    assert verdict.error == "caf?"
