"""Worker IDs that survive a restart: explicit, systemd instance, StatefulSet ordinal, host and slot."""

from pathlib import Path

import pytest

from reclaimd.streams.errors import ConfigError, InvalidTask
from reclaimd.streams.worker import identity
from reclaimd.streams.worker.identity import base_id, process_ids, systemd_instance

UNIT = {"INVOCATION_ID": "abc"}


def cgroup(folder: Path, text: str) -> Path:
    path = folder / "cgroup"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "instance"),
    [
        ("0::/system.slice/system-reclaimd\\x2dworker.slice/reclaimd-worker@mail1.service\n", "mail1"),
        ("1:name=systemd:/system.slice/reclaimd-worker@mail-2.service\n0::/\n", "mail-2"),
        ("0::/system.slice/w@a.service/worker\n", "a"),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/w@b.service\n", "b"),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/worker.service\n", None),
        ("0::/system.slice/reclaimd-worker.service\n", None),
        ("0::/user.slice/session-1.scope\n", None),
        ("0::/system.slice/w@with space.service\n", None),
        ("0::/system.slice/w@.service\n", None),
        ("", None),
    ],
)
def test_the_instance_of_a_template_unit(tmp_path: Path, text: str, instance: str | None) -> None:
    assert systemd_instance(UNIT, cgroup(tmp_path, text)) == instance


def test_outside_of_systemd_no_cgroup_is_believed(tmp_path: Path) -> None:
    path = cgroup(tmp_path, "0::/system.slice/ssh@7.service\n")
    assert systemd_instance({}, path) is None
    assert systemd_instance(UNIT, tmp_path / "nothing") is None


def test_an_explicit_id_wins(tmp_path: Path) -> None:
    environ = {"KUBERNETES_SERVICE_HOST": "x", "HOSTNAME": "mail-3"}
    assert base_id("mine", environ, tmp_path, "ns") == ("mine", "--id", None)
    with pytest.raises(InvalidTask, match="worker ID 'a b'"):
        base_id("a b", environ, tmp_path, "ns")


def test_a_stateful_sets_ordinal(tmp_path: Path) -> None:
    base = base_id(None, {"KUBERNETES_SERVICE_HOST": "x", "HOSTNAME": "mail-3"}, tmp_path, "ns")
    assert (base.name, base.source) == ("mail-3", "StatefulSet ordinal")
    assert base.slot is None


def test_a_deployments_pod_has_no_ordinal(tmp_path: Path) -> None:
    base = base_id(None, {"KUBERNETES_SERVICE_HOST": "x", "HOSTNAME": "mail-7d4f-xk2p"}, tmp_path, "ns")
    assert base.name == "mail-7d4f-xk2p-s0"
    assert base.slot is not None
    base.slot.close()


def test_two_supervisors_of_a_host_differ_and_a_restart_gets_the_same(tmp_path: Path) -> None:
    environ = {"HOSTNAME": "box"}
    first, second = (base_id(None, environ, tmp_path, "ns") for _ in range(2))
    assert [first.name, second.name] == ["box-s0", "box-s1"]
    assert first.source == "host name and slot"
    assert first.slot is not None
    assert second.slot is not None
    first.slot.close()
    again = base_id(None, environ, tmp_path, "ns")
    assert again.name == "box-s0"
    other = base_id(None, environ, tmp_path, "another")
    assert other.name == "box-s0"
    for base in (second, again, other):
        assert base.slot is not None
        base.slot.close()


def test_all_slots_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_SLOTS", 1)
    base = base_id(None, {"HOSTNAME": "box"}, tmp_path, "ns")
    with pytest.raises(ConfigError, match="give this worker an --id"):
        base_id(None, {"HOSTNAME": "box"}, tmp_path, "ns")
    assert base.slot is not None
    base.slot.close()


def test_a_host_name_with_strange_characters(tmp_path: Path) -> None:
    base = base_id(None, {"HOSTNAME": "böx:1/a"}, tmp_path, "ns")
    assert base.name == "b-x-1-a-s0"
    assert base.slot is not None
    base.slot.close()


def test_no_id_contains_the_process_id() -> None:
    assert process_ids("w", 1) == ["w"]
    assert process_ids("w", 3) == ["w-0", "w-1", "w-2"]
