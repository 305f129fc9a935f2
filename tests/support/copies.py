"""A throw-away copy of the working tree, so that a check can plant and build without leaving anything behind."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", "build", "dist", "*.egg-info", "__pycache__", ".pytest_cache", ".hypothesis", ".ruff_cache", "out"
)


@contextlib.contextmanager
def working_copy() -> Iterator[Path]:
    """The tree as it is now, links kept as links, with mypy's cache so that checking it again is quick."""
    with tempfile.TemporaryDirectory(prefix="reclaimd-check-") as folder:
        copy = Path(folder) / "tree"
        shutil.copytree(ROOT, copy, symlinks=True, ignore=_LEFT_OUT)
        yield copy
