"""Every row of the table of verdicts."""

from typing import Any

import pytest

from reclaimd.daemon.rebuild.detect import verdict
from reclaimd.daemon.rebuild.values import Facts, PartitionRow, Verdict

ROW = PartitionRow(namespace="n", queue="q", epoch_id="e1", mark="7:aaaaaaaa")
FROZEN = PartitionRow(
    namespace="n", queue="q", epoch_id="e1", mark="7:aaaaaaaa", rebuild_id="r", new_epoch_id="e2", verdict="empty"
)
REBUILT = PartitionRow(namespace="n", queue="q", epoch_id="e2", mark="8:bbbbbbbb", rebuild_id="r", verdict="empty")
CLAIMED = PartitionRow(namespace="n", queue="q")


def facts(**changes: Any) -> Facts:
    plain: dict[str, Any] = {
        "exists": True,
        "any_key": True,
        "state": "ok",
        "epoch_id": "e1",
        "archive_id": "mine",
        "mark": "7:aaaaaaaa",
        "mark_before": "6:99999999",
    }
    return Facts(**plain | changes)


NOTHING = Facts(exists=False, any_key=False)
UNARCHIVED = facts(archive_id="", mark="", mark_before="")

CASES: dict[str, tuple[PartitionRow | None, Facts, str]] = {
    "unknown to both": (None, NOTHING, "new"),
    "unknown, claimed": (CLAIMED, NOTHING, "new"),
    "never archived": (None, UNARCHIVED, "new"),
    "claimed, never archived": (CLAIMED, UNARCHIVED, "new"),
    "the archive has forgotten it": (None, facts(), "archive_behind"),
    "adopted, and died before the commit": (CLAIMED, facts(), "archive_behind"),
    "another's, unknown here": (None, facts(archive_id="theirs"), "foreign"),
    "another's": (ROW, facts(archive_id="theirs"), "foreign"),
    "another's, of the same epoch and state": (FROZEN, facts(archive_id="theirs", epoch_id="e2"), "foreign"),
    "nothing there": (ROW, NOTHING, "empty"),
    "keys without an epoch": (ROW, Facts(exists=False, any_key=True, missing=("dead",)), "partial"),
    "a new epoch of somebody": (ROW, facts(epoch_id="e9", archive_id="", mark="", mark_before=""), "empty"),
    "the committed mark": (ROW, facts(), "healthy"),
    "the mark of a commit that failed": (ROW, facts(mark="8:bbbbbbbb", mark_before="7:aaaaaaaa"), "healthy"),
    "a key is gone": (ROW, facts(missing=("fired",)), "partial"),
    "a key is gone, commit failed": (
        ROW,
        facts(mark="8:b", mark_before="7:aaaaaaaa", missing=("fired",)),
        "partial",
    ),
    "an older mark": (ROW, facts(mark="5:11111111", mark_before="4:00000000"), "rolled_back"),
    "the mark before the committed one": (ROW, facts(mark="6:99999999", mark_before="5:1"), "rolled_back"),
    "the same number, another nonce": (ROW, facts(mark="7:ffffffff", mark_before="6:99999999"), "rolled_back"),
    "the next number, not after ours": (ROW, facts(mark="8:ffffffff", mark_before="7:eeeeeeee"), "rolled_back"),
    "no mark at all": (ROW, facts(mark="", mark_before=""), "rolled_back"),
    "marks far ahead": (ROW, facts(mark="9:bbbbbbbb", mark_before="8:cccccccc"), "archive_behind"),
    "an epoch of before a rebuild": (REBUILT, facts(), "rolled_back"),
    "an epoch of a rebuild that this copy of the archive has not seen": (
        ROW,
        facts(epoch_id="e5", mark="30:b", mark_before="29:c"),
        "archive_behind",
    ),
    "an unknown epoch, no marks ahead": (ROW, facts(epoch_id="e5", mark="2:b", mark_before="1:c"), "rolled_back"),
    "frozen": (FROZEN, facts(epoch_id="e2", state="lost", rebuild="r"), "lost"),
    "being rebuilt": (FROZEN, facts(epoch_id="e2", state="rebuilding", rebuild="r", mark=""), "rebuilding"),
    "rebuilt, which the archive does not know yet": (
        FROZEN,
        facts(epoch_id="e2", rebuild="r", mark="8:b", mark_before=""),
        "rebuilding",
    ),
    "a rebuild that Redis has not heard of": (FROZEN, NOTHING, "empty"),
    "a rebuild of an epoch that has not frozen": (FROZEN, facts(missing=("dead",)), "partial"),
    "a rebuild, and everything lost in it": (FROZEN, facts(epoch_id="e9", archive_id="", mark=""), "empty"),
    "after a rebuild": (REBUILT, facts(epoch_id="e2", mark="8:bbbbbbbb", mark_before="", rebuild="r"), "healthy"),
    "rolled back into a rebuild that has ended": (
        REBUILT,
        facts(epoch_id="e2", state="rebuilding", mark="", mark_before="", rebuild="r"),
        "rolled_back",
    ),
    "frozen by a rebuild that nobody knows": (
        ROW,
        facts(epoch_id="e7", state="rebuilding", rebuild="x", mark="9:b"),
        "rolled_back",
    ),
}


@pytest.mark.parametrize(("row", "seen", "kind"), CASES.values(), ids=CASES)
def test_a_verdict_follows_from_the_row_and_the_facts(row: PartitionRow | None, seen: Facts, kind: str) -> None:
    found = verdict(row, seen, "mine")
    assert found.kind == kind
    assert bool(found.reason) == (kind != "healthy")
    assert found.is_loss == (kind in {"empty", "rolled_back", "partial"})


def test_what_is_missing_is_named() -> None:
    assert verdict(ROW, facts(missing=("fired", "dead")), "mine").missing == ("fired", "dead")
    gone = verdict(ROW, Facts(exists=False, any_key=True, missing=("dead",)), "mine")
    assert gone == Verdict(kind="partial", reason="its epoch is gone", missing=("epoch", "dead"))


def test_an_empty_mark_matches_nothing() -> None:
    unmarked = PartitionRow(namespace="n", queue="q", epoch_id="e1")
    assert verdict(unmarked, facts(mark="", mark_before=""), "mine").kind == "rolled_back"
