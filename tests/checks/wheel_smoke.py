"""Build the sdist, the wheel from the sdist, install that beside the locked dependencies, and import every module."""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

from support.copies import working_copy

IMPORT_ALL = """
import importlib, pathlib, pkgutil, reclaimd
home = pathlib.Path(reclaimd.__file__).parent
assert "site-packages" in home.parts, home
names = [m.name for m in pkgutil.walk_packages(reclaimd.__path__, "reclaimd.") if not m.name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
print(f"{len(names) + 1} modules imported, version {reclaimd.__version__}")
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Run in `cwd`, fail loudly, return what it printed."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode != 0:
        raise SystemExit(f"wheel smoke: {' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


def build(tree: Path) -> Path:
    """The wheel, made from the sdist alone."""
    run(sys.executable, "-m", "build", "--no-isolation", "--sdist", ".", cwd=tree)
    (sdist,) = (tree / "dist").glob("*.tar.gz")
    (tree / "unpacked").mkdir()
    run("tar", "-xzf", sdist, "-C", "unpacked", cwd=tree)
    (source,) = (tree / "unpacked").iterdir()
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", ".", cwd=source)
    (wheel,) = (source / "dist").glob("*.whl")
    return wheel


def missing_from(wheel: Path, tree: Path) -> list[str]:
    """Files of the three folders that an installation needs and the wheel lacks."""
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    wanted = {"reclaimd/__init__.py", "reclaimd/py.typed"}
    for folder in ("streams", "daemon", "metrics"):
        for path in (tree / folder).rglob("*"):
            if path.suffix in {".py", ".lua", ".yml", ".json"} and "__pycache__" not in path.parts:
                wanted.add(f"reclaimd/{path.relative_to(tree)}")
    return sorted(wanted - packed)


def main() -> int:
    with working_copy() as tree:
        wheel = build(tree)
        if missing := missing_from(wheel, tree):
            raise SystemExit(f"wheel smoke: not in the wheel: {', '.join(missing)}")
        clean = tree / "clean"
        venv.create(clean, with_pip=False)
        python = clean / "bin" / "python"
        # By the pip that is here, and nothing compiled that is imported once.
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
        install = (*pip, "install", "--quiet", "--no-compile")
        run(*install, "--require-hashes", "-r", tree / "requirements" / "run.txt", cwd=tree)
        run(*install, "--no-deps", "--no-index", wheel, cwd=tree)
        print(f"wheel smoke: {run(python, '-P', '-W', 'error', '-c', IMPORT_ALL, cwd=tree / 'unpacked')}")
        if list((tree / "daemon").glob("cli*")):
            print(f"wheel smoke: reclaimd version: {run(clean / 'bin' / 'reclaimd', 'version', cwd=tree)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
