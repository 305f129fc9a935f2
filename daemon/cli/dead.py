"""`dead list`, `show`, `redrive`, `purge`."""

import sys
from collections.abc import AsyncIterator

import msgspec

from reclaimd.daemon.cli.complaints import UsageProblem
from reclaimd.daemon.cli.flags import Flags
from reclaimd.daemon.cli.output import Output
from reclaimd.daemon.cli.running import DONE, PROBLEM, run
from reclaimd.daemon.cli.words import instant, plural
from reclaimd.daemon.inspect.dead import DeadFilter, find_dead
from reclaimd.daemon.inspect.letters import Letter, TaskInfo
from reclaimd.daemon.inspect.source import Source
from reclaimd.streams import scripts
from reclaimd.streams.durations import parse_duration

# A script call is to take about 5 ms, and each of these has an envelope to read and write.
BATCH = 100


class Redriven(msgspec.Struct, frozen=True):
    """What became of one dead letter: ok, missing, foreign, exists (`detail` holds its unique key)."""

    task_id: str
    entry_id: str
    queue: str
    status: str
    detail: str


def show_list(flags: Flags, queue: str | None, cause: str, older_than: str | None, *, limit: int, newest: bool) -> int:
    """Print one row for each."""
    wanted = _filter([], cause, older_than)

    async def work(source: Source, out: Output) -> int:
        found: list[TaskInfo] = []
        more = False
        async for letter in find_dead(source, await source.queues(queue), wanted, newest=newest):
            if len(found) == limit:
                more = True
                break
            found.append(letter.task)
        if out.json:
            out.document({"dead": found, "more": more})
            return DONE
        columns = ("task", "queue", "name", "died", "cause", "error", "worker", "deliveries", "attempts", "entry")
        rows = [
            (
                t.task_id,
                t.queue,
                t.name,
                instant(t.since_ms),
                t.cause,
                t.error[:60],
                t.worker,
                t.deliveries,
                t.attempts,
                t.entry_id,
            )
            for t in found
        ]
        if rows:
            out.table(columns, rows)
        out.line(f"{plural(len(found), 'dead letter')}{', there are more: raise --limit' if more else ''}.")
        return DONE

    return run(flags, work)


def show(flags: Flags, ids: list[str], queue: str | None) -> int:
    """Print dead letters whole."""

    async def work(source: Source, out: Output) -> int:
        wanted = DeadFilter(ids=ids)
        found = [letter async for letter in find_dead(source, await source.queues(queue), wanted)]
        missing = _missing(ids, [letter.task for letter in found])
        if out.json:
            out.document({"dead": found, "missing": missing})
        else:
            for letter in found:
                _print_letter(out, letter)
        _note_missing(out, missing)
        return PROBLEM if missing else DONE

    return run(flags, work)


def _print_letter(out: Output, letter: Letter) -> None:
    task = letter.task
    out.line(f"task        {task.task_id}")
    pairs = {
        "queue": task.queue,
        "entry": task.entry_id,
        "name": task.name,
        "arguments": _short(msgspec.json.encode(letter.args).decode()) if letter.args is not None else "",
        "lane": task.lane,
        "enqueued": instant(task.enqueued_at_ms),
        "died": instant(task.since_ms),
        "cause": task.cause,
        "error": task.error,
        "worker": task.worker,
        "counted": f"deliveries {task.deliveries}, attempts {task.attempts}, handbacks {task.handbacks}",
        "unique": task.unique,
    }
    for name, value in pairs.items():
        if value:
            out.line(f"{name:<11} {value}")
    for name, value in letter.fields.items():
        out.line(f"field       {_short(name)} = {_short(value)}")
    for past in letter.history:
        out.line(f"history     {instant(past.at_ms)} {past.what} {past.worker} {past.cause}".rstrip())


def _short(text: str) -> str:
    return text if len(text) <= 2_000 else f"{text[:2_000]}… ({len(text)} characters)"


def redrive(
    flags: Flags, ids: list[str], queue: str | None, cause: str, older_than: str | None, *, everything: bool
) -> int:
    """Back into the lanes, one result each."""
    wanted = _chosen(ids, cause, older_than, everything=everything)

    async def work(source: Source, out: Output) -> int:
        results: list[Redriven] = []
        with out.progress() as report:
            async for batch in _batches(source, await source.queues(queue), wanted):
                results += await _redrive(source, batch)
                report("redriving", len(results), None)
        missing = [one for one in ids if not any(one in (r.task_id, r.entry_id) for r in results)]
        bad = [result for result in results if result.status != "ok"]
        if out.json:
            out.document({"redriven": len(results) - len(bad), "results": results, "missing": missing})
        else:
            for result in bad:
                out.line(f"{result.queue}: {result.task_id} stays: {_why(result)}")
            out.line(f"Redrove {plural(len(results) - len(bad), 'dead letter')}.")
        _note_missing(out, missing)
        return PROBLEM if bad or missing else DONE

    return run(flags, work)


async def _redrive(source: Source, batch: list[TaskInfo]) -> list[Redriven]:
    queue = batch[0].queue
    replies = await source.send(scripts.redrive(source.partition(queue), [task.entry_id for task in batch]))
    return [
        Redriven(task.task_id, task.entry_id, queue, reply.status, reply.detail)
        for task, reply in zip(batch, replies, strict=True)
    ]


def _why(result: Redriven) -> str:
    reasons = {
        "missing": "it is not there any more",
        "foreign": "it is no task of this protocol, purge it or enqueue it anew",
        "exists": f"task {result.detail} holds its unique key",
    }
    return reasons.get(result.status, result.status)


def purge(
    flags: Flags,
    ids: list[str],
    queue: str | None,
    cause: str,
    older_than: str | None,
    *,
    everything: bool,
    yes: bool,
) -> int:
    """Delete for good, after asking."""
    wanted = _chosen(ids, cause, older_than, everything=everything)
    if not yes and (flags.json or not sys.stdin.isatty()):
        raise UsageProblem("purge deletes for good and there is nobody to ask: add --yes")

    async def work(source: Source, out: Output) -> int:
        found = [letter.task async for letter in find_dead(source, await source.queues(queue), wanted)]
        missing = _missing(ids, found)
        if found and not yes and not out.ask(f"Delete {plural(len(found), 'dead letter')} for good?"):
            out.note("nothing was deleted")
            return PROBLEM
        purged = 0
        with out.progress() as report:
            for batch in _split(found):
                call = scripts.purge(source.partition(batch[0].queue), [task.entry_id for task in batch])
                purged += await source.send(call)
                report("purging", purged, len(found))
        if out.json:
            out.document({"purged": purged, "missing": missing})
        else:
            out.line(f"Purged {plural(purged, 'dead letter')}.")
        _note_missing(out, missing)
        return PROBLEM if missing else DONE

    return run(flags, work)


def _filter(ids: list[str], cause: str, older_than: str | None) -> DeadFilter:
    return DeadFilter(ids=ids, cause=cause, older_than_ms=parse_duration(older_than) if older_than else 0)


def _chosen(ids: list[str], cause: str, older_than: str | None, *, everything: bool) -> DeadFilter:
    """Nothing said must not mean everything."""
    if not (ids or cause or older_than or everything):
        raise UsageProblem("which dead letters? name IDs, or say --cause, --older-than or --all")
    if ids and everything:
        raise UsageProblem("IDs and --all contradict each other: leave one of them out")
    return _filter(ids, cause, older_than)


async def _batches(source: Source, queues: list[str], wanted: DeadFilter) -> AsyncIterator[list[TaskInfo]]:
    batch: list[TaskInfo] = []
    async for letter in find_dead(source, queues, wanted):
        if batch and (len(batch) == BATCH or batch[0].queue != letter.task.queue):
            yield batch
            batch = []
        batch.append(letter.task)
    if batch:
        yield batch


def _split(found: list[TaskInfo]) -> list[list[TaskInfo]]:
    by_queue: dict[str, list[TaskInfo]] = {}
    for task in found:
        by_queue.setdefault(task.queue, []).append(task)
    return [tasks[i : i + BATCH] for tasks in by_queue.values() for i in range(0, len(tasks), BATCH)]


def _missing(ids: list[str], found: list[TaskInfo]) -> list[str]:
    known = {task.task_id for task in found} | {task.entry_id for task in found}
    return [one for one in ids if one not in known]


def _note_missing(out: Output, missing: list[str]) -> None:
    for one in missing:
        out.note(f"no dead letter {one}: look with `reclaimd explain {one}`")
