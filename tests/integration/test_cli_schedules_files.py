"""`schedules import` and `export`: all or nothing, and what goes out comes back the same."""

import json
from pathlib import Path

import pytest

from reclaimd.streams.keys import schedule_events_key
from reclaimd.streams.schedules.events import encode, upserted
from reclaimd.streams.schedules.model import Every, Schedule
from support.cli import Scene

pytestmark = pytest.mark.flavours("valkey")

TOML = """\
[[schedules]]
name = "digest"
task = "send"
queue = "mail"
cron = "0 9 * * 1-5"
tz = "Europe/Paris"
start = 2027-01-01T00:00:00+01:00
overlap = "queue_one"

[schedules.args]
to = "ops@example.org"
parts = [1, 2.5, true, { deep = "ä\\nb" }]

[[schedules]]
name = "sleeping"
enabled = false
task = "sweep"
queue = "low"
every = "1h30m"
args = '{"none": null, "big": 18446744073709551615}'
"""


def test_what_goes_out_comes_back_the_same(scene: Scene, tmp_path: Path) -> None:
    first = tmp_path / "first.toml"
    first.write_text(TOML)
    dry = scene.run("schedules", "import", str(first), "--dry-run", "--json")
    assert dry.json == {"created": ["digest", "sleeping"], "changed": [], "unchanged": [], "dry_run": True}
    assert scene.client.exists(schedule_events_key(scene.namespace)) == 0
    done = scene.run("schedules", "import", str(first))
    assert done.out == "created   digest\ncreated   sleeping\nDone: 2 created, 0 changed, 0 unchanged.\n"
    exported = {}
    for name in ("out.toml", "out.yaml"):
        assert scene.run("schedules", "export", str(tmp_path / name)).code == 0
        exported[name] = (tmp_path / name).read_text()
    rows = scene.run("schedules", "export", "--json").json["schedules"]
    assert rows[0]["args"] == {"to": "ops@example.org", "parts": [1, 2.5, True, {"deep": "ä\nb"}]}
    assert rows[1]["args"] == {"none": None, "big": 2**64 - 1}
    assert rows[1]["enabled"] is False
    for name, text in exported.items():
        same = scene.run("schedules", "import", str(tmp_path / name), "--json").json
        assert same == {"created": [], "changed": [], "unchanged": ["digest", "sleeping"], "dry_run": False}
        scene.run("schedules", "clear", "--yes")
        assert scene.run("schedules", "import", str(tmp_path / name)).code == 0
        assert scene.run("schedules", "export", "--format", name.partition(".")[2]).out == text
    assert scene.run("schedules", "export", "--json").json["schedules"] == rows


def test_one_mistake_keeps_everything_out_and_all_are_told(scene: Scene, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(
        TOML
        + '[[schedules]]\nname = "x"\ntask = "t"\nqueue = "q"\ncron = "61 * * * *"\njitter = "soon"\n'
        + '[[schedules]]\nname = "digest"\ntask = "t"\nqueue = "q"\nevery = "5m"\n'
    )
    done = scene.run("schedules", "import", str(file), "--json")
    assert done.code == 2
    found = {(one["row"], one["name"], one["field"]) for one in done.json["errors"]}
    assert found == {(1, "digest", "name"), (3, "x", "cron"), (3, "x", "jitter"), (4, "digest", "name")}
    assert "reclaimd: schedule 'x' (number 3): jitter: 'soon' is not a duration" in done.err
    assert scene.client.exists(schedule_events_key(scene.namespace)) == 0


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("a.toml", "a = ", "a.toml: not valid TOML"),
        ("a.yml", "schedules: 5", "a.yml: schedules is no list of schedules"),
        ("a.json", "{}", "a.json is neither TOML nor YAML by its name"),
        ("a.yaml", None, "a.yaml: No such file or directory"),
    ],
)
def test_files_that_cannot_be_read(scene: Scene, tmp_path: Path, name: str, text: str | None, why: str) -> None:
    file = tmp_path / name
    if text is not None:
        file.write_text(text)
    done = scene.run("schedules", "import", str(file), "--json")
    assert done.code == 2
    assert why in done.err
    assert set(done.json) == {"error", "cure"}


def test_a_running_schedule_is_resumed_or_left_as_it_is(scene: Scene, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    row = {"name": "a", "task": "t", "queue": "q", "every": "5m"}
    for enabled, expected in ((False, "paused"), (None, "paused"), (True, "enabled"), (None, "enabled")):
        file.write_text(json.dumps({"schedules": [row if enabled is None else {**row, "enabled": enabled}]}))
        assert scene.run("schedules", "import", str(file)).code == 0
        [found] = scene.run("schedules", "list", "--json").json["schedules"]
        assert found["state"] == expected


def test_what_a_source_owns_is_exported_and_not_overwritten(scene: Scene, tmp_path: Path) -> None:
    schedule = Schedule(name="a", task="t", queue="q", trigger=Every(300_000), source="ops")
    events = [encode(upserted(schedule)), b'{"type":"ScheduleRecoloured","v":1,"name":"late"}']
    for event in events:
        scene.client.xadd(schedule_events_key(scene.namespace), {"e": event})
    file = tmp_path / "a.toml"
    done = scene.run("schedules", "export", str(file), "--source", "ops")
    assert done.code == 1
    assert "schedule late was left out" in done.err
    assert scene.run("schedules", "import", str(file), "--json").json["unchanged"] == ["a"]
    file.write_text(file.read_text().replace("5m", "6m"))
    refused = scene.run("schedules", "import", str(file), "--json")
    assert refused.code == 1
    assert "it belongs to source ops: change it there" in refused.err


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (("x.json",), "x.json is neither TOML nor YAML by its name: add --format"),
        (("--format", "xml"), "there is no format 'xml': say toml or yaml"),
        (("nowhere/x.toml",), "cannot write nowhere/x.toml: No such file or directory"),
    ],
)
def test_exports_that_go_nowhere(scene: Scene, args: tuple[str, ...], why: str) -> None:
    done = scene.run("schedules", "export", *args)
    assert done.code == 2
    assert why in done.err


def test_thousands_go_in(scene: Scene, tmp_path: Path) -> None:
    file = tmp_path / "many.toml"
    row = '[[schedules]]\nname = "s{}"\ntask = "t"\nqueue = "q"\ncron = "{} * * * *"\n'
    file.write_text("".join(row.format(i, i % 60) for i in range(3_000)))
    done = scene.run("schedules", "import", str(file), "--json")
    assert (done.code, len(done.json["created"])) == (0, 3_000)
    assert scene.client.xlen(schedule_events_key(scene.namespace)) == 3_000
