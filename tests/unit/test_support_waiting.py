"""The waits name what they waited for, and hide nothing."""

import asyncio

import pytest

from support.waiting import await_until, wait_until


def test_returns_the_first_true_value() -> None:
    answers = iter([0, None, "", "there"])
    assert wait_until(lambda: next(answers), "an answer") == "there"


def test_a_timeout_names_the_condition_and_the_last_value() -> None:
    with pytest.raises(AssertionError, match=r"0\.02 s in vain for: the moon \(last value: \[\]\)"):
        wait_until(list, "the moon", timeout=0.02)


def test_an_error_in_the_predicate_passes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        wait_until(lambda: 1 // 0, "a miracle")


def test_async_takes_plain_and_async_predicates() -> None:
    async def soon() -> str:
        await asyncio.sleep(0)
        return "async"

    async def both() -> tuple[object, object]:
        return await await_until(lambda: "plain", "plain"), await await_until(soon, "async")

    assert asyncio.run(both()) == ("plain", "async")


def test_async_cuts_off_a_predicate_that_hangs() -> None:
    async def hangs() -> bool:
        await asyncio.Event().wait()
        return True

    with pytest.raises(AssertionError, match="for: the end of time"):
        asyncio.run(await_until(hangs, "the end of time", timeout=0.02))


def test_async_leaves_a_timeout_of_the_predicate_alone() -> None:
    async def times_out() -> bool:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        asyncio.run(await_until(times_out, "nothing", timeout=1))
