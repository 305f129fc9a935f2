"""The daemon's HTTP server on a loopback port, its event loop in a thread of its own."""

from collections.abc import Iterator
from contextlib import contextmanager

from anyio.from_thread import start_blocking_portal
from starlette.types import ASGIApp

from reclaimd.daemon.http import serve_http


@contextmanager
def serving(app: ASGIApp, host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """Serve `app` while the block runs, and give its port."""
    with start_blocking_portal() as portal:
        future, real_port = portal.start_task(serve_http, host, port, app)
        try:
            yield real_port
        finally:
            future.cancel()
