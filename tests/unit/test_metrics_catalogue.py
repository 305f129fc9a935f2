"""Lint of the catalogue: the rules of promtool and of prometheus.io, and that all is exported and documented."""

import re
from pathlib import Path

import pytest
from prometheus_client.samples import Sample

from reclaimd.metrics.catalogue import CATALOGUE, LABELS, STATES, TOTALS
from reclaimd.metrics.collector import ViewCollector, series
from reclaimd.metrics.docs import COMMAND, render_docs
from reclaimd.metrics.instruments import new_registry
from reclaimd.metrics.metric import Metric
from reclaimd.streams.keys import STREAMS
from support.views import EMPTY, make_view

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
PROTOCOL = PAGE.with_name("protocol.md")
NOT_BASE_UNITS = re.compile(r"_(ms|millis|milliseconds|us|micros|minutes|hours|days|kb|kilobytes|percent|kib|mb)(_|$)")

each_metric = pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.name)


def test_names_are_unique() -> None:
    families = [metric.family for metric in CATALOGUE]
    assert len(set(families)) == len(families)


@each_metric
def test_name_follows_the_conventions(metric: Metric) -> None:
    assert re.fullmatch(r"reclaimd(_[a-z]+)+", metric.name)
    assert not NOT_BASE_UNITS.search(metric.name)
    assert metric.name.endswith("_total") is (metric.kind == "counter")
    assert metric.name.endswith("_info") is (metric.kind == "info")
    assert not re.search(r"_(count|sum|bucket|created|counter|gauge|histogram|summary)$", metric.name)
    assert metric.family.endswith(f"_{metric.unit}") if metric.unit else not re.search("seconds|bytes", metric.name)


@each_metric
def test_help_is_a_sentence(metric: Metric) -> None:
    assert metric.help.endswith(".")
    assert "\n" not in metric.help
    assert "|" not in metric.help


@each_metric
def test_labels_are_bounded(metric: Metric) -> None:
    assert set(metric.labels) <= set(LABELS)
    assert len(set(metric.labels)) == len(metric.labels)
    assert "le" not in metric.labels
    assert all(len(field.labels) == len(metric.labels) - 1 for field in metric.fields)
    assert len({field.labels for field in metric.fields}) == len(metric.fields)
    assert len(metric.fields) <= 16


def test_every_label_is_used() -> None:
    assert {label for metric in CATALOGUE for label in metric.labels} == set(LABELS)


@each_metric
def test_buckets_belong_to_histograms_and_grow(metric: Metric) -> None:
    assert bool(metric.buckets) is (metric.kind == "histogram")
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert len(metric.buckets) <= 16


@each_metric
def test_source_is_complete(metric: Metric) -> None:
    assert bool(metric.fields) is (metric.source == "redis")


@pytest.mark.parametrize("metric", [*TOTALS, *STATES], ids=lambda metric: metric.name)
def test_fields_exist_in_the_view_and_in_the_protocol(metric: Metric) -> None:
    protocol = PROTOCOL.read_text("utf-8").split("## Counters")[1]
    for field in metric.fields:
        if metric.where == "counters":
            assert f"`{field.name.partition(':')[0]}" in protocol
        elif metric.where == "view":
            assert hasattr(EMPTY, field.name)
        else:
            assert field.name in STREAMS


def test_every_counter_of_the_protocol_is_exported() -> None:
    text = PROTOCOL.read_text("utf-8").split("## Counters")[1].split("\n## ")[0]
    stated = {name.partition(":")[0] for name in re.findall(r"`([a-z_:<>]+)`", text)}
    exported = {field.name.partition(":")[0] for metric in TOTALS for field in metric.fields}
    assert stated == exported


def test_every_counter_of_the_scripts_is_exported() -> None:
    scripts = "".join(path.read_text("utf-8") for path in (PAGE.parents[1] / "streams" / "lua").rglob("*.lua"))
    counted = set(re.findall(r"\bcount\('([a-z_]+)", scripts))
    exported = {field.name.partition(":")[0] for metric in TOTALS for field in metric.fields}
    assert len(counted) > 10
    assert counted == exported


def test_every_stream_is_exported() -> None:
    for metric in STATES:
        if metric.where in {"waiting", "pending"}:
            assert {field.name for field in metric.fields} == set(STREAMS)


def exported(**numbers: object) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    samples: list[Sample] = []
    for family in ViewCollector(lambda: {"mail": make_view(**numbers)}).collect():
        samples += family.samples
    return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}


def test_the_registry_exports_the_whole_catalogue_with_its_help_and_labels() -> None:
    registry, _ = new_registry("1.2.3", 1)
    registry.register(ViewCollector(lambda: {"mail": make_view()}))
    families = {family.name: family for family in registry.collect()}
    for metric in CATALOGUE:
        family = families[metric.family]
        assert (family.type, family.documentation, family.unit) == (metric.kind, metric.help, metric.unit)
        assert {label for s in family.samples for label in s.labels} <= {*metric.labels, "le"}
    assert {name for name in families if name.startswith("reclaimd_")} == {metric.family for metric in CATALOGUE}
    assert {"process_resident_memory_bytes", "python_info", "python_gc_collections"} <= set(families)
    info = families["reclaimd_build"].samples[0]
    assert info.name == "reclaimd_build_info"
    assert info.labels["version"] == "1.2.3"


def test_known_series_are_there_before_anything_happened() -> None:
    empty = exported()
    for metric in (*TOTALS, *STATES):
        for field in metric.fields:
            labels = dict(zip(metric.labels, ("mail", *field.labels), strict=True))
            assert empty[metric.name, frozenset(labels.items())] == (
                EMPTY.now_ms / 1000 if field.name == "now_ms" else 0
            )


def test_values_come_from_the_view() -> None:
    values = exported(
        waiting={"suspect": 1, "recovered:high": 2, "lane:high": 3},
        oldest_pending_ms=1500,
        paused=True,
        live=4,
        counters={"succeeded": 5, "dead": 9, "dead:foreign": 2, "dead:sunspots": 3, "dead:moon": 4},
    )

    def value(name: str, **labels: str) -> float:
        return values[f"reclaimd_{name}", frozenset({"queue": "mail", **labels}.items())]

    assert value("tasks_waiting", lane="suspect", recovered="true") == 1
    assert value("tasks_waiting", lane="high", recovered="true") == 2
    assert value("tasks_waiting", lane="high", recovered="false") == 3
    assert value("oldest_pending_age_seconds") == 1.5
    assert value("queue_paused") == 1
    assert value("workers", state="live") == 4
    assert value("tasks_settled_total", outcome="succeeded") == 5
    assert value("tasks_dead_lettered_total", cause="foreign") == 2
    assert value("tasks_dead_lettered_total", cause="other") == 7
    assert not any("sunspots" in dict(labels).values() for _, labels in values)


def test_a_new_epoch_counts_from_zero_again() -> None:
    (enqueued,) = [metric for metric in TOTALS if metric.name == "reclaimd_tasks_enqueued_total"]
    views = [make_view(epoch_id="e1", counters={"enqueued": 10}), make_view(epoch_id="e2", counters={"enqueued": 1})]
    assert [list(series(enqueued, view)) for view in views] == [[((), 10)], [((), 1)]]


def test_a_snapshot_may_change_between_scrapes() -> None:
    snapshot = {"b": make_view(), "a": make_view()}
    collector = ViewCollector(lambda: snapshot)

    def queues() -> list[str]:
        return list(dict.fromkeys(s.labels["queue"] for family in collector.collect() for s in family.samples))

    assert queues() == ["a", "b"]
    del snapshot["a"]
    assert queues() == ["b"]
    snapshot.clear()
    assert queues() == []


def test_the_page_is_current() -> None:
    assert PAGE.read_text("utf-8") == render_docs(), f"regenerate it with: {COMMAND}"


@each_metric
def test_every_metric_is_documented(metric: Metric) -> None:
    assert f"`{metric.name}`" in render_docs()
