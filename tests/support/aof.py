"""Repairs an append-only file as `redis-check-aof --fix` does: an unfinished transaction at its end is cut off.

Redis 6.2 and 7.0, killed in the middle of a write, cut off no more than the command that they were writing (Valkey 9.1
does better). The MULTI of the script that was running then stays without its EXEC, takes in what the restarted server
writes next, and at the *second* restart the first half of that script comes true.
"""

from pathlib import Path


def cut_unfinished(folder: Path) -> int:
    """Repairs the newest file in a server's folder; returns how many bytes it cut off. The server must not run."""
    files = sorted(folder.glob("appendonlydir/*.incr.aof"), key=_number) or list(folder.glob("appendonly.aof"))
    if not files:
        return 0
    data = files[-1].read_bytes()
    whole = _whole_until(data)
    if whole < len(data):
        with files[-1].open("r+b") as file:
            file.truncate(whole)
    return len(data) - whole


def _number(path: Path) -> int:
    return int(path.name.split(".")[-3])


def _whole_until(data: bytes) -> int:
    """Where the last command ends that is complete and in no open transaction."""
    at = whole = 0
    open_since: int | None = None
    while at < len(data):
        end, name = _command(data, at)
        if end is None:
            break
        if name == b"MULTI":
            open_since = at
        elif name == b"EXEC":
            open_since = None
        at = end
        whole = at if open_since is None else open_since
    return whole


def _command(data: bytes, at: int) -> tuple[int | None, bytes]:
    """The end and the upper-case name of the command that begins at `at`; None when it is incomplete."""
    count, at = _header(data, at, b"*")
    name = b""
    for position in range(count if at else 0):
        size, at = _header(data, at, b"$")
        if not at or at + size + 2 > len(data):
            return None, b""
        name = data[at : at + size].upper() if position == 0 else name
        at += size + 2
    return at or None, name


def _header(data: bytes, at: int, sign: bytes) -> tuple[int, int]:
    """The number in a line such as `*3`, and where the next line begins; 0 and 0 when the line is incomplete."""
    end = data.find(b"\r\n", at)
    if end < 0:
        return 0, 0
    assert data[at : at + 1] == sign, f"not a command at {at}: {data[at : at + 40]!r}"
    return int(data[at + 1 : end]), end + 2
