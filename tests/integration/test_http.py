"""The HTTP endpoints over real sockets."""

import gc
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse

import anyio
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from reclaimd.daemon.health import Health
from reclaimd.daemon.http import ListenRefused, make_app, serve_http
from reclaimd.metrics.catalogue import CATALOGUE
from reclaimd.metrics.collector import ViewCollector
from reclaimd.metrics.instruments import new_registry
from reclaimd.streams.errors import ConfigError
from support.clock import Clock
from support.serving import serving
from support.views import make_view
from support.waiting import wait_until

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture
def clock() -> Clock:
    return Clock(0.0)


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(monotonic=clock, wall=clock, stall_after=10)


@pytest.fixture
def app(health: Health) -> Starlette:
    registry, instruments = new_registry("1.2.3", 1)
    registry.register(ViewCollector(lambda: {"mail": make_view(counters={"enqueued": 41}), 'q"\\': make_view()}))
    instruments.task_run.labels("mail", "succeeded").observe(0.3)
    return make_app(registry, health)


@pytest.fixture
def port(app: Starlette) -> Iterator[int]:
    with serving(app) as port:
        yield port


def get(
    port: int, path: str, *, host: str = "127.0.0.1", method: str = "GET", **headers: str
) -> tuple[HTTPResponse, str]:
    connection = HTTPConnection(host, port, timeout=10)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response, response.read().decode()
    finally:
        connection.close()


def test_metrics_as_text(port: int) -> None:
    response, text = get(port, "/metrics")
    assert response.status == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = [sample for family in parse_text(text) for sample in family.samples]
    assert ("reclaimd_tasks_enqueued_total", {"queue": "mail"}, 41) in [s[:3] for s in samples]
    assert 'q"\\' in {sample.labels.get("queue") for sample in samples}


def test_metrics_as_openmetrics(port: int) -> None:
    response, text = get(port, "/metrics", Accept=f"{OPENMETRICS},text/plain;version=0.0.4;q=0.5")
    assert response.status == 200
    assert response.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert text.endswith("# EOF\n")
    families = {family.name: family for family in parse_openmetrics(text)}  # type: ignore[no-untyped-call]
    assert {metric.family: (metric.kind, metric.unit) for metric in CATALOGUE} == {
        name: (family.type, family.unit) for name, family in families.items() if name.startswith("reclaimd_")
    }


def test_metrics_answers_head_and_refuses_to_be_written(port: int) -> None:
    response, text = get(port, "/metrics", method="HEAD")
    assert (response.status, text) == (200, "")
    assert get(port, "/metrics", method="POST")[0].status == 405
    assert get(port, "/nothing")[0].status == 404


def test_readyz_tells_the_problems_until_the_step_succeeds_again(port: int, health: Health) -> None:
    health.expect("reclaim", "mail")
    health.failed("promote", "", ConnectionError("refused"))
    response, text = get(port, "/readyz")
    assert response.status == 503
    assert response.headers["content-type"] == "application/json"
    since = "1970-01-01T00:00:00.000Z"
    assert json.loads(text) == {
        "ready": False,
        "problems": [
            {"what": "promote", "queue": "", "since": since, "detail": "ConnectionError: refused"},
            {"what": "reclaim", "queue": "mail", "since": since, "detail": "has not succeeded yet since the start"},
        ],
    }
    health.ok("reclaim", "mail")
    health.ok("promote")
    response, text = get(port, "/readyz")
    assert (response.status, json.loads(text)) == (200, {"ready": True, "problems": []})


def test_healthz_notices_a_loop_that_hangs_but_not_one_that_fails(port: int, health: Health, clock: Clock) -> None:
    health.failed("reclaim", "mail", "no Redis")
    response, text = get(port, "/healthz")
    assert (response.status, json.loads(text)) == (200, {"alive": True, "stalled": []})
    clock.now += 11
    response, text = get(port, "/healthz")
    assert response.status == 503
    assert json.loads(text) == {
        "alive": False,
        "stalled": [{"loop": "reclaim", "queue": "mail", "seconds": 11.0, "limit": 10.0}],
    }


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_ipv6(app: Starlette, host: str) -> None:
    with serving(app, host) as port:
        assert get(port, "/healthz", host="::1")[0].status == 200


def test_localhost_listens_on_all_its_addresses(app: Starlette) -> None:
    with serving(app, "localhost") as port:
        for *_, address in socket.getaddrinfo("localhost", port, type=socket.SOCK_STREAM):
            assert get(port, "/healthz", host=str(address[0]))[0].status == 200


def test_a_port_in_use_names_the_address_and_the_cure(app: Starlette, port: int) -> None:
    with pytest.raises(ListenRefused) as refused, serving(app, port=port):
        pass
    assert isinstance(refused.value, ConfigError)
    message = str(refused.value)
    assert "\n" not in message
    assert f"127.0.0.1:{port} (Address already in use)" in message
    assert "RECLAIMD_LISTEN" in message


@pytest.mark.parametrize("host", ["203.0.113.7", "no such host", "exa\u2028mple..org", "a" * 300])
def test_an_address_that_is_not_here_names_the_cure(app: Starlette, host: str) -> None:
    with pytest.raises(ListenRefused, match=re.escape(f"cannot listen on {host}:0")), serving(app, host):
        pass


def test_the_port_is_free_again_after_the_end(app: Starlette) -> None:
    with serving(app) as port:
        get(port, "/healthz")
    with serving(app, port=port) as again:
        assert again == port


def test_it_ends_within_a_second_whoever_is_connected() -> None:
    """An idle keep-alive, half a request, and a handler that never ends do not hold it up."""
    entered = threading.Event()

    async def hang(_: Request) -> Response:
        entered.set()
        await anyio.sleep_forever()
        raise AssertionError

    idle, half, hanging = (socket.socket() for _ in range(3))
    with idle, half, hanging:
        with serving(Starlette(routes=[Route("/hang", hang)])) as port:
            for sock in (idle, half, hanging):
                sock.settimeout(10)
                sock.connect(("127.0.0.1", port))
            half.sendall(b"GET /hang HT")
            hanging.sendall(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n")
            wait_until(entered.is_set, "the handler to be entered")
            began = time.monotonic()
        assert time.monotonic() - began < 1.0
        for sock in (idle, half, hanging):
            assert disconnected(sock)
    gc.collect()


def disconnected(sock: socket.socket) -> bool:
    try:
        while sock.recv(4096):
            pass
    except ConnectionError:
        pass
    return True


def test_signals_and_output_stay_the_daemons_own(
    app: Starlette, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    watched = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    async def main() -> None:
        before = [signal.getsignal(number) for number in watched]
        async with anyio.create_task_group() as tasks:
            port = await tasks.start(serve_http, "127.0.0.1", 0, app)
            response, _ = await anyio.to_thread.run_sync(get, port, "/readyz")
            assert response.status == 200
            assert [signal.getsignal(number) for number in watched] == before
            tasks.cancel_scope.cancel()

    caplog.set_level("DEBUG")
    anyio.run(main)
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.name.startswith("uvicorn")] == []


def test_a_scrape_does_not_hold_up_the_loops(health: Health) -> None:
    """While a slow scrape builds its text, the event loop answers other requests."""
    scraping, answered = threading.Event(), threading.Event()

    def slow_snapshot() -> dict[str, object]:
        scraping.set()
        assert answered.wait(10)
        return {}

    registry, _ = new_registry("1", 1)
    registry.register(ViewCollector(slow_snapshot))  # type: ignore[arg-type]
    with serving(make_app(registry, health)) as port:
        slow = threading.Thread(target=get, args=(port, "/metrics"))
        slow.start()
        wait_until(scraping.is_set, "the scrape to begin")
        assert get(port, "/healthz")[0].status == 200
        answered.set()
        slow.join()
