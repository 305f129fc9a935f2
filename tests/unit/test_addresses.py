import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from redis.connection import parse_url

from reclaimd.streams.addresses import MASK, has_password, parse_listen, redacted, url_problem, with_password

passwords = st.text(st.characters(exclude_categories=["Cs"]), min_size=6, max_size=30)
urls = st.sampled_from(
    ["redis://h:6379/0", "rediss://user@h", "redis://user:old@[::1]:6379/1?db=2", "unix:///run/r.sock", "redis://"]
)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://[::1]:6379", "redis://[::1]:6379"),
        ("redis://[::1]", "redis://[::1]"),
        ("redis://:hunter2@h:1/0", "redis://:***@h:1/0"),
        ("redis://user:hunter2@h", "redis://user:***@h"),
        ("redis://hunter2@h", "redis://***@h"),
        ("redis://:hun/t?er#2@h", "redis://:***@h"),
        ("redis://:hun@ter2@h", "redis://:***@h"),
        ("user:hunter2@h", "user:***@h"),
        ("redis://:hunter2", "redis://:***"),
        ("redis://user:hunter2/0", "redis://user:***/0"),
        ("unix:///run/r.sock?password=hunter2&db=1", "unix:///run/r.sock?password=***&db=1"),
        ("redis://h?ssl_password=hunter2", "redis://h?ssl_password=***"),
        ("", ""),
    ],
)
def test_shows_everything_but_the_password(url: str, shown: str) -> None:
    assert redacted(url) == shown


@given(urls, passwords)
def test_no_password_is_shown_whether_encoded_or_not(url: str, password: str) -> None:
    assume(password not in url and "***" not in password)
    assert password not in redacted(with_password(url, password))
    assert password not in redacted(f"redis://user:{password}@h:6379/0").replace("@h:6379/0", "")


def read_by_the_client(url: str) -> dict[str, object]:
    return dict(parse_url(url))  # type: ignore[no-untyped-call]


@given(urls, passwords)
def test_the_client_reads_the_very_password_that_was_put_in(url: str, password: str) -> None:
    joined = with_password(url, password)
    assert url_problem(joined) is None
    assert has_password(joined)
    assert read_by_the_client(joined)["password"] == password
    without = {key: value for key, value in read_by_the_client(url).items() if key != "password"}
    assert {key: value for key, value in read_by_the_client(joined).items() if key != "password"} == without


@given(st.text(max_size=40))
def test_any_text_can_be_redacted_and_judged(text: str) -> None:
    redacted(text)
    url_problem(text)


def test_has_password_looks_at_both_places() -> None:
    assert has_password("redis://:x@h")
    assert has_password("unix:///s?db=1&password=x")
    assert not has_password("redis://user@h")
    assert not has_password("redis://h?ssl_password=x")


@pytest.mark.parametrize(
    "url",
    ["localhost", "http://h", "redis:/h", "redis://h:port", "redis://h:70000", "redis://h/name", "unix://", "redis://h/0#1",
     "redis://:hun/ter2@h:1/0", "redis://h:0", "redis://[::1"],
)  # fmt: skip
def test_a_wrong_url_is_explained_without_its_password(url: str) -> None:
    problem = url_problem(url)
    assert problem is not None
    assert "say redis://host:6379/0" in problem
    assert "ter2" not in problem


@pytest.mark.parametrize(
    "url", ["redis://h", "rediss://h:6380/15", "unix:///run/redis.sock?db=3", "redis://", "redis://u:p%2F@[::1]:1/0"]
)
def test_a_right_url_passes(url: str) -> None:
    assert url_problem(url) is None


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("127.0.0.1:9417", ("127.0.0.1", 9417)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:80", ("localhost", 80)),
    ],
)
def test_a_listening_address_is_host_and_port(text: str, parts: tuple[str, int]) -> None:
    assert parse_listen(text) == parts


@pytest.mark.parametrize(
    "text", ["", "9417", ":9417", "h:", "h:x", "h:65536", "::1:80", "[h]:1", "a b:1", "[]:1", "u@h:1"]
)
def test_another_listening_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="say "):
        parse_listen(text)


def test_the_mask_is_what_people_expect() -> None:
    assert MASK == "***"
