"""A real PostgreSQL for tests: on loopback, on a free port, in a folder of its own, never as root."""

import atexit
import functools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any, Final

from support.servers import ServerFailedError, free_port
from support.waiting import wait_until

OWNER: Final = "tester"
PASSWORD: Final = "p@ss/w0rd"
_PORT_ATTEMPTS: Final = 5


@functools.cache
def binaries() -> Path:
    """The folder of `postgres` and `initdb`. Raises ServerFailedError."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if found:
        return found[-1].parent
    on_path = shutil.which("postgres")
    if on_path is None:
        raise ServerFailedError("PostgreSQL is not installed: apt-get install postgresql")
    return Path(on_path).resolve().parent


class Postgres:
    """One server with one database, `postgres`. Stop, kill and start keep port and data."""

    def __init__(self) -> None:
        # Not below pytest's folder, which only its owner may enter.
        self.folder = Path(tempfile.mkdtemp(prefix="reclaimd-postgres-"))
        self._user = self._unprivileged()
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def url(self, user: str = OWNER, password: str = PASSWORD) -> str:
        """`postgresql://…`, the password percent-encoded."""
        quoted = password.replace("@", "%40").replace("/", "%2F")
        return f"postgresql://{user}:{quoted}@127.0.0.1:{self.port}/postgres"

    def create(self) -> "Postgres":
        """Make the data folder and start."""
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        if self._user is not None:
            for path in (self.folder, secret):
                os.chown(path, self._user.pw_uid, self._user.pw_gid)
        options = ["--auth=scram-sha-256", f"--pwfile={secret}", "--no-sync", "--encoding=UTF8", "--locale=C"]
        made = self._run("initdb", "-D", str(self.folder / "data"), "-U", OWNER, *options)
        if made.returncode != 0:
            raise ServerFailedError(f"initdb failed:\n{made.stderr}")
        return self.start()

    def start(self) -> "Postgres":
        """Start, and wait until it answers."""
        chosen = self.port
        for _ in range(_PORT_ATTEMPTS):
            self.port = chosen or free_port()
            self._spawn()
            wait_until(lambda: not self.running or self._answers(), "PostgreSQL to answer or to give up", 30)
            if self.running:
                return self
            if chosen or "Address already in use" not in self.log():
                break
        raise ServerFailedError(f"PostgreSQL did not start:\n{self.log()}")

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """End it at once, connections or not; what was committed is kept."""
        process, self._process = self._process, None
        atexit.unregister(self.stop)
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGQUIT)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)

    def remove(self) -> None:
        """Stop, and delete the folder."""
        self.stop()
        shutil.rmtree(self.folder)

    def sql(self, *statements: str) -> str:
        """Run statements as the owner; returns what psql prints. Raises ServerFailedError."""
        done = self._psql(*statements)
        if done.returncode != 0:
            raise ServerFailedError(done.stderr)
        return done.stdout

    def log(self) -> str:
        """What the server wrote."""
        path = self.folder / "server.log"
        return path.read_text(errors="replace") if path.exists() else "(no log)"

    def _psql(self, *statements: str) -> subprocess.CompletedProcess[str]:
        commands = [part for statement in statements for part in ("-c", statement)]
        return self._run("psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", self.url(), *commands)

    def _answers(self) -> bool:
        return self._psql("SELECT 1").returncode == 0

    def _spawn(self) -> None:
        command = [str(binaries() / "postgres"), "-D", str(self.folder / "data"), "-F", "-h", "127.0.0.1"]
        command += ["-p", str(self.port), "-c", "unix_socket_directories="]
        # The kernel sends the signal when the *thread* that started the program ends, hence only from the main one.
        if threading.current_thread() is threading.main_thread() and (setpriv := shutil.which("setpriv")):
            command = [setpriv, "--pdeathsig", "QUIT", "--", *command]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, **self._identity()
            )
        atexit.register(self.stop)

    def _run(self, program: str, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(binaries() / program), *args],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=self.folder,
            **self._identity(),
        )

    def _identity(self) -> dict[str, Any]:
        if self._user is None:
            return {}
        return {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}

    @staticmethod
    def _unprivileged() -> pwd.struct_passwd | None:
        """Whom to be: PostgreSQL refuses to run as root. Nobody else when we are not root ourselves."""
        if os.geteuid() != 0:
            return None
        try:
            return pwd.getpwnam("postgres")
        except KeyError:
            return pwd.getpwnam("nobody")
