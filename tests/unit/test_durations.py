import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reclaimd.streams.durations import LONGEST_MS, UNITS, format_duration, parse_duration
from reclaimd.streams.errors import ConfigError, InvalidDuration


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("250ms", 250),
        ("15s", 15_000),
        ("2m", 120_000),
        ("1h30m", 5_400_000),
        ("7d", 604_800_000),
        ("0s", 0),
        (" 90s ", 90_000),
        ("1d2h3m4s5ms", 93_784_005),
    ],
)
def test_reads_what_people_write(text: str, ms: int) -> None:
    assert parse_duration(text) == ms


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("15", "say 15s, or 15ms"),
        ("1.5", "say 1s, or 1ms"),
        ("1.5s", "use whole numbers"),
        ("15S", "say 15s"),
        ("-1s", "not negative"),
        ("", "say 250ms, 15s"),
        ("30m1h", "largest unit first"),
        ("1s1s", "each unit once"),
        ("15 s", "say 250ms"),
        ("1w", "say 250ms"),
        ("١s", "say 250ms"),
        ("9" * 5_000 + "s", "say 250ms"),
        ("40000d", "say at most 36500d"),
    ],
)
def test_refuses_the_rest_and_names_the_cure(text: str, cure: str) -> None:
    with pytest.raises(InvalidDuration) as caught:
        parse_duration(text)
    assert cure in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 160
    assert isinstance(caught.value, ConfigError)


def test_formats_in_the_largest_units() -> None:
    assert format_duration(3_750) == "3s750ms"
    assert format_duration(0) == "0s"
    assert format_duration(86_400_000) == "1d"
    with pytest.raises(InvalidDuration, match="not negative"):
        format_duration(-1)


@given(st.integers(0, LONGEST_MS))
def test_format_and_parse_are_inverse(ms: int) -> None:
    assert parse_duration(format_duration(ms)) == ms


@given(st.lists(st.integers(0, 400), min_size=5, max_size=5))
def test_a_duration_is_the_sum_of_its_parts(counts: list[int]) -> None:
    text = "".join(f"{count}{unit}" for count, (unit, _) in zip(counts, UNITS, strict=True))
    assert parse_duration(text) == sum(count * ms for count, (_, ms) in zip(counts, UNITS, strict=True))


@given(st.text(max_size=20))
def test_any_text_is_read_or_refused_with_the_typed_error(text: str) -> None:
    with contextlib.suppress(InvalidDuration):
        assert parse_duration(text) >= 0
