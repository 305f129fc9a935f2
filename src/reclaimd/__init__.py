"""reclaimd: a recovery daemon for task queues on Redis Streams."""

from importlib.metadata import version

__version__ = version("reclaimd")

__all__ = ["__version__"]
