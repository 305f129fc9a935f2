"""A TCP proxy before a server that breaks connections on demand, in ways that a network does.

It runs in threads, so that sync, async and subprocess tests use it alike, and it knows where requests and replies end:
a rule is armed for a request ("the next EVALSHA") and acts on that request or on the reply that belongs to it.
"""

import contextlib
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Literal, Self

from support.resp import arguments, message_end
from support.waiting import wait_until

Request = tuple[bytes, ...]
Match = str | Callable[[Request], bool] | None

_HANDSHAKE: Final = frozenset({b"HELLO", b"AUTH", b"CLIENT", b"SELECT", b"COMMAND"})
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_CHUNK: Final = 1 << 18


def matches(request: Request, match: Match) -> bool:
    """None: any request but a client's handshake. A string: that command, or that word among the arguments."""
    if match is None:
        return request[0].upper() not in _HANDSHAKE
    if isinstance(match, str):
        wanted = match.encode()
        return request[0].upper() == wanted.upper() or wanted in request[1:]
    return match(request)


@dataclass(eq=False)
class Rule:
    """What happens to the next matching request. `requests` shows those that it caught."""

    kind: Literal["cut", "drop", "hold"]
    match: Match
    left: int | None
    after: int = 0
    requests: list[Request] = field(default_factory=list)
    _answered: int = 0
    _verdict: Literal["wait", "send", "discard"] = "wait"
    _changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def done(self) -> int:
        """How many caught requests the server has answered, that is, executed."""
        with self._changed:
            return self._answered

    def wait_caught(self, count: int = 1, timeout: float = 10.0) -> None:
        """Until `count` requests are caught."""
        wait_until(lambda: len(self.requests) >= count, f"{count} requests caught by {self.kind} {self.match}", timeout)

    def wait_done(self, count: int = 1, timeout: float = 10.0) -> None:
        """Until the server has executed `count` of the caught requests."""
        wait_until(lambda: self.done >= count, f"{count} requests executed under {self.kind} {self.match}", timeout)

    def release(self, timeout: float = 10.0) -> None:
        """Send what is held to the server, and wait until it has executed it. Later requests are no longer held.

        The clients may be gone by now: that is "a command that arrives late".
        """
        self._decide("send")
        self.wait_done(len(self.requests), timeout)

    def discard(self) -> None:
        """What is held never reaches the server; the connections that carried it are cut."""
        self._decide("discard")

    def _decide(self, verdict: Literal["send", "discard"]) -> None:
        with self._changed:
            self._verdict = verdict
            self.left = 0
            self._changed.notify_all()

    def catch(self, request: Request) -> bool:
        """Claim `request` if the rule has catches left and the request matches."""
        with self._changed:
            if self.left == 0 or not matches(request, self.match):
                return False
            if self.left is not None:
                self.left -= 1
            self.requests.append(request)
            return True

    def wait_verdict(self) -> bool:
        """Block until `release` (True) or `discard` (False)."""
        with self._changed:
            self._changed.wait_for(lambda: self._verdict != "wait")
            return self._verdict == "send"

    def answered(self) -> None:
        """Note that a caught request was executed."""
        with self._changed:
            self._answered += 1


class Proxy:
    """Use as a context manager: `with Proxy(server.port) as proxy: client(proxy.port) …`."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(self._listener.getsockname()[1])
        self._lock = threading.Lock()
        self._rules: list[Rule] = []
        self._links: set[_Link] = set()
        self._flowing = threading.Event()
        self._flowing.set()
        self._delay = 0.0
        self._stopped = False
        self._acceptor = threading.Thread(target=self._accept, name=f"proxy-{self.port}", daemon=True)

    def __enter__(self) -> Self:
        self._acceptor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def connections(self) -> int:
        """Clients connected now."""
        with self._lock:
            return sum(not link.client_gone for link in self._links)

    def cut_all(self) -> int:
        """Reset all connections now; new ones are accepted. Returns how many. Held requests stay held."""
        with self._lock:
            links = [link for link in self._links if not link.client_gone]
        for link in links:
            link.cut()
        return len(links)

    def retarget(self, port: int) -> None:
        """Another server has this address from now on; connections to the one before are reset."""
        self._target_port = port
        self.cut_all()

    def cut_reply(self, after: int = 0, match: Match = None, times: int = 1) -> Rule:
        """Forward the next matching request, and reset its connection after `after` bytes of its reply."""
        return self._arm(Rule("cut", match, times, after))

    def drop_reply(self, match: Match = None, times: int = 1) -> Rule:
        """Forward the next matching request; its reply never comes, though the connection stays up."""
        return self._arm(Rule("drop", match, times))

    def hold(self, match: Match = None, times: int | None = 1) -> Rule:
        """Keep the next matching requests (`times=None`: all) from the server until `release` or `discard`.

        What the same connection sends behind a held request waits with it.
        """
        return self._arm(Rule("hold", match, times))

    def black_hole(self) -> None:
        """Accept connections and data, forward nothing in either direction."""
        self._flowing.clear()

    def heal(self) -> None:
        """End `black_hole`. What was sent meanwhile arrives now, unless `cut_all` came first."""
        self._flowing.set()

    def delay_replies(self, seconds: float) -> None:
        """Deliver each reply that much later than it came, one after another; 0 ends it."""
        self._delay = seconds

    def stop(self) -> None:
        """Close the listener and all connections, discard what is held, and wait for the threads."""
        self._stopped = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        if self._acceptor.is_alive():
            self._acceptor.join(5)
        with self._lock:
            rules, links = list(self._rules), list(self._links)
        for rule in rules:
            rule.discard()
        for link in links:
            link.cut()
            link.close_upstream()
        self._flowing.set()
        for link in links:
            link.join()

    def _arm(self, rule: Rule) -> Rule:
        with self._lock:
            self._rules.append(rule)
        return rule

    def rule_for(self, request: Request) -> Rule | None:
        """The first armed rule that catches `request`."""
        with self._lock:
            rules = list(self._rules)
        return next((rule for rule in rules if rule.catch(request)), None)

    def pass_gate(self) -> None:
        """Block while the proxy is a black hole."""
        self._flowing.wait()

    def pause_reply(self) -> None:
        """Wait as long as replies are delayed."""
        if self._delay:
            time.sleep(self._delay)

    def forget(self, link: "_Link") -> None:
        """A connection has ended on both sides."""
        with self._lock:
            self._links.discard(link)

    def _accept(self) -> None:
        while not self._stopped:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                upstream = socket.create_connection(("127.0.0.1", self._target_port), timeout=5)
            except OSError:
                _reset(client)
                client.close()
                continue
            upstream.settimeout(None)
            for end in (client, upstream):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link = _Link(self, client, upstream)
            with self._lock:
                self._links.add(link)
            link.start()


class _Link:
    """One client's connection and its twin to the server: a thread up, a thread down."""

    def __init__(self, proxy: Proxy, client: socket.socket, upstream: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._upstream = upstream
        self._awaited: deque[Rule | None] = deque()
        self._state = threading.Condition()
        self.client_gone = False
        self._server_gone = False
        self._holding = 0
        self._threads = [
            threading.Thread(target=self._pump_up, name=f"proxy-{proxy.port}-up", daemon=True),
            threading.Thread(target=self._pump_down, name=f"proxy-{proxy.port}-down", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(5)

    def cut(self) -> None:
        """Reset the client; the server's side goes too, unless a held request still has to travel on it."""
        with self._state:
            if not self.client_gone:
                self.client_gone = True
                _reset(self._client)
            keep = self._holding > 0
        if not keep:
            self.close_upstream()

    def close_upstream(self) -> None:
        with contextlib.suppress(OSError):
            self._upstream.shutdown(socket.SHUT_RDWR)

    def _pump_up(self) -> None:
        buffer = bytearray()
        try:
            while data := self._client.recv(_CHUNK):
                buffer += data
                while buffer and (end := message_end(buffer)) is not None:
                    message = bytes(buffer[:end])
                    del buffer[:end]
                    self._forward(message)
        except OSError:
            # Reset by the client, by a control of the proxy, or by the server: the link ends in each case.
            self.cut()
        self._client_left()

    def _forward(self, message: bytes) -> None:
        self._proxy.pass_gate()
        request = arguments(message)
        with self._state:
            # A rule that sees its request must find the connection marked, or a cut right after would close it.
            rule = self._proxy.rule_for(request) if not self.client_gone else None
            if rule is None and self.client_gone:
                raise OSError("the client was cut off before this request was sent")
            if rule is not None and rule.kind == "hold":
                self._holding += 1
        if rule is not None and rule.kind == "hold" and not rule.wait_verdict():
            with self._state:
                self._holding -= 1
            raise OSError("the request was discarded")
        with self._state:
            self._awaited.append(rule)
        self._upstream.sendall(message)

    def _client_left(self) -> None:
        """The client sends no more: end the server's side once no released request waits for its answer there."""
        with self._state:
            self._state.wait_for(lambda: self._holding == 0 or self._server_gone)
        self.close_upstream()

    def _pump_down(self) -> None:
        buffer = bytearray()
        try:
            while data := self._upstream.recv(_CHUNK):
                buffer += data
                while buffer and (end := message_end(buffer)) is not None:
                    message = bytes(buffer[:end])
                    del buffer[:end]
                    self._answer(message)
        except OSError:
            # The server's side was reset; what the client gets to see is the same as for an orderly end.
            self.close_upstream()
        with self._state:
            self._server_gone = True
            self._state.notify_all()
        self.cut()
        self._client.close()
        self._threads[0].join(15)
        self._upstream.close()
        self._proxy.forget(self)

    def _answer(self, message: bytes) -> None:
        rule: Rule | None = None
        if not message.startswith(b">"):
            with self._state:
                rule = self._awaited.popleft() if self._awaited else None
        self._proxy.pass_gate()
        self._proxy.pause_reply()
        if rule is not None and rule.kind == "drop":
            rule.answered()
            return
        if rule is not None and rule.kind == "cut":
            self._send_down(message[: rule.after])
            rule.answered()
            self.cut()
            return
        self._send_down(message)
        if rule is not None:
            rule.answered()
            with self._state:
                self._holding -= 1
                self._state.notify_all()

    def _send_down(self, message: bytes) -> None:
        if self.client_gone:
            return
        with contextlib.suppress(OSError):
            self._client.sendall(message)


def _reset(connection: socket.socket) -> None:
    """End it for the client, without waiting for what is still to be sent, and wake whoever reads it here."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
