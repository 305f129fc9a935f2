import io
import json
import logging
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from reclaimd.streams import logs as log


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    for name in ("uvicorn.access", "uvicorn.error", "uvicorn", "redis"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_lines_carry_time_level_logger_and_fields() -> None:
    stream = io.StringIO()
    log.set_up("auto", "info", stream)
    log.get_logger("reclaimd.loops").info("task recovered", task="t-1", attempt=2, path=PurePosixPath("/a"))
    (line,) = lines(stream)
    assert list(line)[:4] == ["timestamp", "level", "logger", "message"]
    assert datetime.fromisoformat(line["timestamp"]).tzinfo == UTC
    assert line["timestamp"].endswith("Z")
    assert (line["level"], line["logger"], line["message"]) == ("info", "reclaimd.loops", "task recovered")
    assert (line["task"], line["attempt"], line["path"]) == ("t-1", 2, "/a")


@pytest.mark.parametrize(("log_format", "stream"), [("auto", Terminal()), ("console", io.StringIO())])
def test_a_person_gets_key_value_lines(log_format: str, stream: io.StringIO) -> None:
    log.set_up(log_format, "info", stream)
    log.get_logger("x").info("task recovered", task="t-1")
    text = stream.getvalue()
    assert not text.startswith("{")
    assert "task recovered" in text
    assert "t-1" in text
    assert ("\x1b[" in text) is isinstance(stream, Terminal)


def test_json_can_be_asked_for_on_a_terminal() -> None:
    stream = Terminal()
    log.set_up("json", "info", stream)
    log.get_logger("x").info("a")
    assert lines(stream)[0]["message"] == "a"


def test_the_level_holds_for_us_and_for_libraries() -> None:
    stream = io.StringIO()
    log.set_up("json", "warning", stream)
    log.get_logger("x").info("no")
    logging.getLogger("redis").info("no")
    log.get_logger("x").warning("yes")
    logging.getLogger("redis").warning("yes %d", 1)
    assert [line["message"] for line in lines(stream)] == ["yes", "yes 1"]


def test_setting_up_again_replaces_the_sink() -> None:
    first, second = io.StringIO(), io.StringIO()
    log.set_up("json", "info", first)
    logger = log.get_logger("x")
    log.set_up("json", "info", second)
    logger.info("once")
    assert first.getvalue() == ""
    assert len(lines(second)) == 1


def test_uvicorn_and_warnings_take_the_same_way_and_scrapes_stay_silent() -> None:
    stream = io.StringIO()
    own = logging.StreamHandler(io.StringIO())
    logging.getLogger("uvicorn").addHandler(own)
    log.set_up("json", "info", stream)
    logging.getLogger("uvicorn.error").info("Started server process [%d]", 7)
    logging.getLogger("uvicorn.access").info("GET /metrics")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old call", stacklevel=1)
    assert [line["logger"] for line in lines(stream)] == ["uvicorn.error", "py.warnings"]
    assert lines(stream)[0]["message"] == "Started server process [7]"
    assert own not in logging.getLogger("uvicorn").handlers


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_password_reaches_the_log(log_format: str) -> None:
    stream = io.StringIO()
    log.set_up(log_format, "info", stream)
    logger = log.get_logger("x")
    url = "redis://user:hunter2@h:6379/0"
    logger.info("connecting to %s", url)
    logger.info(
        "connecting", url=url, all=[url, {"redis_password": "hunter2"}], nested={"u": (url,)}, password="hunter2"
    )
    logger.info("failed", error=OSError(f"cannot reach {url}"))
    logging.getLogger("redis").info("connecting to %s", url, extra={"authorization": "hunter2"})
    for any_logger in (logger, logging.getLogger("redis")):
        try:
            raise ValueError(url)
        except ValueError:
            any_logger.exception("failed")
    text = stream.getvalue()
    assert "hunter2" not in text
    assert "redis://user:***@h:6379/0" in text
    assert "ValueError" in text


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(), lambda inner:
    st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner), max_leaves=8))  # fmt: skip
def test_any_value_can_be_logged_on_one_line(value: object) -> None:
    stream = io.StringIO()
    log.set_up("json", "info", stream)
    log.get_logger("x").info("any", value=value)
    assert stream.getvalue().count("\n") == 1
    assert lines(stream)[0]["message"] == "any"
