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

from measure import markdown  # noqa: E402  (after the path)
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
TABLE = "benchmarks.json"


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(prog="bench/run.py", description=__doc__)
    parser.add_argument("--only", default=",".join(CASES), help="cases, such as b,c (default: all)")
    parser.add_argument("--runs", type=int, help="runs of each figure (default: at least 5, more where it is quick)")
    parser.add_argument("--server", choices=FLAVOURS, default=available_flavours()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, one run: proves that it works, no more")
    parser.add_argument("--keep", action="store_true", help="keep the last table's lines of the other cases")
    parser.add_argument("--write-docs", action="store_true", help="write docs/benchmarks.md too")
    parser.add_argument("--out", type=Path, default=HERE / "out", help="folder for the table (default: bench/out)")
    given = parser.parse_args()
    given.letters = [letter for letter in given.only.split(",") if letter]
    if unknown := set(given.letters) - set(CASES):
        parser.error(f"no such case: {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    return given


def measure(letter: str, given: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Run one case on a server of its own; returns its part of the document."""
    part: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "command": " ".join(["python -P bench/run.py", *sys.argv[1:]]),
        "quick": given.quick,
        "load_before": round(os.getloadavg()[0], 2),
    }
    with tempfile.TemporaryDirectory(prefix="reclaimd-bench-") as folder:
        server = Server(given.server, Path(folder, "server")).start()
        try:
            with server.client(timeout=CLIENT_TIMEOUT) as client:
                info = client.info("server")
                part["server"] = f"{given.server} {info.get('valkey_version') or info['redis_version']}"
                case = importlib.import_module(f"cases.{CASES[letter]}")
                stage = Stage(server, client, Path(folder), given.runs, given.quick, progress.say)
                part["figures"] = [figure.as_json() for figure in case.measure(stage)]
        finally:
            server.stop()
    part["load_after"] = round(os.getloadavg()[0], 2)
    return part


def known(given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """With --keep what the last table had; nothing of a quick run, which proves nothing."""
    try:
        found = json.loads((given.out / TABLE).read_text())["cases"] if given.keep else {}
    except FileNotFoundError:
        return {}
    return {letter: part for letter, part in found.items() if not part["quick"]}


def write(given: argparse.Namespace, cases: dict[str, dict[str, Any]]) -> None:
    """After each case, so that what was measured is not lost with what comes later."""
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / TABLE).write_text(json.dumps({"cases": cases}, indent=2, ensure_ascii=False) + "\n")
    page = markdown(cases)
    (given.out / "benchmarks.md").write_text(page)
    if given.write_docs:
        (HERE.parent / "docs" / "benchmarks.md").write_text(page)


def main() -> int:
    """Measure and write."""
    given = arguments()
    # What was started must end with us, when a time limit ends us too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cases = known(given)
    with Progress(given.letters) as progress:
        for letter in given.letters:
            progress.begin(letter)
            cases = dict(sorted({**cases, letter: measure(letter, given, progress)}.items()))
            write(given, cases)
            progress.done(letter)
    show(cases)
    return 0


if __name__ == "__main__":
    sys.exit(main())
