"""What travels: tasks, events, keys, scripts, the producer and the worker."""

from reclaimd.streams.app import Reclaimd
from reclaimd.streams.context import Context
from reclaimd.streams.policy import Retry
from reclaimd.streams.producer import EnqueueResult
from reclaimd.streams.tasks import Task, TaskCall

__all__ = ["Context", "EnqueueResult", "Reclaimd", "Retry", "Task", "TaskCall"]
