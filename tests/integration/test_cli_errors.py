"""What the program says and returns when something is wrong: one line that says what to do, and the right code."""

import os
import pty
import signal
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from support import cli
from support.cli import Done, Scene, command, environment
from support.servers import Server, free_port
from support.waiting import wait_until

pytestmark = pytest.mark.flavours("valkey")

# What goes wrong before a command is found, or while it imports, is seen only where nothing is imported yet.
reclaimd = partial(cli.reclaimd, anew=True)


def complaint(done: Done, code: int) -> str:
    """The one line on standard error, of a run that printed the same as JSON."""
    assert done.code == code, done.err
    assert done.err.startswith("reclaimd: ")
    assert done.err.count("\n") == 1
    assert set(done.json) == {"error", "cure"}
    assert done.json["cure"] in done.err
    assert done.json["error"] in done.err
    return done.err


def test_version_needs_no_redis_and_no_valid_settings() -> None:
    done = reclaimd("version", "--json", env={"RECLAIMD_REDIS_URL": "nonsense"})
    assert (done.code, done.err, list(done.json)) == (0, "", ["version"])
    assert reclaimd("--version").out == f"reclaimd {done.json['version']}\n"


@pytest.mark.parametrize(
    ("args", "cure"),
    [
        (["stat"], "Did you mean 'status'?"),
        (["status", "--nope"], "see reclaimd status --help"),
        (["explain"], "Missing argument 'TASK_ID'"),
        (["tasks", "list", "--state", "odd"], "say --state waiting, active, delayed, dead"),
        (["worker", "no-app"], "say MODULE:APP"),
        (["serve", "--listen", "nowhere"], "say 127.0.0.1:9417"),
    ],
)
def test_usage(args: list[str], cure: str) -> None:
    assert cure in complaint(reclaimd("--redis-url", "redis://127.0.0.1:1/0", *args, "--json"), 2)


def test_a_wrong_setting_is_usage(tmp_path: Path) -> None:
    assert "RECLAIMD_NAMESPASE" in complaint(reclaimd("status", "--json", env={"RECLAIMD_NAMESPASE": "x"}), 2)
    config = tmp_path / "reclaimd.toml"
    config.write_text('[worker]\nlease = "100ms"\n')
    assert f"{config}, line 2" in complaint(reclaimd("status", "--config", str(config), "--json"), 2)


def test_flags_win_wherever_they_stand(scene: Scene) -> None:
    wrong = {"RECLAIMD_REDIS_URL": "redis://127.0.0.1:1/0", "RECLAIMD_NAMESPACE": "wrong"}
    right = ["--redis-url", scene.url, "--namespace", scene.namespace, "--json"]
    for args in (["status", *right], [*right, "status"], [*right, "queues", "list"], ["queues", *right, "list"]):
        done = reclaimd(*args, env=wrong)
        assert done.code == 0, done.err
        assert "mail" in done.out


def test_no_server() -> None:
    url = f"redis://:hush-hush@127.0.0.1:{free_port()}/0"
    for args in (["status"], ["enqueue", "send"], ["recover"]):
        line = complaint(reclaimd(*args, "--json", "--redis-url", url), 3)
        assert "cannot reach Redis" in line
        assert "hush-hush" not in line


def test_a_wrong_password(fresh_server: Callable[..., Server]) -> None:
    server = fresh_server(requirepass="right-one")
    url = f"redis://:wrong-one@127.0.0.1:{server.port}/0"
    for args in (["status"], ["enqueue", "send"]):
        line = complaint(reclaimd(*args, "--json", "--redis-url", url), 3)
        assert "refuses the user name or password" in line
        assert "wrong-one" not in line
    assert "password" in complaint(reclaimd("status", "--json", "--redis-url", f"redis://127.0.0.1:{server.port}"), 3)


def test_a_server_without_the_commands_of_6_2(fresh_server: Callable[..., Server]) -> None:
    server = fresh_server(rename_command='XAUTOCLAIM ""')
    line = complaint(reclaimd("status", "--json", "--redis-url", server.url), 3)
    assert "is too old" in line
    assert "use Redis 6.2 or later" in line


def test_a_replica(fresh_server: Callable[..., Server]) -> None:
    primary = fresh_server()
    replica = fresh_server(replicaof=f"127.0.0.1 {primary.port}")
    scene = Scene(primary.url)
    scene.enqueue("t-1")
    with replica.client() as client:
        wait_until(lambda: client.exists(scene.partition.key("lane:normal")), "the replica to have the task")
    for args in (["status"], ["recover"], ["enqueue", "send", "--queue", "mail"]):
        run = reclaimd(*args, "--namespace", scene.namespace, "--json", "--redis-url", replica.url)
        if args != ["recover"]:
            assert "is a read-only replica" in complaint(run, 3)
        assert run.code == 3
    listed = reclaimd("tasks", "list", "--state", "waiting", "--namespace", scene.namespace, "--redis-url", replica.url)
    assert "t-1" in listed.out
    scene.close()


def test_a_full_server_refuses_tasks_and_lets_recovery_go_on(fresh_server: Callable[..., Server]) -> None:
    server = fresh_server(maxmemory_policy="noeviction")
    scene = Scene(server.url)
    scene.join("w1")
    scene.enqueue("t-1")
    scene.take("w1")
    scene.pass_time(2_000)
    scene.reach_the_present()
    scene.client.config_set("maxmemory", 1)
    line = complaint(scene.run("enqueue", "send", "--queue", "mail", "--json"), 1)
    assert "Redis is full" in line
    assert scene.run("recover", "--json").json["recovered"] == 1
    assert scene.run("status", "--json").json["queues"]["mail"]["waiting"] == 1
    scene.close()


def test_a_key_of_another_type(scene: Scene) -> None:
    scene.client.delete(scene.partition.key("epoch"))
    scene.client.set(scene.partition.key("epoch"), "somebody else's")
    assert "WRONGTYPE" in complaint(scene.run("status", "--json"), 1)


def test_ctrl_c_ends_quietly(fresh_server: Callable[..., Server]) -> None:
    server = fresh_server()
    scene = Scene(server.url)
    scene.join("w1", lease_ms=120_000)
    scene.enqueue("t-1")
    scene.take("w1")
    args = command("recover", "--redis-url", server.url, "--namespace", scene.namespace)
    process = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    clock = scene.partition.key("clock")
    before = scene.client.hget(clock, "wall")
    wait_until(lambda: scene.client.hget(clock, "wall") != before, "recover to be waiting for the lease", 30)
    process.send_signal(signal.SIGINT)
    try:
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (130, "", "")
    scene.close()


@pytest.mark.parametrize("json", [[], ["--json"]])
def test_a_reader_that_goes_away(scene: Scene, json: list[str]) -> None:
    scene.enqueue(*(f"t-{number}" for number in range(400)))
    listing = ["tasks", "list", "--state", "waiting", "-n", "400", *json]
    args = command(*listing, "--redis-url", scene.url, "--namespace", scene.namespace)
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(args, stdout=writer, stderr=subprocess.PIPE, env=environment(), timeout=60, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("answer", ["no", "ctrl-c"])
def test_on_a_terminal_purge_takes_no_for_an_answer(scene: Scene, answer: str) -> None:
    scene.bury("t-1")
    ours, theirs = pty.openpty()
    args = command("dead", "purge", "--all", "--redis-url", scene.url, "--namespace", scene.namespace)
    process = subprocess.Popen(args, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    assert process.stderr is not None
    prompt = b"Delete 1 dead letter for good? [y/N] "
    assert process.stderr.read(len(prompt)) == prompt
    if answer == "no":
        os.write(ours, b"n\n")
    else:
        process.send_signal(signal.SIGINT)
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        os.close(ours)
        os.close(theirs)
    expected = (1, b"", b"reclaimd: nothing was deleted\n") if answer == "no" else (130, b"", b"")
    assert (process.returncode, out, err) == expected
    assert scene.client.xlen(scene.partition.key("dead")) == 1
