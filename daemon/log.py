"""Where the daemon's modules find their logger."""

from reclaimd.streams.logs import get_logger, set_up

__all__ = ["get_logger", "set_up"]
