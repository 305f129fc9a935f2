"""Plant one error for each checker where it must look, and fail unless it is found.

The packages are reached through links, which some tools skip without a word: a green check would then mean nothing.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from support.copies import working_copy

BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Plant:
    """`text` in a new file at `path` must make `command` fail with `complaint` in its output."""

    what: str
    path: str
    text: str
    command: tuple[str, ...]
    complaint: str


def plants(tree: Path) -> list[Plant]:
    """One error per checker, and per root that it must reach."""
    mypy = ("mypy", "-p", "reclaimd")
    typed = [
        Plant(f"mypy in {name}", f"{name}/planted.py", "N: int = ''\n", mypy, "planted.py:1")
        for name in ("streams", "daemon", "metrics")
        if (tree / name / "__init__.py").exists()
    ]
    pure = tree / "streams" / "ids.py"
    return [
        *typed,
        Plant("mypy in tests", "tests/unit/planted.py", "N: int = ''\n", ("mypy", "tests"), "planted.py:1"),
        Plant("ruff", "streams/planted.py", "import daemon\n\nprint(daemon)\n", ("ruff", "check", "streams"), "TID251"),
        Plant(
            "import-linter",
            "streams/ids.py",
            f"{pure.read_text() if pure.exists() else ''}\nimport time as planted\n",
            ("lint-imports", "--no-cache"),
            "reclaimd.streams.ids -> time",
        ),
    ]


def found(tree: Path, plant: Plant) -> bool:
    """Plant, check, and take the plant out again."""
    target = tree / plant.path
    before = target.read_text() if target.exists() else None
    target.write_text(plant.text)
    program, *words = plant.command
    said = subprocess.run(
        [BIN / program, *words],
        cwd=tree,
        # import-linter imports the package, and must find the copy, not the installed one.
        env={**os.environ, "PYTHONPATH": "src"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    if before is None:
        target.unlink()
    else:
        target.write_text(before)
    caught = said.returncode != 0 and plant.complaint in said.stdout + said.stderr
    if not caught:
        print(f"{plant.what}: the planted error was not found\n{said.stdout}{said.stderr}", file=sys.stderr)
    return caught


def main() -> int:
    with working_copy() as tree:
        results = [found(tree, plant) for plant in plants(tree)]
    print(f"planted errors: {sum(results)} of {len(results)} found")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
