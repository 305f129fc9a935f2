"""What a daemon last found out about a source of schedules, as it stands in `{ns:schedules}:problems`."""

from collections.abc import Mapping

import msgspec

MOST_PROBLEMS = 1_000


class SourceProblem(msgspec.Struct, frozen=True):
    """Why a row of a source is not used. `row`: its place from 1, 0 for none; `name`: empty when it cannot be read."""

    row: int
    name: str
    field: str
    reason: str


class SourceReport(msgspec.Struct, frozen=True, kw_only=True):
    """One source after a poll. `at_ms`: wall ms of the poll; `failed`: why it gave nothing, empty if it did.

    The numbers are those of the last poll that did: `rows` read, `enabled` of them usable and to be fired. `held`: why
    schedules that are gone from the source were not removed. `problems`: the first 1,000 of `problem_count`.
    """

    v: int = 1
    source: str
    at_ms: int
    failed: str = ""
    rows: int = 0
    enabled: int = 0
    held: str = ""
    problem_count: int = 0
    problems: list[SourceProblem] = msgspec.field(default_factory=list)

    @property
    def troubles(self) -> int:
        """Problems of rows, and of the source as a whole."""
        return self.problem_count + bool(self.failed) + bool(self.held)


def decode_reports(fields: Mapping[bytes, bytes]) -> list[SourceReport]:
    """The hash as reports, by name; one that cannot be read says so."""
    return [_decode(name.decode(errors="replace"), raw) for name, raw in sorted(fields.items())]


def _decode(name: str, raw: bytes) -> SourceReport:
    try:
        return msgspec.json.decode(raw, type=SourceReport)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return SourceReport(
            source=name, at_ms=0, failed=f"its report cannot be read ({error}): a newer daemon wrote it"
        )
