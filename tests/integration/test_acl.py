"""The shipped ACL file on real servers: with its users everything works, and nothing beyond that."""

import contextlib
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from reclaimd.daemon.cli import main
from reclaimd.streams import scripts
from reclaimd.streams.app import Reclaimd
from reclaimd.streams.errors import DurabilityUnavailable
from reclaimd.streams.keys import Partition, queues_key, schedule_epoch_key, schedule_problems_key
from reclaimd.streams.lua_source import load_script
from reclaimd.streams.redis_log import connect, connect_sync, send_sync
from reclaimd.streams.schedules import Every
from reclaimd.streams.schedules.log import ScheduleLog
from reclaimd.streams.settings import ArchiveSettings, Settings
from reclaimd.streams.source_settings import SourceSettings
from support import task_app
from support.cli import reclaimd
from support.daemons import in_loop, running
from support.fleet import Fleet
from support.servers import FreshServer, Server
from support.waiting import await_until

ACL = Path(__file__).resolve().parents[2] / "systemd/reclaimd.acl"
NAMESPACE = "reclaimd"
MAIL = Partition(NAMESPACE, "mail")
ROLES = ("daemon", "worker", "producer")
# The client library introduces itself where the server knows the command, and does not mind a refusal. A file that
# granted it could not be read by a 7.0.
_INTRODUCTIONS = {"client|setinfo", "client|maint_notifications", "client"}


@pytest.fixture(scope="module")
def guarded_server(flavour: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the users of the file, each with its role as password."""
    folder = tmp_path_factory.mktemp("acl")
    users = [f"{line} >{_role(line)}" for line in ACL.read_text().splitlines() if line]
    assert tuple(_role(line) for line in users) == ROLES
    aclfile = folder / "users.acl"
    aclfile.write_text("\n".join(["user default on nopass ~* &* +@all", *users]) + "\n")
    server = Server(flavour, folder / "server", aclfile=aclfile).start()
    yield server
    server.stop()


@pytest.fixture
def guarded(guarded_server: Server) -> Server:
    """The same, empty, and no refusals in its log."""
    guarded_server.flush()
    with guarded_server.client() as client:
        client.execute_command("ACL LOG", "RESET")
    return guarded_server


@pytest.fixture
def admin(guarded: Server) -> Iterator[redis.Redis]:
    """The default user, who may do anything."""
    with guarded.client() as client:
        yield client


def _role(line: str) -> str:
    return line.split()[1].removeprefix("reclaimd-")


def _url(server: Server, role: str) -> str:
    return f"redis://reclaimd-{role}:{role}@127.0.0.1:{server.port}/0"


@contextlib.contextmanager
def _client(server: Server, role: str) -> Iterator[redis.Redis]:
    client = connect_sync(_url(server, role))
    try:
        yield client
    finally:
        client.close()


def _refusals(admin: redis.Redis) -> list[str]:
    """What the server refused to anybody, but for the library's introductions."""
    rows: Any = admin.execute_command("ACL LOG", 100)  # type: ignore[no-untyped-call]
    found = []
    for row in rows:
        pairs = row if isinstance(row, dict) else dict(zip(row[::2], row[1::2], strict=True))
        said = {_text(name): _text(value) for name, value in pairs.items()}
        if said["object"].lower() not in _INTRODUCTIONS:
            found.append(f"{said['username']}: {said['reason']} {said['object']} ({said['context']})")
    return found


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


@in_loop
async def test_a_whole_life_with_these_users(guarded: Server, admin: redis.Redis, tmp_path: Path) -> None:
    """Enqueue, work, retries, a killed worker, a reclaim by the daemon, delayed tasks, a pause: nothing is refused."""
    settings = Settings(redis_url=_url(guarded, "daemon"), namespace=NAMESPACE, listen="127.0.0.1:0")
    with Fleet(guarded, tmp_path, lease="500ms") as fleet:
        async with Reclaimd(_url(guarded, "producer"), NAMESPACE) as app, running(settings) as daemon:
            first = fleet.start("w1", url=_url(guarded, "worker"), wait=False, RECLAIMD_NAMESPACE=NAMESPACE)
            await await_until(lambda: _counted(admin, "joined", 1), "the worker to join", 20)
            await app.enqueue(task_app.hold, "gate", unique="held")
            await app.enqueue(task_app.raises, "as told")
            await app.enqueue(task_app.noop, 1, delay=0.2)
            await app.enqueue(task_app.spawns, 3)
            await app.enqueue_many([task_app.noop.call(n) for n in range(20)])
            await await_until(lambda: fleet.journal("start"), "the task that waits to be started")
            first.kill_all()
            await await_until(lambda: _counted(admin, "reclaimed:lease_expired", 1), "the daemon to reclaim", 15)
            second = fleet.start("w2", url=_url(guarded, "worker"), wait=False, RECLAIMD_NAMESPACE=NAMESPACE)
            fleet.open_gate("gate")
            await await_until(lambda: _counted(admin, "succeeded", 26), "everything to be settled", 20)
            await await_until(lambda: _counted(admin, "dead", 1), "the dead letter")
            await daemon.wait_page("/readyz", 200)
            second.terminate()
            second.wait()
    assert _refusals(admin) == []


def test_the_commands_of_an_operator_work_with_the_daemons_user(
    guarded: Server, admin: redis.Redis, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with _client(guarded, "producer") as producer:
        producer.sadd(queues_key(NAMESPACE), "mail")
        send_sync(producer, scripts.enqueue(MAIL, [scripts.NewTask("t1", "normal", 5, b"{}")], epoch_id="e"))
    with _client(guarded, "worker") as worker:
        who = scripts.Identity("w1", "n1", 60_000, '{"host":"h1","pid":77}')
        token = send_sync(worker, scripts.join(MAIL, who, epoch_id="e")).token
        bury = send_sync(worker, scripts.turn(MAIL, "w1", token, scripts.Turn(1, True))).deliveries
        assert len(bury) == 1
        dead = scripts.Turn(0, False, [_settlement(bury[0])])
        send_sync(worker, scripts.turn(MAIL, "w1", token, dead))
    for arguments in (
        ["status"],
        ["workers"],
        ["queues", "pause", "mail"],
        ["queues", "resume", "mail"],
        ["dead", "list"],
        ["explain", "t1"],
        ["dead", "redrive", "t1"],
        ["tasks", "list", "--state", "waiting"],
        ["tasks", "list", "--state", "active"],
        ["schedules", "add", "s1", "--task", "send", "--queue", "new", "--every", "1h"],
        ["schedules", "pause", "s1"],
        ["schedules", "resume", "s1"],
        ["schedules", "run", "s1"],
        ["schedules", "show", "s1"],
        ["schedules", "list"],
        ["schedules", "list", "--problems"],
        ["schedules", "export"],
        ["schedules", "remove", "s1"],
        ["schedules", "clear", "--source", "ops", "--yes"],
        ["recover", "--dry-run"],
        ["recover"],
        ["cleanup"],
        ["release", "w1", "--nonce", "n1"],
        ["dead", "purge", "--all", "--yes"],
    ):
        monkeypatch.setattr("sys.argv", ["reclaimd", "--redis-url", _url(guarded, "daemon"), *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code in {0, 1}, (arguments, capsys.readouterr())
        assert _refusals(admin) == [], arguments


@in_loop
async def test_schedules_with_these_users(guarded: Server, admin: redis.Redis) -> None:
    """A producer creates, a worker's program does all that `app.schedules` can, a daemon loads, writes and trims."""
    async with Reclaimd(_url(guarded, "producer"), NAMESPACE) as producer:
        await producer.schedules.put("digest", "send", Every(60_000), queue="mail")
    async with Reclaimd(_url(guarded, "worker"), NAMESPACE) as worker:
        await worker.schedules.pause("digest")
        await worker.schedules.resume("digest")
        await worker.schedules.run_now("digest", "r1")
        assert [found.name for found in await worker.schedules.list()] == ["digest"]
    client = connect(_url(guarded, "daemon"))
    schedules = ScheduleLog(client, NAMESPACE)
    for _ in range(4):
        await schedules.write_snapshot((await schedules.load()).state)
    trimmed = await schedules.trim()
    await client.aclose()
    assert (trimmed.snapshots, trimmed.events) == (3, 2)
    assert _refusals(admin) == []


@in_loop
async def test_schedules_are_archived_and_restored_with_the_daemons_user(
    guarded: Server, admin: redis.Redis, tmp_path: Path
) -> None:
    archive = ArchiveSettings(url=f"sqlite:///{tmp_path}/archive.db")
    settings = Settings(redis_url=_url(guarded, "daemon"), namespace=NAMESPACE, listen="127.0.0.1:0", archive=archive)
    epoch = schedule_epoch_key(NAMESPACE)
    async with Reclaimd(_url(guarded, "producer"), NAMESPACE) as producer, running(settings):
        await producer.schedules.put("often", "send", Every(1_000), queue="new", overlap="allow")
        lane = Partition(NAMESPACE, "new").key("lane:normal")
        await await_until(lambda: admin.xlen(lane), "a first occurrence")
        await await_until(lambda: admin.hget(epoch, "position") not in {None, b"0-0"}, "it to be archived")
        admin.flushall()
        await producer.schedules.put("other", "send", Every(3_600_000), queue="new")
        await await_until(lambda: admin.hget(epoch, "restored"), "it to be restored")
        await await_until(lambda: admin.xlen(lane), "it to fire again")
    assert _refusals(admin) == []


@in_loop
async def test_a_queue_is_archived_and_rebuilt_with_the_daemons_user(
    guarded: Server, admin: redis.Redis, tmp_path: Path
) -> None:
    """Delayed tasks from before the archive among them, and tasks that are accepted while it is rebuilt."""
    archive = ArchiveSettings(url=f"sqlite:///{tmp_path}/archive.db")
    settings = Settings(redis_url=_url(guarded, "daemon"), namespace=NAMESPACE, listen="127.0.0.1:0", archive=archive)
    epoch, delayed, lane = MAIL.key("epoch"), MAIL.key("delayed"), MAIL.key("recovered:normal")
    async with Reclaimd(_url(guarded, "producer"), NAMESPACE) as producer:
        await producer.enqueue(task_app.note, 1, delay=600)
        async with running(settings):
            await producer.enqueue(task_app.note, 2)
            at = MAIL.key("lane:normal")
            await await_until(lambda: admin.hget(epoch, "mark_before"), "it to be archived")
            await await_until(lambda: admin.xlen(at), "the task to be there")
            await await_until(lambda: _archived_tasks(tmp_path) == 2, "both to be archived")
            admin.flushall()
            await producer.enqueue(task_app.note, 3)
            await await_until(lambda: admin.hget(epoch, "state") == b"ok" and admin.xlen(lane), "it to be rebuilt")
            assert admin.zcard(delayed) == 2
    assert _refusals(admin) == []


def _archived_tasks(folder: Path) -> int:
    with contextlib.closing(sqlite3.connect(folder / "archive.db", timeout=10)) as database:
        return int(database.execute("SELECT count(*) FROM reclaimd_tasks").fetchone()[0])


@in_loop
async def test_a_source_with_the_daemons_user(guarded: Server, admin: redis.Redis, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("schedules:\n- {name: a, task: t, queue: new, cron: '* * * * * *'}\n- {name: b}\n")
    source = SourceSettings(name="ops", kind="file", path=str(path), interval_ms=1_000)
    settings = Settings(redis_url=_url(guarded, "daemon"), namespace=NAMESPACE, listen="127.0.0.1:0", sources=(source,))
    async with running(settings):
        key = schedule_problems_key(NAMESPACE)
        await await_until(lambda: admin.hexists(key, "ops"), "the report on the source")
        await await_until(lambda: admin.xlen(Partition(NAMESPACE, "new").key("lane:normal")), "a first occurrence")
    assert _refusals(admin) == []


def _settlement(delivery: Any) -> Any:
    from reclaimd.streams import codec

    return codec.settle(delivery, "failed", name="send", run_ms=1, cause="ValueError", error="no such address")


_FORBIDDEN: list[tuple[str, ...]] = [
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("CONFIG", "SET", "save", ""),
    ("ACL", "LIST"),
    ("SHUTDOWN", "NOSAVE"),
    ("KEYS", "*"),
    ("SCAN", "0"),
    ("CLIENT", "KILL", "TYPE", "normal"),
    ("SCRIPT", "FLUSH"),
    ("PUBLISH", "news", "x"),
    ("GET", "other"),
    ("DEL", "other"),
    ("XADD", "{reclaimd2:mail:0}:lane:normal", "*", "task", "x"),
    ("XRANGE", "{reclaimd2:mail:0}:lane:normal", "-", "+"),
    ("SADD", "{reclaimd2}:queues", "x"),
    ("EVAL", "return redis.call('FLUSHALL')", "0"),
    ("EVAL", "return redis.call('XLEN', KEYS[1])", "1", "{reclaimd2:mail:0}:lane:normal"),
    ("EVAL", "return redis.call('DEL', 'other')", "0"),
]


def test_nobody_reaches_beyond(guarded: Server, admin: redis.Redis) -> None:
    admin.set("other", "1")
    admin.xadd("{reclaimd2:mail:0}:lane:normal", {"task": "theirs"})
    admin.sadd("{reclaimd2}:queues", "mail")
    before = {key: admin.dump(key) for key in admin.scan_iter()}
    for role in ROLES:
        with _client(guarded, role) as client:
            for command in _FORBIDDEN:
                assert _is_refused(client, command), (role, command)
    assert {key: admin.dump(key) for key in admin.scan_iter()} == before


_BEYOND_ITS_PART = [
    ("producer", ("XRANGE", MAIL.key("lane:normal"), "-", "+")),
    ("producer", ("XREADGROUP", "GROUP", "workers", "me", "STREAMS", MAIL.key("lane:normal"), ">")),
    ("producer", ("XACK", MAIL.key("lane:normal"), "workers", "1-0")),
    ("producer", ("XDEL", MAIL.key("lane:normal"), "1-0")),
    ("producer", ("DEL", MAIL.key("lane:normal"))),
    ("producer", ("XADD", MAIL.key("dead"), "*", "task", "x")),
    ("producer", ("HSET", MAIL.key("workers"), "w1", "x")),
    ("producer", ("ZADD", MAIL.key("leases"), "0", "w1")),
    ("producer", ("HSET", MAIL.key("control"), "paused", "1")),
    ("worker", ("DEL", MAIL.key("lane:normal"))),
    ("worker", ("XTRIM", MAIL.key("events"), "MAXLEN", "0")),
    ("worker", ("SREM", queues_key(NAMESPACE), "mail")),
    ("daemon", ("SREM", queues_key(NAMESPACE), "mail")),
    ("daemon", ("BLPOP", MAIL.key("bell"), "1")),
]


def test_a_role_has_no_more_than_its_part(guarded: Server) -> None:
    for role, command in _BEYOND_ITS_PART:
        with _client(guarded, role) as client:
            assert _is_refused(client, command), (role, command)


def test_a_producer_may_wait_for_a_replica(guarded: Server, admin: redis.Redis) -> None:
    """It learns that there is none, and not that it may not ask."""
    app = Reclaimd(_url(guarded, "producer"), NAMESPACE, durability="replicated")
    with pytest.raises(DurabilityUnavailable, match="no replica is connected"):
        app.enqueue_sync(task_app.noop, 1)
    app.close()
    assert _refusals(admin) == []


def test_without_a_password_nobody_gets_in(fresh_server: FreshServer, flavour: str, tmp_path: Path) -> None:
    """As shipped, the users exist and cannot be used."""
    aclfile = tmp_path / "users.acl"
    aclfile.write_text("user default on nopass ~* &* +@all\n" + ACL.read_text())
    server = fresh_server(flavour, aclfile=aclfile)
    for role in ROLES:
        with _client(server, role) as client, pytest.raises(redis.AuthenticationError):
            client.ping()


def test_the_lines_may_stand_in_the_servers_configuration(
    fresh_server: FreshServer, flavour: str, tmp_path: Path
) -> None:
    include = tmp_path / "reclaimd.conf"
    include.write_text("# reclaimd's users\n" + ACL.read_text())
    server = fresh_server(flavour, include=include)
    with server.client() as client:
        known: Any = client.acl_users()
    assert {_text(name) for name in known} == {"default", *(f"reclaimd-{role}" for role in ROLES)}


def test_a_missing_right_is_said_in_one_line(guarded: Server, admin: redis.Redis) -> None:
    admin.execute_command("ACL SETUSER", "poor", "on", ">poor", "~*", "+ping", "+command")  # type: ignore[no-untyped-call]
    done = reclaimd("serve", "--redis-url", f"redis://poor:poor@127.0.0.1:{guarded.port}", "--listen", "127.0.0.1:0")
    assert done.code == 3, done
    assert "rights in systemd/reclaimd.acl" in done.err.splitlines()[-1]


_SENT_BY = {
    "producer": {"enqueue", "fire"},
    "worker": {"enqueue", "join", "turn", "beat", "leave", "release", "fire"},
    "daemon": set(scripts.ALL_SCRIPTS) - {"enqueue", "join", "turn", "beat", "leave"},
}
_COMMAND = re.compile(r"(?:call\(|local command = \{ )'([A-Z]+)'(?:, '([A-Z]+)')?")
_HAVE_SUBCOMMANDS = {"xgroup", "xinfo", "memory"}


def test_each_role_may_do_what_its_scripts_do() -> None:
    """Also on paths that the other tests do not take."""
    granted = {_role(line): set(line.split()) for line in ACL.read_text().splitlines() if line}
    missing = set()
    for role, names in _SENT_BY.items():
        for name in names:
            for command, sub in _COMMAND.findall(load_script(name).source):
                right = f"{command}|{sub}" if command.lower() in _HAVE_SUBCOMMANDS else command
                if f"+{right.lower()}" not in granted[role]:
                    missing.add(f"{role}: {right} of {name}")
    assert missing == set()


def _counted(admin: redis.Redis, name: str, least: int) -> bool:
    return int(admin.hget(MAIL.key("counters"), name) or 0) >= least


def _is_refused(client: redis.Redis, command: tuple[str, ...]) -> bool:
    try:
        client.execute_command(*command)  # type: ignore[no-untyped-call]
    except redis.exceptions.NoPermissionError:
        return True
    except redis.ResponseError as error:
        # In a script the refusal is that of the command in it.
        return any(words in str(error) for words in ("permission", "NOPERM", "user executing the script"))
    return False
