"""What a session with PostgreSQL is told when it begins, whoever opens the archive."""

from typing import Any, Final

from sqlalchemy import Engine, event
from sqlalchemy.pool import ConnectionPoolEntry

PROGRAM: Final = "reclaimd"
"""What `pg_stat_activity` calls them."""
IDLE_MS: Final = 4_000
"""So long a transaction may wait for its client. A daemon that froze, or whose host is gone, keeps the rows that it has
locked no longer; whoever takes over from it waits six seconds anyway. The server does not see all: see `unblocking`."""
BACKEND: Final = "backend"
"""In the `info` of a connection: the process ID of its session, whatever pooler is between."""

_IF_KNOWN: Final = "FROM pg_settings WHERE name = 'plan_cache_mode'"
"""PostgreSQL 11 has no such setting."""


def arguments(connect: float, statement: float) -> dict[str, Any]:
    """For the driver. Both: seconds after which it gives up."""
    return {"timeout": connect, "command_timeout": statement, "server_settings": {"application_name": PROGRAM}}


def set_up_sessions(engine: Engine, *, writes: bool) -> None:
    """All that `engine` opens from now on. `writes`: it may lock rows that others wait for."""
    event.listen(engine, "connect", _plan_anew)
    if writes:
        event.listen(engine, "connect", _let_go_when_idle)
        event.listen(engine, "connect", _note_backend)


def _let_go_when_idle(connection: Any, _record: object) -> None:
    _set(connection, f"SET idle_in_transaction_session_timeout = {IDLE_MS}")


def _note_backend(connection: Any, record: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    cursor.execute("SELECT pg_backend_pid()")
    [record.info[BACKEND]] = cursor.fetchone()
    cursor.close()
    connection.commit()


def _plan_anew(connection: Any, _record: object) -> None:
    # A plan that was made for good while a table was empty looks through all of its rows for one, once it is not.
    _set(connection, f"SELECT set_config(name, 'force_custom_plan', false) {_IF_KNOWN}")


def _set(connection: Any, statement: str) -> None:
    # Not among the settings of the connection's start, of which a pooler before the server may refuse those it ignores.
    cursor = connection.cursor()
    cursor.execute(statement)
    cursor.close()
    connection.commit()
