"""Schedules: rules that make tasks, kept as events."""
