"""docs/recovery.md: every ability that it claims names tests, and these are there."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs/recovery.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`(…|[\w/]*test_\w+\.py)(?:::(test_\w+))?`")


def abilities() -> dict[str, str]:
    """The rows of all tables that say what shows them: ability → what shows it."""
    tables = PAGE.split("| ability | here | shown by |\n|---|---|---|\n")[1:]
    rows = [line for table in tables for line in table.partition("\n\n")[0].splitlines()]
    cells = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]
    return {ability: shown for ability, _here, shown in cells}


def test_the_tables_of_both_systems_are_there() -> None:
    assert len(abilities()) >= 22


@pytest.mark.parametrize("ability", abilities())
def test_an_ability_is_shown_by_tests_that_exist(ability: str) -> None:
    named = NAMED.findall(abilities()[ability])
    assert named, "name a test"
    path = TESTS
    for file, test in named:
        if file != "…":
            found = [one for one in TESTS.rglob(Path(file).name) if str(one).endswith(f"/{file}")]
            assert len(found) == 1, f"{file} is {found}: name its folder"
            path = found[0]
        assert not test or re.search(rf"^(async )?def {test}\(", path.read_text(encoding="utf-8"), re.MULTILINE), test
