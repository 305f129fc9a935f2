"""Waits for a named condition. A test never sleeps to let something happen: it says what it waits for."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")

_FIRST_PAUSE = 0.001
_LONGEST_PAUSE = 0.05


def wait_until(predicate: Callable[[], T], what: str, timeout: float = 10.0) -> T:
    """Poll `predicate` until it is true, and return what it returned.

    `timeout`: seconds. Raises AssertionError that names `what` and shows the last value. What `predicate` raises
    passes through at once: a wait must not hide an error.
    """
    deadline = time.monotonic() + timeout
    pause = _FIRST_PAUSE
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(_timed_out(what, timeout, value))
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)


@overload
async def await_until(predicate: Callable[[], Awaitable[T]], what: str, timeout: float = 10.0) -> T: ...
@overload
async def await_until(predicate: Callable[[], T], what: str, timeout: float = 10.0) -> T: ...
async def await_until(predicate: Callable[[], Any], what: str, timeout: float = 10.0) -> Any:
    """`wait_until` for coroutines: `predicate` may be a plain function or return an awaitable.

    An awaitable that hangs is cut off at the deadline too.
    """
    deadline = time.monotonic() + timeout
    pause = _FIRST_PAUSE
    while True:
        value = predicate()
        if inspect.isawaitable(value):
            value = await _before(deadline, value, what, timeout)
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(_timed_out(what, timeout, value))
        await asyncio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)


async def _before(deadline: float, pending: Awaitable[T], what: str, timeout: float) -> T:
    left = asyncio.timeout(max(deadline - time.monotonic(), _LONGEST_PAUSE))
    try:
        async with left:
            return await pending
    except TimeoutError:
        if not left.expired():
            raise
        raise AssertionError(_timed_out(what, timeout, "no answer")) from None


def _timed_out(what: str, timeout: float, value: object) -> str:
    return f"waited {timeout:g} s in vain for: {what} (last value: {value!r})"
