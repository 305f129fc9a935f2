"""What a worker holds of one partition."""

from reclaimd.streams.codec import Delivery
from reclaimd.streams.keys import Partition
from reclaimd.streams.worker.handlers import Run
from reclaimd.streams.worker.shift import SETTLE_AT_ONCE, Shift


def run(number: int) -> Run:
    delivery = Delivery(
        stream=5, entry_id=f"{number}-0", task_id=f"t{number}", enqueued_at=1, lane="normal", max_deliveries=5, body=b""
    )
    return Run(delivery)


def shift_with(*runs: Run) -> Shift:
    shift = Shift(Partition("ns", "mail"), "1-a")
    for one in runs:
        shift.start(one)
    return shift


def test_it_begins_with_an_audit_and_with_work_to_look_for() -> None:
    shift = shift_with()
    assert shift.ready
    assert shift.audit_due
    assert shift.bell == b"{ns:mail:0}:bell"


def test_a_finished_run_is_settled_once() -> None:
    one, two = run(1), run(2)
    shift = shift_with(one, two)
    shift.finish(one, one.verdict("succeeded"))
    shift.finish(one, one.verdict("failed"))
    assert shift.running_ids() == [(5, "2-0"), (5, "1-0")], "what ended and is not told yet counts too"
    assert [s.outcome for s in shift.take_finished()] == ["succeeded"]
    assert shift.take_finished() == []
    assert shift.running_ids() == [(5, "2-0")]


def test_settlements_whose_answer_was_lost_come_first_and_in_order_again() -> None:
    runs = [run(n) for n in range(4)]
    shift = shift_with(*runs)
    for one in runs[:2]:
        shift.finish(one, one.verdict("succeeded"))
    sent = shift.take_finished()
    for one in runs[2:]:
        shift.finish(one, one.verdict("succeeded"))
    shift.give_back(sent)
    assert [s.task_id for s in shift.take_finished()] == ["t0", "t1", "t2", "t3"]


def test_a_turn_takes_no_more_than_the_script_does() -> None:
    runs = [run(n) for n in range(SETTLE_AT_ONCE + 3)]
    shift = shift_with(*runs)
    for one in runs:
        shift.finish(one, one.verdict("succeeded"))
    assert [len(shift.take_finished()) for _ in range(3)] == [SETTLE_AT_ONCE, 3, 0]


def test_the_verdict_on_a_lost_entry_interests_nobody() -> None:
    one = run(1)
    shift = shift_with(one)
    assert shift.lose(5, "1-0") is one
    assert shift.lose(5, "1-0") is None
    shift.finish(one, one.verdict("succeeded"))
    assert shift.take_finished() == []
