"""An executable model of one partition's protocol, explored exhaustively. Start with `world.py`'s docstring."""
