"""URLs of SQL databases as their users write them, and what drivers say, without passwords. Imports SQLAlchemy."""

import re
from pathlib import Path
from urllib.parse import quote

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from reclaimd.streams.addresses import database_url_problem

LONGEST = 500


def read_url(text: str) -> URL:
    """`sqlite:///FILE` or `postgresql://…` with the driver that is used here, the file's path absolute.

    Raises ValueError that says what is wrong, without the password.
    """
    problem = database_url_problem(text)
    if problem is not None:
        raise ValueError(problem)
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ValueError("the URL cannot be read: percent-encode / ? # @ : in user and password") from None
    if url.drivername.startswith("sqlite"):
        return URL.create("sqlite+aiosqlite", database=str(Path(url.database or "").absolute()))
    # Everybody else calls it sslmode.
    query = {"ssl" if key == "sslmode" else key: value for key, value in url.query.items()}
    return url.set(drivername="postgresql+asyncpg", query=query)


def told(error: BaseException | None, url: URL) -> str:
    """The driver's own words, without the password even if it repeats the URL."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.sub(r"^<class '[\w.]+'>: ", "", text)
    for secret in {url.password, quote(str(url.password or ""), safe="")}:
        if secret:
            text = text.replace(str(secret), "***")
    return text[:LONGEST]
