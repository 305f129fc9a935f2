"""`drill` on servers that hold other people's keys: they stay as they are, however the drill ends."""

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from support.cli import command, environment, reclaimd
from support.servers import FreshServer, Server
from support.waiting import wait_until

NAMESPACE = "prod"
PATTERN = f"~{{{NAMESPACE}-drill-*"
TIMEOUT = 150


def theirs(client: redis.Redis) -> dict[bytes, Any]:
    return {key: client.dump(key) for key in client.scan_iter()}


@pytest.fixture
def in_use(server: Server) -> Iterator[redis.Redis]:
    """A server with tasks of the real namespace, and keys that look almost like a drill's."""
    with server.client() as client:
        done = reclaimd("--redis-url", server.url, "--namespace", NAMESPACE, "enqueue", "send", "--queue", "mail")
        assert done.code == 0
        for name in (
            "plain",
            f"{{{NAMESPACE}-drill}}:queues",
            f"{{{NAMESPACE}-drill-00}}:queues",
            f"x{{{NAMESPACE}-drill-0:a:0}}:b",
        ):
            client.set(name, "theirs")
        client.execute_command("ACL", "SETUSER", "driller", "on", ">d", PATTERN, "+@all", "-@dangerous", "+scan")
        yield client
        client.execute_command("ACL", "DELUSER", "driller")


def drill_url(server: Server) -> str:
    return f"redis://driller:d@127.0.0.1:{server.port}/0"


def processes_of(namespace: str) -> list[int]:
    """Those that were started with this scratch namespace."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if (
                folder.name.isdigit()
                and f"RECLAIMD_NAMESPACE={namespace}".encode() in (folder / "environ").read_bytes()
            ):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("flush", [False, True], ids=["kill", "flush"])
@pytest.mark.flavours("valkey")
def test_a_drill_loses_nothing_and_touches_nothing_else(
    server: Server, in_use: redis.Redis, flush: bool, tmp_path: Path
) -> None:
    """As the user that its help asks for, who may reach no other key; the password is where it belongs."""
    before = theirs(in_use)
    (tmp_path / "password").write_text("d\n")
    where = ("--redis-url", f"redis://driller@127.0.0.1:{server.port}/0", "--namespace", NAMESPACE, "--json")
    secret = {"RECLAIMD_REDIS_PASSWORD_FILE": str(tmp_path / "password")}
    more = ["--flush"] if flush else []
    done = reclaimd(*where, "drill", "--tasks", "100", "--workers", "2", *more, timeout=TIMEOUT, env=secret)
    assert done.code == 0, done
    report = done.json
    assert (report["accepted"], report["settled"], report["lost"], report["broken"]) == (100, 100, 0, [])
    assert report["restart_to_rerun"] > 0
    if flush:
        assert report["tasks_restored"] > 0
        assert (report["schedules_restored"], report["settled_run_again"]) == (1, 0)
    assert theirs(in_use) == before
    assert processes_of(report["namespace"]) == []


@pytest.mark.flavours("valkey")
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_drill_that_is_ended_early_leaves_nothing(
    server: Server, in_use: redis.Redis, sign: signal.Signals, tmp_path: Path
) -> None:
    before = theirs(in_use)
    with (tmp_path / "out").open("wb") as out:
        drill = subprocess.Popen(
            command("--redis-url", drill_url(server), "--namespace", NAMESPACE, "drill", "--tasks", "20000"),
            stdout=out,
            stderr=out,
            env=environment(TMPDIR=str(tmp_path)),
            start_new_session=True,
        )
    try:
        wait_until(lambda: "beside the daemon" in told(tmp_path), "workers to be up", 90)
        namespace = re.findall(rf"{NAMESPACE}-drill-\w+", told(tmp_path))[0]
        assert len(processes_of(namespace)) >= 7, "a daemon, three supervisors and their children"
        drill.send_signal(sign)
        assert drill.wait(30) == (-9 if sign == signal.SIGKILL else 130), told(tmp_path)
    finally:
        drill.kill()
        drill.wait()
    if sign == signal.SIGKILL:
        wait_until(lambda: not processes_of(namespace), "everything to have died with the drill")
        return
    assert "Traceback" not in told(tmp_path)
    assert theirs(in_use) == before
    assert processes_of(namespace) == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def told(folder: Path) -> str:
    return (folder / "out").read_text()


@pytest.mark.flavours("valkey")
def test_a_drill_that_is_kept_can_be_looked_at(server: Server, in_use: redis.Redis, tmp_path: Path) -> None:
    """And what it did is a story of a loss and a rebuild, which `explain` tells from archive and stream."""
    args = ("--redis-url", server.url, "--namespace", NAMESPACE, "drill", "--tasks", "200", "--workers", "1")
    done = reclaimd(*args, "--flush", "--keep", timeout=TIMEOUT, env={"TMPDIR": str(tmp_path)})
    assert done.code == 0, done
    [kept] = re.findall(r"Kept: namespace (\S+), folder", done.out)
    assert in_use.exists(f"{{{kept}}}:queues")
    assert processes_of(kept) == []
    [folder] = tmp_path.iterdir()
    where = ("--redis-url", server.url, "--namespace", kept, "--archive-url", f"sqlite:///{folder}/archive.db")
    told = reclaimd(*where, "events", "tail", "--since", "1h", "--type", "Restored", "--json")
    rows = [row for line in told.out.splitlines() for row in json.loads(line)["tasks"]]
    assert rows, told
    begun = reclaimd(*where, "events", "tail", "--since", "1h", "--type", "Started", "--json")
    lives = [row["task_id"] for line in begun.out.splitlines() for row in json.loads(line)["tasks"]]
    # One that was in the middle when everything was killed.
    [task, *_] = [row["task_id"] for row in rows if lives.count(row["task_id"]) > 1]
    [life] = reclaimd(*where, "explain", task, "--json").json["lives"]
    assert [step["what"] for step in life["steps"]] == ["enqueued", "started", "restored", "started", "succeeded"]
    assert life["steps"][1]["token"] != life["steps"][3]["token"]


@pytest.mark.flavours("valkey")
def test_a_user_who_may_not_is_told_which_keys_it_takes(server: Server, in_use: redis.Redis) -> None:
    before = theirs(in_use)
    in_use.execute_command("ACL", "SETUSER", "poor", "on", ">p", "~other*", "+@all")  # type: ignore[no-untyped-call]
    url = f"redis://poor:p@127.0.0.1:{server.port}/0"
    done = reclaimd("--redis-url", url, "--namespace", NAMESPACE, "drill", "--json")
    assert done.code == 3
    assert PATTERN in done.json["cure"]
    assert theirs(in_use) == before
    in_use.execute_command("ACL", "DELUSER", "poor")  # type: ignore[no-untyped-call]


def test_tasks_that_somebody_deletes_are_found_missing(fresh_server: FreshServer, tmp_path: Path) -> None:
    """The drill can fail: the whole server is emptied behind its back, and there is no archive."""
    server = fresh_server()
    args = ("--redis-url", server.url, "--namespace", NAMESPACE, "drill", "--tasks", "2000", "--workers", "1")
    with (tmp_path / "out").open("wb") as out:
        drill = subprocess.Popen(command(*args), stdout=out, stderr=out, env=environment())
    try:
        wait_until(lambda: "beside the daemon" in told(tmp_path), "workers to be up", 90)
        with server.client() as client:
            for key in client.scan_iter(match="*lane:normal"):
                client.xtrim(key, maxlen=50, approximate=False)
        assert drill.wait(TIMEOUT) == 1, told(tmp_path)
    finally:
        drill.kill()
        drill.wait()
    assert "accepted tasks never ran to an end" in told(tmp_path)


def test_the_demo_keeps_its_promises_to_the_end() -> None:
    """Kill, freeze, restart, a dead daemon, and FLUSHALL."""
    done = reclaimd("demo", "--json", timeout=TIMEOUT)
    assert done.code == 0, done
    report = done.json
    assert (report["broken"], report["lost"], report["settled_run_again"]) == ([], 0, 0)
    assert report["settled"] == report["accepted"]
    assert report["tasks_restored"] > 0
    assert report["schedules_restored"] == 1
    assert report["flush_to_restored"] < 5
