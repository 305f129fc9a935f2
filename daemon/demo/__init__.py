"""`reclaimd demo`: real processes on a scratch server, a kill, a freeze, a restart, and what came of it."""

from reclaimd.daemon.demo.play import run

__all__ = ["run"]
