"""The tree itself: sizes that a reader can hold, and nothing of the machine that it was written on."""

import ast
import itertools
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LONGEST_FILE = 400
LONGEST_FUNCTION = 60
CAPPED = ("streams", "daemon", "metrics", "bench", "examples", "src")
FORBIDDEN = {
    "a path of one machine": re.compile(r"(?<![\w.~-])/(?:work|root|home|Users)/"),
    "the address of a package index": re.compile(r"pypi\.(?:org|python)|pythonhosted\.|--(?:extra-)?index-url[ =]\S*:"),
}


def tracked() -> list[Path]:
    """What git tracks or would track; in an unpacked sdist, everything."""
    if not (ROOT / ".git").exists():
        return [path for path in ROOT.rglob("*") if path.is_file() and ".venv" not in path.parts]
    listing = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    paths = [ROOT / name for name in listing.split("\0") if name]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def capped() -> Iterator[Path]:
    for path in tracked():
        if path.relative_to(ROOT).parts[0] in CAPPED and path.suffix in {".py", ".lua"}:
            yield path


def test_files_are_short() -> None:
    sizes = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in capped()}
    assert {str(path): lines for path, lines in sizes.items() if lines > LONGEST_FILE} == {}


def test_functions_are_short() -> None:
    long: dict[str, int] = {}
    for path in capped():
        if path.suffix == ".py":
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                    lines = node.end_lineno - node.lineno + 1
                    if lines > LONGEST_FUNCTION:
                        long[f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"] = lines
    assert long == {}


def test_nothing_of_the_machine_is_in_the_tree() -> None:
    found: list[str] = []
    for path in tracked():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for what, pattern in FORBIDDEN.items():
            found.extend(f"{path.relative_to(ROOT)}: {what}: {hit.group()}" for hit in pattern.finditer(text))
    assert found == []


def test_the_packages_are_relative_links() -> None:
    for name in ("streams", "daemon", "metrics"):
        link = ROOT / "src" / "reclaimd" / name
        assert link.is_symlink()
        assert str(link.readlink()) == f"../../{name}"


def test_every_lua_script_says_what_it_takes_and_costs() -> None:
    for path in (ROOT / "streams" / "lua").glob("*.lua"):
        lines = itertools.takewhile(lambda line: line.startswith("--"), path.read_text().splitlines())
        header = "\n".join(lines)
        for word in ("KEYS:", "ARGV:", "Reply:", "Cost:"):
            assert f"-- {word}" in header, f"{path.name}: its header does not say {word}"
