"""Messages end where they should, at every cut, in both protocols."""

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.resp import UnreadableError, arguments, message_end

SAMPLES = [
    b"+OK\r\n",
    b"-ERR no\r\n",
    b":12\r\n",
    b"$5\r\na\r\nbc\r\n",
    b"$0\r\n\r\n",
    b"$-1\r\n",
    b"*-1\r\n",
    b"*0\r\n",
    b"*2\r\n$1\r\na\r\n*1\r\n:1\r\n",
    b"%1\r\n+k\r\n*2\r\n:1\r\n:2\r\n",
    b"~1\r\n#t\r\n",
    b"_\r\n",
    b",1.5\r\n",
    b"=7\r\ntxt:abc\r\n",
    b">2\r\n+push\r\n:1\r\n",
    b"|1\r\n+ttl\r\n:9\r\n$1\r\nx\r\n",
]


@pytest.mark.parametrize("sample", SAMPLES)
def test_a_message_ends_at_its_end_and_nowhere_before(sample: bytes) -> None:
    assert message_end(sample + b":99\r\n") == len(sample)
    assert message_end(b":99\r\n" + sample, 5) == len(sample) + 5
    assert [message_end(sample[:cut]) for cut in range(len(sample))] == [None] * len(sample)


@given(st.lists(st.binary(max_size=30), min_size=1, max_size=5))
def test_requests_are_read_as_the_client_packs_them(words: list[bytes]) -> None:
    packed = hiredis.pack_command(tuple(words))  # type: ignore[arg-type]  # its stub knows one-word commands only
    assert message_end(packed) == len(packed)
    assert arguments(packed) == tuple(words)


@pytest.mark.parametrize("noise", [b"PING\r\n", b"*x\r\n", b"GET / HTTP/1.1\r\n"])
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(UnreadableError):
        message_end(noise)
