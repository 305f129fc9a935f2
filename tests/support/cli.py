"""The real program as a subprocess, and partitions with fake workers for it to look at."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, NamedTuple, TypeVar

from reclaimd.streams import codec, redis_log, scripts
from reclaimd.streams.keys import Partition, queues_key
from support.forked import Forked

T = TypeVar("T")

NAMESPACE = "cli-test"
LEASE = 1_000


class Done(NamedTuple):
    """How a run of the program ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which must be one JSON document."""
        return json.loads(self.out)


def environment(**more: str) -> dict[str, str]:
    """This process's own, without settings of ours, and with warnings as errors in what we write."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("RECLAIMD_")}
    return {**own, "PYTHONUNBUFFERED": "1", **more}


def command(*args: str) -> list[str]:
    """`reclaimd ARGS`."""
    return [sys.executable, "-P", "-m", "reclaimd", *args]


def reclaimd(
    *args: str, stdin: str = "", timeout: float = 60, env: Mapping[str, str] | None = None, anew: bool = False
) -> Done:
    """Run the program to its end. `anew`: by a Python that imports what it needs, and nothing else."""
    given = environment(**(env or {}))
    if anew:
        done = subprocess.run(
            command(*args), input=stdin, capture_output=True, text=True, timeout=timeout, env=given, check=False
        )
        return Done(done.returncode, done.stdout, done.stderr)
    with TemporaryFile() as out, TemporaryFile() as err:
        given_stdin, write = os.pipe()
        # A pipe holds so much before anybody reads.
        assert len(stdin) < 16_000
        os.write(write, stdin.encode())
        os.close(write)
        files = given_stdin, out.fileno(), err.fileno()
        process = Forked(*args, files=files, env=given, cwd=None, new_session=False)
        os.close(given_stdin)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        for file in (out, err):
            file.seek(0)
        return Done(code, out.read().decode(), err.read().decode())


def started(
    *args: str, log: IO[bytes], env: Mapping[str, str], cwd: Path | None = None, new_session: bool = False
) -> Forked:
    """Start the program in the background, with nothing to read and both outputs to `log`."""
    with Path(os.devnull).open("rb") as nothing:
        files = nothing.fileno(), log.fileno(), log.fileno()
        return Forked(*args, files=files, env=env, cwd=cwd, new_session=new_session)


class Scene:
    """One queue and its fake workers, made of script calls; and the program, run against it.

    The scripts' time is the test's own and begins ten minutes ago, so that leases can end without waiting.
    """

    def __init__(self, url: str, queue: str = "mail", namespace: str = NAMESPACE) -> None:
        self.url = url
        self.namespace = namespace
        self.partition = Partition(namespace, queue)
        self.client = redis_log.connect_sync(url)
        self.client.sadd(queues_key(namespace), queue)
        self.now = int(time.time() * 1000) - 600_000
        self.tokens: dict[str, str] = {}

    def __call__(self, call: scripts.Call[T]) -> T:
        return redis_log.send_sync(self.client, call)

    def close(self) -> None:
        self.client.close()

    def run(self, *args: str, **more: Any) -> Done:
        """The program, pointed at this server and namespace."""
        return reclaimd("--redis-url", self.url, "--namespace", self.namespace, *args, **more)

    def enqueue(self, *task_ids: str, lane: str = "normal", delay_ms: int = 0, unique: str = "", most: int = 5) -> None:
        body = codec.encode_body(codec.Body(name="send", args={"to": "a@example.org"}))
        tasks = [scripts.NewTask(one, lane, most, body, unique=unique, delay_ms=delay_ms) for one in task_ids]
        results = self(scripts.enqueue(self.partition, tasks, epoch_id="e1", now=self.now))
        assert [result.status for result in results] == ["ok"] * len(task_ids)

    def join(self, worker: str, nonce: str = "n1", lease_ms: int = LEASE) -> None:
        who = scripts.Identity(worker, nonce, lease_ms, '{"host":"h1","pid":77}')
        joined = self(scripts.join(self.partition, who, epoch_id="e1", now=self.now))
        assert joined.status == "ok"
        self.tokens[worker] = joined.token

    def take(self, worker: str, want: int = 1) -> Sequence[codec.Delivery]:
        return self.turn(worker, scripts.Turn(want, True)).deliveries

    def turn(self, worker: str, ask: scripts.Turn) -> scripts.Turned:
        return self(scripts.turn(self.partition, worker, self.tokens[worker], ask, now=self.now))

    def settle(self, worker: str, delivery: codec.Delivery, outcome: codec.Outcome, **how: Any) -> scripts.Turned:
        return self.turn(worker, scripts.Turn(0, False, [codec.settle(delivery, outcome, name="send", **how)]))

    def bury(self, *task_ids: str, cause: str = "ValueError", error: str = "no such address") -> None:
        """Make dead letters: enqueued, taken and failed for good by the worker `undertaker`."""
        if "undertaker" not in self.tokens:
            self.join("undertaker", lease_ms=86_400_000)
        self.enqueue(*task_ids)
        for delivery in self.take("undertaker", len(task_ids)):
            self.settle("undertaker", delivery, "failed", run_ms=12, cause=cause, error=error)

    def pass_time(self, ms: int) -> None:
        """Let lease time pass, in steps that no clock clamps."""
        for _ in range(0, ms, LEASE // 4):
            self.now += LEASE // 4
            self(scripts.view(self.partition, now=self.now))

    def reach_the_present(self) -> None:
        """Make the scripts' last instant the server's: nobody has been silent."""
        seconds, micros = self.client.time()
        self.now = seconds * 1000 + micros // 1000
        self(scripts.view(self.partition, now=self.now))

    def snapshot(self) -> dict[bytes, bytes | None]:
        """Every key as the server would dump it."""
        return {key: self.client.dump(key) for key in self.client.scan_iter()}
