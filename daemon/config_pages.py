"""The sample file and the page on configuration, both made from the descriptions of the settings.

`python -m reclaimd.daemon.config_pages` writes them anew; a test checks that they are current.
"""

import sys
import textwrap
from pathlib import Path

from reclaimd.streams.options import Kind, Option
from reclaimd.streams.settings import SECTIONS, all_options
from reclaimd.streams.source_settings import source_options

SAMPLE = Path("systemd/reclaimd.toml")
PAGE = Path("docs/configuration.md")

_SAMPLE_HEAD = """\
# Configuration of reclaimd: every key, each with its default, which holds while its line stays a comment.
# The environment overrides this file (RECLAIMD_<SECTION>_<KEY>), flags override both.
# Durations have a unit: 250ms, 15s, 2m, 1h30m, 7d. So have sizes: 500MiB, 2GiB.
"""

_PAGE_HEAD = """\
# Configuration

Values come from a TOML file (`--config FILE` or `RECLAIMD_CONFIG`), then the environment, then flags. Each overrides
only what it gives, and every value is checked, also one that is overridden. A library (`Reclaimd()`) reads the
environment alone.

- **Durations** are texts with a unit: `250ms`, `15s`, `2m`, `1h30m`, `7d`. A bare number is refused.
- **Sizes** are texts with a unit: `500MiB`, `2GiB`, `10GB`.
- **An unknown key** is an error that names the file, line, variable or flag and the nearest right one; the exit code
  is 2. So is an unknown `RECLAIMD_…` variable; `RECLAIMD_CONFIG`, `RECLAIMD_INTERNAL_…` and what Kubernetes injects for
  a Service named `reclaimd…` are left alone. An empty variable counts as not set.
- **The Redis password** belongs in a file (`redis_password_file`) or in the systemd credential `redis_password`
  (`LoadCredential=redis_password:/etc/reclaimd/redis_password`). The credential is used when there is neither a
  password file nor a password in `redis_url`. The same goes for a PostgreSQL archive: `archive.password_file`, or the
  credential `archive_password`. No message, log line or listing shows a password.

`systemd/reclaimd.toml` is a sample with every key.
"""

_SAMPLE_SOURCES = """\
# Schedules that a file or a database holds: one [[source]] for each. See docs/sources.md.
#
#     [[source]]
"""

_PAGE_SOURCES = """\
## [[source]]

A file or a database that holds schedules; one `[[source]]` for each. What they are and do is in
[sources.md](sources.md). Only the file can hold them, neither environment nor flags.

| key | default | allowed | what |
|---|---|---|---|
"""

_SECTION_TITLES = {section: f"[{section}]" if section else "Top level" for section in SECTIONS}


def sample() -> str:
    """The sample TOML file: each key as a comment, with its meaning and default."""
    parts = [_SAMPLE_HEAD]
    for section in SECTIONS:
        if section:
            parts.append(f"[{section}]\n")
        for option in _options(section):
            note = textwrap.fill(option.doc, 118, initial_indent="# ", subsequent_indent="# ")
            unset = f"# Not set: {option.when_unset}.\n" if option.when_unset else ""
            parts.append(f"{note}\n{unset}# {option.name} = {_toml(option)}\n")
    examples = [f"#     {option.name} = {_toml(option)}\n" for option in source_options().values()]
    parts.append(_SAMPLE_SOURCES + "".join(line for line in examples if "path" not in line and "url_file" not in line))
    return "\n".join(parts)


def page() -> str:
    """The Markdown page: one table per section."""
    parts = [_PAGE_HEAD]
    for section in SECTIONS:
        rows = [
            "| key | default | allowed | environment | what |",
            "|---|---|---|---|---|",
            *map(_row, _options(section)),
        ]
        parts.append(f"## {_SECTION_TITLES[section]}\n\n" + "\n".join(rows) + "\n")
    parts.append(_PAGE_SOURCES + "".join(f"| {' | '.join(_cells(option))} |\n" for option in source_options().values()))
    return "\n".join(parts)


def main(root: Path) -> None:
    """Write both files below the project's folder."""
    (root / SAMPLE).write_text(sample(), encoding="utf-8")
    (root / PAGE).write_text(page(), encoding="utf-8")


def _options(section: str) -> list[Option]:
    return [option for option in all_options().values() if option.section == section]


def _toml(option: Option) -> str:
    value = option.example or option.shown(option.default)
    return value if option.kind in (Kind.INTEGER, Kind.BOOLEAN) else f'"{value}"'


def _row(option: Option) -> str:
    name, default, allowed, doc = _cells(option)
    return f"| {name} | {default} | {allowed} | `{option.variable}` | {doc} |"


def _cells(option: Option) -> tuple[str, str, str, str]:
    """Key, default, what is allowed, meaning."""
    default = option.when_unset or f"`{option.shown(option.default)}`"
    if option.kind in (Kind.DURATION, Kind.SIZE, Kind.INTEGER):
        allowed = f"{option.shown(option.least)} … {option.shown(option.most)}"
    else:
        allowed = ", ".join(option.choices) or option.kind.replace("boolean", "true, false")
    return f"`{option.name}`", default, allowed, option.doc


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
