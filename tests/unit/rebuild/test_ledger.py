"""One outcome a row, whatever happened to it in between."""

from reclaimd.daemon.rebuild.ledger import Ledger
from reclaimd.daemon.rebuild.rows import delayed_row
from reclaimd.daemon.rebuild.values import Carried

OPEN, LETTER = ("t", ""), ("t", "5-0")


def outcome(ledger: Ledger) -> tuple[object, object, object]:
    return ledger.carried(), ledger.deleted(), [(r.place, r.letter) for r in ledger.rows()]


def test_a_row_that_is_known_takes_its_envelope_along() -> None:
    ledger = Ledger()
    ledger.put(delayed_row("t", 7, b"[]"))
    ledger.carry(OPEN, "dead", "5-0")
    assert outcome(ledger) == ((), (OPEN,), [("dead", "5-0")])
    assert ledger.rows()[0].due == 0
    assert ledger.rows()[0].envelope == b"[]"


def test_a_row_that_is_not_known_is_carried() -> None:
    ledger = Ledger()
    ledger.carry(OPEN, "dead", "5-0")
    assert outcome(ledger) == ((Carried("t", "", "dead", "5-0"),), (), [])
    assert ledger.carried()[0].to == "5-0"


def test_there_and_back_is_where_it_was() -> None:
    ledger = Ledger()
    ledger.carry(OPEN, "dead", "5-0")
    ledger.carry(LETTER, "lane:high", "6-0")
    assert outcome(ledger) == ((Carried("t", "5-0", "lane:high", "6-0"),), (), [])


def test_a_row_that_was_named_before_its_event_is_read_goes_on_from_there() -> None:
    ledger = Ledger()
    ledger.carry(("t", "4-0"), "dead", "5-0")
    ledger.carry(LETTER, "lane:high", "6-0")
    both = Carried("t", "4-0", "lane:high", "6-0"), Carried("t", "5-0", "lane:high", "6-0")
    assert outcome(ledger) == (both, (), [])


def test_there_back_and_gone_is_nowhere() -> None:
    ledger = Ledger()
    ledger.carry(OPEN, "dead", "5-0")
    ledger.carry(LETTER, "lane:high", "6-0")
    ledger.delete(OPEN)
    assert ledger.carried() == ()
    assert set(ledger.deleted()) == {OPEN, LETTER}


def test_two_deaths_carry_it_to_the_second() -> None:
    ledger = Ledger()
    ledger.carry(OPEN, "dead", "5-0")
    ledger.carry(LETTER, "lane:high", "6-0")
    ledger.carry(OPEN, "dead", "7-0")
    assert outcome(ledger) == ((Carried("t", "", "dead", "7-0"), Carried("t", "5-0", "dead", "7-0")), (), [])


def test_what_is_gone_is_not_carried() -> None:
    ledger = Ledger()
    ledger.delete(OPEN)
    ledger.carry(OPEN, "dead", "5-0")
    assert outcome(ledger) == ((), (OPEN,), [])


def test_a_letter_that_goes_takes_the_task_along() -> None:
    ledger = Ledger()
    ledger.carry(OPEN, "dead", "5-0")
    ledger.delete(LETTER)
    assert ledger.carried() == ()
    assert set(ledger.deleted()) == {OPEN, LETTER}


def test_a_new_task_of_that_name_stays_beside_its_letter() -> None:
    ledger = Ledger()
    ledger.carry(OPEN, "dead", "5-0")
    ledger.put(delayed_row("t", 7, b"[]"))
    assert outcome(ledger) == ((Carried("t", "", "dead", "5-0"),), (), [("delayed", "")])


def test_a_letter_is_not_carried_onto_an_open_task() -> None:
    ledger = Ledger()
    ledger.put(delayed_row("t", 7, b"[]"))
    ledger.carry(LETTER, "lane:high", "6-0")
    assert outcome(ledger) == ((), (LETTER,), [("delayed", "")])
