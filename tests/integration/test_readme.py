"""What the README shows works as it is shown."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from reclaimd.daemon.view import decode_view
from reclaimd.streams import redis_log, scripts
from reclaimd.streams.keys import Partition
from support.servers import Server
from support.waiting import wait_until

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")


@pytest.mark.flavours("valkey")
def test_the_minimal_app_runs_under_a_worker(server: Server, tmp_path: Path) -> None:
    (source,) = re.findall(r"```python\n(# mail\.py\n.*?)```", README, re.DOTALL)
    assert "redis://localhost" in source
    (tmp_path / "mail.py").write_text(source.replace("redis://localhost", server.url), "utf-8")
    environment = os.environ | {"RECLAIMD_REDIS_URL": server.url, "RECLAIMD_WORKER_STATE_DIR": str(tmp_path / "state")}
    worker = subprocess.Popen(
        [sys.executable, "-m", "reclaimd", "worker", "mail:app", "--id", "mail1", "--processes", "2"],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
    )
    try:
        signup = "import anyio, mail; anyio.run(mail.signup, 'a@example.org')"
        subprocess.run([sys.executable, "-c", signup], cwd=tmp_path, env=environment, check=True, timeout=60)
        partition = Partition("reclaimd", "mail")
        with server.client() as client:

            def settled() -> bool:
                view = decode_view("mail", 0, redis_log.send_sync(client, scripts.view(partition)))
                return view.counter("succeeded") == 1 and view.live == 2

            wait_until(settled, "the README's task to be settled by one of two workers", timeout=30)
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0


def test_its_commands_exist() -> None:
    shown = set(re.findall(r"^\$ reclaimd (\w+)", README, re.MULTILINE))
    assert shown
    for command in shown:
        words = [sys.executable, "-m", "reclaimd", command, "--help"]
        done = subprocess.run(words, capture_output=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr


def test_its_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target
