"""Can this server be worked with: version, rights, and whether it takes writes."""

from reclaimd.streams.errors import RedisUnusable, Unusable
from reclaimd.streams.keys import queues_key
from reclaimd.streams.redis_log import AsyncClient

NEWEST_COMMAND = "XAUTOCLAIM"
# A deletion is allowed at maxmemory, and refused by a replica: it tells whether scripts may write, and changes nothing.
_WRITES = "redis.call('DEL', KEYS[1]) return 1"


async def check_server(client: AsyncClient, namespace: str) -> None:
    """Raises RedisUnusable or, like any use of a client, redis.RedisError; changes nothing.

    Forks and later versions are told by what they can do: Valkey says that it is Redis 7.2.4. Redis 6.2 brought
    XAUTOCLAIM.
    """
    # In one word: the client's reader of COMMAND INFO breaks on a command that does not exist.
    known = await client.execute_command("COMMAND INFO", NEWEST_COMMAND)  # type: ignore[no-untyped-call]
    if not known or not known[0]:
        raise RedisUnusable(Unusable.TOO_OLD, f"it has no {NEWEST_COMMAND}")
    await client.execute_command("EVAL", _WRITES, 1, f"{queues_key(namespace)}:probe")  # type: ignore[no-untyped-call]
