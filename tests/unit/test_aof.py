"""The repair of append-only files, on files cut at every byte."""

from pathlib import Path

import pytest

from support.aof import cut_unfinished


def command(*words: str) -> bytes:
    return b"".join([b"*%d\r\n" % len(words), *(b"$%d\r\n%s\r\n" % (len(w), w.encode()) for w in words)])


BEFORE = command("SELECT", "0") + command("SET", "a", "b\r\n*1")
SCRIPT = command("MULTI") + command("XADD", "s", "1-1", "k", "v") + command("XACK", "s", "g", "0-1") + command("EXEC")


@pytest.mark.parametrize("name", ["appendonly.aof", "appendonlydir/appendonly.aof.2.incr.aof"])
def test_a_script_stays_whole_or_goes(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    (path.parent / "appendonly.aof.1.incr.aof").write_bytes(b"older")
    for cut in range(len(BEFORE), len(BEFORE + SCRIPT) + 1):
        path.write_bytes((BEFORE + SCRIPT)[:cut])
        kept = BEFORE + SCRIPT if cut == len(BEFORE + SCRIPT) else BEFORE
        assert cut_unfinished(tmp_path) == cut - len(kept)
        assert path.read_bytes() == kept


def test_an_unfinished_transaction_in_front_of_others_is_not_ours_to_mend(tmp_path: Path) -> None:
    path = tmp_path / "appendonly.aof"
    path.write_bytes(BEFORE + command("MULTI") + command("SET", "a", "c") + SCRIPT)
    assert cut_unfinished(tmp_path) == 0
    assert cut_unfinished(tmp_path / "nowhere") == 0
