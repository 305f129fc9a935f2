"""Fires schedules: what is due is a pure question, asked when a heap of due times says so, answered by scripts."""
