"""A minimal app. With Redis running: `reclaimd serve`, `reclaimd worker examples.mail:app`, and run this file."""

import anyio

from reclaimd.streams import Context, Reclaimd, Retry

app = Reclaimd()


@app.task(queue="mail", timeout=30, retry=Retry(attempts=5, delay=2))
async def send(to: str, subject: str, ctx: Context) -> None:
    """Pretend to send a mail; a real one would pass `ctx.token` along, so that a frozen run cannot send twice."""
    await anyio.sleep(0.2)
    print(f"sent {subject!r} to {to}, attempt {ctx.attempt}, token {ctx.token}")


async def main() -> None:
    """Enqueue ten mails, one of them a minute from now, one of them only once however often it is asked for."""
    async with app:
        for number in range(8):
            await app.enqueue(send, to=f"user{number}@example.org", subject="hello")
        await app.enqueue(send, to="late@example.org", subject="a minute later", delay="1m")
        await app.enqueue(send, to="once@example.org", subject="just once", unique="once")


if __name__ == "__main__":
    anyio.run(main)
