"""The worker: a small supervisor, and child processes that take, run and settle tasks."""
