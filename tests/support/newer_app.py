"""The next version of `support.task_app`: it knows one task more."""

from reclaimd.streams.context import Context
from support.task_app import app, say


@app.task(queue="mail")
async def newcomer(n: int, ctx: Context) -> None:
    say("note", ctx, n=n)
