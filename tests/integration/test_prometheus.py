"""A real Prometheus scrapes the daemon's endpoint, and promtool finds nothing to blame."""

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from reclaimd.daemon.health import Health
from reclaimd.daemon.http import make_app
from reclaimd.metrics.collector import ViewCollector
from reclaimd.metrics.instruments import new_registry
from support.serving import serving
from support.views import make_view
from support.waiting import wait_until

MISSING = [name for name in ("prometheus", "promtool") if shutil.which(name) is None]
# In CI the programs must be there: a test that cannot run fails.
pytestmark = pytest.mark.skipif(
    bool(MISSING) and os.environ.get("CI") != "true",
    reason=f"not installed: {', '.join(MISSING)} (Debian package prometheus)",
)


@pytest.fixture
def target() -> Iterator[str]:
    """Address of a daemon's endpoint with one queue."""
    registry, instruments = new_registry("1.2.3", 1)
    registry.register(ViewCollector(lambda: {"mail": make_view(waiting={"lane:high": 7}, counters={"enqueued": 41})}))
    instruments.reclaim_latency.labels("mail", "lease_expired").observe(0.2)
    health = Health(monotonic=lambda: 0.0, wall=lambda: 0.0)
    with serving(make_app(registry, health)) as port:
        yield f"127.0.0.1:{port}"


@pytest.fixture
def prometheus(target: str, tmp_path: Path) -> Iterator[str]:
    """URL of a Prometheus that scrapes the target."""
    config = tmp_path / "prometheus.yml"
    config.write_text(
        json.dumps(
            {
                "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms"},
                "scrape_configs": [{"job_name": "reclaimd", "static_configs": [{"targets": [target]}]}],
            }
        )
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    log = tmp_path / "prometheus.log"
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            url = f"http://127.0.0.1:{port}"

            def is_ready() -> bool:
                assert process.poll() is None, log.read_text()
                try:
                    with urlopen(f"{url}/-/ready", timeout=5) as response:  # noqa: S310  (our own loopback URL)
                        return bool(response.status == 200)
                except URLError:
                    return False

            wait_until(is_ready, "Prometheus to be ready", timeout=30)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def ask(url: str, path: str, **query: str) -> Any:
    with urlopen(f"{url}/api/v1/{path}?{urlencode(query)}", timeout=5) as response:  # noqa: S310  (our own loopback URL)
        answer = json.load(response)
    assert answer["status"] == "success"
    return answer["data"]


def test_prometheus_scrapes_the_daemon(prometheus: str) -> None:
    def scraped() -> dict[str, Any] | None:
        (target,) = ask(prometheus, "targets")["activeTargets"] or [{"health": "unknown"}]
        return target if target["health"] != "unknown" else None

    target = wait_until(scraped, "the first scrape", timeout=30)
    assert target is not None
    assert (target["health"], target["lastError"]) == ("up", "")

    def value(query: str) -> float | None:
        result = ask(prometheus, "query", query=query)["result"]
        return float(result[0]["value"][1]) if result else None

    wait_until(lambda: value("reclaimd_tasks_enqueued_total") == 41, "the scraped total", timeout=30)
    assert value('up{job="reclaimd"}') == 1
    assert value('reclaimd_tasks_waiting{queue="mail",lane="high",recovered="false"}') == 7
    assert value("histogram_quantile(1, reclaimd_reclaim_latency_seconds_bucket)") == 0.25
    assert value("count(reclaimd_build_info)") == 1
    metadata = ask(prometheus, "metadata", metric="reclaimd_tasks_enqueued_total")
    assert not metadata or next(iter(metadata.values()))[0]["type"] == "counter"


def test_promtool_finds_nothing_to_blame(target: str) -> None:
    with urlopen(f"http://{target}/metrics", timeout=5) as response:
        text = response.read()
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False, timeout=60)
    blamed = [line for line in done.stderr.decode().splitlines() if line.startswith("reclaimd_")]
    assert blamed == []
    assert done.returncode in {0, 3}, done.stderr.decode()
