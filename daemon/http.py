"""The daemon's HTTP endpoints: `/metrics`, `/healthz`, `/readyz`."""

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import msgspec
import uvicorn
from anyio.abc import TaskStatus
from anyio.to_thread import run_sync
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from reclaimd.daemon.health import Health
from reclaimd.streams.errors import ConfigError

SHUTDOWN_GRACE = 0.5  # seconds; the daemon as a whole ends within 2


class ListenRefused(ConfigError):
    """The address cannot be listened on. `address`: HOST:PORT; `why`: the system's words; `cure`: what to do."""

    def __init__(self, address: str, why: str, cure: str) -> None:
        super().__init__(address, why, cure)
        self.address = address
        self.why = why
        self.cure = cure

    def __str__(self) -> str:
        return f"cannot listen on {self.address} ({self.why}): {self.cure}"


def make_app(registry: CollectorRegistry, health: Health) -> Starlette:
    """The application. `/metrics` negotiates the format, `/healthz` and `/readyz` answer JSON with 200 or 503."""
    one_scrape = anyio.CapacityLimiter(1)

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(",".join(request.headers.getlist("accept")))
        # In a thread: with many queues building the text takes longer than the loops should wait.
        text = await run_sync(encode, registry, limiter=one_scrape)
        return Response(text, headers={"content-type": content_type})

    async def healthz(_: Request) -> Response:
        stalls = health.stalls()
        return _json({"alive": not stalls, "stalled": stalls}, good=not stalls)

    async def readyz(_: Request) -> Response:
        problems = health.problems()
        return _json({"ready": not problems, "problems": problems}, good=not problems)

    return Starlette(routes=[Route("/metrics", metrics), Route("/healthz", healthz), Route("/readyz", readyz)])


async def serve_http(
    host: str, port: int, app: ASGIApp, *, task_status: TaskStatus[int] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Serve until cancelled; ends within a second then. Reports the real port once it is listening.

    `host`: name or address (`::1`, brackets allowed); `port`: 0 takes a free one. Raises ListenRefused.
    """
    sockets = await _bind(host.removeprefix("[").removesuffix("]"), port)
    config = uvicorn.Config(
        app, log_config=None, log_level="warning", access_log=False, lifespan="off", server_header=False, ws="none"
    )
    server = _Server(config)
    stopping = anyio.CancelScope(shield=True)

    async def run() -> None:
        with stopping:
            await server.serve(sockets)

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            try:
                await server.listening.wait()
                task_status.started(sockets[0].getsockname()[1])
                await anyio.sleep_forever()
            finally:
                server.should_exit = True
                stopping.deadline = anyio.current_time() + SHUTDOWN_GRACE
    finally:
        server.drop_connections()
        for sock in sockets:
            sock.close()


class _Server(uvicorn.Server):
    """uvicorn inside somebody else's process: signals are the daemon's, and starting is an event."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = anyio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    def drop_connections(self) -> None:
        """Cut off whoever is still connected after the grace."""
        for task in self.server_state.tasks:
            task.cancel()
        for connection in list(self.server_state.connections):
            transport = connection.transport
            if transport is not None:
                transport.abort()


async def _bind(host: str, port: int) -> list[socket.socket]:
    """Bind every address of the host, all on one port."""
    try:
        found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise _refused(host, port, error) from error
    sockets: list[socket.socket] = []
    absent: OSError | None = None
    for family, _, _, _, (address, _) in dict.fromkeys(found):
        try:
            sockets.append(_bound(family, address, port))
        except OSError as error:
            if error.errno in _ABSENT:
                absent = error
                continue
            for sock in sockets:
                sock.close()
            raise _refused(host, port, error) from error
        port = sockets[0].getsockname()[1]
    if not sockets:
        raise _refused(host, port, absent or OSError("the name has no address")) from absent
    return sockets


# `localhost` may name an address family that is switched off here; that matters only when nothing else is left.
_ABSENT = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


def _bound(family: int, address: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
        # Listen here: without it two processes may both bind, and the second fails only later, inside the server.
        sock.listen(128)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def _refused(host: str, port: int, error: Exception) -> ListenRefused:
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    setting = "choose another one with listen (--listen HOST:PORT, RECLAIMD_LISTEN)"
    code = error.errno if isinstance(error, OSError) else None
    match code:
        case errno.EADDRINUSE:
            cure = f"another program has the port, perhaps a second daemon: stop it, or {setting}"
        case errno.EACCES:
            cure = f"this user may not listen on this port: {setting}"
        case errno.EADDRNOTAVAIL:
            cure = f"this host does not have the address: {setting}"
        case _:
            cure = setting
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return ListenRefused(address, why, cure)


def _json(body: dict[str, object], *, good: bool) -> Response:
    return Response(
        msgspec.json.encode(body),
        status_code=200 if good else 503,
        media_type="application/json",
        headers={"cache-control": "no-store"},
    )
