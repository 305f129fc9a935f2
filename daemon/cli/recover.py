"""`recover` and `cleanup`."""

import anyio

from reclaimd.daemon.cli.flags import Flags
from reclaimd.daemon.cli.output import Output
from reclaimd.daemon.cli.running import DONE, run
from reclaimd.daemon.cli.words import plural
from reclaimd.daemon.inspect import manual
from reclaimd.daemon.inspect.manual import Recovered, Recovery, WorkerShare
from reclaimd.daemon.inspect.source import Source
from reclaimd.streams import scripts
from reclaimd.streams.durations import parse_duration
from reclaimd.streams.errors import PartitionFrozen, ReclaimdError, RedisUnreachable


def recover(flags: Flags, queue: str | None, *, dry_run: bool, wait: bool) -> int:
    """Run reclaim passes, or say what they would do."""

    async def work(source: Source, out: Output) -> int:
        queues = await source.queues(queue)
        return await (_plan(source, out, queues) if dry_run else _recover(source, out, queues, wait))

    return run(flags, work)


async def _plan(source: Source, out: Output, queues: list[str]) -> int:
    shares = [share for queue in queues for share in await manual.plan(source, queue)]
    total = sum(share.tasks for share in shares)
    if out.json:
        out.document({"dry_run": True, "recovered": total, "workers": shares, "tasks": [], "errors": []})
        return DONE
    _print_shares(out, shares, state=True)
    dead = plural(len(shares), "dead worker")
    out.line(f"Would bring back {plural(total, 'task')} from {dead}. Nothing was changed.")
    return DONE


async def _recover(source: Source, out: Output, queues: list[str], wait: bool) -> int:
    done: list[Recovery] = []
    errors: list[tuple[str, ReclaimdError]] = []
    with out.progress() as report:
        for queue in queues:
            try:
                done.append(
                    await manual.recover(
                        source,
                        queue,
                        wait=wait,
                        pause=anyio.sleep,
                        progress=lambda what, moved: report(what, moved, None),
                    )
                )
            except RedisUnreachable:
                raise
            except ReclaimdError as error:
                errors.append((queue, error))
    for queue, problem in errors:
        # One that is frozen names itself.
        out.note(str(problem) if isinstance(problem, PartitionFrozen) else f"queue {queue}: {problem}")
    if out.json:
        out.document(_document(done, errors))
    else:
        _print(out, done)
    return max((error.exit_code for _, error in errors), default=DONE)


def _document(done: list[Recovery], errors: list[tuple[str, ReclaimdError]]) -> dict[str, object]:
    tasks = [task for recovery in done for task in recovery.tasks]
    return {
        "dry_run": False,
        "recovered": sum(not task.dead for task in tasks),
        "dead": sum(task.dead for task in tasks),
        "moved": sum(recovery.moved for recovery in done),
        "workers": [share for recovery in done for share in recovery.workers],
        "fenced": sorted({worker for recovery in done for worker in recovery.fenced}),
        "tasks": tasks,
        "errors": [{"queue": queue, "error": str(error)} for queue, error in errors],
    }


def _print(out: Output, done: list[Recovery]) -> None:
    tasks = [task for recovery in done for task in recovery.tasks]
    for task in tasks:
        out.line(_sentence(task))
    _print_shares(out, [share for recovery in done for share in recovery.workers], state=False)
    back, buried = sum(not task.dead for task in tasks), sum(task.dead for task in tasks)
    tail = f", {plural(buried, 'dead letter')}" if buried else ""
    out.line(f"Brought back {plural(back, 'task')}{tail} in {plural(len(done), 'queue')}.")


def _sentence(task: Recovered) -> str:
    start = f"{task.queue}: {task.task_id} from {task.worker} ({task.cause})"
    if task.dead:
        return f"{start} is a dead letter now, {task.entry_id}"
    return f"{start} to {task.stream}, deliveries {task.deliveries}"


def _print_shares(out: Output, shares: list[WorkerShare], *, state: bool) -> None:
    if shares:
        columns = ("queue", "worker", "cause", "tasks", *(("state",) if state else ()))
        rows = [(s.queue, s.worker, s.cause, s.tasks, *((s.state,) if state else ())) for s in shares]
        out.table(columns, rows)


def cleanup(flags: Flags, queue: str | None, older_than: str, *, dry_run: bool) -> int:
    """Forget gone workers and ownerless empty consumers."""
    older_than_ms = parse_duration(older_than)

    async def work(source: Source, out: Output) -> int:
        results = {}
        for name in await source.queues(queue):
            call = scripts.cleanup(source.partition(name), older_than_ms=older_than_ms, dry_run=dry_run)
            results[name] = await source.send(call)
        workers = [(name, worker) for name, cleaned in results.items() for worker in sorted(cleaned.workers)]
        consumers = [(name, *consumer) for name, cleaned in results.items() for consumer in sorted(cleaned.consumers)]
        if out.json:
            out.document(
                {
                    "dry_run": dry_run,
                    "workers": [{"queue": name, "worker": worker} for name, worker in workers],
                    "consumers": [{"queue": q, "stream": stream, "consumer": name} for q, stream, name in consumers],
                }
            )
            return DONE
        for name, worker in workers:
            out.line(f"{name}: worker {worker}")
        for name, stream, consumer in consumers:
            out.line(f"{name}: consumer {consumer} of {stream}")
        verb = "Would remove" if dry_run else "Removed"
        out.line(f"{verb} {plural(len(workers), 'worker')} and {plural(len(consumers), 'consumer')}.")
        return DONE

    return run(flags, work)
