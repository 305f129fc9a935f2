"""Log lines: for a person on a terminal, one JSON object a line elsewhere; never a password in them.

structlog rather than bare stdlib logging: events carry typed fields (task, worker, cause), which stdlib would flatten
into text. What libraries log through stdlib takes the same way out.
"""

import logging
import re
import sys
from collections.abc import Mapping
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from reclaimd.streams.addresses import MASK, redacted

_URL_WITH_USER = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]*@[^\s'\"<>]*")
_SECRET_NAME = re.compile(r"(?i)password|passwd|secret|authorization|bearer|api_?key|credential")
_THROUGH_US = ("uvicorn", "uvicorn.error", "uvicorn.access", "redis", "asyncio", "py.warnings")


def set_up(log_format: str, log_level: str, stream: TextIO | None = None) -> None:
    """Send every log line of this process to `stream` (standard error), replacing what was set up before.

    `log_format`: `console`, `json`, or `auto` (console when the stream is a terminal); `log_level`: `debug`, `info`,
    `warning` or `error`. Start uvicorn with `log_config=None`, or it installs handlers of its own.
    """
    sink = sys.stderr if stream is None else stream
    level = logging.getLevelNamesMapping()[log_level.upper()]
    console = log_format == "console" or (log_format == "auto" and sink.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
    ]
    handler = logging.StreamHandler(sink)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_rendering(console, colours=sink.isatty()),
            ],
        )
    )
    _route_stdlib(handler, level)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose methods take an event and fields: `log.info("task recovered", task=…, cause=…)`."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def hide_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Mask passwords in URLs anywhere in the event, and whole values whose name says that they are secret."""
    return {key: MASK if _SECRET_NAME.search(str(key)) else _clean(value) for key, value in event.items()}


def _clean(value: object) -> object:
    if isinstance(value, str):
        return _URL_WITH_USER.sub(lambda match: redacted(match[0]), value)
    if isinstance(value, Mapping):
        return {key: MASK if _SECRET_NAME.search(str(key)) else _clean(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(inner) for inner in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return _clean(str(value))


def _in_reading_order(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    first = ("timestamp", "level", "logger", "message")
    return {**{key: event[key] for key in first if key in event}, **event}


def _rendering(console: bool, *, colours: bool) -> list[Processor]:
    """Tracebacks become text before secrets are hidden; with local variables they would show what no pattern finds."""
    hidden: list[Processor] = [structlog.processors.format_exc_info, hide_secrets]
    if console:
        plain = structlog.dev.plain_traceback
        return [*hidden, structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=plain)]
    renamed = structlog.processors.EventRenamer("message")
    return [*hidden, renamed, _in_reading_order, structlog.processors.JSONRenderer()]


def _route_stdlib(handler: logging.Handler, level: int) -> None:
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(True)
    for name in _THROUGH_US:
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        library.setLevel(logging.NOTSET)
    # One line for each scrape would drown everything else.
    logging.getLogger("uvicorn.access").setLevel(level if level == logging.DEBUG else max(level, logging.WARNING))
