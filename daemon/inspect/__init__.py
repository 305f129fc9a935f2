"""What the command line reads: workers, tasks, dead letters and a task's life, as values without presentation."""
