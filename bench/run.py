"""`make bench`: measures, prints the table, writes it to bench/out/ and with --write-docs to docs/benchmarks.md."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import signal
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

from measure import Figure, markdown  # noqa: E402  (after the path)
from report import Progress, show  # noqa: E402
from stage import Stage  # noqa: E402

from support.servers import FLAVOURS, Server, available_flavours  # noqa: E402

CASES = {
    "a": "a_enqueue",
    "b": "b_drain",
    "c": "c_reclaim",
    "d": "d_neighbours",
    "e": "e_idle",
    "f": "f_memory",
    "g": "g_kills",
    "h": "h_schedules",
    "i": "i_fire",
    "j": "j_archive",
    "k": "k_rebuild",
}
CLIENT_TIMEOUT = 120


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(prog="bench/run.py", description=__doc__)
    parser.add_argument("--only", default=",".join(CASES), help="cases, such as b,c (default: all)")
    parser.add_argument("--runs", type=int, help="runs of each figure (default: at least 5, more where it is quick)")
    parser.add_argument("--server", choices=FLAVOURS, default=available_flavours()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, one run: proves that it works, no more")
    parser.add_argument("--write-docs", action="store_true", help="write docs/benchmarks.md too")
    parser.add_argument("--out", type=Path, default=HERE / "out", help="folder for the table (default: bench/out)")
    given = parser.parse_args()
    given.letters = [letter for letter in given.only.split(",") if letter]
    if unknown := set(given.letters) - set(CASES):
        parser.error(f"no such case: {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    return given


def measure(given: argparse.Namespace, progress: Progress) -> tuple[dict[str, Any], list[Figure]]:
    """Run the cases, each on a server of its own."""
    figures: list[Figure] = []
    head: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "command": " ".join(["python -P bench/run.py", *sys.argv[1:]]),
        "quick": given.quick,
        "load_before": round(os.getloadavg()[0], 2),
    }
    for letter in given.letters:
        with tempfile.TemporaryDirectory(prefix="reclaimd-bench-") as folder:
            server = Server(given.server, Path(folder, "server")).start()
            try:
                with server.client(timeout=CLIENT_TIMEOUT) as client:
                    info = client.info("server")
                    version = info.get("valkey_version") or info["redis_version"]
                    head["server"] = f"{given.server} {version}"
                    case = importlib.import_module(f"cases.{CASES[letter]}")
                    stage = Stage(server, client, Path(folder), given.runs, given.quick, progress.say)
                    progress.begin(letter)
                    figures += case.measure(stage)
            finally:
                server.stop()
            progress.done(letter)
    head["load_after"] = round(os.getloadavg()[0], 2)
    return head, figures


def main() -> int:
    """Measure and write."""
    given = arguments()
    # What was started must end with us, when a time limit ends us too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with Progress(given.letters) as progress:
        head, figures = measure(given, progress)
    page = markdown(head, figures)
    given.out.mkdir(parents=True, exist_ok=True)
    document = {**head, "figures": [figure.as_json() for figure in figures]}
    (given.out / "benchmarks.json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    (given.out / "benchmarks.md").write_text(page)
    if given.write_docs:
        (HERE.parent / "docs" / "benchmarks.md").write_text(page)
    show(head, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
