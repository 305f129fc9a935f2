"""The daemon's loops: each a shell around one awaitable step, which tests call directly."""
