"""Counts the commands that clients send, by namespace, without those that run inside scripts."""

from __future__ import annotations

import re
import socket
import threading
from collections import Counter, defaultdict
from types import TracebackType
from typing import Self

# +1700000000.123456 [0 127.0.0.1:5000] "EVALSHA" …; a script's own commands have `lua` in place of the address.
_LINE = re.compile(rb"^\+\d+\.\d+ \[\d+ (\S+)\] \"([^\"]*)\"(.*)$")
_NAMESPACE = re.compile(rb"\{(b[0-9a-f]{8})[:}]")


class Monitor:
    """MONITOR on a connection of its own. A client belongs to the first namespace that it names."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._socket.sendall(b"MONITOR\r\n")
        self._reader = self._socket.makefile("rb")
        if self._reader.readline() != b"+OK\r\n":
            raise AssertionError("the server refuses MONITOR")
        self._socket.settimeout(None)
        self._lock = threading.Lock()
        self._commands: dict[bytes, Counter[str]] = defaultdict(Counter)
        self._homes: dict[bytes, str] = {}
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._socket.close()

    def _read(self) -> None:
        for line in self._reader:
            found = _LINE.match(line.rstrip())
            if found is None or found[1] == b"lua":
                continue
            with self._lock:
                self._commands[found[1]][found[2].decode().upper()] += 1
                if found[1] not in self._homes and (home := _NAMESPACE.search(found[3])):
                    self._homes[found[1]] = home[1].decode()

    def take(self) -> dict[str, Counter[str]]:
        """Commands by namespace since the last call; under "" those of clients that named none."""
        with self._lock:
            commands, self._commands = self._commands, defaultdict(Counter)
            homes = dict(self._homes)
        totals: dict[str, Counter[str]] = defaultdict(Counter)
        for client, counts in commands.items():
            totals[homes.get(client, "")].update(counts)
        return totals
