"""`enqueue`."""

import sys
from typing import Any, NamedTuple

import msgspec

from reclaimd.daemon.cli.complaints import UsageProblem
from reclaimd.daemon.cli.flags import Flags
from reclaimd.daemon.cli.output import Output
from reclaimd.daemon.cli.running import DONE
from reclaimd.streams.codec import Body, encode_body
from reclaimd.streams.durations import parse_duration
from reclaimd.streams.enqueueing import Addressed, EnqueueResult, new_task_id
from reclaimd.streams.ids import NAME, check_queue, check_task_id
from reclaimd.streams.keys import Partition
from reclaimd.streams.producer import SyncProducer
from reclaimd.streams.scripts import NewTask
from reclaimd.streams.settings import Settings
from reclaimd.streams.tasks import check_lane, check_size

# A person waits: shorter than what a program grants Redis to come back.
_PATIENCE_S = 3.0


class Request(NamedTuple):
    """What the command line asks for, as it stands there. `args`: JSON, or - for standard input."""

    task: str
    queue: str
    args: str
    lane: str
    delay: str | None
    unique: str
    task_id: str | None
    max_deliveries: int | None
    durability: str | None


def enqueue(flags: Flags, *request: Any) -> int:
    """Enqueue one task (`request`: as Request); the worker checks its arguments, because it knows the signature."""
    asked = Request(*request)
    settings = flags.settings(durability=asked.durability)
    result = _send(settings, _addressed(asked, settings))
    out = Output(flags.json)
    if out.json:
        out.document({"task_id": result.task_id, "status": result.status, "queue": asked.queue})
        return DONE
    out.line(result.task_id)
    if result.status == "duplicate":
        out.note("this task ID was enqueued before, nothing was added")
    elif result.status == "exists":
        out.note(f"this task holds the unique key {asked.unique}, nothing was added")
    return DONE


def _addressed(asked: Request, settings: Settings) -> Addressed:
    if not NAME.match(asked.task):
        raise UsageProblem(f"task name {asked.task!r}: use 1 to 128 of A-Z a-z 0-9 . _ : -")
    body = encode_body(Body(name=asked.task, args=_arguments(asked.args)))
    check_size(body, settings.worker.payload_limit)
    new = NewTask(
        task_id=check_task_id(asked.task_id) if asked.task_id is not None else new_task_id(),
        lane=check_lane(asked.lane),
        max_deliveries=asked.max_deliveries or settings.worker.max_deliveries,
        body=body,
        unique=asked.unique,
        delay_ms=parse_duration(asked.delay) if asked.delay else 0,
    )
    return Addressed(Partition(settings.namespace, check_queue(asked.queue)), new, settings.durability)


def _send(settings: Settings, task: Addressed) -> EnqueueResult:
    producer = SyncProducer(
        settings.redis_url,
        settings.namespace,
        timeout=_PATIENCE_S,
        durability_timeout_ms=settings.durability_timeout_ms,
    )
    try:
        [result] = producer.enqueue([task])
    finally:
        producer.close()
    if result.error is not None:
        raise result.error
    return result


def _arguments(text: str) -> dict[str, Any]:
    source = sys.stdin.read() if text == "-" else text
    try:
        return msgspec.json.decode(source, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        cure = """say an object such as --args '{"to": "a@example.org"}'"""
        raise UsageProblem(f"--args is not a JSON object ({error}): {cure}") from None
