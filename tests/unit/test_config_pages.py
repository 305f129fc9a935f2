import re
import tomllib
from pathlib import Path

from reclaimd.daemon.config import load
from reclaimd.daemon.config_pages import PAGE, SAMPLE, main, page, sample
from reclaimd.streams.settings import all_options

ROOT = Path(__file__).parents[2]


def uncommented(text: str) -> str:
    """The sample with every key switched on, as an operator would who deletes the `# ` before each."""
    return re.sub(r"(?m)^# (\w+ = )", r"\1", text)


def test_the_sample_and_the_page_are_current() -> None:
    hint = "run python -m reclaimd.daemon.config_pages in the project's folder"
    assert (ROOT / SAMPLE).read_text(encoding="utf-8") == sample(), hint
    assert (ROOT / PAGE).read_text(encoding="utf-8") == page(), hint


def test_the_sample_as_shipped_sets_nothing() -> None:
    assert load(ROOT / SAMPLE, {}, {}).origins == {}


def test_the_sample_holds_every_key_with_its_default(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    path = tmp_path / "all.toml"
    text = re.sub("/etc/reclaimd/(redis|archive)_password", str(secret), uncommented(sample()))
    path.write_text(text, encoding="utf-8")
    config = load(path, {}, {})
    assert set(config.origins) == set(all_options())
    for option in all_options().values():
        holder = getattr(config, option.section) if option.section else config
        if option.default is not None and not option.secret:
            assert getattr(holder, option.field) == option.default
    assert config.worker.heartbeat_ms == config.worker.lease_ms // 5


def test_the_page_names_every_variable_and_both_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "systemd").mkdir()
    (tmp_path / "docs").mkdir()
    main(tmp_path)
    sample = tomllib.loads((tmp_path / SAMPLE).read_text(encoding="utf-8"))
    assert sample == {"worker": {}, "daemon": {}, "scheduler": {}, "archive": {}}
    written = (tmp_path / PAGE).read_text(encoding="utf-8")
    for option in all_options().values():
        assert f"| `{option.name}` |" in written
        assert f"`{option.variable}`" in written
