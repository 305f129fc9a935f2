"""The servers start, persist, freeze, die and come back as their names say."""

import os
import socket
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from support import servers as module
from support.servers import FreshServer, Server, ServerFailedError, available_flavours, free_port
from support.waiting import wait_until

MAJORS = {"valkey": "7.2.4", "redis62": "6.2.", "redis70": "7.0."}


def _process_is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_every_flavour_is_the_version_it_claims(server: Server) -> None:
    with server.client() as client:
        info = client.info("server")
    assert str(info["redis_version"]).startswith(MAJORS[server.flavour])
    assert ("valkey_version" in info) == (server.flavour == "valkey")
    assert info["process_id"] == server.pid


@pytest.mark.parametrize("turn", [1, 2])
def test_the_shared_server_is_empty_and_awake(server: Server, turn: int) -> None:
    with server.client() as client:
        assert client.keys("*") == []
        client.set("left-behind", turn)
    server.freeze()


def test_aof_survives_kill9_and_keeps_the_port(flavour: str, fresh_server: FreshServer) -> None:
    server = fresh_server(appendonly=True, appendfsync="always")
    port, pid = server.port, server.pid
    with server.client() as client:
        client.set("k", "v")
    server.kill9()
    assert not server.running
    assert _process_is_gone(pid)
    server.start()
    with server.client() as client:
        assert client.get("k") == b"v"
    assert server.port == port
    assert server.pid != pid


def test_without_persistence_a_restart_is_empty(fresh_server: FreshServer) -> None:
    server = fresh_server()
    with server.client() as client:
        client.set("k", "v")
    server.restart()
    with server.client() as client:
        assert client.get("k") is None


def test_a_frozen_server_answers_nothing_until_thawed(fresh_server: FreshServer) -> None:
    server = fresh_server()
    server.freeze()
    assert server.running
    with server.client(timeout=0.05) as client, pytest.raises(redis.TimeoutError):
        client.ping()
    server.thaw()
    server.wait_ready()
    server.freeze()
    server.stop()
    assert not server.running


def test_a_password_is_in_the_url_and_not_on_the_command_line(fresh_server: FreshServer) -> None:
    server = fresh_server(requirepass="hunter2")
    with redis.Redis.from_url(server.url) as client:
        assert client.ping()
    with (
        redis.Redis(port=server.port, retry=Retry(NoBackoff(), 0)) as stranger,
        pytest.raises(redis.AuthenticationError),
    ):
        stranger.ping()
    assert b"hunter2" not in Path(f"/proc/{server.pid}/cmdline").read_bytes()


def test_a_replica_follows_its_master(flavour: str, fresh_server: FreshServer) -> None:
    master = fresh_server()
    replica = fresh_server(replicaof=f"127.0.0.1 {master.port}")
    with master.client() as client, replica.client() as follower:
        client.set("k", "v")
        wait_until(lambda: follower.get("k") == b"v", "the replica to follow")
        with pytest.raises(redis.ReadOnlyError):
            follower.set("k", "w")


def test_a_full_server_refuses_writes(fresh_server: FreshServer) -> None:
    server = fresh_server(maxmemory=1, maxmemory_policy="noeviction")
    with server.client() as client, pytest.raises(redis.OutOfMemoryError):
        client.set("k", "v")


def test_a_port_taken_by_another_is_left_for_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        ports = iter([squatter.getsockname()[1], free_port()])
        monkeypatch.setattr(module, "free_port", lambda: next(ports))
        server = Server(available_flavours()[0], tmp_path).start()
        assert server.port != squatter.getsockname()[1]
    server.stop()


def test_a_wrong_option_fails_with_the_log(tmp_path: Path) -> None:
    with pytest.raises(ServerFailedError, match="did not start"):
        Server(available_flavours()[0], tmp_path, no_such_option=1).start()


def test_ci_as_root_insists_on_redis_7(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(module, "_binary", lambda flavour: None if flavour == "redis70" else Path("/bin/true"))
    with pytest.raises(ServerFailedError, match="apt-get install redis-server"):
        available_flavours.__wrapped__()
