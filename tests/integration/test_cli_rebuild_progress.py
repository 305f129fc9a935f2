"""What a person sees on the terminal while `rebuild` works."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from pathlib import Path

import pytest

from support.cli import command, environment
from support.daemons import in_loop
from support.partitions import assert_same
from support.proxy import Proxy
from support.rebuilds import NAMESPACE, ward
from support.servers import Server

pytestmark = pytest.mark.flavours("valkey")

TASKS = 10_000
DEADLINE_SECONDS = 60.0
_STEERING = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
_BAR = re.compile(
    r"mail: restoring tasks, (?P<rate>[\d,]+)/s, (?P<left>\d+) s left +\S+(?: \S+)?? +(?P<done>[\d,]+)/10,000 "
)


def drawn(*args: str) -> tuple[int, str, str]:
    """Run the program with its standard error on a terminal; returns the exit code, its output, and what was drawn."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 160, 0, 0))
    env = environment(TERM="xterm")
    process = subprocess.Popen(command(*args), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs, env=env)
    os.close(theirs)
    shown = bytearray()
    deadline = time.monotonic() + DEADLINE_SECONDS
    try:
        while select.select([ours], [], [], max(0.0, deadline - time.monotonic()))[0]:
            try:
                shown += os.read(ours, 65_536)
            except OSError:
                # Nobody has the other end open any more.
                break
        out, _ = process.communicate(timeout=max(1.0, deadline - time.monotonic()))
    finally:
        process.kill()
        os.close(ours)
    return process.returncode, out.decode(), _STEERING.sub(b"", bytes(shown)).decode()


def number(text: str) -> int:
    return int(text.replace(",", ""))


@in_loop
async def test_a_bar_shows_the_stage_how_many_of_how_many_the_rate_and_what_is_left(
    server: Server, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    async with ward(server, url) as one:
        for start in range(0, TASKS, 500):
            one.enqueue(*(f"task-{i}" for i in range(start, start + 500)))
        await one.archive()
        before = one.held()
        one.client.flushall()
        with Proxy(server.port) as proxy:
            # So that it takes long enough to be drawn more than once.
            proxy.delay_replies(0.02)
            where = ("--redis-url", server.url_at(proxy.port), "--namespace", NAMESPACE, "--archive-url", url)
            code, out, shown = drawn("rebuild", *where)
        assert code == 0, (out, shown)
        assert f"Restored {TASKS} tasks" in out
        assert_same(before, one.held())
    bars = list(_BAR.finditer(shown))
    done = [number(bar["done"]) for bar in bars]
    assert len(set(done)) > 1, shown
    assert done == sorted(done)
    assert done[-1] <= TASKS
    for bar in bars:
        rate = number(bar["rate"])
        assert rate > 0
        assert abs(int(bar["left"]) - (TASKS - number(bar["done"])) / rate) < 1, bar[0]
