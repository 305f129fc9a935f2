"""A SQLite archive that is open twice in one process, and in another one that ends meanwhile."""

import subprocess
import sys
from pathlib import Path

import pytest

from reclaimd.daemon.archive.engine import Access
from reclaimd.daemon.archive.store import open_store
from support.archive_rows import MAIL, ME, task, upserts
from support.daemons import in_loop

ANOTHER_PROCESS = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("PRAGMA journal_mode=WAL")
print(*connection.execute("SELECT task_id FROM reclaimd_tasks"))
connection.close()
"""


@in_loop
@pytest.mark.parametrize("access", list(Access))
async def test_opening_it_again_leaves_the_locks_of_who_has_it_open(tmp_path: Path, access: Access) -> None:
    file = tmp_path / "archive.db"
    async with open_store(f"sqlite:///{file}") as first:
        assert await first.claim(MAIL, ME, None)
        await first.commit(MAIL, ME, upserts(task(1)), {})
        async with open_store(f"sqlite:///{file}", access) as second:
            assert await second.count_tasks(MAIL) == {"lane:normal": 1}
        # Were it the last one to close it, it would delete the log, into which this process would write on.
        done = subprocess.run(
            [sys.executable, "-c", ANOTHER_PROCESS, str(file)], capture_output=True, text=True, timeout=30, check=True
        )
        assert done.stdout == "('t1',)\n"
        assert Path(f"{file}-wal").exists()
        await first.commit(MAIL, ME, upserts(task(2)), {})
    async with open_store(f"sqlite:///{file}", Access.READ) as again:
        assert await again.count_tasks(MAIL) == {"lane:normal": 2}
