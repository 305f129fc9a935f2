"""Ctrl-C at the instant at which asyncio alone would lose it."""

import subprocess
import sys

PROGRAM = """
import asyncio, os, signal
import anyio
from reclaimd.daemon.cli.running import ended_by_ctrl_c

async def main():
    with ended_by_ctrl_c():
        os.kill(os.getpid(), signal.SIGINT)
        try:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        except TimeoutError:
            pass
        await asyncio.Event().wait()
    print("ended")

anyio.run(main)
"""


def test_ctrl_c_before_a_timeout_of_nothing_is_not_lost() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ended\n", "")
