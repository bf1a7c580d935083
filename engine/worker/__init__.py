"""The engine worker process and its backends."""
