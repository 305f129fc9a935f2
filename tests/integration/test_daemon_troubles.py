"""What goes wrong: a poisoned queue, a server that is away, slow, too old, full, or refuses; signals."""

import asyncio
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from reclaimd.daemon.http import ListenRefused
from reclaimd.daemon.supervisor import run
from reclaimd.streams.errors import RedisUnusable, Unusable
from reclaimd.streams.settings import Settings
from support.daemons import Daemon, captured, in_loop, lines_of, queue_on, running, settings_for
from support.servers import FreshServer, Server, free_port
from support.waiting import await_until, wait_until


@in_loop
@pytest.mark.parametrize("key", ["lane:normal", "clock", "events", "workers"])
async def test_a_poisoned_queue_does_not_stop_the_others(server: Server, key: str) -> None:
    async with queue_on(server, "bad") as bad, queue_on(server, "good") as good:
        bad.register()
        bad.raw("HSET", bad.partition.key("epoch"), "id", "e", "state", "ok", "layout", "1")
        bad.raw("SET", bad.partition.key(key), "poison")
        good.enqueue()
        with captured() as lines:
            async with running(settings_for(server, discover_every_ms=100)) as daemon:
                body = await daemon.wait_page("/readyz", 503)
                assert {problem["queue"] for problem in body["problems"]} == {"bad"}
                good.enqueue(delay_ms=200)
                await await_until(lambda: good.length("lane:normal") == 2, "the good queue to be served")
                assert (await daemon.get("/healthz"))[0] == 200
                bad.raw("DEL", bad.partition.key(key))
                await daemon.wait_page("/readyz", 200, timeout=15)
        failures = [line for line in lines if line["log_level"] == "error"]
        assert {line["queue"] for line in failures} == {"bad"}
        assert len(failures) <= 3, failures


@in_loop
async def test_a_registry_of_another_type_is_reported(server: Server) -> None:
    async with queue_on(server) as mail:
        mail.raw("SET", "{t}:queues", "poison")
        async with running(settings_for(server, discover_every_ms=100)) as daemon:
            body = await daemon.wait_page("/readyz", 503)
            # Schedules look there too, for queues in which something of theirs may be open.
            assert {"discovery"} <= {problem["what"] for problem in body["problems"]} <= {"discovery", "schedules"}
            mail.raw("DEL", "{t}:queues")
            await daemon.wait_page("/readyz", 200)


@in_loop
async def test_names_that_are_no_queues_are_ignored(server: Server) -> None:
    async with queue_on(server) as mail:
        mail.raw("SADD", "{t}:queues", "a:b", "", b"\xff", "{x}", "good")
        with captured() as lines:
            async with running(settings_for(server, discover_every_ms=100)) as daemon:
                await daemon.wait_page("/readyz", 200)
                await asyncio.sleep(0.3)
        assert [line["queue"] for line in lines_of(lines, "queue found")] == ["good"]
        assert len(lines_of(lines, "queue ignored, its name is not valid")) == 4


@in_loop
async def test_a_server_that_is_killed_and_comes_back(fresh_server: FreshServer) -> None:
    server = fresh_server(appendonly="yes")
    async with queue_on(server) as mail, queue_on(server, "sms") as sms:
        mail.enqueue()
        sms.enqueue()
        with captured() as lines:
            async with running(settings_for(server)) as daemon:
                await asyncio.to_thread(server.kill9)
                body = await daemon.wait_page("/readyz", 503)
                assert [problem["what"] for problem in body["problems"]] == ["redis"]
                assert (await daemon.get("/healthz"))[0] == 200
                await await_until(lambda: lines_of(lines, "redis unavailable"), "the loss to be told")
                await asyncio.sleep(1.5)
                await asyncio.to_thread(server.start)
                await daemon.wait_page("/readyz", 200)
                mail.enqueue(delay_ms=100)
                await await_until(lambda: mail.length("lane:normal") == 2, "the task to be promoted")
        told = [line["event"] for line in lines if line["log_level"] in {"warning", "error"}]
        # While it loads its data it says so: a change, and the only other line.
        assert told[0] == "redis unavailable"
        assert set(told) == {"redis unavailable"}
        assert len(told) <= 3
        assert len(lines_of(lines, "redis available")) == 1


@in_loop
async def test_a_daemon_waits_for_a_server_that_is_not_there_yet(fresh_server: FreshServer) -> None:
    server = fresh_server()
    await asyncio.to_thread(server.stop)
    async with running(settings_for(server), wait=False) as daemon:
        with pytest.raises(AssertionError, match="did not become ready"):
            await daemon.wait_ready(timeout=0.7)
        await asyncio.to_thread(server.start)
        await daemon.wait_ready(timeout=5)


@in_loop
async def test_a_frozen_server_does_not_keep_the_daemon_from_ending(fresh_server: FreshServer) -> None:
    server = fresh_server()
    async with queue_on(server) as mail:
        mail.enqueue()
        async with running(settings_for(server)) as daemon:
            server.freeze()
            await asyncio.sleep(1.2)
            assert await daemon.stop() < 2.0
            server.thaw()


@in_loop
async def test_a_full_server_still_recovers(fresh_server: FreshServer) -> None:
    server = fresh_server(maxmemory_policy="noeviction")
    async with queue_on(server) as mail:
        mail.enqueue(5)
        token = mail.join("w", 500)
        mail.take("w", token, 5)
        mail.raw("CONFIG", "SET", "maxmemory", "1")
        async with running(settings_for(server)):
            await await_until(lambda: mail.length("recovered:normal") == 5, "the tasks to come back")
            assert mail.view()["counters"]["reclaimed:lease_expired"] == 5
            with pytest.raises(redis.exceptions.OutOfMemoryError):
                mail.enqueue()


@in_loop
async def test_flushed_data_are_noticed_and_new_data_served(server: Server) -> None:
    async with queue_on(server) as mail:
        mail.enqueue()
        with captured() as lines:
            async with running(settings_for(server, discover_every_ms=100)):
                mail.raw("FLUSHALL")
                await await_until(lambda: lines_of(lines, "data lost or replaced"), "the loss to be told")
                mail.enqueue(delay_ms=100)
                await await_until(lambda: mail.length("lane:normal") == 1, "the task to be promoted")
        assert mail.view()["delayed"] == 0
        assert [line["queue"] for line in lines_of(lines, "data lost or replaced")] == ["mail"]


@in_loop
async def test_a_wrong_password_ends_it(fresh_server: FreshServer) -> None:
    server = fresh_server(requirepass="right")
    for url in (server.url.replace("right", "wrong"), server.url.replace(":right@", "")):
        with pytest.raises(RedisUnusable) as caught:
            await run(Settings(redis_url=url, listen="127.0.0.1:0"))
        assert caught.value.reason is Unusable.PASSWORD
        assert caught.value.exit_code == 3


@in_loop
async def test_a_server_without_the_needed_commands_ends_it(fresh_server: FreshServer) -> None:
    server = fresh_server(rename_command='XAUTOCLAIM ""')
    with pytest.raises(RedisUnusable) as caught:
        await run(settings_for(server))
    assert caught.value.reason is Unusable.TOO_OLD


@in_loop
async def test_missing_rights_end_it(fresh_server: FreshServer) -> None:
    server = fresh_server()
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "some", "on", ">pw", "~*", "+@all", "-eval")
    with pytest.raises(RedisUnusable) as caught:
        await run(Settings(redis_url=f"redis://some:pw@127.0.0.1:{server.port}/0", listen="127.0.0.1:0"))
    assert caught.value.reason is Unusable.PERMISSION


@in_loop
async def test_a_replica_is_waited_for_until_it_takes_writes(fresh_server: FreshServer) -> None:
    server, primary = fresh_server(), fresh_server()
    with server.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", primary.port)
        with captured() as lines:
            async with running(settings_for(server), wait=False) as daemon:
                await await_until(lambda: lines_of(lines, "redis unavailable"), "the daemon to notice")
                assert not daemon.ready.is_set()
                client.execute_command("REPLICAOF", "NO", "ONE")
                await daemon.wait_ready()


@in_loop
async def test_a_port_in_use_is_refused_with_one_error(server: Server) -> None:
    async with running(settings_for(server)) as daemon:
        with pytest.raises(ListenRefused):
            await run(Settings(redis_url=server.url, listen=f"127.0.0.1:{daemon.port}"))


SERVE = """
import sys, anyio
from functools import partial
from reclaimd.streams.logs import set_up
from reclaimd.daemon.supervisor import serve
from reclaimd.streams.settings import Settings
set_up("json", "info")
settings = Settings(redis_url=sys.argv[1], listen="127.0.0.1:0")
sys.exit(anyio.run(partial(serve, settings, on_ready=lambda port: print("ready", flush=True))))
"""


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("state", ["idle", "frozen", "away"])
def test_a_signal_ends_it_within_two_seconds(fresh_server: FreshServer, sent: signal.Signals, state: str) -> None:
    server = fresh_server()
    url = server.url if state != "away" else f"redis://127.0.0.1:{free_port()}/0"
    with subprocess.Popen([sys.executable, "-P", "-c", SERVE, url], stdout=subprocess.PIPE) as process:
        try:
            if state == "away":
                wait_until(lambda: obeys_signals(process.pid), "the daemon to be up")
            else:
                assert process.stdout is not None
                assert process.stdout.readline() == b"ready\n"
            if state == "frozen":
                server.freeze()
            began = time.monotonic()
            process.send_signal(sent)
            assert process.wait(5) == 0
            # Two seconds on a machine that has time: the last one is Python's own way out.
            assert time.monotonic() - began < 4.0
        finally:
            process.kill()
            server.thaw()


def obeys_signals(pid: int) -> bool:
    """Whether the process has set its handlers; it sets them together, and Python itself has none for SIGTERM."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
    return bool(caught & (1 << (signal.SIGTERM - 1)))


@in_loop
async def test_connections_that_the_server_closed_are_no_trouble(server: Server) -> None:
    async with queue_on(server) as mail:
        mail.enqueue()
        with captured() as lines:
            async with running(settings_for(server, discover_every_ms=100)) as daemon:
                # Then every loop has made a step, and no connection is in the middle of its handshake.
                await await_until(lambda: stepped(daemon), "all loops to step")
                mail.raw("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                mail.enqueue(delay_ms=1)
                await await_until(lambda: mail.view()["delayed"] == 0, "the task to be promoted")
                await daemon.wait_page("/readyz", 200)
        assert [line for line in lines if line["log_level"] in {"warning", "error"}] == []


async def stepped(daemon: Daemon) -> bool:
    _, text = await daemon.get("/metrics")
    return all(re.search(rf'steps_total{{loop="{loop}"}} [3-9]', text) for loop in ("discovery", "events"))


@in_loop
@pytest.mark.flavours("valkey")
async def test_a_daemon_that_is_cancelled_just_as_a_command_is_written_ends(server: Server) -> None:
    """Before Python 3.12 asyncio loses that cancellation, and the daemon would start and run for ever."""
    loop = asyncio.get_running_loop()
    written = list[asyncio.Task[Any]]()

    def watched(_: asyncio.AbstractEventLoop, work: Any, **how: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(work, loop=loop, **how)
        if work.__qualname__.endswith("._send_packed_command") and not written:
            # Before whoever waits for the command hears that it is written.
            task.add_done_callback(lambda _: daemon.task.cancel())
            written.append(task)
        return task

    ready = asyncio.Event()
    daemon = Daemon(asyncio.create_task(run(settings_for(server), on_ready=lambda _: ready.set())), ready)
    loop.set_task_factory(watched)
    await asyncio.wait({daemon.task}, timeout=5)
    ended = daemon.task.cancelled()
    await daemon.stop()
    assert ended or (sys.version_info >= (3, 12) and not written)
