import pytest

from support.transcripts import WEEKENDS, Weekend, path, transcript


@pytest.mark.parametrize("weekend", WEEKENDS, ids=lambda weekend: weekend.name)
def test_fires_on_the_weekend_as_written_down(weekend: Weekend) -> None:
    assert transcript(weekend) == path(weekend).read_text()
