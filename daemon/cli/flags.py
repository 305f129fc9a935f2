"""The flags that every command takes, before or after its name, and the settings that they make with the rest."""

import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from reclaimd.streams.configure import Config

R = TypeVar("R")

_META = "reclaimd.flags"
_KEYS = ("redis_url", "namespace", "listen", "archive.url")
_PANEL = "Options of every command"


class Flags:
    """What was given on the command line, wherever it stood; later ones win."""

    def __init__(self, ctx: typer.Context) -> None:
        self._given: dict[str, Any] = ctx.meta.get(_META, {})

    @property
    def json(self) -> bool:
        """Whether the output is for a program."""
        return bool(self._given.get("json_output"))

    def settings(self, **more: object) -> "Config":
        """The whole configuration: flags over environment over file. `more`: further keys, None when not given.

        Raises ConfigError.
        """
        from reclaimd.daemon.config import load

        flags = {key: self._given.get(key.replace(".", "_")) for key in _KEYS}
        config_file = self._given.get("config")
        return load(config_file, os.environ, {**flags, **more})


def _remember(ctx: typer.Context, param: typer.CallbackParam, value: Any) -> Any:
    if value is not None and value is not False and param.name is not None:
        ctx.meta.setdefault(_META, {})[param.name] = value
    return value


def _option(*names: str, text: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, callback=_remember, expose_value=False, rich_help_panel=_PANEL, **more)


_SHARED: dict[str, tuple[Any, Any]] = {
    "redis_url": (
        Annotated[str | None, _option("--redis-url", text="Where Redis is, redis://host:port/db.", metavar="URL")],
        None,
    ),
    "namespace": (
        Annotated[str | None, _option("--namespace", text="Prefix of all keys in Redis.", metavar="NS")],
        None,
    ),
    "archive_url": (
        Annotated[
            str | None,
            _option("--archive-url", text="The archive, sqlite:///FILE or postgresql://host/name.", metavar="URL"),
        ],
        None,
    ),
    "config": (
        Annotated[Path | None, _option("--config", text="The configuration file (TOML).", metavar="FILE")],
        None,
    ),
    "json_output": (
        Annotated[bool, _option("--json", text="Print one JSON document.")],
        False,
    ),
}
_LISTEN = (
    Annotated[
        str | None,
        _option("--listen", text="Where to serve /metrics, /healthz and /readyz.", metavar="HOST:PORT"),
    ],
    None,
)


def shared(function: Callable[..., R]) -> Callable[..., R]:
    """Decorate a command: it takes the shared flags too, which reach it through `Flags(ctx)`."""
    return _extended(function, _SHARED)


def shared_and_listen(function: Callable[..., R]) -> Callable[..., R]:
    """The same with `--listen`."""
    return _extended(function, {**_SHARED, "listen": _LISTEN})


def _extended(function: Callable[..., R], flags: dict[str, tuple[Any, Any]]) -> Callable[..., R]:
    """Typer reads signatures and passes every parameter; those added here stop short of the function."""
    own = inspect.signature(function, eval_str=True)

    @functools.wraps(function)
    def command(**kwargs: Any) -> R:
        return function(**{name: value for name, value in kwargs.items() if name in own.parameters})

    extra = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in flags.items()
    ]
    signature = own.replace(parameters=[*own.parameters.values(), *extra])
    vars(command)["__signature__"] = signature
    command.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    return command
