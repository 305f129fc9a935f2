"""From a function's signature to checked arguments and back, and one clear error for each thing that does not fit."""

import datetime
import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reclaimd.streams.app import Reclaimd
from reclaimd.streams.codec import decode_body
from reclaimd.streams.context import Context
from reclaimd.streams.errors import InvalidArguments, InvalidDuration, InvalidTask, PayloadTooLarge, ReclaimdError
from reclaimd.streams.tasks import Task, check_size, to_ms


@dataclass
class Address:
    street: str
    number: int = 1


class Colour(enum.Enum):
    RED = "red"


def task_of(function: Callable[..., Any], **options: Any) -> Task[..., Any]:
    return Reclaimd("redis://localhost", "ns").task(**options)(function)


def there_and_back(task: Task[..., Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """What a worker's handler gets for what a producer gave."""
    body = decode_body(task.call(*args, **kwargs).body)
    assert body.name == task.name
    return task.decode(body.args)


async def typed(
    n: int,
    when: datetime.datetime,
    tags: list[str],
    where: Address | None = None,
    colour: Colour = Colour.RED,
    *,
    ratio: float = 0.5,
    raw: bytes = b"",
    few: Annotated[int, msgspec.Meta(le=10)] = 1,
) -> None: ...


NOON = datetime.datetime(2026, 1, 2, 12, 0, tzinfo=datetime.UTC)


def test_arguments_come_back_as_the_types_of_the_signature() -> None:
    got = there_and_back(task_of(typed), 1, NOON, ["a"], where=Address("x", 2), raw=b"\x00\xff", few=10)
    assert got == {
        "n": 1,
        "when": NOON,
        "tags": ["a"],
        "where": Address("x", 2),
        "colour": Colour.RED,
        "ratio": 0.5,
        "raw": b"\x00\xff",
        "few": 10,
    }


async def free(value: Any) -> None: ...


FREE = task_of(free)
LEAF = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=5)


@settings(max_examples=50)
@given(st.dictionaries(st.text(max_size=5), LEAF | st.lists(LEAF, max_size=3), max_size=4))
def test_whatever_json_can_carry_comes_back_unchanged(value: dict[str, Any]) -> None:
    assert there_and_back(FREE, value) == {"value": value}


def test_defaults_are_the_workers_own() -> None:
    shared: list[int] = []

    async def defaulted(a: int, b: list[int] = shared, c: object = None) -> None: ...

    assert decode_body(task_of(defaulted).call(1).body).args == msgspec.Raw(b'{"a":1}')
    assert there_and_back(task_of(defaulted), 1) == {"a": 1, "b": [], "c": None}


def test_the_context_is_no_argument_wherever_it_stands() -> None:
    async def first(ctx: Context, n: int) -> None: ...
    async def optional(n: int, ctx: Context | None = None) -> None: ...

    for function in (first, optional):
        task = task_of(function)
        assert task.context_parameter == "ctx"
        assert there_and_back(task, 3) == {"n": 3}
        with pytest.raises(InvalidArguments, match="ctx"):
            task.call(3, ctx=1)


BAD_ARGUMENTS: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
    ((), {}, "missing required field `n`"),
    (("x", NOON, []), {}, r"Expected `int`, got `str` - at `\$\.n`"),
    ((1.5, NOON, []), {}, r"Expected `int`, got `float`"),
    ((1, "yesterday", []), {}, r"RFC3339|datetime"),
    ((1, NOON, [1]), {}, r"Expected `str`, got `int` - at `\$\.tags\[0\]`"),
    ((1, NOON, []), {"where": {"street": 1}}, r"\$\.where\.street"),
    ((1, NOON, []), {"colour": "blue"}, "Invalid enum value 'blue'"),
    ((1, NOON, []), {"few": 11}, "<= 10"),
    ((1, NOON, []), {"unknown": 1}, "unknown field `unknown`"),
    ((1, NOON, []), {"n": 2}, "given twice: n"),
    ((1, NOON, [], None, Colour.RED, 1.0, b"", 1, 9), {}, "9 positional arguments, it takes 8"),
    ((1, NOON, []), {"where": object()}, "object"),
    ((1, NOON, ["\udcff"]), {}, "surrogates|encode"),
]


@pytest.mark.parametrize(("args", "kwargs", "why"), BAD_ARGUMENTS, ids=[case[2][:40] for case in BAD_ARGUMENTS])
def test_each_bad_argument_gives_one_line(args: tuple[Any, ...], kwargs: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidArguments, match=why) as caught:
        task_of(typed).call(*args, **kwargs)
    assert str(caught.value).startswith("arguments do not fit task typed: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "raw", [b"{}", b"[]", b"7", b"null", b'{"n":"x"}', b'{"n":1,"m":2}', b'{"n":1', b"\xff", b'{"n":true}'], ids=repr
)
def test_a_worker_refuses_what_does_not_fit(raw: bytes) -> None:
    async def simple(n: int) -> None: ...

    with pytest.raises(InvalidArguments, match="task simple"):
        task_of(simple).decode(raw)


def test_a_list_that_contains_itself() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises((InvalidArguments, RecursionError)):
        FREE.call(endless)


def positional_only(n: int, /) -> None: ...
def star(*n: int) -> None: ...
def double_star(**n: int) -> None: ...
def reserved(delay: int) -> None: ...
def unresolved(n: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821


BAD_SIGNATURES: list[tuple[Callable[..., Any], str]] = [
    (positional_only, "name each one"),
    (star, "name each one"),
    (double_star, "name each one"),
    (reserved, "means something else to enqueue; rename it"),
    (unresolved, "an annotation cannot be resolved"),
]


@pytest.mark.parametrize(("function", "why"), BAD_SIGNATURES, ids=[case[0].__name__ for case in BAD_SIGNATURES])
def test_each_bad_signature_gives_one_line(function: Callable[..., Any], why: str) -> None:
    with pytest.raises(InvalidTask, match=why) as caught:
        task_of(function)
    assert str(caught.value).startswith(f"task {function.__name__}: ")
    assert "\n" not in str(caught.value)


def plain() -> None: ...


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"name": "no spaces"}, "task name 'no spaces'"),
        ({"name": "x" * 129}, "1 to 128"),
        ({"queue": "a{b}"}, r"queue name 'a\{b\}'"),
        ({"lane": "urgent"}, "high, normal, low"),
        ({"timeout": 0}, "say None for no limit"),
        ({"timeout": -1}, "negative"),
        ({"retry": 0}, "say 1 for no retry"),
    ],
    ids=str,
)
def test_each_bad_option_gives_one_line(options: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidTask, match=why):
        task_of(plain, **options)


def test_two_tasks_of_one_name() -> None:
    app = Reclaimd("redis://localhost", "ns")
    app.task()(plain)
    with pytest.raises(InvalidTask, match="registered twice"):
        app.task()(plain)
    assert app.task(name="other")(plain).name == "other"
    assert sorted(app.tasks) == ["other", "plain"]


def test_calling_a_task_runs_the_function() -> None:
    def double(n: int) -> int:
        return n * 2

    task = task_of(double)
    assert task(4) == 8
    assert not task.is_async
    assert task_of(typed).is_async
    assert repr(task) == "<Task double on default>"


@pytest.mark.parametrize(
    ("value", "ms"),
    [(0, 0), (1.5, 1500), ("10m", 600_000), (datetime.timedelta(days=1), 86_400_000), (0.0004, 0)],
    ids=str,
)
def test_durations_are_seconds_texts_or_timedeltas(value: Any, ms: int) -> None:
    assert to_ms(value, "delay") == ms


@pytest.mark.parametrize(
    "value", [-1, datetime.timedelta(seconds=-1), "-1s", "soon", float("nan"), float("inf")], ids=str
)
def test_other_durations_are_refused(value: Any) -> None:
    with pytest.raises((InvalidTask, InvalidDuration)):
        task_of(plain).call().options(delay=value)


def test_the_payload_limit_counts_the_encoded_body() -> None:
    check_size(b"x" * 10, 10)
    with pytest.raises(PayloadTooLarge, match="11 bytes and the limit is 10"):
        check_size(b"x" * 11, 10)
    assert issubclass(PayloadTooLarge, ReclaimdError)
