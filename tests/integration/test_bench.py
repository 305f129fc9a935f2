"""The benchmark works and its table has the shape that it says. How fast anything is, is not judged here."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FIGURES = {"a": 4, "b": 1, "c": 2, "d": 1, "e": 6, "f": 3, "g": 3, "h": 3, "j": 6, "k": 4}
KEYS = {"case", "name", "unit", "median", "p99", "min", "max", "runs", "floors", "ratio", "aim", "met", "note", "row"}


def test_every_case_measures_and_is_written(tmp_path: Path) -> None:
    command = [sys.executable, "-P", str(ROOT / "bench" / "run.py"), "--quick", "--out", str(tmp_path)]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False)
    assert ended.returncode == 0, ended.stderr
    document = json.loads((tmp_path / "benchmarks.json").read_text())
    cases = document["cases"]
    for part in cases.values():
        assert {"date", "server", "cpus", "command", "load_before", "load_after", "quick"} < part.keys()
    figures = [figure for part in cases.values() for figure in part["figures"]]
    assert {case: len(cases[case]["figures"]) for case in FIGURES} == FIGURES
    for figure in figures:
        assert figure.keys() == KEYS
        assert figure["runs"]
        assert min(figure["runs"]) >= 0
        assert all(len(floor["runs"]) == len(figure["runs"]) for floor in figure["floors"].values())
    page = (tmp_path / "benchmarks.md").read_text()
    assert all(figure["name"] in page for figure in figures)
