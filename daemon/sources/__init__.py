"""Schedules that come from a file or a database: read, compared with those in Redis, and made so."""
