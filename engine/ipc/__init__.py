"""The messages between the daemon and an engine worker process, and the pipes that carry them."""
