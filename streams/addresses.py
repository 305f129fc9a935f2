"""Redis URLs, database URLs, paths and listening addresses: what is valid, and what may be shown."""

import re
from urllib.parse import quote, unquote, urlsplit

MASK = "***"
SCHEMES = ("redis", "rediss", "unix")

DATABASE_SCHEMES = ("sqlite", "sqlite+aiosqlite", "postgresql", "postgres", "postgresql+asyncpg")

_SECRET_QUERY = re.compile(r"(?i)([?&][^=&#]*(?:password|secret|token)[^=&#]*=)[^&#]*")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_PORT = re.compile(r"[0-9]{1,5}")


def redacted(url: str) -> str:
    """The URL without its password: `redis://user:***@host:6379/0`.

    Made for broken URLs too, where a password may hold `/`, `?`, `#` or `@` as they are: everything up to the last `@`
    counts as user and password, so that it rather hides too much. A user without a password is hidden as well, because
    `redis://PASSWORD@host` is a common slip.
    """
    scheme, separator, rest = _split_scheme(url)
    credentials, at, address = rest.rpartition("@")
    if at:
        user, colon, _ = credentials.partition(":")
        address = f"{user + ':' if colon else ''}{MASK}@{address}"
    elif separator:
        address = _without_odd_port(rest)
    else:
        address = rest
    return _SECRET_QUERY.sub(rf"\g<1>{MASK}", f"{scheme}{separator}{address}")


def url_problem(url: str) -> str | None:
    """What is wrong with a Redis URL, without showing any of its password; None when nothing is."""
    examples = "say redis://host:6379/0, rediss://host:6379/0 (TLS) or unix:///run/redis.sock"
    scheme, separator, _ = _split_scheme(url)
    if not separator or scheme not in SCHEMES:
        return f"a Redis URL begins with redis://, rediss:// or unix://: {examples}"
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError:
        return f"host or port cannot be read (percent-encode / ? # @ : in a password): {examples}"
    if scheme == "unix":
        return None if parts.path else f"no socket path: {examples}"
    if port == 0 or (host and any(c.isspace() for c in host)):
        return f"host or port cannot be read: {examples}"
    if parts.fragment or not re.fullmatch(r"/?|/[0-9]{1,9}", parts.path):
        return (
            f"after the host comes at most the number of a database (percent-encode / ? # @ in a password): {examples}"
        )
    return None


def database_url_problem(url: str) -> str | None:
    """What is wrong with the URL of a SQL database, without showing any of its password; None when nothing is."""
    examples = "say sqlite:////var/lib/app.db or postgresql://user@host/name"
    scheme, separator, rest = _split_scheme(url)
    if not separator or scheme.lower() not in DATABASE_SCHEMES:
        return f"a database URL begins with sqlite:// or postgresql://: {examples}"
    if scheme.lower().startswith("sqlite"):
        return None if re.fullmatch(r"/[^?#]+", rest) else f"after sqlite:/// comes a file, nothing else: {examples}"
    try:
        parts = urlsplit(url)
        readable = parts.hostname is not None and parts.port != 0
    except ValueError:
        readable = False
    return None if readable else f"host or port cannot be read (percent-encode / ? # @ : in a password): {examples}"


def path_problem(path: str) -> str | None:
    """What is wrong with the path of a file that a setting names; None when nothing is."""
    return None if path.startswith("/") else "expected an absolute path, one that begins with /"


def has_password(url: str) -> bool:
    """Whether the URL holds a password, in front of the host or as `?password=`."""
    parts = urlsplit(url)
    return bool(parts.password) or bool(re.search(r"[?&]password=[^&]", f"?{parts.query}"))


def with_password(url: str, password: str) -> str:
    """The URL with this password (percent-encoded here) beside the user that it may already name."""
    parts = urlsplit(url)
    user, at, address = parts.netloc.rpartition("@")
    name = unquote(user.partition(":")[0]) if at else ""
    return parts._replace(netloc=f"{quote(name, safe='')}:{quote(password, safe='')}@{address}").geturl()


def parse_listen(text: str) -> tuple[str, int]:
    """Split `HOST:PORT` (`[::1]:9417` for IPv6; port 0 takes a free one). Raises ValueError with the cure."""
    host, colon, port = text.strip().rpartition(":")
    if not colon:
        raise ValueError("a listening address is HOST:PORT: say 127.0.0.1:9417")
    if not host:
        raise ValueError("no host before the port: say 127.0.0.1:9417, or 0.0.0.0:9417 for every interface")
    if not _PORT.fullmatch(port) or int(port) > 65_535:
        raise ValueError("the port is a number from 0 to 65535: say 127.0.0.1:9417")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if (":" in host) is not bracketed:
        raise ValueError("an IPv6 address stands in brackets: say [::1]:9417")
    if not host or any(c.isspace() or c in "/@[]" for c in host):
        raise ValueError("the host cannot be read: say 127.0.0.1:9417")
    return host, int(port)


def _split_scheme(url: str) -> tuple[str, str, str]:
    scheme, separator, rest = url.partition("://")
    return (scheme, separator, rest) if separator and _SCHEME.fullmatch(scheme) else ("", "", url)


def _without_odd_port(rest: str) -> str:
    """Hide what stands where the port should: `redis://:secret` and `redis://user:secret` lost their `@host`."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    host, colon, port = authority.rpartition(":")
    if not colon or authority.endswith("]") or not port or _PORT.fullmatch(port):
        return rest
    return f"{host}:{MASK}{rest[len(authority) :]}"
