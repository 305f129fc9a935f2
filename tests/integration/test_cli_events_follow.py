"""`events tail --follow` that begins while Redis is away: what is told of queues that the archive does not know."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reclaimd.daemon.archive.store import open_store
from reclaimd.streams.keys import queues_key
from support.cli import Scene, command, environment
from support.daemons import in_loop
from support.servers import FreshServer, Server
from support.waiting import wait_until

pytestmark = pytest.mark.flavours("valkey")


@contextmanager
def following(server: Server, scene: Scene, folder: Path, *args: str) -> Iterator[Path]:
    """The file with what it prints; it has begun, and found Redis away."""
    flags = ["--redis-url", server.url, "--namespace", scene.namespace, "--archive-url", f"sqlite:///{folder}/a.db"]
    out, err = folder / "out", folder / "err"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            command("events", "tail", "--follow", *args, *flags), stdout=stdout, stderr=stderr, env=environment()
        )
    try:
        wait_until(lambda: "from the archive alone" in err.read_text(), "it to begin without Redis", 30)
        yield out
        assert "Redis is back" in err.read_text()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)


@in_loop
@pytest.mark.parametrize(
    ("since", "told"), [((), ["later", "last"]), (("--since", "1h"), ["recent", "later", "last"])], ids=["now", "1h"]
)
async def test_of_an_unknown_queue_it_tells_what_was_asked_for(
    fresh_server: FreshServer, tmp_path: Path, since: tuple[str, ...], told: list[str]
) -> None:
    async with open_store(f"sqlite:///{tmp_path}/a.db"):
        pass
    own = fresh_server("valkey", appendonly="yes")
    scene = Scene(own.url)
    seconds, _ = scene.client.time()
    line = '[{"type":"Enqueued","v":1,"tasks":[["ancient","normal","1-0",0]]}]'
    key = scene.partition.key("events")
    scene.client.xadd(key, {"at": "1", "e": line}, id=f"{(seconds - 7_200) * 1000}-0")
    scene.enqueue("recent")
    scene.close()
    own.stop()
    with following(own, scene, tmp_path, *since) as out:
        own.start()
        scene = Scene(own.url)
        assert scene.client.smembers(queues_key(scene.namespace)) == {b"mail"}
        scene.enqueue("later")
        wait_until(lambda: "later" in out.read_text(), "what comes with Redis", 20)
        other = Scene(own.url, queue="other")
        other.enqueue("last")
        wait_until(lambda: "last" in out.read_text(), "a queue that is new", 20)
        for one in (scene, other):
            one.close()
    text = out.read_text()
    assert [name for name in ("ancient", "recent", "later", "last") if name in text] == told
