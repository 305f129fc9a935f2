"""A lock file proves a death only on the same file, the same boot and a local file system."""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reclaimd.streams.errors import ConfigError
from reclaimd.streams.worker import locks
from reclaimd.streams.worker.locks import LockFile, LockHeld, is_local, lock_path, read_holder, state_folder
from support.waiting import wait_until


def held(path: Path, nonce: str = "n1") -> LockFile:
    lock = LockFile.acquire(path)
    lock.write(worker="w", nonce=nonce, namespace="ns", queues=["mail"])
    return lock


def previous_nonce(path: Path) -> str | None:
    lock = LockFile.acquire(path)
    lock.close()
    return lock.previous.nonce if lock.previous is not None else None


def test_nobody_is_proven_dead_by_a_new_file(tmp_path: Path) -> None:
    assert previous_nonce(tmp_path / "deep" / "w.lock") is None


def test_whoever_gets_the_lock_knows_who_died(tmp_path: Path) -> None:
    path = lock_path(tmp_path, "ns", "w")
    held(path).close()
    assert previous_nonce(path) == "n1"
    holder = read_holder(path)
    assert holder is not None
    assert (holder.worker, holder.namespace, holder.queues) == ("w", "ns", ["mail"])


def test_those_who_never_joined_pass_on_whom_they_proved_dead(tmp_path: Path) -> None:
    """Redis heard of none of their deaths: whoever joins at last has to name them all."""
    path = tmp_path / "w.lock"
    held(path, "n0").close()
    for number in range(1, 4):
        lock = LockFile.acquire(path)
        lock.write(worker="w", nonce=f"n{number}", namespace="ns", queues=["mail"], before=lock.proven_dead("w"))
        lock.close()
    lock = LockFile.acquire(path)
    assert lock.proven_dead("w") == ["n3", "n2", "n1", "n0"]
    assert lock.proven_dead("another") == []
    lock.write(worker="w", nonce="n4", namespace="ns", queues=["mail"], before=lock.proven_dead("w"))
    lock.joined("another nonce")
    lock.close()
    lock = LockFile.acquire(path)
    assert len(lock.proven_dead("w")) == 5
    lock.write(worker="w", nonce="n5", namespace="ns", queues=["mail"], before=lock.proven_dead("w"))
    lock.joined("n5")
    lock.close()
    lock = LockFile.acquire(path)
    assert lock.proven_dead("w") == ["n5"]
    lock.close()


def test_a_held_lock_is_refused_and_still_readable(tmp_path: Path) -> None:
    path = tmp_path / "w.lock"
    lock = held(path)
    with pytest.raises(LockHeld, match="locked by another process"):
        LockFile.acquire(path)
    holder = read_holder(path)
    assert holder is not None
    assert holder.nonce == "n1"
    lock.close()


def test_a_longer_line_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "w.lock"
    held(path, "n" * 400).close()
    held(path, "short").close()
    assert previous_nonce(path) == "short"
    assert path.read_bytes().count(b"\n") == 1


def test_a_copied_file_proves_nothing(tmp_path: Path) -> None:
    original, copy = tmp_path / "w.lock", tmp_path / "copy" / "w.lock"
    held(original).close()
    copy.parent.mkdir()
    shutil.copy2(original, copy)
    assert previous_nonce(copy) is None


def test_a_restored_file_says_nothing_about_whoever_still_holds_the_old_one(tmp_path: Path) -> None:
    """The inode of an open file is not used again: a restored one has another while its writer lives."""
    path, backup = tmp_path / "w.lock", tmp_path / "backup"
    lock = held(path)
    shutil.copy2(path, backup)
    path.unlink()
    shutil.copy2(backup, path)
    assert previous_nonce(path) is None
    lock.close()


def test_another_boot_proves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.lock"
    held(path).close()
    monkeypatch.setattr(locks, "boot_id", lambda: "another boot")
    assert previous_nonce(path) is None


def test_a_network_file_system_proves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.lock"
    held(path).close()
    monkeypatch.setattr(locks, "is_local", lambda path: False)
    assert previous_nonce(path) is None


@pytest.mark.parametrize("content", [b"", b"\n", b"{", b"[]", b'{"worker":1}', b"\xff\xfe"])
def test_a_spoilt_file_proves_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.lock"
    path.write_bytes(content)
    assert previous_nonce(path) is None
    assert read_holder(path) is None


def test_a_file_that_is_replaced_while_it_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock of an unlinked file excludes nobody: it must be taken again, on the file that is there now."""
    path = tmp_path / "w.lock"
    replaced: list[int] = []
    flock = fcntl.flock

    def replace_first(fd: int, how: int) -> None:
        flock(fd, how)
        if not replaced:
            replaced.append(fd)
            path.unlink()
            path.touch()

    monkeypatch.setattr(fcntl, "flock", replace_first)
    lock = LockFile.acquire(path)
    stat = path.stat()
    assert lock.file == f"{stat.st_dev}:{stat.st_ino}"
    lock.close()


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"worker\.state_dir"):
        LockFile.acquire(tmp_path / "file" / "w.lock")


HOLD = """
import sys
from pathlib import Path
from reclaimd.streams.worker.locks import LockFile
lock = LockFile.acquire(Path(sys.argv[1]))
lock.write(worker="w", nonce="theirs", namespace="ns", queues=["mail"])
print("held", flush=True)
sys.stdin.read()
"""


def test_two_processes(tmp_path: Path) -> None:
    path = tmp_path / "w.lock"
    command = [sys.executable, "-P", "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(LockHeld):
            LockFile.acquire(path)
        other.kill()
        other.wait(10)
    assert previous_nonce(path) == "theirs"


def test_a_child_that_was_forked_keeps_the_lock(tmp_path: Path) -> None:
    """Its parent's death proves nothing while it may still run the parent's handlers."""
    path = tmp_path / "w.lock"
    fork = HOLD.replace("print(", "import os\nif os.fork() == 0:\n    sys.stdin.read()\n    os._exit(0)\nprint(")
    command = [sys.executable, "-P", "-c", fork, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        other.kill()
        other.wait(10)
        with pytest.raises(LockHeld):
            LockFile.acquire(path)

    def is_free() -> bool:
        try:
            LockFile.acquire(path).close()
        except LockHeld:
            return False
        return True

    wait_until(is_free, "the forked child to end and free the lock")


def test_a_program_that_was_started_does_not_inherit_the_lock(tmp_path: Path) -> None:
    lock = held(tmp_path / "w.lock")
    with subprocess.Popen(["sleep", "60"], close_fds=False) as other:
        lock.close()
        assert previous_nonce(tmp_path / "w.lock") == "n1"
        other.kill()


def test_where_lock_files_live(monkeypatch: pytest.MonkeyPatch) -> None:
    systemd = {"STATE_DIRECTORY": "/var/lib/a:/var/lib/b", "XDG_STATE_HOME": "/x"}
    assert state_folder("/set", systemd) == Path("/set")
    assert state_folder(None, systemd) == Path("/var/lib/a")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert state_folder(None, {"XDG_STATE_HOME": "/x"}) == Path("/var/lib/reclaimd")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert state_folder(None, {"XDG_STATE_HOME": "/x"}) == Path("/x/reclaimd")


def test_the_longest_mount_decides_what_is_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mounts(*rows: tuple[str, str]) -> None:
        text = "".join(f"1 2 3:4 / {where} rw - {kind} source rw\n" for where, kind in rows)
        monkeypatch.setattr(Path, "read_text", lambda self, *a, **k: text)

    path = Path("/srv/share/state/w.lock")
    mounts(("/", "ext4"), ("/srv/share", "nfs4"))
    assert not is_local(path)
    mounts(("/", "nfs"), ("/srv/share/state", "xfs"))
    assert is_local(path)
    mounts(("/", "ext4"), ("/srv/sha", "nfs"))
    assert is_local(path)
    mounts(("/", "ext4"), ("/srv", "fuse.sshfs"))
    assert not is_local(path)
