"""The durable copy of what Redis holds: open tasks, what was fired, the history of events, the log of schedules.

`store` is the way in. It imports SQLAlchemy, which doubles the time that a daemon takes to start: import it late.
"""
