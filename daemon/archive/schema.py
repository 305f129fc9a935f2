"""The tables of an archive. A change of them is a step in `migrations`; this file shows the newest form."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
)

PREFIX: Final = "reclaimd_"

metadata = MetaData()

# Compared byte by byte everywhere: PostgreSQL's own collations know words, SQLite's does not.
_Name = Text().with_variant(Text(collation="C"), "postgresql")
# SQLite makes numbers for a column that is an INTEGER and nothing else.
_Number = BigInteger().with_variant(Integer(), "sqlite")

meta = Table(
    PREFIX + "meta",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

partitions = Table(
    PREFIX + "partitions",
    metadata,
    Column("id", _Number, primary_key=True, autoincrement=True),
    Column("namespace", _Name, nullable=False),
    Column("queue", _Name, nullable=False),
    Column("number", Integer, nullable=False),
    Column("epoch_id", Text, nullable=False, server_default=""),
    Column("mark", Text, nullable=False, server_default=""),
    Column("positions", Text, nullable=False, server_default="{}"),
    Column("paused", Boolean, nullable=False, server_default="0"),
    Column("counters", Text, nullable=False, server_default="{}"),
    Column("owner", Text, nullable=False, server_default=""),
    Column("beat", BigInteger, nullable=False, server_default="0"),
    Column("state", Text, nullable=False, server_default="archiving"),
    Column("verdict", Text, nullable=False, server_default=""),
    Column("rebuild_id", Text, nullable=False, server_default=""),
    Column("new_epoch_id", Text, nullable=False, server_default=""),
    Column("events_bytes", BigInteger, nullable=False, server_default="0"),
    UniqueConstraint("namespace", "queue", "number"),
)


def _of_partition() -> Column[int]:
    # No foreign key: a third of what PostgreSQL spends on a new row would be looking for its partition, which every
    # writer has locked already, and which nobody deletes.
    return Column("partition_id", _Number, primary_key=True, autoincrement=False)


tasks = Table(
    PREFIX + "tasks",
    metadata,
    _of_partition(),
    Column("task_id", _Name, primary_key=True),
    Column("letter", _Name, primary_key=True),
    Column("rank", SmallInteger, nullable=False),
    Column("sort", _Name, nullable=False),
    Column("place", Text, nullable=False),
    Column("entry_id", Text, nullable=False),
    Column("lane", Text, nullable=False),
    Column("due", BigInteger, nullable=False),
    Column("schedule", Text, nullable=False),
    Column("unique", Text, nullable=False),
    Column("token", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    Index(PREFIX + "tasks_in_order", "partition_id", "rank", "sort", "task_id"),
)

fired = Table(
    PREFIX + "fired",
    metadata,
    _of_partition(),
    Column("schedule", _Name, primary_key=True),
    Column("generation", Text, nullable=False),
    Column("last", BigInteger, nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("open", Text, nullable=False),
    Column("queued", Text, nullable=False),
)

events = Table(
    PREFIX + "events",
    metadata,
    _of_partition(),
    # As `sort_of_entry` writes it.
    Column("entry", _Name, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("e", LargeBinary, nullable=False),
)

rebuilds = Table(
    PREFIX + "rebuilds",
    metadata,
    Column("id", Text, primary_key=True),
    Column("namespace", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("begun_ms", BigInteger, nullable=False),
    Column("ended_ms", BigInteger, nullable=False, server_default="0"),
    Column("report", LargeBinary, nullable=False),
)

schedule_log = Table(
    PREFIX + "schedule_log",
    metadata,
    _of_partition(),
    Column("entry", _Name, primary_key=True),
    Column("e", LargeBinary, nullable=False),
)

schedule_snapshots = Table(
    PREFIX + "schedule_snapshots",
    metadata,
    _of_partition(),
    # `n` counts the entries of the snapshot that covers the log up to and with `covers`; `fields` is one of them.
    Column("covers", _Name, primary_key=True),
    Column("n", Integer, primary_key=True, autoincrement=False),
    Column("fields", LargeBinary, nullable=False),
)
