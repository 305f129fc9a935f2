"""What travels: tasks, schedules, events, keys, scripts, the producer and the worker."""

from reclaimd.streams.app import Reclaimd
from reclaimd.streams.context import Context
from reclaimd.streams.enqueueing import EnqueueResult
from reclaimd.streams.policy import Retry
from reclaimd.streams.schedules import Cron, Every, Once, Schedule
from reclaimd.streams.schedules.triggers import every, once
from reclaimd.streams.tasks import Task, TaskCall

__all__ = [
    "Context",
    "Cron",
    "EnqueueResult",
    "Every",
    "Once",
    "Reclaimd",
    "Retry",
    "Schedule",
    "Task",
    "TaskCall",
    "every",
    "once",
]
