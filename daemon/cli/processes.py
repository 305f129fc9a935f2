"""Commands that run or end processes: `serve`, `worker`, `release`, `demo`, `drill`."""

import sys
from importlib import import_module

import anyio

from reclaimd.daemon.cli.complaints import UsageProblem
from reclaimd.daemon.cli.flags import Flags
from reclaimd.daemon.cli.output import Output
from reclaimd.daemon.cli.running import DONE, run
from reclaimd.daemon.cli.words import plural
from reclaimd.daemon.inspect.source import Source
from reclaimd.streams import scripts
from reclaimd.streams.configure import Config
from reclaimd.streams.ids import check_worker_id


def _with_logs(config: Config) -> Config:
    from reclaimd.streams import logs

    logs.set_up(config.daemon.log_format, config.daemon.log_level)
    return config


def serve(flags: Flags) -> int:
    """Run the daemon until it is told to stop."""
    settings = _with_logs(flags.settings())
    from reclaimd.daemon.supervisor import serve as run_daemon

    return anyio.run(lambda: run_daemon(settings))


def worker(
    flags: Flags, target: str, queues: list[str], worker_id: str | None, concurrency: int | None, processes: int
) -> int:
    """Run workers until they are told to stop."""
    settings = _with_logs(flags.settings(**{"worker.concurrency": concurrency}))
    from reclaimd.streams.worker import supervisor

    return supervisor.run(target, queues=queues, worker_id=worker_id, processes=processes, settings=settings)


def release(flags: Flags, worker_id: str, nonce: str | None) -> int:
    """Release what is proven dead: by lock files, or by the caller who names the nonce."""
    check_worker_id(worker_id)
    if nonce is None:
        from reclaimd.streams.worker.releasing import release_proven

        released = release_proven(worker_id, flags.settings())
        return _say_released(Output(flags.json), released)
    if not nonce:
        raise UsageProblem("--nonce is empty: give the second half of the token that `reclaimd workers` shows")

    async def work(source: Source, out: Output) -> int:
        released: dict[str, int] = {}
        for queue in await source.queues():
            moved = await _release_in(source, queue, worker_id, nonce)
            if moved is not None:
                released[worker_id] = released.get(worker_id, 0) + moved
        return _say_released(out, released)

    return run(flags, work)


async def _release_in(source: Source, queue: str, worker_id: str, nonce: str) -> int | None:
    """Entries moved; None when that incarnation is not in this queue."""
    moved = 0
    while True:
        drained = await source.send(scripts.release(source.partition(queue), worker_id, nonce))
        moved += drained.moved
        if drained.status != "more":
            return moved if drained.status == "ok" or moved else None


def _say_released(out: Output, released: dict[str, int]) -> int:
    """Nothing to release is what an ExecStopPost= mostly finds: no problem."""
    if out.json:
        out.document({"released": [{"worker": worker, "tasks": tasks} for worker, tasks in released.items()]})
        return DONE
    for worker, tasks in released.items():
        out.line(f"Released {worker}: {plural(tasks, 'task')} brought back.")
    if not released:
        out.line("Nothing to release: no process of this worker is proven dead and still holds its lease.")
    return DONE


def demo(flags: Flags) -> int:
    """Show it all on a scratch server."""
    try:
        module = import_module("reclaimd.daemon.demo")
    except ModuleNotFoundError as error:
        raise UsageProblem(
            f"the demo needs the module {error.name}: pip install 'reclaimd[embedded]' with {sys.executable}"
        ) from error
    return int(module.run(as_json=flags.json))


def drill(flags: Flags, tasks: int, workers: int, *, flush: bool, keep: bool) -> int:
    """Kill and count on the operator's own Redis, in a namespace that is removed afterwards."""
    settings = flags.settings()
    # Its tables are rich's, which only demo and drill wait for.
    from reclaimd.daemon.demo import drill as module

    return module.run(settings, module.Plan(tasks, workers, flush, keep), as_json=flags.json)
