import pytest
from hypothesis import given
from hypothesis import strategies as st

from reclaimd.streams.errors import ConfigError, InvalidSize
from reclaimd.streams.sizes import LARGEST, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0B", 0),
        ("12B", 12),
        ("2GiB", 2**31),
        ("500MiB", 500 * 2**20),
        ("10GB", 10**10),
        ("1 kib", 1024),
        ("3kB", 3000),
    ],
)
def test_reads_what_people_write(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("15", "say 15B"),
        ("1.5GiB", "say 500MiB, 2GiB"),
        ("", "say 500MiB"),
        ("2 gigs", "units: TiB"),
        ("9999TiB", "say at most 1024TiB"),
    ],
)
def test_says_what_to_write_instead(text: str, cure: str) -> None:
    with pytest.raises(InvalidSize) as caught:
        parse_size(text)
    assert cure in str(caught.value)
    assert isinstance(caught.value, ConfigError)


@given(st.integers(0, LARGEST))
def test_what_is_written_is_read_back(size: int) -> None:
    assert parse_size(format_size(size)) == size
