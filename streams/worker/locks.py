"""Host-local lock files: who held a worker ID last, and the kernel's word that this process is gone.

flock is released by the kernel when the last process holding the descriptor dies, so a lock that can be taken proves
the death of whoever wrote the file, if it is the same file (device and inode), on the same boot, on a local file
system. A copy of the file, a reboot or NFS prove nothing; then only the end of the lease does.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import msgspec

from reclaimd.streams.errors import ConfigError, ReclaimdError

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_REMEMBERED = 8
_REMOTE = ("nfs", "cifs", "smb", "9p", "ceph", "gluster", "lustre", "afs", "fuse.")


class LockHeld(ReclaimdError):
    """Another live process on this host holds the lock."""


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """What a lock file says. `file`: `device:inode` of the file it was written to.

    `before`: nonces of earlier holders whose end Redis may not have heard of, since none after them has joined.
    """

    worker: str
    nonce: str
    boot_id: str
    file: str
    namespace: str
    queues: list[str]
    before: list[str] = []


def boot_id() -> str:
    """This boot of the kernel; containers of one host share it."""
    return BOOT_ID.read_text("ascii").strip()


def state_folder(setting: str | None, environ: dict[str, str]) -> Path:
    """Where lock files live: the setting, else systemd's STATE_DIRECTORY, else the user's state folder."""
    if setting:
        return Path(setting)
    if environ.get("STATE_DIRECTORY"):
        return Path(environ["STATE_DIRECTORY"].split(":")[0])
    if os.geteuid() == 0:
        return Path("/var/lib/reclaimd")
    base = environ.get("XDG_STATE_HOME") or str(Path("~/.local/state").expanduser())
    return Path(base, "reclaimd")


def is_local(path: Path) -> bool:
    """Whether flock there is the kernel's own: the longest mount point above `path` is not a network file system."""
    target = str(path.resolve())
    best, kind = "", ""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        mount = left.split()[4]
        inside = target == mount or target.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, right.split()[0]
    return not kind.startswith(_REMOTE)


class LockFile:
    """An open, locked file. `previous`: what its last holder wrote, when that proves its death; else None."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        stat = os.fstat(fd)
        self.file = f"{stat.st_dev}:{stat.st_ino}"
        self.previous = self._read_previous()

    @classmethod
    def acquire(cls, path: Path) -> Self:
        """Lock `path`, made if needed. Raises LockHeld, or ConfigError when the folder cannot be used."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
            while True:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(fd)
                    raise LockHeld(f"{path} is locked by another process on this host") from None
                if _is_same_file(fd, path):
                    return cls(path, fd)
                os.close(fd)
        except OSError as error:
            raise ConfigError(
                f"cannot use the lock file {path} ({error.strerror}): "
                "set worker.state_dir to a folder that this user may write"
            ) from error

    def _read_previous(self) -> Holder | None:
        line = os.pread(self._fd, 65536, 0).partition(b"\n")[0]
        try:
            holder = msgspec.json.decode(line, type=Holder)
        except msgspec.MsgspecError:
            return None
        proves = holder.boot_id == boot_id() and holder.file == self.file and is_local(self.path)
        return holder if proves else None

    def proven_dead(self, worker: str) -> list[str]:
        """Nonces of this worker ID whose processes are gone, the last holder's first; none when nothing is proven."""
        if self.previous is None or self.previous.worker != worker:
            return []
        return [self.previous.nonce, *self.previous.before]

    def write(self, *, worker: str, nonce: str, namespace: str, queues: list[str], before: Sequence[str] = ()) -> None:
        """Say who holds it now: before the nonce is first sent, so that whoever finds the lock free knows it."""
        self._write(
            Holder(
                worker=worker,
                nonce=nonce,
                boot_id=boot_id(),
                file=self.file,
                namespace=namespace,
                queues=queues,
                before=list(before[:_REMEMBERED]),
            )
        )

    def joined(self, nonce: str) -> None:
        """The holder has joined everywhere: whoever was before it is fenced."""
        holder = read_holder(self.path)
        if holder is not None and holder.nonce == nonce:
            self._write(msgspec.structs.replace(holder, before=[]))

    def _write(self, holder: Holder) -> None:
        line = msgspec.json.encode(holder) + b"\n"
        os.pwrite(self._fd, line, 0)
        os.ftruncate(self._fd, len(line))

    def close(self) -> None:
        """Unlock. The file stays: its content is the proof."""
        os.close(self._fd)


def _is_same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def lock_path(folder: Path, namespace: str, worker: str) -> Path:
    """The lock file of one worker ID."""
    return folder / f"{namespace}.{worker}.lock"


def read_holder(path: Path) -> Holder | None:
    """What a lock file says, whether or not somebody holds it; proves nothing by itself."""
    try:
        return msgspec.json.decode(path.read_bytes().partition(b"\n")[0], type=Holder)
    except (OSError, msgspec.MsgspecError):
        return None
