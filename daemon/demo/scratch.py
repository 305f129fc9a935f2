"""The drill's namespace on somebody's own server: made, emptied and removed without touching any other key."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import redis

from reclaimd.daemon.demo.drill_tasks import effects_key
from reclaimd.streams.errors import ReclaimdError
from reclaimd.streams.redis_log import SyncClient, connect_sync, translated

_LONGEST_BASE = 48
_STEP = 1_000


class DrillForbidden(ReclaimdError):
    """The user of the URL may not do in the scratch namespace what a drill does. `pattern`: of its keys."""

    exit_code = 3

    def __init__(self, pattern: str, detail: str) -> None:
        super().__init__(pattern, detail)
        self.pattern = pattern
        self.detail = detail

    def __str__(self) -> str:
        return (
            f"this user may not run a drill ({' '.join(self.detail.split())}): give a user of its own the keys "
            f"~{self.pattern} with +@all -@dangerous +scan, and name it in --redis-url"
        )


class Scratch:
    """The namespace `<namespace>-drill-<random>` on the server at `url`."""

    def __init__(self, url: str, namespace: str) -> None:
        base = namespace[:_LONGEST_BASE]
        self.url = url
        self.namespace = f"{base}-drill-{secrets.token_hex(4)}"
        self.key_pattern = f"{{{base}-drill-*"
        self.client: SyncClient = connect_sync(url)

    def check(self) -> None:
        """Raise RedisUnreachable and the like, or DrillForbidden when the rights do not reach."""
        with translated(self.url):
            for command in self._rehearsal():
                try:
                    self.client.execute_command(*command)  # type: ignore[no-untyped-call]
                except redis.exceptions.NoPermissionError as error:
                    raise DrillForbidden(self.key_pattern, f"{command[0]}: {error}") from None

    def _rehearsal(self) -> Iterator[tuple[str | int, ...]]:
        """One command of each kind that producer, worker, daemon and drill send, on a key of its own."""
        key = f"{{{self.namespace}:rehearsal:0}}"
        yield "XADD", f"{key}:lane:normal", "*", "a", "b"
        yield "XGROUP", "CREATE", f"{key}:lane:normal", "workers", "0"
        yield "XREADGROUP", "GROUP", "workers", "w", "COUNT", 1, "STREAMS", f"{key}:lane:normal", ">"
        yield "EVAL", "return redis.call('HSET', KEYS[1], 'a', 'b')", 1, f"{key}:epoch"
        yield "LPUSH", f"{key}:bell", "1"
        yield "BLPOP", f"{key}:bell", 1
        yield "SADD", f"{{{self.namespace}}}:queues", "rehearsal"
        yield "XADD", effects_key(self.namespace), "*", "a", "b"
        yield "SCAN", 0, "MATCH", f"{key}:*", "COUNT", 1
        yield "UNLINK", f"{key}:lane:normal", f"{key}:epoch"
        yield "UNLINK", f"{{{self.namespace}}}:queues"
        yield "UNLINK", effects_key(self.namespace)

    def flush(self) -> int:
        """Delete everything but what the tasks wrote; returns the number of keys."""
        return self._delete("}:*") + self._delete(":*")

    def remove(self) -> int:
        """Delete everything; returns the number of keys."""
        with translated(self.url):
            return self.flush() + self.client.unlink(effects_key(self.namespace))

    def _delete(self, rest: str) -> int:
        """Keys that begin with the namespace's tag; it has no character that a pattern would take for another."""
        deleted = 0
        prefix = f"{{{self.namespace}{rest.removesuffix('*')}".encode()
        with translated(self.url):
            found = self.client.scan_iter(match=f"{{{self.namespace}{rest}", count=_STEP)
            # Belt and braces: a server that took the pattern otherwise must cost nobody a key.
            keys = [key for key in found if key.startswith(prefix)]
            for first in range(0, len(keys), _STEP):
                # One by one, because the keys of a namespace may be in several slots.
                pipeline = self.client.pipeline(transaction=False)
                for key in keys[first : first + _STEP]:
                    pipeline.unlink(key)
                deleted += sum(pipeline.execute())
        return deleted

    def close(self) -> None:
        """Close the connection."""
        self.client.close()
