"""Schedules: rules that make tasks, kept as events."""

from reclaimd.streams.schedules.model import Cron, Every, Once, Schedule

__all__ = ["Cron", "Every", "Once", "Schedule"]
