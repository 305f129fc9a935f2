"""What travels: tasks, events, keys, scripts, the producer and the worker."""
