"""`[[source]]` in the configuration: what is taken, and what each mistake is answered with."""

from pathlib import Path

import pytest

from reclaimd.daemon.config import load
from reclaimd.daemon.config_pages import page, sample
from reclaimd.streams.errors import ConfigError, InvalidSetting
from reclaimd.streams.source_settings import SourceSettings, source_options

GOOD = """\
namespace = "shop"

[[source]]
name = "ops"
kind = "file"
path = "/etc/ops.yaml"

[worker]
lease = "20s"

[[source]]
name = "billing"
kind = "sql"
url = "postgresql://reader:hunter2@db/app"
query = "SELECT * FROM schedules"
interval = "5s"
queue = "mail"
allow_empty = true
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "reclaimd.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_sources_are_taken_in_order_beside_everything_else(tmp_path: Path) -> None:
    config = load(write(tmp_path, GOOD), {}, {})
    assert (config.namespace, config.worker.lease_ms) == ("shop", 20_000)
    assert config.sources == (
        SourceSettings(name="ops", kind="file", path="/etc/ops.yaml"),
        SourceSettings(
            name="billing",
            kind="sql",
            url="postgresql://reader:hunter2@db/app",
            query="SELECT * FROM schedules",
            interval_ms=5_000,
            queue="mail",
            allow_empty=True,
        ),
    )
    assert (config.sources[0].interval_ms, config.sources[0].allow_empty) == (30_000, False)
    assert "hunter2" not in repr(config)
    assert "hunter2" not in repr(config.sources)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("interval =", "intervall =", "unknown key source.intervall in {}, line 16: did you mean source.interval?"),
        ("interval =", "zzz =", "unknown key source.zzz in {}, line 16: the keys of [[source]] are name, kind, path"),
        ('"5s"', "5", "source.interval = 5 ({}, line 16): a number has no unit: say 5s, or 5ms"),
        ('"5s"', '"10ms"', "source.interval = '10ms' ({}, line 16): expected a duration such as 15s, from 1s to 1d"),
        ("= true", '= "yes"', "source.allow_empty = 'yes' ({}, line 18): expected true or false"),
        ('"billing"', '"ops"', "source.name = 'ops' ({}, line 12): another source has it: choose another name"),
        ('"billing"', '"a:b"', "source.name = 'a:b' ({}, line 12): expected 1 to 80 of A-Z a-z 0-9 . _ -"),
        ('kind = "sql"\n', "", "source.kind is missing ({}, line 11): every source needs a name and a kind"),
        ('"sql"', '"mysql"', "source.kind = 'mysql' ({}, line 13): expected one of file, sql"),
        ('"sql"', '"file"', "source.url ({}, line 14): a source of kind file has none: leave it out"),
        ("query = ", "#", "source.query ({}, line 11): a source of kind sql needs it"),
        ("url = ", "#", "source.url ({}, line 11): a source of kind sql needs either url or url_file, and not both"),
        ("/etc/ops.yaml", "ops.yaml", "source.path = 'ops.yaml' ({}, line 6): expected an absolute path"),
        ("ops.yaml", "ops.json", "line 6): expected a file whose name ends in .toml, .yaml or .yml"),
        ("[[source]]", "[[sources]]", "unknown section [sources] in {}, line 3: did you mean [[source]]?"),
        ("[worker]", "[[worker]]", "worker in {}, line 8 is a section: write [worker] and its keys below it"),
        ("postgresql://", "mysql://", "'mysql://reader:***@db/app' ({}, line 14): a database URL begins with"),
        ("@db/app", "@db:port/app", "line 14): host or port cannot be read"),
    ],
)
def test_each_mistake_names_key_line_and_cure(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load(path, {}, {})
    assert message.replace("{}", str(path)) in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_one_pair_of_brackets_is_one_too_few(tmp_path: Path) -> None:
    path = write(tmp_path, '[source]\nname = "ops"\n')
    with pytest.raises(ConfigError) as caught:
        load(path, {}, {})
    assert str(caught.value).startswith(f"source in {path}, line 1 is one of several: write [[source]]")


def test_both_urls_are_one_too_many() -> None:
    with pytest.raises(InvalidSetting, match="either url or url_file"):
        SourceSettings(name="a", kind="sql", url="sqlite:///a.db", url_file="/etc/u", query="SELECT 1")


@pytest.mark.parametrize("url", ["sqlite:///", "sqlite://", "sqlite:///a.db?mode=rw", "postgresql:///app", "app"])
def test_urls_that_lead_nowhere(url: str) -> None:
    with pytest.raises(InvalidSetting, match=r"^source.url: "):
        SourceSettings(name="a", kind="sql", url=url, query="SELECT 1")


def test_sample_and_page_name_every_key() -> None:
    for name in source_options():
        assert f"| `{name}` |" in page()
        assert f"#     {name} = " in sample() or name in {"path", "url_file"}
