"""A recovery daemon for task queues on Redis Streams."""


def __getattr__(name: str) -> str:
    # Reading the metadata takes longer than importing everything else that a worker needs to start.
    if name == "__version__":
        from importlib.metadata import version

        return version("reclaimd")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
