"""`schedules list|show|add|remove|pause|resume|run|clear`: what they do, and what they say when something is wrong."""

import os
import pty
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from reclaimd.daemon.inspect.reports import SourceProblem, SourceReport
from reclaimd.streams.keys import Partition, schedule_events_key, schedule_problems_key
from reclaimd.streams.schedules.events import Event, encode, upserted
from reclaimd.streams.schedules.model import Cron, Every, Schedule
from support.cli import Done, Scene, command, environment
from support.servers import free_port

pytestmark = pytest.mark.flavours("valkey")

DIGEST = ("schedules", "add", "digest", "--task", "send", "--queue", "mail", "--cron", "0 9 * * 1-5")


def append(scene: Scene, *events: Event | bytes) -> None:
    for event in events:
        raw = event if isinstance(event, bytes) else encode(event)
        scene.client.xadd(schedule_events_key(scene.namespace), {"e": raw})


def owned(name: str, source: str = "ops") -> Event:
    return upserted(Schedule(name=name, task="send", queue="mail", trigger=Every(60_000), source=source))


def listed(scene: Scene, *more: str) -> dict[str, dict[str, Any]]:
    done = scene.run("schedules", "list", "--json", *more)
    assert done.code == 0, done.err
    return {one["name"]: one for one in done.json["schedules"]}


def complaints(done: Done, code: int = 2) -> dict[str, str]:
    """Field → reason, which must stand on standard error too."""
    assert done.code == code, done.err
    assert {"error", "cure", "errors"} == set(done.json)
    for one in done.json["errors"]:
        assert f"{one['field']}: {one['reason']}" in done.err
    return {one["field"]: one["reason"] for one in done.json["errors"]}


@pytest.mark.parametrize(
    ("when", "field"),
    [(("--at", "2020-01-01T09:00:00Z"), "at"), (("--cron", "0 9 * * *", "--end", "2020-01-01T09:00:00Z"), "end")],
)
def test_what_would_never_fire_is_refused(scene: Scene, when: tuple[str, ...], field: str) -> None:
    told = scene.run("schedules", "add", "late", "--task", "send", "--queue", "mail", *when)
    assert told.code == 2
    assert f"schedule 'late': {field}: lies in the past, so that it would never fire" in told.err
    assert listed(scene) == {}


def test_add_list_show_and_change(scene: Scene) -> None:
    assert scene.run("schedules", "list").out == "0 schedules.\n"
    dry = scene.run(*DIGEST, "--dry-run", "--json", "--next", "3")
    assert (dry.code, dry.json["change"], dry.json["dry_run"], len(dry.json["next"])) == (0, "created", True, 3)
    assert listed(scene) == {}
    told = scene.run(*DIGEST, "--tz", "Asia/Kathmandu", "--args", '{"to": "a"}')
    assert told.out.splitlines()[:2] == ["digest: created", "At 09:00 on Monday through Friday, Asia/Kathmandu."]
    assert "T09:00:00+05:45 (" in told.out
    assert "T03:15:00Z)" in told.out
    row = listed(scene, "--next", "2")["digest"]
    assert (row["state"], row["queue"], row["task"], row["source"]) == ("enabled", "mail", "send", "")
    assert row["args"] == {"to": "a"}
    assert [one["local"][10:] for one in row["next"]] == ["T09:00:00+05:45"] * 2
    again = scene.run(*DIGEST, "--tz", "Asia/Kathmandu", "--args", '{"to": "a"}', "--json")
    assert again.json["change"] == "unchanged"
    assert scene.client.xlen(schedule_events_key(scene.namespace)) == 1
    assert scene.run(*DIGEST, "--json").json["change"] == "changed"
    shown = scene.run("schedules", "show", "digest")
    assert "explanation     At 09:00 on Monday through Friday, UTC" in shown.out
    assert shown.out.count("next  ") == 5
    table = scene.run("schedules", "list").out
    assert "0 9 * * 1-5 UTC" in table
    assert "1 schedule." in table


def test_everything_that_add_can_say(scene: Scene) -> None:
    words = ("--every", "5m", "--anchor", "2026-01-01T00:00:00Z", "--lane", "high", "--max-deliveries", "3")
    rules = ("--misfire", "run_all", "--misfire-cap", "7", "--drip", "2s", "--overlap", "queue_one", "--jitter", "10s")
    bounds = ("--start", "2027-01-01T00:00:00Z", "--end", "2027-02-01T00:00:00Z", "--limit", "2")
    done = scene.run("schedules", "add", "a", "--task", "t", "--queue", "q", *words, *rules, *bounds, "--json")
    assert done.code == 0, done.err
    assert len(done.json["next"]) == 2
    row = listed(scene)["a"]
    assert {key: row[key] for key in ("every", "anchor", "lane", "max_deliveries", "misfire", "misfire_cap")} == {
        "every": "5m",
        "anchor": "2026-01-01T00:00:00+00:00",
        "lane": "high",
        "max_deliveries": 3,
        "misfire": "run_all",
        "misfire_cap": 7,
    }
    assert [row[key] for key in ("drip", "overlap", "jitter", "limit")] == ["2s", "queue_one", "10s", 2]
    once = scene.run("schedules", "add", "b", "--task", "t", "--queue", "q", "--at", "2100-01-01T09:00", "--json")
    assert [one["utc"] for one in once.json["next"]] == ["2100-01-01T09:00:00Z"]


def test_every_wrong_field_is_told_and_nothing_is_added(scene: Scene) -> None:
    wrong = ("--cron", "61 * * * *", "--tz", "Nowhere", "--jitter", "soon", "--overlap", "maybe", "--args", "{")
    found = complaints(scene.run("schedules", "add", "a:b", "--queue", "q", *wrong, "--json"))
    assert set(found) == {"name", "task", "cron", "tz", "jitter", "overlap", "args"}
    assert (
        "never fires"
        in complaints(
            scene.run("schedules", "add", "a", "--task", "t", "--queue", "q", "--cron", "0 0 30 2 *", "--json")
        )["cron"]
    )
    assert scene.run("schedules", "add", "a", "--limit", "x").code == 2
    assert scene.client.exists(schedule_events_key(scene.namespace)) == 0


def test_pause_resume_remove_and_names_that_nobody_knows(scene: Scene) -> None:
    scene.run(*DIGEST)
    assert scene.run("schedules", "pause", "digest", "--json").json == {"paused": ["digest"]}
    assert (listed(scene)["digest"]["state"], listed(scene)["digest"]["next"]) == ("paused", [])
    numbers = scene.run("status", "--json").json
    assert numbers["schedules"] == {"enabled": 0, "paused": 1, "problems": 0}
    assert numbers["repeatable"] == 0
    assert scene.run("schedules", "resume", "digest").out == "digest is resumed.\n"
    assert scene.run("status", "--json").json["repeatable"] == 1
    assert "Schedules: 1 enabled, 0 paused, 0 problems." in scene.run("status").out
    for verb in ("pause", "resume", "remove", "show", "run"):
        unknown = scene.run("schedules", verb, "nope", "--json")
        assert unknown.code == 1
        assert "there is no schedule 'nope'" in unknown.err
        assert set(unknown.json) == {"error", "cure"}
    both = scene.run("schedules", "remove", "digest", "nope")
    assert both.code == 1
    assert "digest" in listed(scene)
    assert scene.run("schedules", "remove", "digest").out == "digest is removed.\n"
    assert listed(scene) == {}


def test_run_enqueues_once_for_each_request(scene: Scene) -> None:
    scene.run(*DIGEST)
    first = scene.run("schedules", "run", "digest", "--request-id", "r1")
    assert first.out == "digest:run:r1\n"
    assert scene.run("schedules", "run", "digest", "--request-id", "r1", "--json").json["task_id"] == "digest:run:r1"
    assert scene.run("status", "--json").json["queues"]["mail"]["waiting"] == 1
    assert scene.run("schedules", "run", "digest", "--request-id", "a b").code == 2


def test_what_belongs_to_a_source_is_changed_there(scene: Scene) -> None:
    append(scene, owned("a"), owned("b"), owned("mine", source=""))
    assert list(listed(scene, "--source", "ops")) == ["a", "b"]
    assert list(listed(scene, "--queue", "other")) == []
    refused = complaints(
        scene.run("schedules", "add", "a", "--task", "t", "--queue", "q", "--every", "5m", "--json"), code=1
    )
    assert refused == {"name": "it belongs to source ops: change it there"}
    removed = scene.run("schedules", "remove", "a")
    assert removed.code == 0
    assert "a belongs to source ops, which brings it back unless it is gone there too" in removed.err
    scene.client.hset(schedule_problems_key(scene.namespace), "ops", b"{}")
    assert scene.run("schedules", "clear", "--source", "ops", "--yes", "--json").json == {"removed": ["b"]}
    assert list(listed(scene)) == ["mine"]
    assert scene.client.exists(schedule_problems_key(scene.namespace)) == 0


def test_clear_asks(scene: Scene) -> None:
    append(scene, owned("a"), owned("b"))
    nobody = scene.run("schedules", "clear")
    assert nobody.code == 2
    assert "add --yes" in nobody.err
    assert asked(scene, b"n\n") == 1
    assert len(listed(scene)) == 2
    assert asked(scene, b"y\n") == 0
    assert listed(scene) == {}
    assert scene.run("schedules", "clear", "--yes").out == "Removed 0 schedules.\n"


def asked(scene: Scene, answer: bytes) -> int:
    """Run `clear` on a terminal that answers."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer)
        args = command("--redis-url", scene.url, "--namespace", scene.namespace, "schedules", "clear")
        done = subprocess.run(args, stdin=theirs, capture_output=True, env=environment(), timeout=60, check=False)
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"Remove 2 schedules for good? [y/N]" in done.stderr
    return done.returncode


def test_problems_are_listed_with_their_reasons(scene: Scene) -> None:
    assert scene.run("schedules", "list", "--problems").code == 0
    wrong = Schedule(name="bad", task="t", queue="q", trigger=Cron("61 * * * *"))
    append(
        scene,
        owned("late"),
        upserted(wrong),
        b'{"type":"ScheduleRecoloured","v":1,"name":"late"}',
        b"\xff not an event",
    )
    report = SourceReport(
        source="ops",
        at_ms=1_700_000_000_000,
        failed="no such table: jobs",
        problem_count=1_500,
        problems=[SourceProblem(3, "row3", "tz", "no such zone")],
    )
    key = schedule_problems_key(scene.namespace)
    scene.client.hset(key, mapping={"ops": msgspec.json.encode(report), "new": b'{"source": 5}'})
    done = scene.run("schedules", "list", "--problems", "--json")
    assert done.code == 1
    rows = {(one["where"], one["name"], one["field"]): one for one in done.json["problems"]}
    assert rows["schedule", "bad", "cron"]["reason"].startswith("its minute '61'")
    assert rows["schedule", "late", "event"]["reason"].startswith("suspended, it does not fire: unknown type")
    assert rows["source", "ops", "poll"]["reason"] == "no such table: jobs"
    assert rows["source", "row3", "tz"]["row"] == 3
    assert rows["source", "ops", "rows"]["reason"] == "1499 more rows cannot be used"
    assert "cannot be read" in rows["source", "new", "poll"]["reason"]
    assert len([one for one in done.json["problems"] if one["where"] == "event"]) == 1
    assert len(done.json["problems"]) == 7
    assert scene.run("status", "--json").json["schedules"] == {"enabled": 0, "paused": 0, "problems": 7}
    told = scene.run("schedules", "list", "--problems")
    assert "no such zone" in told.out
    assert "7 problems." in told.out
    states = {name: row["state"] for name, row in listed(scene).items()}
    assert states == {"late": "suspended", "bad": "unusable"}
    assert "problem         cron: its minute '61'" in scene.run("schedules", "show", "bad").out
    suspended = scene.run("schedules", "add", "late", "--task", "t", "--queue", "q", "--every", "5m", "--json")
    assert complaints(suspended, code=1)["name"].startswith("it is suspended")


def test_a_change_that_was_fired_and_is_not_in_the_log_is_a_problem(scene: Scene) -> None:
    append(scene, owned("well"), owned("a"))
    key = Partition(scene.namespace, "mail").key("fired")
    generation = f"{listed(scene)['a']['generation'].partition('-')[0]}-999"
    scene.client.hset(key, mapping={"a": f"{generation}|0|3|", "well": f"{listed(scene)['well']['generation']}|0|1|"})
    done = scene.run("schedules", "list", "--problems", "--json")
    assert done.code == 1
    [problem] = done.json["problems"]
    assert (problem["where"], problem["name"], problem["field"]) == ("schedule", "a", "generation")
    assert problem["reason"].startswith("a change of it is lost")
    shown = scene.run("schedules", "show", "a", "--json").json
    assert (shown["state"], shown["generation"], shown["count"]) == ("enabled", generation, 3)
    assert shown["problem"]["field"] == "generation"
    append(scene, upserted(Schedule(name="a", task="send", queue="mail", trigger=Every(61_000), source="ops")))
    assert scene.run("schedules", "list", "--problems").code == 0


def test_status_warns_when_a_source_has_schedules_and_redis_has_none(scene: Scene, tmp_path: Path) -> None:
    document = tmp_path / "s.toml"
    document.write_text('[[schedules]]\nname = "a"\ntask = "t"\nqueue = "q"\nevery = "5m"\n')
    config = tmp_path / "c.toml"
    config.write_text(
        f'[[source]]\nname = "ops"\nkind = "file"\npath = "{document}"\n'
        f'[[source]]\nname = "off"\nkind = "file"\npath = "{tmp_path}/none.toml"\n'
    )
    done = scene.run("status", "--json", "--config", str(config))
    assert done.json["warnings"] == [
        "source ops has 1 enabled schedules and Redis has none: see that a daemon runs with this source"
    ]
    assert "reclaimd: warning: source ops has 1" in scene.run("status", "--config", str(config)).err
    append(scene, owned("x"))
    assert scene.run("status", "--json", "--config", str(config)).json["warnings"] == []


def test_redis_away_is_exit_code_3() -> None:
    scene = Scene.__new__(Scene)
    scene.url, scene.namespace = f"redis://127.0.0.1:{free_port()}", "x"
    for args in (("list",), ("show", "a"), ("pause", "a"), ("export",), ("clear", "--yes"), DIGEST[1:]):
        assert scene.run("schedules", *args).code == 3
