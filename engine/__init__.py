"""The speech engine: backends that turn text into PCM, and the worker process that runs them."""

__version__ = "0.1.0"
