"""The settings of one `[[source]]`, as a value. `daemon.config` fills it, nothing here reads anything."""

import re
from functools import cache
from typing import Annotated, Literal

import msgspec

from reclaimd.streams.addresses import database_url_problem, path_problem
from reclaimd.streams.errors import InvalidSetting
from reclaimd.streams.options import Option, boolean, choice, duration, options_of, text

SECTION = "source"
SECOND = 1_000
HOUR = 3_600 * SECOND


def _name_problem(name: str) -> str | None:
    return None if re.fullmatch(r"[A-Za-z0-9._-]{1,80}", name) else "expected 1 to 80 of A-Z a-z 0-9 . _ -"


def _document_problem(path: str) -> str | None:
    if path.endswith((".toml", ".yaml", ".yml")):
        return path_problem(path)
    return "expected a file whose name ends in .toml, .yaml or .yml"


class SourceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where schedules come from besides the clients: a file, or a query in a database. See docs/sources.md."""

    name: Annotated[
        str,
        text(
            "Who owns the schedules that come from here. Another name is another owner.",
            example="billing",
            when_unset="required",
            check=_name_problem,
        ),
    ]
    kind: Annotated[
        Literal["file", "sql"],
        choice("What it is: a file, or a query in a SQL database.", example="sql", when_unset="required"),
    ]
    path: (
        Annotated[
            str,
            text(
                "The file, in the form that `reclaimd schedules import` reads: .toml, .yaml or .yml.",
                example="/etc/reclaimd/schedules.toml",
                when_unset="required for a file",
                check=_document_problem,
            ),
        ]
        | None
    ) = None
    url: (
        Annotated[
            str,
            text(
                "The database: sqlite:///FILE, or postgresql://USER@HOST/NAME. Keep its password elsewhere.",
                example="postgresql://reader@localhost/app",
                when_unset="required for sql, unless there is url_file",
                check=database_url_problem,
                secret=True,
            ),
        ]
        | None
    ) = None
    url_file: (
        Annotated[
            str,
            text(
                "A file that holds that URL, password included; read anew at each poll.",
                example="/etc/reclaimd/billing_url",
                when_unset="the URL stands in url",
                check=path_problem,
            ),
        ]
        | None
    ) = None
    query: (
        Annotated[
            str,
            text(
                "The query: one row for each schedule, its columns named as the keys of a schedule.",
                example="SELECT * FROM schedules",
                when_unset="required for sql",
            ),
        ]
        | None
    ) = None
    queue: (
        Annotated[
            str,
            text("The queue of schedules that name none.", example="default", when_unset="each schedule names its own"),
        ]
        | None
    ) = None
    interval_ms: Annotated[int, duration("How often it is read.", least=SECOND, most=24 * HOUR)] = 30 * SECOND
    timeout_ms: Annotated[int, duration("How long reading it may take.", least=100, most=HOUR)] = 10 * SECOND
    allow_empty: Annotated[
        bool,
        boolean(
            "Whether a source that suddenly holds nothing at all means that all its schedules are to be removed. "
            "Otherwise that is a problem, and they stay."
        ),
    ] = False

    def __post_init__(self) -> None:
        for option in source_options().values():
            value = getattr(self, option.field)
            if value is not None or not option.when_unset:
                option.checked(value)
        needed, foreign = (("path",), ("url", "url_file", "query")) if self.kind == "file" else (("query",), ("path",))
        for field in foreign:
            if getattr(self, field) is not None:
                raise InvalidSetting(f"source.{field}", f"a source of kind {self.kind} has none: leave it out")
        for field in needed:
            if getattr(self, field) is None:
                raise InvalidSetting(f"source.{field}", f"a source of kind {self.kind} needs it")
        if self.kind == "sql" and (self.url is None) == (self.url_file is None):
            raise InvalidSetting("source.url", "a source of kind sql needs either url or url_file, and not both")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, kind={self.kind!r})"


@cache
def source_options() -> dict[str, Option]:
    """Every option of a source by its name, in the order in which people read them."""
    return {option.name: option for option in options_of(SourceSettings, SECTION)}
